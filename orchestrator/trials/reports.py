"""Read what a trial's process reports: the event of an epoch, and what the user should know of it. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.sweep_folder.events import EpochReported
from orchestrator.sweep_folder.records import Cause, TrialReport


def make_epoch_event(trial: int, report: TrialReport) -> EpochReported:
    """Return the event of the epoch that a trial reports."""
    metrics, of_attempt = dict(report.metrics), (report.host, report.pid, report.queue_s, report.start_s, report.device)
    return EpochReported(trial, report.epoch, metrics, *of_attempt)


def require_metric(report: TrialReport, metric: str) -> TrialReport:
    """Return a report, or that of a failure if it is an epoch without the metric that decides."""
    if report.cause is not None or metric in report.metrics:
        return report
    message = f"An epoch's metrics must include {metric}, but got {', '.join(sorted(report.metrics)) or 'none'}."
    return TrialReport(cause=Cause.ERROR, message=message)


def describe_continuation(trial: int, report: TrialReport, known: int) -> Iterator[str]:
    """Say how an attempt continues, if it is not from the last epoch.

    Args:
        trial: The trial.
        report: The report of an epoch.
        known: The last epoch that was reported before.
    """
    broken = ", ".join(report.passed_over)
    if report.resumed_from == 0 and (broken or known):
        why = f"its checkpoints are damaged ({broken})" if broken else "it has no checkpoint"
        yield f"trial {trial} starts again from epoch 1: {why}"
    elif broken:
        yield f"trial {trial} continues from epoch {report.epoch}: its newer checkpoint {broken} is incomplete"
    if report.epoch > known + 1:
        missing = f"{known + 1} to {report.epoch - 1}" if report.epoch > known + 2 else str(known + 1)
        yield f"trial {trial} continues from epoch {report.epoch}; the figures of epoch {missing} are lost"
