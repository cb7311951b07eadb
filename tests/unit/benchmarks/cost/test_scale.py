from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.cost.scale import CpuClock, time_journal, time_resume_reading, time_tpe
from orchestrator.home import sweep_dir
from orchestrator.sweep_folder.events import DriverEnded
from orchestrator.sweep_folder.journal import JOURNAL_FILE, replay
from orchestrator.sweep_folder.records import TrialState
from tests.kit.synthetic_journal import NUM_EPOCHS, make_events, write_journal


def test_a_journal_that_nobody_ran_reads_as_one_that_was() -> None:
    plan = write_journal("x-00000001", 12, num_open=2)
    state = replay(sweep_dir(plan.id) / JOURNAL_FILE)
    assert [record.state for record in state.records.values()] == 10 * [TrialState.COMPLETE] + 2 * [
        TrialState.INTERRUPTED
    ]
    assert all(record.last_epoch == NUM_EPOCHS for record in list(state.records.values())[:10])
    assert all(0 < record.last_epoch < NUM_EPOCHS for record in list(state.records.values())[10:])
    assert isinstance(list(make_events(plan))[-1], DriverEnded)


def test_the_clock_counts_work_and_not_waiting_nor_what_is_excluded() -> None:
    with CpuClock() as clock:
        started = time.time()
        time.sleep(0.3)
        slept = time.time()
        deadline = time.process_time() + 0.3
        while time.process_time() < deadline:
            pass
        worked = time.time()
        time.sleep(0.15)
    before, between, after = clock.at([started, slept, worked])
    assert between - before < 0.15, "between two samples, work is spread evenly"
    assert 0.15 < after - between < 0.5


@pytest.mark.parametrize("part", [time_tpe, time_journal, time_resume_reading])
def test_parts_measure_something(part: object, home: Path) -> None:
    assert callable(part)
    figures = part(15)
    assert figures
    assert all(value > 0 for value in figures.values())
