from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import UserError
from orchestrator.planning.follow_up import FormerRun, make_rerun_plan
from orchestrator.planning.page import render_plan
from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest, parse_overrides
from orchestrator.planning.sweep_plan import Kind, Resources, SweepPlan, trial_config
from search_spaces.reader import SpaceError
from tests.kit.planned import DIGITS, plan
from training.config.run import Scalar
from training.errors import ConfigError

ALL_BUT_WARMUP: dict[str, Scalar] = {
    "optim.lr": 3e-3,
    "optim.weight_decay": 0.0,
    "optim.batch_size": 32,
    "method.spbc_weight": 0.5,
    "method.reg_weight": 0.1,
}
DIGITS_TEXT = DIGITS.file_text
KINDS: tuple[Kind, ...] = ("sweep", "train", "ablate")
Make = Callable[..., SweepPlan]


@pytest.fixture
def edited(tmp_path: Path) -> Make:
    """Plan the digits space after replacing a part of its text."""

    def make(old: str, new: str, **changes: Any) -> SweepPlan:
        assert old in DIGITS_TEXT
        path = tmp_path / "mine.yaml"
        path.write_text(DIGITS_TEXT.replace(old, new, 1), encoding="utf-8")
        return make_plan(PlanRequest(path, **{"num_cpus": 2, "num_gpus": 0, **changes}))

    return make


