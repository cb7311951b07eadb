"""Audit the views of a journal: its Parquet rows and its runs in MLflow must say what it says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from orchestrator.audit.findings import Report
from orchestrator.audit.subject import Subject
from orchestrator.errors import OrchestratorError
from orchestrator.home import sweep_dir
from orchestrator.sweep_folder.journal import JOURNAL_FILE
from orchestrator.sweep_folder.records import TrialRecord
from orchestrator.sweep_folder.rows import COLUMNS, RESULTS_FILE
from training.metric_names import EPOCH

_TOLERANCE = 1e-9
_MAX_CURVES = 500  # a request each, of some 10 ms
_RESTORE = "Delete it: `orchestrator audit` does not need it, and `read_results` makes it again from the journal"


def audit_rows(subject: Subject, report: Report) -> None:
    """Check the Parquet file of a sweep against its journal, row by row."""
    path = sweep_dir(subject.id) / RESULTS_FILE
    if not path.is_file():
        return
    try:
        written = _read(path.read_bytes())
    except (OSError, ValueError) as error:
        report.find("rows", str(path), f"it cannot be read ({error})", _RESTORE)
        return
    expected = {_key(row): row for row in subject.rows}
    there = {_key(row): row for row in written}
    missing = sorted(expected.keys() - there.keys())
    if missing and path.stat().st_mtime < (path.parent / JOURNAL_FILE).stat().st_mtime:
        report.skip(f"{path} is older than its journal, which has {len(missing)} more rows.")
        missing = []
    for key in missing:
        report.find("rows", str(path), f"the row of {_named(key)} is missing, which the journal has", _RESTORE)
    for key in sorted(there.keys() - expected.keys()):
        report.find("rows", str(path), f"the row of {_named(key)} is not in the journal, so it was made up", _RESTORE)
    if len(there) < len(written):
        report.find("rows", str(path), "some rows occur more than once", _RESTORE)
    for key in sorted(expected.keys() & there.keys()):
        report.count("rows of results")
        for name in COLUMNS:
            found, right = there[key].get(name), expected[key].get(name)
            if not same(found, right):
                problem = f"{name} of {_named(key)} is {found}, but the journal gives {right}"
                report.find("rows", str(path), problem, _RESTORE)


def _read(content: bytes) -> list[dict[str, Any]]:
    from training.data.parquet import read_parquet

    rows: list[dict[str, Any]] = read_parquet(content).to_pylist()
    return rows


def _key(row: Mapping[str, Any]) -> tuple[int, str, str]:
    return row.get("trial", -1), str(row.get("split")), str(row.get("metric"))


def _named(key: tuple[int, str, str]) -> str:
    return f"run {key[0]}, {key[2]}"


def same(found: object, right: object) -> bool:
    """Return whether two values of a table are equal, numbers up to rounding in the last digits."""
    if isinstance(found, int | float) and isinstance(right, int | float):
        return math.isclose(found, right, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return found == right


def audit_mlflow(subject: Subject, report: Report) -> None:
    """Check the runs of a sweep in MLflow against its journal: chosen and last epochs, whole curves, test figures."""
    from orchestrator.tracking.store import find_logged_sweep, read_histories

    metric = subject.plan.protocol.metric
    try:
        logged = find_logged_sweep(subject.id)
        if logged is None:
            report.skip(f"MLflow does not have {subject.id}.")
            return
        runs = {run.trial: run for run in reversed(logged.trials) if run.ended}  # one that has not ended may be behind
        followed = [run.run_id for run in runs.values()][:_MAX_CURVES]
        curves = read_histories(followed, metric)
    except OrchestratorError as error:
        report.skip(f"MLflow was not compared: {error}")
        return
    for trial, record in subject.state.records.items():
        if (run := runs.get(trial)) is None:
            continue
        report.count("runs in MLflow")
        # A metric that MLflow lacks is one that it has not been sent yet.
        pairs: dict[str, tuple[object, object]] = {
            name: (run.metrics.get(name), value) for name, value in _last_values(subject, record).items()
        }
        pairs |= {name: (run.tags.get(name), value) for name, value in _chosen_tags(subject, record).items()}
        for step, value in curves.get(run.run_id, {}).items():
            pairs[f"{metric} of epoch {step}"] = value, record.metrics.get(step, {}).get(metric)
        _compare_all(f"{subject.id}/{trial} in MLflow", pairs, report)
    _audit_opening(subject, logged.own.tags, report)


def _last_values(subject: Subject, record: TrialRecord) -> dict[str, float]:
    """Return what MLflow shows as a run's metrics: those of its last epoch, and the test figures."""
    tested = {} if subject.state.test is None else subject.state.test.figures.get(str(record.trial), {})
    last = record.metrics.get(record.last_epoch, {})
    return {**{name: value for name, value in last.items() if name != EPOCH}, **tested}


def _chosen_tags(subject: Subject, record: TrialRecord) -> dict[str, str]:
    from orchestrator.tracking.run_tags import CHOSEN_TAG, trial_tags

    tags = trial_tags(subject.plan, record, {})
    return {name: value for name, value in tags.items() if name.startswith(CHOSEN_TAG)}


def _compare_all(where: str, pairs: Mapping[str, tuple[object, object]], report: Report) -> None:
    for name, (found, right) in pairs.items():
        if found is not None and not same(found, right):
            report.find(
                "mlflow",
                where,
                f"{name} is {found}, but the journal has {right}",
                "Trust the journal. Delete the runs of the sweep in MLflow; `orchestrator browse` writes them again",
            )


def _audit_opening(subject: Subject, tags: Mapping[str, str], report: Report) -> None:
    there, test = tags.get("orchestrator.test_opening_hash"), subject.state.test
    if there is not None and (test is None or there != test.line_hash):
        report.find(
            "mlflow",
            f"{subject.id} in MLflow",
            "the hash of its opening is not the one in its journal, so one of the two was changed",
            "Compare test-ledger.jsonl with the copy among the artifacts of that run",
        )
