"""Test the two recipes: what ``--recipe`` does to a space, and that no result carries the wrong name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import UserError
from orchestrator.planning.follow_up import make_promotion_plan
from orchestrator.planning.page import render_plan
from orchestrator.planning.plan import make_plan
from orchestrator.planning.recipe import FREE_KEYS
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.run_config import change_config
from orchestrator.planning.sweep_plan import SweepPlan
from search_spaces.reader import SpaceError
from search_spaces.schema import load_space
from training.config.run import TrainConfig, valid_keys

SPACE = """\
dataset: voc
budget: {trials: 3, epochs: 25}
shared:
  fixed:
    optim.head_lr_multiplier: 10
  ranges:
    optim.lr: {type: float, low: 1e-6, high: 1e-4, log: true}
    optim.batch_size: {type: categorical, choices: [8, 16]}
methods:
  em_apl:
    fixed: {method.warmup_epochs: 5}
    ranges:
      method.entropy_weight: {type: float, low: 0.01, high: 1.0}
    start_from:
      - {optim.lr: 5e-5, optim.batch_size: 16, method.entropy_weight: 0.5}
    published:
      fixed:
        loop.epochs: 10
        loop.patience_epochs: 0
        optim.head_lr_multiplier: 1
        optim.lr: 1e-5
        optim.batch_size: 8
        method.entropy_weight: 0.2
  an_ls:
    published:
      fixed: {loop.epochs: 10}
      ranges:
        optim.lr: {type: categorical, choices: [1e-3, 1e-4, 1e-5]}
        optim.batch_size: {type: categorical, choices: [8, 16]}
  wan: {}
