from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.run_config import render_config
from orchestrator.planning.sweep_plan import trial_config
from orchestrator.results.former_run import find_trial, plan_rerun
from orchestrator.tracking import store as mlflow_store
from search_spaces.reader import SpaceError
from tests.kit.sweeps import make_sweep, whole_sweep, write_events


@pytest.fixture
def sweep() -> str:
    plan = make_sweep()
    write_events(plan, whole_sweep(plan))
    return plan.id


def test_trial_is_run_again_with_its_own_settings(sweep: str) -> None:
    plan = plan_rerun(PlanRequest(source="digits/1"))
    assert (plan.kind, plan.num_trials, plan.ranges, plan.parent) == ("train", 1, {}, f"{sweep}/1")
    assert plan.base["method.cam_threshold"] == 0.6
    assert plan.base["loop.epochs"] == 3
    assert plan.method == "ignore"


def test_settings_and_length_can_be_changed_on_the_way(sweep: str) -> None:
    plan = plan_rerun(PlanRequest(source=f"{sweep}/1", epochs=5, overrides={"loop.seed": "7"}, name="again"))
    assert (plan.base["loop.seed"], plan.epochs, plan.name) == (7, 5, "again")
    assert plan.base["method.cam_threshold"] == 0.6


def test_file_is_run_as_it_says(tmp_path: Path) -> None:
    config = trial_config(make_sweep(), {"method.cam_threshold": 0.7}).flatten()
    file = tmp_path / "winner.yaml"
    file.write_text(render_config(config, "the winner"))
    plan = plan_rerun(PlanRequest(source=str(file)))
    assert plan.base == config
    assert (plan.parent, plan.dataset) == (None, "digits")


def test_file_without_a_suffix_is_known_by_being_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("winner").write_text("data.name: voc\nmethod.cam_threshold: 0.7\n")
    assert plan_rerun(PlanRequest(source="winner")).base["method.cam_threshold"] == 0.7


def test_file_is_looked_for_here_and_then_under_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home" / "promoted").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "home" / "promoted" / "winner.yaml").write_text("data.name: voc\nmethod.cam_threshold: 0.7\n")
    assert plan_rerun(PlanRequest(source="promoted/winner.yaml")).base["method.cam_threshold"] == 0.7
    Path("promoted").mkdir()
    Path("promoted/winner.yaml").write_text("data.name: voc\nmethod.cam_threshold: 0.6\n")
    assert plan_rerun(PlanRequest(source="promoted/winner.yaml")).base["method.cam_threshold"] == 0.6


def test_logged_run_is_found_by_its_id(sweep: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_store, "find_run", {"a" * 32: (sweep, 1), "b" * 32: (sweep, None)}.__getitem__)
    assert find_trial("a" * 32) == (sweep, 1)
    with pytest.raises(UserError, match=f"--from {sweep}/0"):
        find_trial("b" * 32)


@pytest.mark.parametrize(
    ("source", "error", "hint"),
    [
        ("no/such.yaml", SpaceError, "no/such.yaml does not exist. Its folder no does not exist either"),
        (
            "digits/9",
            UserError,
            "has no trial 9, only 0 to 3. See: orchestrator leaderboard digits-00000001",
        ),
        ("digits/best", UserError, "'best' is not the number of a trial"),
        ("digist/1", UserError, "Did you mean digits?"),
    ],
)
def test_what_is_not_there_is_named(sweep: str, source: str, error: type[Exception], hint: str) -> None:
    with pytest.raises(error) as caught:
        plan_rerun(PlanRequest(source=source))
    assert hint in str(caught.value)
