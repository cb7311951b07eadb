"""Test the ablation table: which runs it needs, and what its rows say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import UserError
from orchestrator.planning.page import render_plan
from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.sweep_plan import SweepPlan, trial_config
from orchestrator.promotion.promote import promote
from orchestrator.results.ablation import tabulate_ablation
from orchestrator.sweep import driver
from orchestrator.sweep.driver import SweepOutcome
from orchestrator.sweep_folder.events import Event
from orchestrator.sweep_folder.journal import replay
from tests.kit.program import run
from tests.kit.sweeps import (
    create,
    driver_ended,
    driver_started,
    epoch_reported,
    journal_path,
    trial_ended,
    trial_started,
    write_events,
)

VARIANTS = (
    "ignore",
    *(
        f"ignore_{what}"
        for what in ("without_rejection", "without_average_test", "without_spbc", "without_reg", "weak_view", "oracle")
    ),
)


def make(**changes: Any) -> SweepPlan:
    return make_plan(PlanRequest("digits", kind="ablate", num_cpus=2, num_gpus=0, **changes))


def test_every_variant_is_run_with_every_seed_and_differs_in_what_it_leaves_out() -> None:
    plan = make(seeds=2, overrides={"loop.seed": "5"})
    assert plan.variants == VARIANTS
    assert (plan.kind, plan.num_trials, plan.ranges, plan.scheduler, plan.notes) == ("ablate", 14, {}, "none", ())
    assert plan.start_from[0] == {"loop.seed": 5}
    assert plan.start_from[1] == {"loop.seed": 6}
    assert plan.start_from[2:6] == (
        {"method.rejection": "none", "loop.seed": 5},
        {"method.rejection": "none", "loop.seed": 6},
        {"method.use_average_test": False, "loop.seed": 5},
        {"method.use_average_test": False, "loop.seed": 6},
    )
    assert plan.start_from[-1] == {"method.rejection": "oracle", "loop.seed": 6}
    # What no variant names is the method's at its first start point.
    assert trial_config(plan, plan.start_from[-1]).flatten()["method.cam_threshold"] == 0.5


@pytest.mark.parametrize("space", ["voc", "coco_q2l", "folder"])
def test_any_space_has_its_table(space: str) -> None:
    plan = make_plan(PlanRequest(space, kind="ablate", num_cpus=8, num_gpus=1))
    assert plan.variants == VARIANTS
    assert plan.num_trials == 21
    assert SweepPlan.from_json(plan.to_json()) == plan
    assert render_plan(plan)[0].startswith(f"ablate {space}-ablate: ignore on")


def test_what_set_fixes_holds_for_all_variants() -> None:
    plan = make(seeds=1, overrides={"method.reg_weight": "0.3"})
    assert "ignore_without_reg" not in plan.variants, "it would be the method itself"
    assert {trial_config(plan, point).flatten()["method.reg_weight"] for point in plan.start_from} == {0.3}


def test_a_method_without_variants_is_a_mistake() -> None:
    with pytest.raises(UserError, match="search_spaces/digits.yaml has no variants of em to compare it with"):
        make(method="em")
    with pytest.raises(UserError, match="--seeds must be at least 1"):
        make(seeds=0)


def scored(scores: dict[int, float | None]) -> SweepPlan:
    """Return an ablation with two seeds, of which these trials ended with these scores; None: failed."""
    plan = make(seeds=2)
    create(plan)
    events: list[Event] = [driver_started(plan)]
    for trial, score in scores.items():
        params: dict[str, Any] = plan.start_from[trial]
        events.append(trial_started(trial, 1 + trial, 1, **params))
        if score is None:
            events.append(trial_ended(trial, 1.6 + trial, "FAILED", "NAN", "loss must be finite"))
        else:
            events += [epoch_reported(trial, 1, 1.5 + trial, score), trial_ended(trial, 1.6 + trial)]
    write_events(plan, events)
    return plan


def test_rows_are_means_and_differences_by_seed() -> None:
    plan = scored({0: 80.0, 1: 84.0, 2: 75.0, 3: 81.0, 4: None, 5: 83.0})
    rows = tabulate_ablation(plan, replay(journal_path(plan)).records.values())
    assert [row["variant"] for row in rows] == list(VARIANTS)
    whole, rejection, average, spbc = rows[:4]
    assert (whole["mean"], whole["num_seeds"], whole["difference"], whole["changes"]) == (82.0, 2, None, {})
    assert whole["deviation"] == pytest.approx(2.828, abs=1e-3)
    assert (rejection["mean"], rejection["difference"]) == (78.0, -4.0)
    assert rejection["difference_deviation"] == pytest.approx(1.414, abs=1e-3)
    assert rejection["changes"] == {"method.rejection": "none"}
    assert (average["mean"], average["num_seeds"], average["deviation"], average["difference"]) == (83.0, 1, None, -1.0)
    assert (spbc["mean"], spbc["num_seeds"], spbc["difference"]) == (None, 0, None)
    assert [row["num_failed"] for row in rows[:4]] == [0, 0, 1, 0]


def test_a_variant_whose_runs_all_failed_is_named_and_the_exit_code_is_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = scored({trial: None if trial in (2, 3, 6) else 80.0 + trial for trial in range(14)})
    write_events(plan, [driver_ended(20)])
    records = tuple(replay(journal_path(plan)).records.values())
    monkeypatch.setattr(driver, "resume", lambda sweep_id, options: SweepOutcome(plan, records, "FINISHED", 1.0))
    code, out, err = run(capsys, "resume", plan.id)
    assert code == 1
    assert f"All runs of ignore_without_rejection failed. See why: orchestrator leaderboard {plan.id}" in err
    rows = [line.split() for line in out.splitlines()]
    assert ["ignore_without_rejection", "0", "(2", "failed)"] in rows
    assert next(row for row in rows if "ignore_without_spbc" in row)[:4] == [
        "ignore_without_spbc",
        "1",
        "(1",
        "failed)",
    ]


def test_leaderboard_ends_with_the_table(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    plan = scored({0: 80.0, 1: 84.0, 2: 75.0, 3: 81.0})
    code, out, _ = run(capsys, "leaderboard", plan.id)
    assert code == 0
    table = out.partition("difference from ignore seed by seed")[2]
    assert ["ignore", "2", "82.00", "+-", "2.83"] in [line.split() for line in table.splitlines()]
    assert ["ignore_without_rejection", "2", "78.00", "+-", "4.24", "-4.00", "+-", "1.41"] in [
        line.split() for line in table.splitlines()
    ]
    _, printed, _ = run(capsys, "leaderboard", plan.id, "--json")
    assert json.loads(printed)["ablation"][1]["difference"] == -4.0


def test_an_ablation_is_not_promoted(home: Path) -> None:
    plan = scored(dict.fromkeys(range(14), 80.0))
    with pytest.raises(UserError, match="an ablation, and the best of its variants is not a winner"):
        promote(plan.id)


def test_the_verb_plans_it(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    code, out, _ = run(capsys, "ablate", "digits", "--seeds", "1", "--epochs", "8", "--dry-run")
    assert code == 0
    assert "trials        7, 8 epochs each" in out
    assert "reduced run: do not report these numbers: 8 of 20 epochs" in out
