"""Audit finished work: recompute its figures by other code, and check all that a reader has to take on trust."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.audit.figures import audit_figures
from orchestrator.audit.findings import Report
from orchestrator.audit.luck import audit_choice
from orchestrator.audit.openings import audit_openings, describe_count, read_openings
from orchestrator.audit.rule import audit_rule
from orchestrator.audit.runs import audit_fresh_seeds, audit_inputs, audit_interrupted, audit_origin, audit_seeds
from orchestrator.audit.subject import Subject
from orchestrator.audit.suite import audit_suite, list_work
from orchestrator.audit.table import SUFFIXES, audit_table, read_table
from orchestrator.audit.views import audit_mlflow, audit_rows
from orchestrator.errors import OrchestratorError, UserError
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.results.suite_cells import read_cells
from orchestrator.results.suite_record import find_suite, read_record
from orchestrator.sweep_folder.index import find_sweep, list_sweeps, load_plan
from orchestrator.sweep_folder.ledger import Opening


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
        subjects: What was audited, by id.
        counts: How often each test set was opened, as sentences.
    """

    report: Report
    subjects: tuple[str, ...]
    counts: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing was found."""
        return not self.report.findings


def audit(word: str | None) -> Audit:
    """Audit a sweep with its promotions, a promotion with its sweep, or every run behind a table.

    Args:
        word: An id or a name, also of a benchmark, None for the latest, or a table: a Parquet, CSV or JSON file.

    Raises:
        UserError: There is no such sweep, or the file is not a table.
    """
    report = Report()
    if (suite := None if word is None or _is_file(word) else find_suite(word)) is not None:
        record = read_record(suite)
        cells = read_cells(record)
        subjects = _read_all(list_work(cells), report)
        openings = _audit_all(subjects, report)
        audit_suite(record, cells, {subject.id: subject for subject in subjects}, report)
    elif word is None or not _is_file(word):
        subjects = _read_all(_with_relatives(find_sweep(word)), report)
        openings = _audit_all(subjects, report)
    else:
        claims = read_table(Path(word))
        subjects = _read_all(_behind(claim.sweep for claim in claims), report)
        openings = _audit_all(subjects, report)
        audit_table(claims, {subject.id: subject for subject in subjects}, report)
    counts = describe_count(subjects, openings)
    return Audit(report, tuple(subject.id for subject in subjects), tuple(counts))


def _is_file(word: str) -> bool:
    if Path(word).suffix.lower() in SUFFIXES or Path(word).is_file():
        if not Path(word).is_file():
            raise UserError(f"No table at {word}.")
        if Path(word).suffix.lower() not in SUFFIXES:
            raise UserError(f"A table must be a {', '.join(SUFFIXES)} file, but got {word}.")
        return True
    return False


def _with_relatives(sweep_id: str) -> list[str]:
    """Return a sweep and its promotions; a promotion and its sweep."""
    own = _read_promotion(sweep_id)
    if own is not None:
        return [*_before(own), sweep_id]
    children = [_read_promotion(entry.id) for entry in list_sweeps(kinds={"promote"})]
    mine = [plan for plan in reversed(children) if plan is not None and plan.parent == sweep_id]
    return list(dict.fromkeys([sweep_id, *(each for plan in mine for each in (*_before(plan), plan.id))]))


def _behind(names: Iterable[str]) -> list[str]:
    """Return the sweeps that a table names, and the searches behind its promotions."""
    named = list(dict.fromkeys(names))
    promotions = [plan for name in named if (plan := _read_promotion(name)) is not None]
    return list(dict.fromkeys([*(each for plan in promotions for each in _before(plan)), *named]))


def _before(plan: SweepPlan) -> list[str]:
    """Return what a promotion or a race is based on: the search, and the race that chose."""
    race = None if plan.choice is None else plan.choice.race
    return [each for each in (plan.parent, race) if each is not None]


def _read_promotion(sweep_id: str) -> SweepPlan | None:
    """Return the plan of a promotion or its race; None for all else, and for what cannot be read."""
    try:
        plan = load_plan(sweep_id)
    except (UserError, OrchestratorError):
        return None
    return plan if plan.kind in ("promote", "race") else None


def _read_all(sweep_ids: Sequence[str], report: Report) -> list[Subject]:
    subjects = []
    for sweep_id in sweep_ids:
        try:
            subjects.append(Subject.read(sweep_id))
            report.count("journals")
        except UserError as error:
            report.find(
                "missing",
                sweep_id,
                "it is not in this home, so nothing of it can be recomputed",
                f"Open its bundle here, or run the audit in its home ({error})",
            )
        except OrchestratorError as error:
            problem, _, fix = str(error).rstrip(".").partition(". ")
            report.find("journal", sweep_id, problem, fix or "Restore it from a copy")
    return subjects


def _audit_all(subjects: Sequence[Subject], report: Report) -> list[Opening] | None:
    openings = read_openings(report)
    by_id = {subject.id: subject for subject in subjects}
    for subject in subjects:
        audit_seeds(subject, report)
        if (parent := by_id.get(subject.plan.parent or "")) is not None and subject.plan.kind in ("promote", "race"):
            race = by_id.get((subject.plan.choice and subject.plan.choice.race) or "")
            for before in (parent, *([] if race is None else [race])):
                audit_fresh_seeds(subject, before, report)
            if subject.plan.kind == "promote":
                audit_rule(subject, parent, race, report)
                audit_choice(subject, parent, race, report)
        audit_origin(subject, report)
        audit_inputs(subject, report)
        audit_figures(subject, audit_openings(subject, openings, report), report)
        audit_rows(subject, report)
        audit_mlflow(subject, report)
    audit_interrupted(subjects, report)
    return openings
