"""Audit the runs of a sweep: which seeds there are, and which code, data and weights they had."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from orchestrator.audit.findings import Report, name_all
from orchestrator.audit.subject import Subject
from orchestrator.errors import OrchestratorError
from orchestrator.planning.data_fit import locate_data
from orchestrator.planning.sweep_plan import trial_config
from orchestrator.provenance import GUARDED_KEYS, UNKNOWN
from orchestrator.sweep_folder.records import TrialState
from training.errors import DatasetError, WeightsError

_SEED = "loop.seed"


def audit_seeds(subject: Subject, report: Report) -> None:
    """Check that every planned final run has a result, each with a seed of its own."""
    for runs in subject.sets:
        seeds = [subject.plan.start_from[trial][_SEED] for trial in runs.trials]
        twice = [seed for seed, times in Counter(seeds).items() if times > 1]
        if twice:
            report.find("seeds", subject.id, f"seed {name_all(twice)} was planned more than once", "Promote again")
        for trial, seed in zip(runs.trials, seeds, strict=True):
            whose = " of the champion" if runs.is_champion else ""
            _audit_final_run(subject, trial, f"the run of seed {seed}{whose}", report)


def _audit_final_run(subject: Subject, trial: int, named: str, report: Report) -> None:
    plan, state = subject.plan, subject.state
    report.count("final runs")
    record, seed = state.records.get(trial), plan.start_from[trial][_SEED]
    if record is None or record.state is not TrialState.COMPLETE:
        found = "was never started" if record is None else f"is {record.state}" + _because(record.cause)
        report.find(
            "seeds",
            f"{plan.id}/{trial}",
            f"{named} was planned, but {found}, so the mean is over fewer seeds than planned",
            f"Finish it: orchestrator resume {plan.id}. If it failed, report the failure; do not average the rest",
        )
    elif record.params.get(_SEED) != seed:
        report.find(
            "seeds",
            f"{plan.id}/{trial}",
            f"it was planned with seed {seed} and trained with seed {record.params.get(_SEED)}",
            "Promote again",
        )
    elif state.test is not None and str(trial) not in state.test.figures:
        report.find(
            "seeds",
            f"{plan.id}/{trial}",
            f"{named} is complete, but has no figures on the test set, as if it had been dropped",
            "Report no mean that leaves it out. Promote again",
        )


def audit_fresh_seeds(subject: Subject, before: Subject, report: Report) -> None:
    """Check that no seed of a race or of final runs was used in what came before: the search, or the race."""
    used = {trial_config(before.plan, record.params).loop.seed for record in before.state.records.values()}
    reused = sorted({int(point[_SEED] or 0) for point in subject.plan.start_from} & used)
    if reused:
        what = "the race that chose" if before.plan.kind == "race" else "which chose"
        named = f"{before.id}, {what} the configuration by it"
        report.find(
            "seeds",
            subject.id,
            f"seed {name_all(reused)} was already used by {named}",
            f"Promote again with fresh seeds: orchestrator promote {subject.plan.parent}",
        )


def audit_origin(subject: Subject, report: Report) -> None:
    """Check that committed code of one kind, on one kind of data, made all runs."""
    report.count("origins of runs", len(subject.origins))
    dirty = [trial for trial, origin in sorted(subject.origins.items()) if origin.get("dirty") == "true"]
    unknown = [
        trial
        for trial, origin in sorted(subject.origins.items())
        if UNKNOWN in (origin.get("commit", UNKNOWN), origin.get("dirty", UNKNOWN))
    ]
    if dirty:
        report.find(
            "dirty",
            subject.id,
            f"run {name_all(dirty)} had code with changes that were not committed, so nobody else can run it",
            "Commit the changes, then train again",
        )
    if unknown:
        report.find(
            "commit",
            subject.id,
            f"the commit of the code of run {name_all(unknown)} is unknown",
            "Train again from a checkout or a built wheel",
        )
    for key in GUARDED_KEYS:
        found = list(dict.fromkeys(driver.get(key, UNKNOWN) for driver in subject.drivers))
        if len(found) > 1:
            report.find(
                "changed",
                subject.id,
                f"its drivers had different values of {key}: {name_all(value[:12] for value in found)}",
                "Its runs are not comparable with each other. Run it again without --allow-changed",
            )
    missing = [key for key in ("data_hash", "weights_hash") if subject.state.provenance.get(key, UNKNOWN) == UNKNOWN]
    if subject.drivers and missing:
        report.find("inputs", subject.id, f"its {name_all(missing)} is unknown", "Run it again where its data is")


def audit_inputs(subject: Subject, report: Report) -> None:
    """Check that data and initial weights here are those that were recorded."""
    if not subject.state.records:
        return
    try:
        found = _hash_inputs(subject)
    except (ValueError, DatasetError, WeightsError, OrchestratorError, OSError) as error:
        report.skip(f"The data and initial weights of {subject.id} are not here: {error}")
        return
    for key, here in found.items():
        recorded = subject.state.provenance.get(key, UNKNOWN)
        report.count("hashes of data and weights")
        if recorded not in (UNKNOWN, here):
            report.find(
                "inputs",
                subject.id,
                f"its {key} is {recorded[:12]}, but the data and weights here have {here[:12]}",
                "Use the data and weights of the runs, or run it again with those that are here",
            )


def _hash_inputs(subject: Subject) -> dict[str, str]:
    from orchestrator.sweep.origin import prepare_inputs
    from training.preparation import is_prepared

    record = next(iter(subject.state.records.values()))
    config = trial_config(locate_data(subject.plan), record.params)
    if not is_prepared(config.data):
        raise OrchestratorError(f"{config.data.name} is not prepared.")
    found = prepare_inputs(config)
    return {key: found[key] for key in ("data_hash", "weights_hash", "scores_hash") if key in found}


def audit_interrupted(subjects: Iterable[Subject], report: Report) -> None:
    """Check that no sweep is still open."""
    for subject in subjects:
        if subject.state.open_trials() or subject.state.driver_state != "FINISHED":
            report.find(
                "unfinished",
                subject.id,
                "it has not finished, so what it shows may change",
                f"Finish it: orchestrator resume {subject.id}",
            )


def _because(cause: object) -> str:
    return "" if cause is None else f" ({cause})"
