"""Counts how many trials a machine can run at once."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.planning.request import PlanRequest
from orchestrator.planning.sweep_plan import Resources
from training.machine import usable_cpus


def count_slots(resources: Resources, request: PlanRequest) -> int:
    """Return how many trials run at once, at least one, on the requested resources or, by default, on this machine."""
    num_cpus = usable_cpus() if request.num_cpus is None else request.num_cpus
    slots = num_cpus // (resources.workers * resources.cpus_per_worker)
    if resources.gpus_per_worker:
        num_gpus = _count_gpus() if request.num_gpus is None else request.num_gpus
        slots = min(slots, int(num_gpus / (resources.workers * resources.gpus_per_worker)))
    return max(1, slots)


def _count_gpus() -> int:
    # Without torch, whose import takes seconds that `plan` does not need.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    return sum(1 for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit())
