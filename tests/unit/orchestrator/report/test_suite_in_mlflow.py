"""What MLflow shows of a benchmark: its description, its run whatever call the writer dies at, what browse opens."""

from __future__ import annotations

import shutil
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.suite_in_mlflow import find_status, log_suite, make_page
from orchestrator.report.suite_note import describe_suite_run
from orchestrator.report.suite_view import SuiteView, read_view
from orchestrator.results.suite_record import register
from orchestrator.tracking import ui
from orchestrator.tracking.connection import make_client
from orchestrator.tracking.run_tags import NOTE_TAG, SUITE_TAG
from orchestrator.tracking.suite_runs import FAILED, FINISHED, RUNNING, STOPPED, write_suite
from orchestrator.tracking.trial_notes import MAX_NOTE
from tests.kit import sweeps
from tests.kit.fake_store import FakeStore, Killed
from tests.kit.program import run
from tests.kit.suites import make_cell, make_suite, make_suite_record

EVIL = "<script>alert('x')</script>"


@pytest.fixture
def store(home: Path) -> FakeStore:
    return FakeStore()


def _describe(view: SuiteView, status: str = FINISHED, **more: Any) -> str:
    works = [plan for cell in view.cells.values() for plan, _ in cell.all]
    return describe_suite_run(view, "Three methods.", {plan.id: f"#/{plan.id}" for plan in works}, status, **more)


def test_the_description_has_what_was_found_with_intervals_ties_costs_and_links(store: FakeStore) -> None:
    record, work = make_suite(store)
    view = read_view(record.id)
    note = _describe(view)
    assert note.startswith(f"**benchmark** `{record.id}`: Three methods.\n\nFINISHED: 3 of 3 cells are done.")
    assert "- ignore is better than em on digits by " in note
    assert "opened the test split of digits 3 times" in note
    assert "All runs cost " in note
    [ignore] = [line for line in note.splitlines() if line.startswith("| ignore ")]
    cell = view.found.cells[0]
    assert f"| {cell.mean:.2f} | {cell.low:.2f} to {cell.high:.2f} | 3 | 1 |" in ignore
    search, promotion = work["ignore"].search.id, work["ignore"].promotion.id
    assert ignore.endswith(f"| [search](#/{search}), [final runs](#/{promotion}) |")
    assert f"orchestrator audit {record.id}" in note


def test_while_it_runs_the_description_says_which_cell(store: FakeStore) -> None:
    record = register(make_suite_record())
    make_cell(record, "ignore", store)
    plan = sweeps.make_sweep("mine-em-0000000c", suite=record.id, method="em", num_trials=1)
    ended = sweeps.trial_ended(0, 3, "FAILED", "ERROR", EVIL)
    sweeps.write_events(plan, [sweeps.driver_started(plan), sweeps.trial_started(0, 1), ended, sweeps.driver_ended(4)])
    view = read_view(record.id)
    note = _describe(view, RUNNING, working_on=("digits", "full_labels"))
    assert "RUNNING: 1 of 3 cells are done. Running now: `full_labels` on `digits`." in note
    assert f"```\norchestrator status {record.id}\n```" in note
    assert "resume" not in note
    assert EVIL not in note
    assert "&lt;script&gt;" in note
    # Nobody works on it any more.
    assert find_status(view) == STOPPED
    assert f"orchestrator resume {record.id}" in _describe(view, STOPPED)
    make_cell(record, "full_labels", store)
    assert find_status(read_view(record.id)) == FAILED


def test_the_description_of_many_cells_fits_and_keeps_its_table(store: FakeStore) -> None:
    record, _ = make_suite(store)
    view = read_view(record.id)
    links = {plan.id: "#/" + "x" * 1500 for cell in view.cells.values() for plan, _ in cell.all}
    note = describe_suite_run(view, "Three methods.", links, FINISHED)
    assert len(note) < MAX_NOTE
    assert "| ignore |" in note
    assert "- ignore is better than em" in note, "links go first"


def _contents(store: FakeStore) -> Any:
    runs = [(run.status, run.tags, store.params.get(name), store.files.get(name)) for name, run in store.runs.items()]
    return runs, sorted(store.rows), store.ends, store.datasets


def test_one_run_with_everything_whatever_call_the_writer_dies_at(store: FakeStore, tmp_path: Path) -> None:
    record, _ = make_suite(store)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "report.html").write_text("page")
    page = make_page(read_view(record.id), FINISHED, "What was found.", tmp_path / "folder")
    undisturbed = FakeStore()
    write_suite(undisturbed, page)
    [own] = undisturbed.runs.values()
    assert own.metrics["cells_done"] == 3
    assert own.metrics["mean/digits/ignore"] == pytest.approx(read_view(record.id).found.cells[0].mean)
    assert own.metrics["cpu_hours"] > 0
    assert (own.status, own.tags[NOTE_TAG]) == ("FINISHED", "What was found.")
    for call in range(1, undisturbed.calls + 1):
        for moment in ("die_before", "die_after"):
            other = FakeStore()
            setattr(other, moment, call)
            with pytest.raises(Killed):
                write_suite(other, page)
            setattr(other, moment, None)
            write_suite(other, page)
            assert _contents(other) == _contents(undisturbed), (moment, call)


@pytest.mark.slow
def test_browse_writes_what_mlflow_lacks_of_a_benchmark_and_opens_its_page(
    store: FakeStore,
    home: Path,
    empty_store: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(empty_store, home / "mlflow.db")
    record, work = make_suite(store)
    opened: list[str] = []

    def serve(uri: str, port: int, on_ready: Callable[[str], None]) -> None:
        on_ready("http://127.0.0.1:5987")

    def open_browser(address: str) -> bool:
        opened.append(address)
        return True

    monkeypatch.setattr(ui, "serve", serve)
    monkeypatch.setattr(ui, "require_free_port", lambda port: None)
    monkeypatch.setattr(webbrowser, "open", open_browser)
    code, out, err = run(capsys, "browse", "mine", "--open")
    assert code == 0, err
    client = make_client()
    benchmarks = client.get_experiment_by_name("benchmarks")
    digits = client.get_experiment_by_name("digits")
    assert benchmarks is not None
    assert digits is not None
    [own] = client.search_runs([benchmarks.experiment_id])
    page = f"http://127.0.0.1:5987/#/experiments/{benchmarks.experiment_id}/runs/{own.info.run_id}?workflowType="
    assert opened == [f"{page}machine_learning"]
    assert f"benchmark {record.id}: {page}" in out
    assert f"final runs on digits: http://127.0.0.1:5987/#/experiments/{digits.experiment_id}/runs?" in out
    files = {
        file.path for folder in ("", "tables", "figures") for file in client.list_artifacts(own.info.run_id, folder)
    }
    assert {"report.html", "tables/results.csv", "figures/means.svg"} <= files
    # Its sweeps were missing, too, and are linked.
    finals = [item for item in client.search_runs([digits.experiment_id]) if item.data.tags[SUITE_TAG] == record.id]
    ids = {item.info.run_name: item.info.run_id for item in finals}
    for plan in (work["em"].search, work["em"].promotion):
        assert f"runs/{ids[plan.id]}?" in own.data.tags[NOTE_TAG]
    # Once more changes nothing.
    assert log_suite(record.id) is None
    [again] = client.search_runs([benchmarks.experiment_id])
    assert (again.data.to_dictionary(), again.info.status) == (own.data.to_dictionary(), "FINISHED")