"""


@pytest.fixture
def space(tmp_path: Path) -> Any:
    """Return the space above, after replacing a part of its text."""

    def load(old: str = "", new: str = "") -> Any:
        assert old in SPACE
        path = tmp_path / "mine.yaml"
        path.write_text(SPACE.replace(old, new, 1) if old else SPACE, encoding="utf-8")
        return load_space(path)

    return load


def published(loaded: Any, method: str = "em_apl", **flags: Any) -> SweepPlan:
    return make_plan(PlanRequest(loaded, method=method, recipe="published", num_cpus=4, num_gpus=0, **flags))


def page(plan: SweepPlan) -> str:
    return "\n".join(render_plan(plan))


def test_without_the_flag_the_recipe_is_common_and_nothing_published_is_in_it(space: Any) -> None:
    for recipe in (None, "common"):
        plan = make_plan(PlanRequest(space(), method="em_apl", recipe=recipe, num_cpus=4, num_gpus=0))
        assert plan.base["loop.recipe"] == "common"
        assert (plan.epochs, plan.base["optim.head_lr_multiplier"], plan.base["loop.patience_epochs"]) == (25, 10, None)
        assert set(plan.ranges) == {"optim.lr", "optim.batch_size", "method.entropy_weight"}
        assert "recipe        common, one set-up for all methods of the space" in page(plan)


def test_published_settings_are_run_once_to_their_own_length(space: Any) -> None:
    plan = published(space())
    assert plan.base["loop.recipe"] == "published"
    assert (plan.num_trials, plan.ranges, plan.start_from, plan.scheduler) == (1, {}, ({},), "none")
    expected = {
        "loop.epochs": 10,
        "loop.patience_epochs": 0,
        "optim.head_lr_multiplier": 1,
        "optim.lr": 1e-5,
        "method.entropy_weight": 0.2,
    }
    assert {key: plan.base[key] for key in expected} == expected
    assert plan.base["method.warmup_epochs"] == 5, "what the block fixes holds in both"
    assert str(plan.protocol) == "published x clean-val"
    assert plan.notes == ("published: nothing is searched; the published settings run once",)


def test_the_page_names_recipe_and_stopping_rule(space: Any) -> None:
    text = page(published(space()))
    assert "recipe        published, as the method's authors train it" in text
    assert "stops early   at the first epoch without improvement" in text
    assert "total epochs  1 to 10" in text


def test_a_grid_from_which_authors_chose_is_run_whole_and_to_full_length(space: Any) -> None:
    plan = published(space(), "an_ls")
    assert (plan.sampler, plan.num_trials, plan.scheduler, plan.epochs) == ("grid", 6, "none", 10)
    assert plan.base["loop.recipe"] == "published"
    assert str(plan.protocol) == "clean-val x clean-val", "they chose on validation data"
    assert plan.notes == ()
    assert published(space(), "an_ls", trials=2).num_trials == 2


def test_a_grid_cannot_be_trained_once(space: Any) -> None:
    with pytest.raises(
        UserError,
        match="--recipe published of an_ls must be swept: its authors chose optim.lr, optim.batch_size on valid",
    ):
        make_plan(PlanRequest(space(), kind="train", method="an_ls", recipe="published"))
    fixed = make_plan(
        PlanRequest(
            space(),
            kind="train",
            method="an_ls",
            recipe="published",
            overrides={"optim.lr": "1e-4", "optim.batch_size": "8"},
        )
    )
    assert (fixed.base["optim.lr"], fixed.base["loop.recipe"]) == (1e-4, "custom")


def test_training_and_promotion_keep_the_recipe(space: Any) -> None:
    trained = make_plan(PlanRequest(space(), kind="train", method="em_apl", recipe="published"))
    assert (trained.base["loop.recipe"], trained.epochs) == ("published", 10)
    promoted = make_promotion_plan(published(space()), {}, seeds=2)
    assert promoted.base["loop.recipe"] == "published"
    assert promoted.epochs == 10


def test_a_method_without_published_settings_names_those_that_have_some(space: Any) -> None:
    with pytest.raises(UserError) as caught:
        published(space(), "wan")
    assert "has no published settings for wan" in str(caught.value)
    assert str(caught.value).endswith("for wan, only for em_apl, an_ls. Use --recipe common.")
    with pytest.raises(UserError, match="has no published settings. Use --recipe common"):
        make_plan(PlanRequest("digits", recipe="published"))


def test_another_recipe_is_refused(space: Any) -> None:
    with pytest.raises(UserError, match="--recipe must be common or published, but got --recipe=paper"):
        make_plan(PlanRequest(space(), recipe="paper"))


class TestChanged:
    @pytest.mark.parametrize(
        "overrides", [{"optim.lr": "1e-4"}, {"optim.weight_decay": "0.1"}, {"loop.patience_epochs": "null"}]
    )
    def test_what_is_changed_is_published_no_longer(self, space: Any, overrides: dict[str, str]) -> None:
        plan = published(space(), overrides=overrides)
        assert plan.base["loop.recipe"] == "custom"
        assert plan.notes[0].startswith("no longer the published recipe")
        assert "recipe        custom" in page(plan)
        assert str(plan.protocol) == "clean-val x clean-val"

    def test_another_length_is_a_change(self, space: Any) -> None:
        assert published(space(), epochs=2).base["loop.recipe"] == "custom"
        assert published(space(), epochs=10).base["loop.recipe"] == "published"

    def test_a_choice_of_the_grid_is_a_change_even_if_it_is_the_default(self, space: Any) -> None:
        default = TrainConfig().optim.lr
        assert published(space(), "an_ls", overrides={"optim.lr": default}).base["loop.recipe"] == "custom"

    @pytest.mark.parametrize(
        "overrides", [{"loop.seed": "3"}, {"data.draw_seed": "1"}, {"data.num_workers": "0"}, {"optim.lr": "1e-5"}]
    )
    def test_seeds_places_and_the_same_value_change_no_recipe(self, space: Any, overrides: dict[str, str]) -> None:
        assert published(space(), overrides=overrides).base["loop.recipe"] == "published"

    def test_the_name_cannot_be_set(self, space: Any) -> None:
        with pytest.raises(UserError, match=r"--set cannot change loop\.recipe"):
            make_plan(PlanRequest(space(), method="wan", overrides={"loop.recipe": "published"}))
        with pytest.raises(UserError, match=r"--set cannot change loop\.recipe"):
            change_config(TrainConfig().flatten(), {"loop.recipe": "published"})

    def test_a_former_run_that_is_changed_is_published_no_longer(self, space: Any) -> None:
        base = published(space()).base
        assert change_config(base, {"loop.seed": "4"})["loop.recipe"] == "published"
        assert change_config(base, {"optim.lr": "1e-3"})["loop.recipe"] == "custom"
        assert change_config(base, {}, epochs=3)["loop.recipe"] == "custom"
        assert change_config({**base, "loop.recipe": "digits"}, {"optim.lr": "1e-3"})["loop.recipe"] == "digits"

    def test_keys_that_may_change_are_settings(self) -> None:
        assert set(valid_keys("ignore")) >= FREE_KEYS


class TestFaultyFile:
    def fault(self, space: Any, old: str, new: str, method: str = "em_apl") -> str:
        with pytest.raises(SpaceError) as caught:
            published(space(old, new), method)
        return str(caught.value).rpartition("/")[2]

    def test_a_searched_key_that_is_left_out(self, space: Any) -> None:
        message = self.fault(space, "        optim.lr: 1e-5\n", "")
        assert message.startswith("mine.yaml:16: published must give optim.lr, which the common recipe searches")

    def test_a_range_that_is_no_grid(self, space: Any) -> None:
        new = "optim.lr: {type: float, low: 1e-5, high: 1e-3}"
        assert "num must be given for a float range in a grid" in self.fault(
            space, "optim.lr: {type: categorical, choices: [1e-3, 1e-4, 1e-5]}", new, "an_ls"
        )

    def test_a_recipe_named_where_it_must_not_be(self, space: Any) -> None:
        old, new = "        loop.epochs: 10\n", "        loop.epochs: 10\n        loop.recipe: common\n"
        assert "mine.yaml:19: loop.recipe does not belong here" in self.fault(space, old, new)
        old, new = "  fixed:\n    optim.head", "  fixed:\n    loop.recipe: published\n    optim.head"
        assert "mine.yaml:5: loop.recipe cannot be published here" in self.fault(space, old, new)

    def test_keys_of_the_block_are_checked_whether_it_is_used_or_not(self, space: Any) -> None:
        with pytest.raises(SpaceError, match=r"mine\.yaml:19: loop\.patience .* Did you mean"):
            make_plan(PlanRequest(space("loop.patience_epochs: 0", "loop.patience: 0"), method="em_apl", num_cpus=1))

    def test_length_of_the_common_recipe_stays_in_the_budget(self, space: Any) -> None:
        message = self.fault(
            space, "fixed: {method.warmup_epochs: 5}", "fixed: {method.warmup_epochs: 5, loop.epochs: 3}"
        )
        assert "loop.epochs does not belong here. Its place is budget.epochs" in message
