"""Test the audit of a benchmark: honest work passes, and every planted cheat is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator.audit.audit import Audit, audit
from orchestrator.results.suite_files import TABLE_FILE
from orchestrator.results.suite_record import RECORD_FILE, SuiteRecord
from tests.kit import sweeps
from tests.kit.fake_store import FakeStore
from tests.kit.promoted import write_views
from tests.kit.suites import SEEDS, make_suite


def kinds(found: Audit) -> list[str]:
    return sorted({finding.kind for finding in found.report.findings})


def edit_table(record: SuiteRecord, **changes: Any) -> None:
    """Change the first cell of the table."""
    path = record.folder / TABLE_FILE
    told = json.loads(path.read_text())
    told["datasets"][0]["cells"][0] |= changes
    path.write_text(json.dumps(told))


def test_honest_work_holds(home: Path, store: FakeStore) -> None:
    record, work = make_suite(store)
    for word in (record.id, "mine"):
        found = audit(word)
        assert found.report.findings == []
        assert len(found.subjects) == 2 * len(work)
        assert found.report.checked["cells"] == 3
        assert found.report.checked["lists of seeds"] == 3
        assert found.report.checked["figures of the table"] == 3


def test_a_method_with_twice_the_budget(home: Path, store: FakeStore) -> None:
    record, _ = make_suite(store, search_scores=(60.0, 62.0, 61.0, 58.0, 57.0, 59.0, 60.5, 61.5))
    [finding] = audit(record.id).report.findings
    assert (finding.kind, finding.where) == ("budget", "em on digits")
    assert "took 24 epochs, and that of the others 12" in finding.problem


def test_a_second_search(home: Path, store: FakeStore) -> None:
    record, work = make_suite(store)
    search = work["em"].search
    fields = ("suite", "method", "base", "scheduler", "num_trials")
    again = sweeps.make_sweep("mine-em-0000000f", **{name: getattr(search, name) for name in fields})
    sweeps.write_events(again, [sweeps.driver_started(again), sweeps.driver_ended(1)])
    write_views([again], store)
    assert "budget" in kinds(audit(record.id))


def test_a_dropped_seed(home: Path, store: FakeStore) -> None:
    record, _ = make_suite(store, seeds=SEEDS[:2])
    found = audit(record.id)
    assert kinds(found) == ["seeds", "unfinished"]
    assert any("em on digits: it lacks seed 5103" in str(finding) for finding in found.report.findings)


def test_a_seed_dropped_from_the_table_and_an_edited_mean(home: Path, store: FakeStore) -> None:
    record, _ = make_suite(store)
    told = json.loads((record.folder / TABLE_FILE).read_text())["datasets"][0]["cells"][0]
    kept = {seed: value for seed, value in told["scores"].items() if seed != "5102"}
    edit_table(record, scores=kept, mean=sum(kept.values()) / len(kept))
    assert kinds(audit(record.id)) == ["seeds"]
    edit_table(record, scores={**told["scores"], "5102": 99.0})
    found = audit(record.id)
    assert kinds(found) == ["figure"]
    assert any("seed 5102 has 99.0000" in str(finding) for finding in found.report.findings)


def test_mixed_weights_and_workers(home: Path, store: FakeStore) -> None:
    record, _ = make_suite(store, provenance={"weights_hash": "07he7"})
    found = audit(record.id)
    assert kinds(found) == ["mixed"]


def test_contrasts_that_were_chosen_after_the_runs(home: Path, store: FakeStore) -> None:
    record, _ = make_suite(store)
    path = record.folder / RECORD_FILE
    plain = json.loads(path.read_text())
    with path.open("a") as file:
        file.write(json.dumps({**plain, "contrasts": [["em", "ignore", "digits"]]}) + "\n")
    found = audit(record.id)
    assert kinds(found) == ["contrasts"]
    assert "ignore - em on digits were registered" in found.report.findings[0].problem


def test_a_cell_that_is_missing(home: Path, store: FakeStore) -> None:
    from dataclasses import replace

    from orchestrator.results.suite_record import register

    record, _ = make_suite(store)
    register(replace(record, methods=("ignore", "em", "wan")))
    found = audit(record.id)
    assert kinds(found) == ["unfinished"]
    assert "wan on digits" in str(found.report.findings[0])
