"""Counts how many trials a machine can run at once, and finds out whether it can run any."""

from __future__ import annotations

import math
import os
from pathlib import Path

from orchestrator.errors import UserError
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.sweep_plan import Resources, SweepPlan
from training.counts import counted
from training.machine import list_gpu_names, name_cpu, usable_cpus


def count_slots(resources: Resources, request: PlanRequest) -> int:
    """Return how many trials run at once, at least one, on the requested resources or, by default, on this machine."""
    num_cpus = usable_cpus() if request.num_cpus is None else request.num_cpus
    slots = num_cpus // (resources.workers * resources.cpus_per_worker)
    if resources.gpus_per_worker:
        num_gpus = _count_gpus() if request.num_gpus is None else request.num_gpus
        slots = min(slots, int(num_gpus / (resources.workers * resources.gpus_per_worker)))
    return max(1, slots)


def name_devices(resources: Resources) -> list[str]:
    """Return the models on which trials run on this machine: of its GPUs, or of its CPU if they use none."""
    return list_gpu_names() if resources.gpus_per_worker else [name_cpu()]


def require_room_here(plan: SweepPlan) -> None:
    """Check that this machine has what the trials of a plan request.

    Ray would believe any number that it is given: a trial that requests a missing GPU would train on the CPU.
    More CPUs than there are may be shared by trials that run at a time, but not requested by one of them.

    Raises:
        UserError: It does not. The message has the flags with which it would run here.
    """
    resources = plan.resources
    num_cpus, num_gpus = usable_cpus(), 0
    if resources.gpus_per_worker:
        needed = math.ceil(plan.concurrency * resources.workers * resources.gpus_per_worker)
        # Torch is asked only before a refusal, because its import takes seconds. A trial fails if torch sees no GPU.
        num_gpus = found if (found := _count_gpus()) >= needed else max(found, _count_gpus_of_torch())
    fixes = _find_fixes(plan, num_cpus, num_gpus)
    if fixes:
        has = f"{counted(num_cpus, 'CPU')} and {num_gpus or 'no'} GPU{'s' * (num_gpus != 1)}"
        at_once = f", and {plan.concurrency} run at a time" if plan.concurrency > 1 else ""
        # A promotion takes over the resources of its sweep, except for the number of workers.
        here = plan.kind != "promote" or not any(fix.startswith("--set") for fix in fixes)
        run_here = f"To run it here, start it with {' '.join(fixes)}. " if here else ""
        raise UserError(
            f"A trial needs {resources.describe()}{at_once}, but this machine has {has}. "
            f"{run_here}To run it on a cluster, name it with --address."
        )


def _find_fixes(plan: SweepPlan, num_cpus: int, num_gpus: int) -> list[str]:
    resources = plan.resources
    workers, cpus, gpus = resources.workers, resources.cpus_per_worker, resources.gpus_per_worker
    fixes = []
    # Fewer workers rather than no GPU.
    if workers > num_cpus or (num_gpus and workers * gpus > num_gpus):
        fewer = 1 if workers > num_cpus else max(1, int(num_gpus / gpus))
        if fewer < workers:
            workers = fewer
            fixes.append(f"--workers {workers}" if plan.kind == "promote" else f"--set resources.workers={workers}")
    if workers * cpus > num_cpus:
        fixes.append(f"--set resources.cpus_per_worker={num_cpus // workers}")
    if workers * gpus > num_gpus:
        fixes.append(f"--set resources.gpus_per_worker={num_gpus // workers}")
    elif gpus and plan.concurrency * workers * gpus > num_gpus:
        fixes.append(f"--concurrency {int(num_gpus / (workers * gpus))}")
    return fixes


def _count_gpus() -> int:
    # Without torch, whose import takes seconds that `plan` does not need.
    # Only /dev/nvidia0 and the like are GPUs; nvidiactl and nvidia-uvm belong to the driver.
    present = sum(1 for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return present if visible is None or not present else count_visible(visible, present)


def count_visible(visible: str, present: int) -> int:
    """Return how many GPUs CUDA_VISIBLE_DEVICES names, by number, by UUID (``GPU-...``) or in parts (``MIG-...``).

    CUDA reads the list up to the first name that does not exist. Of the parts of GPUs that it names, a process can use
    one, but Ray gives each trial its own.

    Args:
        visible: The value.
        present: GPUs of the machine.
    """
    names = [name.strip() for name in visible.split(",")]
    parts = {name for name in names if name.startswith("MIG-")}
    if parts:
        return len(parts)
    found: set[str] = set()
    for name in names:
        if not (name.startswith("GPU-") or (name.isdecimal() and int(name) < present)):
            break
        found.add(name)
    return min(present, len(found))


def _count_gpus_of_torch() -> int:
    import torch

    return torch.cuda.device_count()
