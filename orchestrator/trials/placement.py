"""Reserves Ray's resources for trials, and releases those of trials that died.

Ray Train reserves a placement group for a trial's workers and releases it when they end. If the actor that supervises
them dies, the group stays until the job ends, and the sweep would wait for its own resources. Every group therefore
carries the name of its attempt, by which the driver finds and removes it. (Ray Train's own cleaner learns of a group
only once its workers run, and it needs the dashboard.)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import ray
from ray.tune import PlacementGroupFactory
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from orchestrator.home import trial_name
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.records import Handout

OVERSEER_BYTES = 512 * 1024**2
"""Memory reserved for the actor that supervises a trial's workers. It takes no CPU, because that would cost a worker.
"""
# Every look is a request to Ray's head, so not at every step.
_LOOK_S = 1.0
_CLEANUP_S = 60.0


def runs_over_train(plan: SweepPlan) -> bool:
    """Return whether a plan's trials run on Ray Train workers instead of in one actor each."""
    return plan.kind == "promote" or plan.resources.workers > 1


def request_resources(plan: SweepPlan, handout: Handout | None) -> PlacementGroupFactory:
    """Return the resources of a trial's actor: one worker's share, or those of an overseer of Ray Train workers.

    A trial that ran out of memory on a share of a GPU gets the whole GPU.
    """
    if runs_over_train(plan):
        return PlacementGroupFactory([{"memory": float(OVERSEER_BYTES)}])
    gpus = plan.resources.gpus_per_worker
    if handout is not None and handout.alone:
        gpus = math.ceil(gpus)
    return PlacementGroupFactory([{"CPU": float(plan.resources.cpus_per_worker), "GPU": float(gpus)}])


def group_name(sweep_id: str, handout: Handout) -> str:
    """Return the name of one attempt's placement groups; no other attempt has the same name."""
    return f"{sweep_id}/{trial_name(handout.trial)}/{handout.handed_ms}"


def remove_groups(name: str) -> int:
    """Remove the placement groups whose names start with ``name``, and end what runs in them; return their number."""
    # Ray's table also lists groups that were removed long ago.
    found = [
        key
        for key, group in placement_group_table().items()
        if group["name"].startswith(name) and group["state"] != "REMOVED"
    ]
    for key in found:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(key)))
    return len(found)


class DeadTrials:
    """Releases the resources of attempts whose process died, for a while after the death.

    Doing so once is not enough: a request that the process made before its death may be granted afterwards.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, remove: Callable[[str], int] = remove_groups
    ) -> None:
        self._clock, self._remove = clock, remove
        self._until: dict[str, float] = {}
        self._next_look = 0.0

    def add(self, name: str) -> None:
        """Add an attempt whose process died."""
        self._until[name] = self._clock() + _CLEANUP_S
        self._next_look = 0.0

    def end(self) -> None:
        """Release what is reserved now; cheap enough to call at every step."""
        now = self._clock()
        if not self._until or now < self._next_look:
            return
        self._next_look = now + _LOOK_S
        for name in self._until:
            self._remove(name)
        self._until = {name: until for name, until in self._until.items() if now < until}
