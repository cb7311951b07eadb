"""Audit a table: every figure must be that of a run of this home, and its cells must be comparable with each other."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.audit.findings import Report, name_all
from orchestrator.audit.subject import Subject
from orchestrator.errors import UserError
from orchestrator.results.suite_results import BUDGET_TOLERANCE, SHARED
from orchestrator.sweep_folder.records import TrialState
from training.metric_names import TRAIN_IMAGES_BACKWARD, TRAIN_IMAGES_FORWARD

SUFFIXES = (".csv", ".json", ".parquet")
_SPLITS = ("val/", "test/")


@dataclass(frozen=True)
class Claim:
    """One figure of a table.

    Attributes:
        where: The file and the row.
        metric: With its split, such as ``test/mAP``.
        value: None if the cell is empty.
        about: Whatever else the row says.
    """

    where: str
    sweep: str
    trial: int
    metric: str
    value: float | None
    about: Mapping[str, Any] = field(default_factory=dict)


def read_table(path: Path) -> list[Claim]:
    """Read the figures of a table: rows of results, or what ``leaderboard --csv`` or ``--json`` prints.

    Raises:
        UserError: It is not such a table.
    """
    try:
        rows = _read_rows(path)
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read the table {path}: {error}.") from None
    claims = [claim for number, row in enumerate(rows, start=1) for claim in _claims_of(f"{path}, row {number}", row)]
    if not claims:
        raise UserError(
            f"{path} has no figures of runs. A table needs the columns sweep and trial, as in results.parquet and in "
            f"what `orchestrator leaderboard SWEEP --csv` prints."
        )
    return claims


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix.lower() == ".parquet":
        from training.data.parquet import read_parquet

        parquet: list[dict[str, Any]] = read_parquet(path.read_bytes()).to_pylist()
        return parquet
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".csv":
        return [dict(row) for row in csv.DictReader(text.splitlines())]
    plain = json.loads(text)
    if isinstance(plain, dict) and isinstance(plain.get("rows"), list):
        return [{**{key: plain[key] for key in plain if key != "rows"}, **_flat(row)} for row in plain["rows"]]
    if not isinstance(plain, list):
        raise ValueError("it is neither a list of rows nor an object with rows")
    return [_flat(row) for row in plain]


def _flat(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"a row is not an object: {str(row)[:40]}")
    test = row.get("test")
    return {**row, **test} if isinstance(test, dict) else row


def _claims_of(where: str, row: Mapping[str, Any]) -> list[Claim]:
    sweep, trial = row.get("sweep"), row.get("trial")
    if not sweep or trial in (None, ""):
        return []
    figures = {name: row[name] for name in row if name.startswith(_SPLITS)}
    if row.get("metric") and "value" in row:
        figures[str(row["metric"])] = row["value"]
    try:
        # A table that pandas wrote may have 3.0 for a trial, and NaN for an empty cell.
        number = int(float(trial))
        return [Claim(where, str(sweep), number, name, _number(value), row) for name, value in figures.items()]
    except (TypeError, ValueError):
        raise UserError(f"{where}: trial and figures must be numbers.") from None


def _number(value: Any) -> float | None:
    return None if value in (None, "") or math.isnan(float(value)) else float(value)


def audit_table(claims: Sequence[Claim], subjects: Mapping[str, Subject], report: Report) -> None:
    """Check every figure against the journals, and the cells against each other.

    Args:
        claims: The figures.
        subjects: The sweeps of this home that they name, by id.
        report: Where findings go.
    """
    for claim in claims:
        _check_figure(claim, subjects.get(claim.sweep), report)
    named = [subjects[sweep] for sweep in dict.fromkeys(claim.sweep for claim in claims) if sweep in subjects]
    _check_seeds(claims, named, report)
    _check_shared(claims, subjects, report)
    _check_budgets(named, subjects, report)


def _check_figure(claim: Claim, subject: Subject | None, report: Report) -> None:
    if subject is None:
        return  # reported once for the sweep
    report.count("figures of the table")
    split, _, _ = claim.metric.partition("/")
    record = subject.state.records.get(claim.trial)
    right = subject.values.get((claim.trial, split, claim.metric))
    if claim.value is not None and right is None:
        state = "does not exist" if record is None else f"is {record.state}"
        report.find(
            "imputed",
            claim.where,
            f"{claim.metric} of {claim.sweep}/{claim.trial} is {claim.value:g}, but that run {state} and has no such "
            f"figure: it was filled in",
            "Print the cell as failed, with its cause",
        )
    elif record is not None and record.state is not TrialState.COMPLETE and claim.value is not None:
        report.find(
            "imputed",
            claim.where,
            f"{claim.metric} of {claim.sweep}/{claim.trial} is that of a run which is {record.state}",
            "Leave it out of means, and say so",
        )
    elif right is not None and (claim.value is None or abs(claim.value - right) > 1e-6):
        said = "empty" if claim.value is None else f"{claim.value:.4f}"
        report.find(
            "figure",
            claim.where,
            f"{claim.metric} of {claim.sweep}/{claim.trial} is {said}, but its journal has {right:.4f}",
            "Make the table again from the journals: orchestrator.read_results",
        )
    _check_words(claim, subject, report)


def _check_words(claim: Claim, subject: Subject, report: Report) -> None:
    """Check what a row says about its run besides its figure."""
    right = next((row for row in subject.rows if row["trial"] == claim.trial), {})
    names = (*SHARED, "dataset", "method", "training_seed", "config_hash", "commit")
    for name in names:
        said = claim.about.get(name)
        if said not in (None, "") and name in right and not _is_said(said, right[name]):
            report.find(
                "row",
                claim.where,
                f"its {name} is {said}, but that of {claim.sweep}/{claim.trial} is {right[name]}",
                "Make the table again from the journals: orchestrator.read_results",
            )


def _is_said(said: Any, right: Any) -> bool:
    if isinstance(right, int):
        try:
            return float(said) == right
        except (TypeError, ValueError):
            return False
    return str(said) == str(right)


def _check_seeds(claims: Sequence[Claim], named: Iterable[Subject], report: Report) -> None:
    """Check that no run of a promotion was left out, and that no winner is shown without the search it won."""
    trials: dict[str, set[int]] = defaultdict(set)
    for claim in claims:
        trials[claim.sweep].add(claim.trial)
    for subject in named:
        if subject.plan.kind == "promote":
            # One label draw may stand alone, as in papers; of each that is shown, every seed has to be.
            own = [runs for runs in subject.sets if not runs.is_champion]
            shown = [runs for runs in own if not runs.draw or trials[subject.id] & set(runs.trials)]
            planned = [trial for runs in shown for trial in runs.trials]
            absent = [trial for trial in planned if trial not in trials[subject.id]]
            if absent:
                seeds = [subject.plan.start_from[trial].get("loop.seed") for trial in absent]
                report.find(
                    "seeds",
                    subject.id,
                    f"the table leaves out its run of seed {name_all(seeds)}, which was planned with the others",
                    "Put every planned seed into the table, failed ones as failed",
                )
        elif subject.plan.kind == "sweep" and 0 < len(trials[subject.id]) < len(subject.state.records):
            num = len(subject.state.records)
            report.find(
                "luck",
                subject.id,
                f"the table shows trial {name_all(sorted(trials[subject.id]))} out of {num}, with the scores that they "
                f"were chosen by: the best of {num} is too good by luck",
                f"Show fresh seeds: orchestrator promote {subject.id}; or all trials",
            )
    counts = {subject.id: subject.plan.num_seeds for subject in named if subject.plan.kind == "promote"}
    if len(set(counts.values())) > 1:
        listed = name_all(f"{sweep} {num}" for sweep, num in counts.items())
        report.find(
            "seeds", "the table", f"its cells have different numbers of seeds: {listed}", "Use one number for all"
        )


def _check_shared(claims: Sequence[Claim], subjects: Mapping[str, Subject], report: Report) -> None:
    found: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for sweep in dict.fromkeys(claim.sweep for claim in claims if claim.sweep in subjects):
        rows = subjects[sweep].rows
        for name in SHARED if rows else ():
            # All values of a sweep together: one may have several label draws, if the others have the same ones.
            found[rows[0]["dataset"], name][name_all(sorted({str(row[name]) for row in rows}))].add(sweep)
    for (dataset, name), values in found.items():
        report.count("conditions that cells share")
        if len(values) > 1:
            listed = "; ".join(f"{value[:40]} in {name_all(sorted(sweeps), 3)}" for value, sweeps in values.items())
            report.find(
                "mixed",
                f"the table, {dataset}",
                f"it mixes {len(values)} {SHARED[name]}: {listed}",
                "Compare only what shares them, or mark the cells that differ",
            )


def _check_budgets(named: Sequence[Subject], subjects: Mapping[str, Subject], report: Report) -> None:
    """Check that the searches behind the cells of one dataset were equally long."""
    behind: dict[str, dict[str, Subject]] = defaultdict(dict)
    for subject in (subject for subject in named if subject.plan.kind != "race"):
        # The search behind a promotion is its parent; a search stands for itself.
        search = subjects.get(subject.plan.parent or "", subject) if subject.plan.kind == "promote" else subject
        behind[subject.plan.dataset][subject.id] = search
    for dataset, searches in behind.items():
        report.count("budgets")
        spent, unit = measure_budgets(list(searches.values()))
        if max(spent) > min(spent) * (1 + BUDGET_TOLERANCE):
            listed = name_all(
                f"{search.plan.method} {amount:,.0f} ({sweep})"
                for (sweep, search), amount in zip(searches.items(), spent, strict=True)
            )
            report.find(
                "budget",
                f"the table, {dataset}",
                f"its methods were searched with different budgets, in {unit}: {listed}",
                "Give each the same budget, or state the budgets in the table",
            )


def measure_budgets(searches: Sequence[Subject]) -> tuple[list[float], str]:
    """Return what all trials of each search have spent, unfinished ones included, and the unit.

    Returns:
        Images passed forward and backward; epochs if a run of an earlier version, which did not count images, is there.
    """
    images = [_count_images(search) for search in searches]
    counted = [amount for amount in images if amount is not None]
    if len(counted) == len(images):
        return counted, "images passed forward and backward"
    epochs = [sum(len(record.metrics) for record in search.state.records.values()) for search in searches]
    return [float(number) for number in epochs], "epochs"


def _count_images(search: Subject) -> float | None:
    epochs = [metrics for record in search.state.records.values() for metrics in record.metrics.values()]
    counts = [metrics.get(name) for metrics in epochs for name in (TRAIN_IMAGES_FORWARD, TRAIN_IMAGES_BACKWARD)]
    known = [count for count in counts if count is not None]
    return float(sum(known)) if len(known) == len(counts) else None
