"""Test how a benchmark goes on from cell to cell, with sweeps and promotions that are made up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.planning.cost import Reserve
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.results.suite_cells import describe_cell, read_cells
from orchestrator.results.suite_record import SuiteRecord, keep_limit, read_record, register
from orchestrator.suite import run as running
from orchestrator.suite.plan import CellPlan, SuiteRequest, ask, plan_cells
from orchestrator.suite.run import SuiteOutcome, is_worked_on, require_one_cell, run_suite
from orchestrator.sweep.driver import SweepOutcome
from orchestrator.sweep.options import DEFAULT, DriveOptions
from orchestrator.sweep_folder.events import Event
from orchestrator.sweep_folder.index import list_sweeps, load_plan
from orchestrator.sweep_folder.journal import replay
from search_spaces.suite import load_suite
from tests.kit import sweeps
from tests.kit.fake_promotion import Store
from tests.kit.program import run

SUITE = """\
spaces: [digits]
methods: [ignore, em]
budget: {by: trials, amount: 3}
seeds: 2
race_frac: 0
fixed: {loop.epochs: 3}
"""


@dataclass
class Drivers:
    """Stands in for the drivers of sweeps: what they were called with, and what they do."""

    calls: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    stop_at: str | None = None

    def run_sweep(self, plan: SweepPlan, options: DriveOptions = DEFAULT) -> SweepOutcome:
        self.calls.append(f"sweep {plan.method}")
        if plan.method in self.broken:
            raise OrchestratorError("Ray cannot be started")
        sweeps.create(plan)
        return self._write(plan, 1 if self.stop_at == plan.method else plan.num_trials)

    def resume(self, sweep_id: str, options: DriveOptions = DEFAULT) -> SweepOutcome:
        plan = load_plan(sweep_id)
        self.calls.append(f"resume {plan.method}")
        return self._write(plan, plan.num_trials)

    def _write(self, plan: SweepPlan, num: int) -> SweepOutcome:
        events: list[Event] = [sweeps.driver_started(plan)]
        for trial in range(len(replay(sweeps.journal_path(plan)).records), num):
            events += [sweeps.trial_started(trial, 1), sweeps.epoch_reported(trial, 3, 2), sweeps.trial_ended(trial, 3)]
        state = "FINISHED" if num == plan.num_trials else "INTERRUPTED"
        sweeps.write_events(plan, [*events, sweeps.driver_ended(4, state)])
        return SweepOutcome(plan, (), state, 1.0)


@pytest.fixture
def drivers(monkeypatch: pytest.MonkeyPatch) -> Drivers:
    made = Drivers()
    Store(monkeypatch).score_of = lambda plan, point: 60.0 + int(point["loop.seed"] or 0) % 3
    monkeypatch.setattr(running, "run_sweep", made.run_sweep)
    monkeypatch.setattr(running, "resume", made.resume)
    return made


@pytest.fixture
def suite(tmp_path: Path) -> tuple[SuiteRecord, list[CellPlan]]:
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE)
    return _ask(path)


def _ask(path: Path, **request: object) -> tuple[SuiteRecord, list[CellPlan]]:
    asked = SuiteRequest(**request)  # type: ignore[arg-type]
    record = ask(load_suite(path), asked)
    return register(record), plan_cells(record, asked)


def _run(suite: tuple[SuiteRecord, list[CellPlan]]) -> SuiteOutcome:
    return run_suite(*suite)


def _states(record: SuiteRecord) -> dict[str, str]:
    return {key[1]: describe_cell(cell, record.seeds)[0] for key, cell in read_cells(record).items()}


def test_every_cell_is_searched_and_reported_once(drivers: Drivers, suite: tuple[SuiteRecord, list[CellPlan]]) -> None:
    shown: list[str] = []
    outcome = run_suite(*suite, show=lambda key: shown.append(f"{key[1]} after {len(drivers.calls)}"))
    assert (outcome.state, outcome.failed) == ("FINISHED", {})
    assert drivers.calls == ["sweep ignore", "sweep em"]
    assert shown == ["ignore after 0", "ignore after 1", "em after 1", "em after 2"]
    assert _states(suite[0]) == {"ignore": "done", "em": "done"}
    num = len(list_sweeps())
    assert _run(suite).failed == {}
    assert (drivers.calls, len(list_sweeps())) == (["sweep ignore", "sweep em"], num), "nothing is left to do"


def test_a_cell_that_fails_does_not_stop_the_others_and_is_tried_again(
    drivers: Drivers, suite: tuple[SuiteRecord, list[CellPlan]]
) -> None:
    drivers.broken = {"ignore"}
    outcome = _run(suite)
    assert outcome.failed == {("digits", "ignore"): "Ray cannot be started"}
    assert _states(suite[0]) == {"ignore": "waiting", "em": "done"}
    drivers.broken = set()
    assert _run(suite).failed == {}
    assert drivers.calls == ["sweep ignore", "sweep em", "sweep ignore"]


def test_what_was_stopped_goes_on_in_its_cell(drivers: Drivers, suite: tuple[SuiteRecord, list[CellPlan]]) -> None:
    drivers.stop_at = "ignore"
    assert _run(suite).state == "INTERRUPTED"
    assert _states(suite[0]) == {"ignore": "stopped", "em": "waiting"}
    assert _run(suite).state == "FINISHED"
    assert drivers.calls == ["sweep ignore", "resume ignore", "sweep em"]


def test_methods_and_seeds_are_added(
    drivers: Drivers, suite: tuple[SuiteRecord, list[CellPlan]], tmp_path: Path
) -> None:
    _run(suite)
    record, cells = _ask(tmp_path / "mine.yaml", methods=("wan",))
    assert record.methods == ("ignore", "em", "wan")
    assert [cell.plan.method for cell in cells] == ["wan"]
    _run((record, cells))
    assert drivers.calls == ["sweep ignore", "sweep em", "sweep wan"]
    record, cells = _ask(tmp_path / "mine.yaml", seeds=3, methods=("ignore", "em", "wan"))
    _run((record, cells))
    assert len(drivers.calls) == 3, "no search runs again"
    finals = read_cells(record)["digits", "ignore"].finals
    assert [plan.num_final for plan, _ in finals] == [2, 1]
    seeds = [
        [point["loop.seed"] for plan, _ in cell.finals for point in plan.start_from]
        for cell in read_cells(record).values()
    ]
    assert all(own == seeds[0] for own in seeds)
    assert read_record(record.id).seeds == 3


def test_two_processes_do_not_work_on_one_benchmark(
    drivers: Drivers, suite: tuple[SuiteRecord, list[CellPlan]]
) -> None:
    assert not is_worked_on(suite[0])
    with running._working(suite[0]):
        assert is_worked_on(suite[0])
        with pytest.raises(UserError, match="Another process is working on mine-.* status mine-"):
            _run(suite)
    assert not is_worked_on(suite[0])


def test_data_that_are_missing_are_named_before_anything_starts(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    code, _, error = run(capsys, "benchmark", "spml", "--datasets", "voc,cub", "--methods", "em")
    assert code == 2
    assert "em on voc: No store of voc" in error
    assert "orchestrator data prepare voc --source DIR" in error
    assert "Or leave voc out: --datasets cub" in error
    assert not (home / "suites").exists()


def test_a_search_without_a_complete_trial_is_a_failed_cell(
    drivers: Drivers, suite: tuple[SuiteRecord, list[CellPlan]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(plan: SweepPlan, options: DriveOptions = DEFAULT) -> SweepOutcome:
        sweeps.create(plan)
        events: list[Event] = [sweeps.driver_started(plan)]
        for trial in range(plan.num_trials):
            events += [sweeps.trial_started(trial, 1), sweeps.trial_ended(trial, 2, "FAILED", "NAN", "loss is NaN")]
        sweeps.write_events(plan, [*events, sweeps.driver_ended(4)])
        return SweepOutcome(plan, (), "FINISHED", 1.0)

    monkeypatch.setattr(running, "run_sweep", fail)
    outcome = _run(suite)
    assert set(outcome.failed) == {("digits", "ignore"), ("digits", "em")}
    assert "no trial of mine-ignore-" in outcome.failed["digits", "ignore"]
    assert "NAN, loss is NaN" in outcome.failed["digits", "ignore"]


def test_below_a_limit_of_hours_only_cells_that_fit_start(
    drivers: Drivers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE)
    hours = {cell.plan.method: cell.hours or 0.0 for cell in _ask(path)[1]}
    assert min(hours.values()) > 0
    both = sum(hours.values())
    record, cells = _ask(path, max_gpu_hours=both - 1e-4)
    said: list[str] = []
    # The made-up runs take seconds, so in truth both fit: what counts before they run is what they may take.
    least = min(hours.values())
    tight = replace(record, max_gpu_hours=least - 1e-6)
    with pytest.raises(UserError, match=r"is less than one cell of mine-\w+ may take, so nothing would run"):
        require_one_cell(tight, cells)
    require_one_cell(replace(record, max_gpu_hours=least), cells)
    only = min(hours, key=lambda method: hours[method])
    outcome = run_suite(
        replace(record, max_gpu_hours=least + 1e-6), cells[::-1] if only == "em" else cells, say=said.append
    )
    assert [key[1] for key in outcome.limited] == [method for method in hours if method != only]
    assert any("does not start: its search and what follows may take" in line for line in said)
    plan = load_plan(list_sweeps(kinds={"sweep"})[0].id)
    assert plan.method == only
    assert plan.max_gpu_hours == pytest.approx(least + 1e-6)
    assert plan.reserve == Reserve(0, 2)
    final = load_plan(list_sweeps(kinds={"promote"})[0].id)
    assert 0 < (final.max_gpu_hours or 0) < least
    # A higher limit continues; one that is not named again stays.
    assert keep_limit(replace(record, max_gpu_hours=None)).max_gpu_hours == pytest.approx(both - 1e-4)
    assert _run(_ask(path, max_gpu_hours=both + 1)).limited == {}
    assert _states(record) == {"ignore": "done", "em": "done"}
    assert read_record(record.id).max_gpu_hours == both + 1
    assert _ask(path)[0].max_gpu_hours == both + 1
    with pytest.raises(UserError, match="must be a number above 0"):
        _ask(path, max_gpu_hours=0.0)
    code, shown, error = run(capsys, "benchmark", str(path), "--max-gpu-hours", "1e-6", "--dry-run")
    assert (code, "limit      1e-06 CPU-hours" in shown) == (0, True), error


def test_records_of_an_earlier_version_have_no_limit(suite: tuple[SuiteRecord, list[CellPlan]]) -> None:
    path = suite[0].folder / "suite.jsonl"
    path.write_text(path.read_text().replace(', "max_gpu_hours": null', ""))
    assert "max_gpu_hours" not in path.read_text()
    assert read_record(suite[0].id) == suite[0]
