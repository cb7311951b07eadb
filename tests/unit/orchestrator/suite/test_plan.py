"""Test the plan of a benchmark: its cells and their budgets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import UserError
from orchestrator.suite.plan import SuiteRequest, ask, plan_cells
from search_spaces.reader import SpaceError
from search_spaces.suite import load_suite
from tests.kit.program import run
from training.config.methods import METHOD_CONFIGS

pytestmark = pytest.mark.usefixtures("home")


def plan(name: str | Path = "digits", **request: Any) -> dict[str, tuple[int, int]]:
    """Return method -> (trials, images of one) of a suite's plan."""
    asked = SuiteRequest(**request)
    cells = plan_cells(ask(load_suite(name), asked), asked)
    return {"/".join(cell.key): (cell.plan.num_trials, cell.images.total) for cell in cells}


def test_every_method_of_digits_gets_as_many_images_as_16_trials_of_ignore() -> None:
    # 1,500 scenes, 20 epochs. AN: forward and backward. EM + APL scores the scenes after 10 epochs; IGNORE has a strong
    # view, and two passes without gradient for the gap.
    assert plan() == {
        "digits/ignore": (16, 20 * 1500 * 6),
        "digits/em": (48, 20 * 1500 * 2),
        "digits/em_apl": (38, 20 * 1500 * 2 + 10 * 1500),
        "digits/assumed_negative": (48, 20 * 1500 * 2),
    }


def test_the_shipped_suites_can_be_planned_before_the_data_are_prepared() -> None:
    assert len(plan("digits-full")) == 29
    assert all(trials >= 16 for trials, _ in plan("digits-full").values())
    assert list(plan("paper")) == ["voc/em_apl", "voc/plc_lac", "voc/ignore"]
    assert plan("paper")["voc/ignore"] == (16, 25 * 4574 * 5)
    assert len(plan("spml", datasets=("voc", "cub"))) == 2 * 27


def test_all_methods_are_in_the_suites_of_all_methods() -> None:
    elsewhere = {"plc_lac", "aevlp", "vlpl"}  # need Query2Label, or the scores of CLIP
    for name in ("digits-full", "spml"):
        cells = plan_cells(ask(load_suite(name), SuiteRequest()))
        assert {cell.plan.base["method.name"] for cell in cells} == METHOD_CONFIGS.keys() - elsewhere
    assert elsewhere <= {
        cell.plan.base["method.name"]
        for name in ("paper", "clip")
        for cell in plan_cells(ask(load_suite(name), SuiteRequest()))
    }


def test_cells_are_ordinary_sweeps_that_know_their_benchmark() -> None:
    asked = SuiteRequest(methods=("em",), budget=4, budget_by="trials", seeds=3, settings={"data.num_train": 600})
    record = ask(load_suite("digits"), asked)
    [cell] = plan_cells(record, asked)
    assert (cell.plan.suite, cell.plan.name, cell.plan.kind) == (record.id, "digits-em", "sweep")
    assert (cell.plan.num_trials, cell.plan.scheduler, cell.num_train) == (4, "none", 600)
    assert cell.plan.base["data.scene_seed"] == 104
    assert cell.plan.start_from[0]["method.entropy_weight"] == 0.2, "the published point comes first"
    assert (record.methods, record.bounds, record.seeds) == (("em",), (), 3)


def test_what_a_user_gets_wrong_is_named() -> None:
    wrong: dict[str, dict[str, Any]] = {
        r"--methods must be among .*got ignor. Did you mean ignore\?": {"methods": ("ignor",)},
        r"--datasets must be among .*got voc. Valid: digits": {"datasets": ("voc",)},
        r"--budget must be greater than 0": {"budget": -1.0},
        r"--budget must be a whole number of trials": {"budget": 1.5, "budget_by": "trials"},
        r"--budget-by trials needs an amount": {"budget_by": "trials"},
        r"--seeds must be at least 2": {"seeds": 1},
        r"is less than one trial of ignore on digits, which passes 180,000 images": {"budget": 1000.0},
    }
    for message, request in wrong.items():
        with pytest.raises(UserError, match=message):
            plan(**request)


def test_a_search_that_may_end_early_has_no_equal_budget() -> None:
    with pytest.raises(UserError, match=r"min_gain ends the search of em on digits early, but a benchmark .* --set"):
        plan(methods=("em",), settings={"budget.min_gain": 0.5})


def test_methods_that_would_not_be_tuned_alike_are_refused(tmp_path: Path) -> None:
    space, suite = tmp_path / "mine.yaml", tmp_path / "suite.yaml"
    space.write_text(
        "dataset: digits\nbudget: {trials: 4, epochs: 4}\nuse_methods: [wan, em]\n"
        "shared: {ranges: {optim.lr: {type: float, low: 1e-3, high: 1e-2}}}\n"
        "methods: {em: {fixed: {optim.lr: 3e-3}}}\n"
    )
    suite.write_text(f"spaces: [{space}]\nmethods: [wan, em]\nbudget: {{by: trials, amount: 4}}\n")
    with pytest.raises(UserError, match=r"not be tuned alike on digits: optim.lr is searched .* for wan and fixed"):
        plan(suite)
    suite.write_text(f"spaces: [{space}, digits]\nmethods: [wan]\nbudget: {{by: trials, amount: 4}}\n")
    with pytest.raises(SpaceError, match=r"suite.yaml:1: spaces.1, digits, is a second space of digits"):
        plan(suite)


def test_a_dry_run_prints_the_plan_and_writes_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown, _ = run(capsys, "benchmark", "digits", "--dry-run", "--methods", "ignore, em")
    assert code == 0
    assert "as many images as 16 trials of ignore (2,880,000 images a method on digits)" in shown
    assert "contrasts  ignore - em on digits, ignore - em_apl on digits" in shown
    assert "digits   em " in shown
    assert "digits   em_apl" not in shown
    assert not home.exists() or not any(home.iterdir())
    _, told, _ = run(capsys, "benchmark", "digits", "--dry-run", "--json")
    assert json.loads(told)["cells"][0]["images_backward"] == 20 * 1500 * 2
    code, _, error = run(capsys, "benchmark", "digitz", "--dry-run")
    assert (code, "Did you mean digits?" in error) == (2, True)
