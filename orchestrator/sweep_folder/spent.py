"""Add up what the runs of sweeps have cost: images, and the time for which they held their resources."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.records import TrialRecord
from orchestrator.sweep_folder.state import SweepState
from training.metric_names import TRAIN_IMAGES_BACKWARD, TRAIN_IMAGES_FORWARD


@dataclass(frozen=True)
class Spent:
    """What runs have cost, over all their attempts.

    Attributes:
        images: Passed forward and backward; None if a run of an earlier version did not count them.
        held_s: Seconds for which the runs held their resources, one after the other, without waits for a process.
        gpu_seconds: Those times the GPUs of a run; 0 without GPUs.
        hours: GPU-hours; CPU-hours of runs that use no GPU.
    """

    images: float | None
    held_s: float
    gpu_seconds: float
    hours: float


def sum_spent(work: Iterable[tuple[SweepPlan, SweepState]]) -> Spent:
    """Return what the runs of some sweeps have cost together."""
    return add_spent(sum_runs(plan, state.records.values()) for plan, state in work)


def sum_runs(plan: SweepPlan, records: Iterable[TrialRecord]) -> Spent:
    """Return what some runs of one sweep have cost together."""
    held_s, images = 0.0, 0.0
    is_counted = True
    for record in records:
        held_s += record.held_s
        for metrics in record.metrics.values():
            forward, backward = metrics.get(TRAIN_IMAGES_FORWARD), metrics.get(TRAIN_IMAGES_BACKWARD)
            if forward is None or backward is None:
                is_counted = False
            else:
                images += forward + backward
    gpus = plan.resources.workers * plan.resources.gpus_per_worker
    return Spent(images if is_counted else None, held_s, held_s * gpus, plan.resources.hours(held_s))


def add_spent(parts: Iterable[Spent]) -> Spent:
    """Return the sum of what several groups of runs have cost."""
    found = list(parts)
    known = [part.images for part in found if part.images is not None]
    return Spent(
        images=sum(known) if len(known) == len(found) else None,
        held_s=sum(part.held_s for part in found),
        gpu_seconds=sum(part.gpu_seconds for part in found),
        hours=sum(part.hours for part in found),
    )
