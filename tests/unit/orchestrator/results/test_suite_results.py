"""Test the results of a benchmark on cells that were made up."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from statistics import fmean

import pyarrow.parquet as pq
import pytest

import orchestrator
from orchestrator.errors import UserError
from orchestrator.intervals import mean_interval
from orchestrator.results.comparison import compare_paired
from orchestrator.results.suite_cells import read_cells
from orchestrator.results.suite_files import TABLE_FILE
from orchestrator.results.suite_record import register
from orchestrator.results.suite_results import read_suite
from orchestrator.sweep_folder.events import Event
from orchestrator.sweep_folder.rows import RESULTS_FILE
from tests.kit import sweeps
from tests.kit.fake_store import FakeStore
from tests.kit.program import run
from tests.kit.promoted import make_base
from tests.kit.suites import SEEDS, make_cell, make_suite, make_suite_record


@pytest.fixture
def store(home: Path) -> FakeStore:
    return FakeStore()


def test_the_table_by_hand(store: FakeStore, capsys: pytest.CaptureFixture[str]) -> None:
    record, work = make_suite(store)
    found = read_suite(record.id)
    [dataset] = found.datasets
    assert [cell.method for cell in dataset.cells] == ["ignore", "em", "full_labels"], "bounds come last"
    frame = orchestrator.read_results(work["ignore"].promotion.id)
    figures = frame[frame.metric == "test/mAP"].value.tolist()
    ignore, em, bound = dataset.cells
    assert ignore.scores == dict(zip(SEEDS, figures, strict=True))
    assert (ignore.mean, (ignore.low, ignore.high)) == (fmean(figures), mean_interval(figures))
    assert (ignore.group, bound.group, bound.best_prob) == (1, None, None)
    assert ignore.best_prob is not None
    assert em.best_prob is not None
    assert ignore.best_prob > 0.5 > em.best_prob
    assert ignore.best_prob + em.best_prob == pytest.approx(1)
    assert (ignore.trials, ignore.openings, em.openings) == (4, (1,), (2,))
    [contrast] = found.contrasts
    assert contrast.difference == compare_paired(list(ignore.scores.values()), list(em.scores.values()))
    assert contrast.p_holm == contrast.difference.p, "one contrast needs no correction"
    assert found.marks == ()
    _, shown, _ = run(capsys, "leaderboard", record.id)
    assert f"{ignore.mean:.2f}" in shown
    assert "openings of the test set: 3" in shown
    assert "smallest difference that can be significant here" in shown


def test_marks_of_methods_are_shown(store: FakeStore, capsys: pytest.CaptureFixture[str]) -> None:
    record = register(make_suite_record())
    make_cell(record, "ignore", store)
    make_cell(record, "full_labels", store, base=make_base(**{"method.name": "full_labels"}))
    make_cell(record, "em", store, base=make_base(**{"method.name": "epr"}))
    _, shown, _ = run(capsys, "leaderboard", record.id)
    assert "em (uses full-label statistic)" in shown
    assert "full_labels (bound, uses true labels)" in shown
    _, told, _ = run(capsys, "leaderboard", record.id, "--csv")
    assert {row["marks"] for row in csv.DictReader(io.StringIO(told))} == {
        "",
        "uses true labels",
        "uses full-label statistic",
    }


def test_rows_of_all_runs_are_kept_and_read(store: FakeStore) -> None:
    record, work = make_suite(store)
    rows = pq.read_table(record.folder / RESULTS_FILE).to_pandas()
    assert set(rows.sweep) == {plan.id for cell in work.values() for plan in (cell.search, cell.promotion)}
    assert rows.equals(orchestrator.read_results("mine"))
    told = json.loads((record.folder / TABLE_FILE).read_text())
    assert told["contrasts"][0]["is_significant"] in (True, False)


def test_mixed_weights_are_refused_and_marked_if_asked_for(
    store: FakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    record, _ = make_suite(store, provenance={"weights_hash": "07he7"})
    with pytest.raises(UserError, match=r"mixes initial weights: .*07he7 in em.*--allow-mixed"):
        read_suite(record.id)
    assert run(capsys, "leaderboard", record.id)[0] == 2
    [dataset] = read_suite(record.id, allow_mixed=True).datasets
    assert "mixes initial weights" in dataset.marks[0]


def test_other_commits_are_marked(store: FakeStore) -> None:
    record, _ = make_suite(store, provenance={"commit": "0ther", "dirty": "true"})
    marks = " ".join(read_suite(record.id).marks)
    assert "cells of 2 commits" in marks
    assert "not committed" in marks


def test_a_cell_with_a_failed_run_has_no_mean_and_says_why(
    store: FakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    record = register(make_suite_record())
    make_cell(record, "ignore", store)
    plan = sweeps.make_sweep("mine-em-0000000c", suite=record.id, method="em", num_trials=1)
    done = [sweeps.trial_started(0, 1), sweeps.epoch_reported(0, 3, 2), sweeps.trial_ended(0, 3)]
    sweeps.write_events(plan, [sweeps.driver_started(plan), *done, sweeps.driver_ended(4)])
    points = tuple({"loop.seed": seed} for seed in SEEDS)
    final = sweeps.make_sweep(
        "mine-em-promote-0000000d",
        suite=record.id,
        method="em",
        kind="promote",
        parent=plan.id,
        start_from=points,
        num_trials=3,
    )
    events: list[Event] = [sweeps.driver_started(final)]
    for trial in range(3):
        ended = sweeps.trial_ended(trial, 3, *(("FAILED", "OOM") if trial == 1 else ()))
        events += [sweeps.trial_started(trial, 1, **points[trial]), sweeps.epoch_reported(trial, 3, 2), ended]
    sweeps.write_events(final, [*events, sweeps.driver_ended(4)])
    [dataset] = read_suite(record.id).datasets
    cell = {cell.method: cell for cell in dataset.cells}["em"]
    assert (cell.state, cell.mean, cell.scores) == ("failed", None, {})
    assert cell.details == "1 of its final runs failed (seed 5102: OOM)"
    _, shown, _ = run(capsys, "status", record.id)
    assert "benchmark of 3 cells, 1 done, 1 failed, 1 waiting" in shown
    assert "seed 5102: OOM" in shown
    _, told, _ = run(capsys, "status", record.id, "--json")
    states = {cell["method"]: cell["state"] for cell in json.loads(told)["cells"]}
    assert states == {"ignore": "done", "em": "failed", "full_labels": "waiting"}


def test_runs_that_were_repeated_because_one_failed_count_once(store: FakeStore) -> None:
    record, work = make_suite(store)
    old = work["em"].promotion
    again = sweeps.make_sweep(
        "mine-em-promote-0000000e",
        created=old.created + 60,
        **{
            name: getattr(old, name)
            for name in ("suite", "method", "kind", "parent", "start_from", "num_trials", "base")
        },
    )
    sweeps.write_events(again, [sweeps.driver_started(again)])
    cell = read_cells(record)["digits", "em"]
    assert [plan.id for plan, _ in cell.finals] == [again.id]
    assert [plan.id for plan, _ in cell.replaced] == [old.id]


def test_a_benchmark_that_cannot_be_read_does_not_hide_a_sweep(store: FakeStore) -> None:
    record, work = make_suite(store)
    journal = sweeps.journal_path(work["em"].search)
    journal.write_bytes(journal.read_bytes()[5:])
    cell = read_cells(record)["digits", "em"]
    assert cell.broken == (work["em"].search.id,)
    [dataset] = read_suite(record.id).datasets
    assert {found.method: found.state for found in dataset.cells}["em"] == "failed"
