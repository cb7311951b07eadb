from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.cost.scale import (
    CpuClock,
    Measured,
    conclude_mlflow,
    conclude_tpe,
    render_report,
    render_rows,
    time_journal,
    time_resume_reading,
    time_tpe,
)
from orchestrator.home import sweep_dir
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
    assert [event["event"] for event in make_events(plan)][-1] == "driver_ended"


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
    assert between - before < 0.1
    assert 0.2 < after - between < 0.5


@pytest.mark.parametrize("part", [time_tpe, time_journal, time_resume_reading])
def test_parts_measure_something(part: object, home: Path) -> None:
    assert callable(part)
    figures = part(15)
    assert figures
    assert all(value > 0 for value in figures.values())


def test_rows_are_a_table() -> None:
    assert render_rows("Verbs", ["cpu_s"], {"status": {"cpu_s": 0.30001}}).splitlines() == [
        "## Verbs",
        "",
        "| | cpu_s |",
        "|---|---|",
        "| status | 0.3 |",
    ]


def measured(*, slower: float = 1.0, load: float = 0.0, most: int = 10_000) -> Measured:
    """Return figures of which all meet their aims, unless everything takes longer by a factor."""
    sweep = {"trial_ms": 30.0 * slower, "wall_ms": 30.0, "growth": slower, "writer_cpu_s": 3.0, "catch_up_s": 1.0}
    rates = {"results_per_s": 400 / slower, "cpu_ms": 0.1}
    return Measured(
        plain={most: {**sweep, "growth": 1.0}},
        ours={most: sweep},
        once=sweep,
        often={**sweep, "trial_ms": 60.0 * slower},
        tpe={100: {"ask_ms": 4.0, "tell_ms": 0.2}, 10_000: {"ask_ms": 64.0, "tell_ms": 0.3}},
        journal={1000: rates, 10_000: rates},
        num_stored=300,
        catch_up={
            "sqlite": {"results_per_s": 11.0, "cpu_ms": 28.0},
            "postgresql": {"results_per_s": 120.0, "cpu_ms": 22.0},
        },
        resumed={1000: {"read_s": 3.0 * slower, "read_cpu_s": 0.1, "first_hand_out_s": 21.0}},
        num_listed=10_000,
        verbs={verb: {"wall_s": 0.6 * slower, "cpu_s": 0.5} for verb in ("status", "leaderboard")},
        load=load,
    )


def test_a_report_says_of_every_aim_whether_it_is_met() -> None:
    report = render_report(measured())
    assert (report.count(": met)"), report.count(": missed)")) == (8, 0)
    assert "| with 10,000 trials in it | 400 (at least 200: met) | 0.1 |" in report
    assert "| 1,000 trials | 3 (at most 5: met) | 0.1 | 21 |" in report
    assert "| status | 0.6 (at most 1: met) | 0.5 |" in report
    assert (
        render_report(measured(slower=3)).count(": met)"),
        render_report(measured(slower=3)).count(": missed)"),
    ) == (0, 8)


def test_a_report_says_what_its_figures_are_worth() -> None:
    quiet = render_report(measured())
    assert "Others worked" not in quiet
    assert "not measured beyond" not in quiet
    assert "**Others worked on this machine meanwhile**" in render_report(measured(load=99.0))
    assert "The driver was not measured beyond 1,000 trials." in render_report(measured(most=1000))


def test_what_follows_from_the_figures_is_worked_out_from_them() -> None:
    found = measured()
    assert "an ask with 10,000 trials behind takes 64 ms of CPU, and one on the way there about 34 ms" in conclude_tpe(
        found.tpe
    )
    assert conclude_mlflow(found.once, found.catch_up).startswith(
        "Trivial trials report 100 results/s, sqlite takes 11, postgresql takes 120: sqlite falls behind such trials."
    )
    assert "both keep up with such trials" in conclude_mlflow({"wall_ms": 3000.0}, found.catch_up)
    assert "sqlite and postgresql fall behind such trials" in conclude_mlflow({"wall_ms": 3.0}, found.catch_up)
    assert conclude_tpe(found.tpe) in render_report(found)
