"""A plan fits its data, or says before anything starts why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import UserError
from orchestrator.planning.data_fit import check_data, leave_out_oracles
from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.sweep_plan import SweepPlan
from search_spaces.ranges import Range
from tests.kit.stores import NAME, make_store
from training.errors import ConfigError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a store without true labels."""
    return make_store(tmp_path_factory.mktemp("store"), observed_only=True)


def make(store: str, **changes: Any) -> SweepPlan:
    request = PlanRequest(
        "folder", num_cpus=8, num_gpus=1, overrides={"data.image_size": "16", "data.store": store}, **changes
    )
    return replace(make_plan(request), dataset=NAME)  # the store's own name, as in a copy of the space


def test_an_ablation_leaves_out_the_variants_that_need_true_labels(store: str) -> None:
    whole = make(store, kind="ablate", seeds=2, concurrency=14)
    assert whole.variants[-1] == "ignore_oracle"
    plan = leave_out_oracles(whole)
    assert plan.variants == whole.variants[:-1]
    assert plan.start_from == whole.start_from[:-2]
    assert (plan.num_trials, plan.concurrency) == (12, 12)
    assert plan.notes[-1] == "without ignore_oracle, which needs true labels: mine has only observed ones"
    check_data(plan)
    points = whole.start_from[:2] + whole.start_from[-2:]
    with pytest.raises(UserError, match="Nothing is left to compare"):
        leave_out_oracles(replace(whole, variants=("ignore", "ignore_oracle"), start_from=points, num_trials=4))


def test_with_true_labels_or_without_data_every_variant_stays(store: str, tmp_path: Path) -> None:
    for place in (make_store(tmp_path), str(tmp_path / "nowhere")):
        plan = make(place, kind="ablate")
        assert leave_out_oracles(plan) is plan


def test_what_needs_true_labels_is_refused_before_it_starts(store: str) -> None:
    for method in ("full_labels", "ignore_oracle"):
        with pytest.raises(UserError, match=f"The method {method} needs true labels, but mine has only observed ones"):
            check_data(make(store, method=method))
    plan = make(store)
    check_data(plan)
    choices = Range(type="categorical", choices=["gap", "oracle"])
    for changed in (
        replace(plan, ranges=plan.ranges | {"method.rejection": choices}),
        replace(plan, start_from=(*plan.start_from, {"method.rejection": "oracle"})),
    ):
        with pytest.raises(UserError, match=r"method\.rejection=oracle, in the space .* Use --set method\.rej"):
            check_data(changed)


def test_labels_that_the_data_do_not_give_are_refused_before_anything_starts(store: str) -> None:
    plan = make(store)
    check_data(replace(plan, base={**plan.base, "data.positives": "given"}))
    for key, value, said in (
        ("positives", "drawn", "mine gives only observed ones. Set data.positives=given"),
        ("negatives", "given", "mine gives none. Set data.negatives=none"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_data(replace(plan, base={**plan.base, f"data.{key}": value}))