class TestSweep:
    def test_without_flags_it_is_the_real_search(self) -> None:
        made = plan()
        assert (made.kind, made.name, made.dataset, made.method) == ("sweep", "digits", "digits", "ignore")
        assert (made.num_trials, made.epochs, made.concurrency) == (24, 20, 2)
        assert (made.sampler, made.search_seed, made.startup_trials) == ("random", 0, 8)
        assert (made.scheduler, made.grace_epochs, made.keep, made.rungs()) == ("screen", 6, 12, [6])
        assert (made.storage, made.parent, made.space) == (None, None, "digits")
        assert made.space_text == DIGITS.text
        assert len(made.ranges) == 8

    def test_nothing_is_written(self, home: Path) -> None:
        plan()
        assert list(home.iterdir()) == []

    def test_flags_take_the_place_of_the_budget(self) -> None:
        made = plan(
            trials=12,
            epochs=8,
            startup_trials=5,
            concurrency=1,
            seed=7,
            name="mine",
            overrides={"method.warmup_epochs": "2"},
        )
        assert (made.num_trials, made.epochs, made.startup_trials, made.concurrency, made.search_seed) == (
            12,
            8,
            5,
            1,
            7,
        )
        assert (made.name, made.id.startswith("mine-")) == ("mine", True)
        assert made.base["loop.seed"] == 0  # --seed is the search's
        assert (made.grace_epochs, made.keep, made.rungs()) == (2, 6, [2])

    def test_two_plans_differ_in_id_and_time_only(self) -> None:
        first, second = plan(), plan()
        assert first.id != second.id
        assert dataclasses.replace(first, id=second.id, created=second.created) == second

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            ({"trials": 0}, "--trials must be at least 1, but got --trials=0"),
            ({"epochs": 0}, "--epochs must be at least 1"),
            ({"concurrency": 0}, "--concurrency must be at least 1"),
            ({"startup_trials": -1}, "--startup-trials must be at least 0"),
            ({"seed": -1}, "--seed must be at least 0"),
            ({"name": "a/b"}, "--name must be"),
            ({"name": ""}, "--name must be"),
            ({"storage": "s3://key:secret@bucket/x"}, "--storage must not contain credentials"),
            ({"overrides": {"data.store": "s3://key:secret@bucket/x"}}, "data.store must not contain credentials"),
        ],
    )
    def test_fault_in_a_flag_is_the_users(self, flags: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            plan(**flags)

    def test_password_is_not_repeated(self) -> None:
        with pytest.raises(UserError) as caught:
            plan(storage="s3://key:secret@bucket/x")
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("kind", ["sweep", "train", "ablate"])
    def test_space_with_credentials_is_refused_by_its_line(self, kind: Kind, tmp_path: Path) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text(DIGITS_TEXT + "# data.store: s3://key:hunter2@bucket/x\n", encoding="utf-8")
        with pytest.raises(
            UserError,
            match=r"mine.yaml:\d+: this line contains credentials, which plans and journals would show: # data.store: s3://key:\*\*\*@",
        ) as caught:
            make_plan(PlanRequest(path, kind=kind))
        assert "hunter2" not in str(caught.value)

    def test_store_that_was_remembered_with_credentials_is_refused(self, home: Path) -> None:
        (home / "data").mkdir()
        (home / "data" / "voc.json").write_text('{"uri": "s3://key:hunter2@bucket/voc"}')
        with pytest.raises(UserError, match="data.store must not contain credentials") as caught:
            make_plan(PlanRequest("voc"))
        assert "hunter2" not in str(caught.value)

    def test_folder_for_checkpoints_does_not_depend_on_where_one_stands(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert plan(storage="here").storage == str(tmp_path / "here")
        assert plan(storage="s3://bucket/x").storage == "s3://bucket/x"

    def test_sweep_of_a_file_is_called_after_it(self, tmp_path: Path) -> None:
        path = tmp_path / "my space.yaml"
        path.write_text(DIGITS_TEXT, encoding="utf-8")
        made = make_plan(PlanRequest(path))
        assert (made.name, made.space) == ("my-space", str(path))

    def test_published_protocol_runs_the_first_point_once(self, edited: Make) -> None:
        made = edited("select_config_by: clean-val", "select_config_by: published")
        assert (made.num_trials, made.ranges, made.start_from) == (1, {}, ({},))
        assert made.base["method.cam_threshold"] == 0.5
        assert "published" in made.notes[0]
        with pytest.raises(UserError, match="--trials must be at most 1"):
            edited("select_config_by: clean-val", "select_config_by: published", trials=2)

    def test_when_everything_is_set_one_trial_is_left(self) -> None:
        overrides = dict(plan().start_from[0])
        made = plan(overrides=overrides)
        assert (made.num_trials, made.ranges, made.start_from, made.num_points) == (1, {}, ({},), 1)
        assert {key: made.base[key] for key in overrides} == overrides
        with pytest.raises(UserError, match="--trials must be at most 1"):
            plan(overrides=overrides, trials=5)

    def test_grid_counts_its_points_and_has_no_start(self, edited: Make) -> None:
        made = edited("sampler: random", "sampler: grid", method="ignore_oracle", overrides=ALL_BUT_WARMUP)
        assert (made.num_points, made.num_trials, made.start_from) == (7, 7, ())  # warm-up 2 to 8

    def test_grid_cut_short_says_so(self, edited: Make) -> None:
        made = edited("sampler: random", "sampler: grid", method="ignore_oracle", trials=3, overrides=ALL_BUT_WARMUP)
        assert made.num_trials == 3
        assert "the grid has 7 points; only the first 3 run" in made.notes


SCREEN = "name: screen, grace_epochs: null, keep: null"


def asha(**changes: Any) -> SweepPlan:
    return plan(**{**changes, "overrides": {"scheduler.name": "asha", **changes.get("overrides", {})}})


class TestGrace:
    def test_it_is_the_largest_warmup_and_two(self) -> None:
        assert asha().grace_epochs == 8 + 2
        assert asha(overrides={"method.warmup_epochs": 3}).grace_epochs == 3 + 2
        assert asha(method="ignore_without_rejection").grace_epochs == 2
        assert asha(method="em").grace_epochs == 2
        assert asha(method="splc").grace_epochs == 1 + 2, "before its first pseudo-labels it does not exist either"

    def test_shorter_one_is_refused_with_its_reason(self, edited: Make) -> None:
        with pytest.raises(
            SpaceError,
            match=r"mine.yaml:17: scheduler.grace_epochs must be at least 10, but got 9: .*says nothing about",
        ):
            edited(SCREEN, "name: asha, grace_epochs: 9")
        assert edited(SCREEN, "name: asha, grace_epochs: 10").grace_epochs == 10
        assert edited(SCREEN, "name: asha, grace_epochs: 11").grace_epochs == 11

    def test_shorter_one_is_fine_where_nothing_warms_up(self, edited: Make) -> None:
        assert edited(SCREEN, "name: asha, grace_epochs: 1", method="em").grace_epochs == 1

    @pytest.mark.parametrize("epochs", [3, 9, 10])
    def test_with_no_more_epochs_pruning_is_off_and_that_is_said(self, epochs: int) -> None:
        made = asha(epochs=epochs)
        assert (made.scheduler, made.rungs()) == ("none", [])
        assert (
            f"pruning is off: it cannot stop a trial before epoch 10 (largest warm-up + 2), and trials have {epochs} "
            "epochs" in made.notes
        )

    def test_the_screen_takes_any_epoch_and_says_what_an_early_one_compares(self) -> None:
        made = plan()
        assert (made.scheduler, made.rungs(), made.keep, made.notes) == ("screen", [6], 12, ())
        assert [plan(epochs=epochs).screen_epoch for epochs in (1, 2, 5, 10)] == [None, 1, 2, 3]
        assert [plan(trials=trials).keep for trials in (1, 2, 5)] == [1, 1, 3]
        early = plan(overrides={"scheduler.grace_epochs": 5, "scheduler.keep": 4})
        assert (early.screen_epoch, early.keep) == (5, 4)
        assert early.notes == (
            "the screen compares trials after epoch 5; in those whose warm-up is 5 epochs or more, rejection has not "
            "begun by then",
        )
        assert plan(method="em", overrides={"scheduler.grace_epochs": 1}).notes == ()
        late = plan(overrides={"scheduler.grace_epochs": 20})
        assert (late.scheduler, late.screen_epoch) == ("none", None)
        assert "cannot stop a trial before epoch 20 (scheduler.grace_epochs)" in late.notes[0]
        few = plan(trials=3, overrides={"scheduler.keep": 3})
        assert few.notes[-1] == "the screen stops no trial: it keeps 3, and there are 3"
        blind = plan(overrides={"search.sampler": "gp"})
        assert "the Gaussian process never decides: it learns from complete trials alone" in blind.notes[0]

    def test_with_more_epochs_it_is_on(self) -> None:
        made = asha(epochs=11)
        assert made.scheduler == "asha"
        assert not any("pruning" in note for note in made.notes)

    def test_pruning_that_the_space_turned_off_is_not_worth_a_note(self, edited: Make) -> None:
        made = edited("name: screen", "name: none", epochs=5)
        assert made.scheduler == "none"
        assert not any("pruning" in note for note in made.notes)

    def test_warmup_as_long_as_the_trial_is_legal_and_said_once(self) -> None:
        searched = asha(epochs=8).notes
        assert [note for note in searched if "rejection" in note] == [
            "rejection never starts in trials whose warm-up is 8 epochs or more"
        ]
        fixed = asha(overrides={"method.warmup_epochs": 20}).notes
        assert [note for note in fixed if "rejection" in note] == [
            "rejection never starts in these trials, whose warm-up is 20 epochs or more"
        ]
        assert not any("rejection" in note for note in asha(epochs=9).notes)

    @pytest.mark.parametrize(
        ("method", "what"), [("em_apl", "pseudo-labelling"), ("crisp", "its own risk"), ("splc", "correction")]
    )
    def test_what_a_warmup_comes_before_is_named_as_the_method_has_it(self, method: str, what: str) -> None:
        notes = make_plan(
            PlanRequest(DIGITS, kind="train", method=method, overrides={"method.warmup_epochs": 3}, epochs=3)
        ).notes
        assert notes[-1] == f"{what} never starts in this run, whose warm-up is 3 epochs or more"

    def test_rungs_grow_by_the_reduction_factor(self) -> None:
        assert asha(method="em").rungs() == [2, 6, 18]


class TestConcurrency:
    @pytest.mark.parametrize(("cpus", "trials"), [(1, 1), (2, 2), (64, 24), (0, 1)])
    def test_it_is_what_the_cpus_carry(self, cpus: int, trials: int) -> None:
        assert plan(num_cpus=cpus).concurrency == trials

    @pytest.mark.parametrize(("gpus", "trials"), [(0, 1), (1, 1), (4, 4)])
    def test_it_is_what_the_gpus_carry(self, gpus: int, trials: int) -> None:
        assert make_plan(PlanRequest("voc", num_cpus=64, num_gpus=gpus)).concurrency == trials

    def test_gpu_that_is_shared_carries_several(self, edited: Make) -> None:
        assert edited("gpus_per_worker: 0", "gpus_per_worker: 0.5", num_cpus=8, num_gpus=2).concurrency == 4

    def test_workers_of_a_trial_take_their_cpus(self, edited: Make) -> None:
        made = edited("{workers: 1, cpus_per_worker: 1", "{workers: 2, cpus_per_worker: 2", num_cpus=9)
        assert (made.concurrency, made.resources) == (2, Resources(2, 2, 0))

    def test_set_changes_what_the_space_says_besides_settings(self) -> None:
        made = plan(
            overrides={"resources.gpus_per_worker": "0.5", "budget.cap_gib": 3, "scheduler.name": "none"},
            num_cpus=8,
            num_gpus=1,
        )
        assert (made.resources, made.concurrency, made.cap_gib) == (Resources(1, 1, 0.5), 2, 3)
        assert made.scheduler == "none"
        assert not [key for key in made.base if key.startswith(("resources.", "budget."))]
        for key, value, message in (
            ("resources.gpus", "1", "--set resources.gpus is not a valid key. Valid: workers, cpus_per_worker"),
            ("resources.workers", "two", '--set resources.workers must be an integer, but got "two"'),
            ("resources.gpus_per_worker", "1.5", "--set resources.gpus_per_worker must be a part of one GPU"),
            ("budget.cap_gib", "-1", "--set budget.cap_gib must be greater than 0"),
            ("budget", "3", "--set budget is a whole section. Name one of its keys: budget.trials, budget.epochs"),
        ):
            with pytest.raises(UserError, match=message):
                plan(overrides={key: value})

    def test_set_chooses_the_protocol(self) -> None:
        keys = ("protocol.select_config_by", "protocol.select_epoch_by")
        made = plan(overrides=dict.fromkeys(keys, "covering-rate"))
        assert str(made.protocol) == "covering-rate x covering-rate"
        assert (made.protocol.metric, made.base["loop.select_epoch_by"]) == ("val/covering_rate", "covering-rate")
        with pytest.raises(UserError, match=r"--set protocol.select_epoch_by must be one of .*unbiased-risk"):
            plan(overrides={keys[1]: "unbiased_risk"})

    def test_more_than_fit_is_done_and_said(self) -> None:
        made = plan(concurrency=5)
        assert made.concurrency == 5
        assert "5 trials at a time share resources for 2" in made.notes
        assert plan(concurrency=2).notes == ()


class TestNotes:
    def test_cut_sweep_is_a_reduced_run(self) -> None:
        made = plan(trials=12, epochs=12, overrides={"data.num_train": "400", "data.num_val": 200})
        assert made.notes == (
            "reduced run: do not report these numbers: 12 of 24 trials, 12 of 20 epochs, data.num_train 400 of 1500, "
            "data.num_val 200 of 500",
        )

    def test_fewer_trials_alone_or_more_of_anything_is_none(self) -> None:
        assert plan(trials=12).notes == ()
        assert plan(trials=48, epochs=30, overrides={"data.num_train": 3000}).notes == ()

    def test_one_trial_at_a_time_says_what_asha_can_do(self) -> None:
        assert any("the first one runs to its end" in line for line in render_plan(asha(concurrency=1)))
        for changes in ({"concurrency": 2}, {"concurrency": 1, "overrides": {"scheduler.name": "none"}}):
            assert not any("one trial at a time" in line for line in render_plan(plan(**changes)))

    def test_search_that_never_leaves_its_startup_says_so(self) -> None:
        tpe = {"search.sampler": "tpe"}
        assert any("TPE never decides" in note for note in plan(trials=8, overrides=tpe).notes)
        process = plan(trials=8, overrides={"search.sampler": "gp"})
        assert any("the Gaussian process never decides" in note for note in process.notes)
        assert not any("TPE" in note for note in plan(trials=9, overrides=tpe).notes)
        # Nobody expects a search of a reduced run.
        assert not any("TPE" in note for note in plan(trials=3, epochs=12, overrides=tpe).notes)

    def test_training_that_is_cut_is_a_reduced_run_and_says_nothing_of_a_search(self) -> None:
        made = make_plan(PlanRequest(DIGITS, kind="train", epochs=3, overrides={"data.num_train": "400"}))
        assert made.notes == (
            "reduced run: do not report these numbers: 3 of 20 epochs, data.num_train 400 of 1500",
            "rejection never starts in this run, whose warm-up is 3 epochs or more",
        )
        assert make_plan(PlanRequest(DIGITS, kind="train")).notes == ()

    def test_former_configuration_that_is_cut_is_a_reduced_run(self) -> None:
        base = make_plan(PlanRequest(DIGITS, kind="train")).base
        cut = make_rerun_plan(PlanRequest(epochs=12), FormerRun(base, "f"))
        assert cut.notes == ("reduced run: do not report these numbers: 12 of 20 epochs",)
        assert make_rerun_plan(PlanRequest(), FormerRun(base, "f")).notes == ()

    def test_start_points_that_are_not_run_are_counted(self, edited: Make) -> None:
        two = "  ignore:\n    start_from: [{}, {method.cam_threshold: 0.6}]\n"
        made = edited("  ignore:\n", two, trials=1, startup_trials=0)
        assert "only the first 1 of 2 start points run" in made.notes


class TestTrialConfig:
    def test_params_change_the_base_and_nothing_else(self) -> None:
        made = plan()
        config = trial_config(made, {"method.cam_threshold": 0.4}).flatten()
        assert config == {**made.base, "method.cam_threshold": 0.4}

    @pytest.mark.parametrize("params", [{"method.tau": 0.4}, {"method.cam_threshold": 2}])
    def test_bad_param_is_an_error_before_anything_runs(self, params: dict[str, float]) -> None:
        with pytest.raises(ConfigError):
            trial_config(plan(), params)


class TestOverrides:
    def test_value_may_hold_an_equals_sign(self) -> None:
        assert parse_overrides(["model.weights=a=b", " optim.lr = 1e-3 "]) == {
            "model.weights": "a=b",
            "optim.lr": "1e-3",
        }

    @pytest.mark.parametrize("assignment", ["", "optim.lr", "=1", "optim.lr=", "  =  "])
    def test_what_is_no_assignment_is_refused(self, assignment: str) -> None:
        with pytest.raises(UserError, match="--set must be key=value"):
            parse_overrides([assignment])

    def test_key_given_twice_is_refused(self) -> None:
        with pytest.raises(UserError, match="--set gives optim.lr twice: 1 and 2"):
            parse_overrides(["optim.lr=1", "optim.lr=2"])


def test_planning_imports_nothing_heavy() -> None:
    heavy = "torch", "ray", "optuna", "mlflow", "numpy", "rich"
    code = (
        "import sys, orchestrator.planning.plan as p, orchestrator.planning.page as t; "
        "t.render_plan(p.make_plan(p.PlanRequest('digits'))); "
    )
    code += f"print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240)
    assert done.stdout.strip() == "[]"
