"""Audit the openings of test sets: the ledger's chain, and whether it and the journals say the same."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.audit.findings import Report, name_all
from orchestrator.audit.subject import Subject
from orchestrator.planning.config_hash import hash_config
from orchestrator.planning.sweep_plan import trial_config
from orchestrator.provenance import UNKNOWN
from orchestrator.sweep_folder.events import TestOpened
from orchestrator.sweep_folder.final_sets import FinalSet
from orchestrator.sweep_folder.ledger import COMPARISON, LedgerError, Opening, count_openings, ledger_file, read_ledger


def read_openings(report: Report) -> list[Opening] | None:
    """Return the ledger of this home, or None if it is not as it was written, which is a finding."""
    try:
        openings = read_ledger()
    except LedgerError as error:
        where, _, rest = str(error).partition(": ")
        problem, _, fix = rest.partition(". Restore ")
        report.find("ledger", where, problem, f"Restore {fix.rstrip('.')}")
        return None
    report.count("lines of the test ledger", len(openings))
    return openings


def audit_openings(subject: Subject, openings: Sequence[Opening] | None, report: Report) -> dict[int, Opening]:
    """Check that the openings of a promotion are in the ledger as its journal has them.

    Returns:
        Number of a final run -> the line that its test figures belong to, where that is as it should be.
    """
    test = subject.state.test
    if test is None or openings is None:
        return {}
    if test.opening is None:
        if any(test.figures.values()):
            report.find(
                "ledger",
                subject.id,
                "its test set was opened by a version without a test ledger, so it is in no count",
                "State that next to its figures, or promote again",
            )
        return {}
    found: dict[int, Opening] = {}
    for runs in subject.sets:
        if any(test.figures.get(str(trial)) for trial in runs.trials):
            line = _find_line(subject, runs, test, openings, report)
            if line is not None:
                _compare(subject, runs, line, report)
                found |= dict.fromkeys(runs.trials, line)
                if not runs.is_champion and not runs.draw:
                    _count_of_cell(subject, test, line, openings, report)
    _count_of_promotion(subject, test, openings, report)
    return found


def _find_line(
    subject: Subject, runs: FinalSet, test: TestOpened, openings: Sequence[Opening], report: Report
) -> Opening | None:
    number, line_hash = runs.opening_in(test)
    who = f"{subject.id} opened its test set{' for the champion' if runs.is_champion else ''}"
    if number is None:
        report.find(
            "ledger",
            subject.id,
            f"{who}, but its journal names no line of the ledger for that",
            "The journal was changed. Restore it from a copy",
        )
        return None
    line = openings[number - 1] if number <= len(openings) else None
    if line is None or line.hash != line_hash:
        problem = "is missing" if line is None else "is another one"
        report.find(
            "ledger",
            f"{ledger_file()}:{number}",
            f"{who} as number {number}, but that line {problem}: the ledger was changed or replaced",
            "Restore the ledger from a copy: bundles and MLflow have it",
        )
        return None
    return line


def _compare(subject: Subject, runs: FinalSet, line: Opening, report: Report) -> None:
    plan = subject.plan
    configs = [trial_config(plan, plan.start_from[trial]) for trial in runs.trials]
    # The champion may be of another method, which the plan has no label for.
    method = plan.method if configs[0].method.name == plan.base["method.name"] else configs[0].method.name
    expected = {
        "dataset": plan.dataset,
        "data_hash": subject.state.provenance.get("data_hash", UNKNOWN),
        "method": method,
        "recipe": str(configs[0].loop.recipe),
        "protocol": str(plan.protocol),
        "config_hash": hash_config(configs[0].flatten()),
        "seeds": tuple(sorted(config.loop.seed for config in configs)),
        "draws": tuple(sorted({config.data.draw_seed for config in configs})),
    }
    for name, value in expected.items():
        report.count("fields of openings")
        if getattr(line, name) != value:
            report.find(
                "ledger",
                f"{ledger_file()}:{line.n}",
                f"its {name} is {getattr(line, name)}, but {subject.id} has {value}",
                "The plan or the ledger was changed. Restore both from a copy",
            )
    if line.dirty == "true":
        report.find(
            "dirty",
            f"{ledger_file()}:{line.n}",
            f"the test set was scored by code with changes that were not committed (to {line.commit[:12]})",
            "Commit the changes and promote again, which is another opening",
        )


def _count_of_cell(
    subject: Subject, test: TestOpened, line: Opening, openings: Sequence[Opening], report: Report
) -> None:
    """Check that one method was given one look at the test set, on all label draws that were planned together."""
    planned = {runs.opening_in(test)[0] for runs in subject.sets} - {line.n}
    cell = [found for found in openings if _cell(found) == _cell(line) and not found.purpose.endswith(COMPARISON)]
    cell = [found for found in cell if found.n not in planned]
    if len(cell) > 1:
        report.find(
            "openings",
            subject.id,
            f"the test set of {line.dataset} was opened {len(cell)} times for {line.method} ({line.recipe}, "
            f"{line.protocol}): numbers {name_all(found.n for found in cell)} of the ledger, by "
            f"{name_all(dict.fromkeys(found.purpose for found in cell))}",
            f"Report number {cell[0].n}, or all of them; the best of several looks is too good",
        )


def _count_of_promotion(subject: Subject, test: TestOpened, openings: Sequence[Opening], report: Report) -> None:
    """Check that a promotion opened the test set no more often than its journal says, for the champion too."""
    known = {runs.opening_in(test)[0] for runs in subject.sets}
    own = [line for line in openings if line.purpose == f"promote {subject.id}" or _is_for_champion(line, subject.id)]
    for line in own:
        if line.n not in known:
            who = "the champion" if _is_for_champion(line, subject.id) else "the winner"
            listed = name_all(sorted(number for number in known if number is not None))
            report.find(
                "openings",
                f"{ledger_file()}:{line.n}",
                f"{subject.id} opened the test set for {who} once more than its journal says, which names {listed}",
                "Report all openings, or the first alone; the best of several looks is too good",
            )


def _is_for_champion(line: Opening, promotion: str) -> bool:
    return line.purpose == f"promote {promotion}: {COMPARISON}"


def _cell(opening: Opening) -> tuple[str, ...]:
    return opening.split_hash, opening.method, opening.recipe, opening.protocol


def describe_count(subjects: Sequence[Subject], openings: Sequence[Opening] | None) -> list[str]:
    """Return one line per test set that the subjects have opened: how often it was opened by everybody."""
    hashes = {
        subject.plan.dataset: subject.state.provenance.get("data_hash", UNKNOWN)
        for subject in subjects
        if subject.state.test is not None
    }
    return [
        f"openings of the test set of {dataset}: {count_openings(openings or [], found)}"
        for dataset, found in hashes.items()
    ]
