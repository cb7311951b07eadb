"""What trials ask of Ray's nodes, and how the workers of one that died give it back.

Ray Train reserves a placement group for the workers of a trial and gives it back when they end. If what watches over
them dies, nobody does before the job ends, and the sweep would wait for its own resources. So every reservation carries
the name of its attempt, under which the driver finds and removes it. (Ray Train's own cleaner learns of a group only
once its workers run, and needs the dashboard.)
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
"""Memory that the actor asks for which watches over the workers of a trial. No CPU: that would cost a node the room of
a whole worker.
"""
_LOOK_S = 1.0
_CLEANUP_S = 60.0


def runs_over_train(plan: SweepPlan) -> bool:
    """Return whether the trials of a plan are run by Ray Train workers, and not in an actor of their own."""
    return plan.kind == "promote" or plan.resources.workers > 1


def request_resources(plan: SweepPlan, handout: Handout | None) -> PlacementGroupFactory:
    """Return what the actor of a trial takes: its own worker's share, or what it needs to watch over the workers of Ray
    Train.

    A trial that ran out of memory on a part of a GPU gets all of it.
    """
    if runs_over_train(plan):
        return PlacementGroupFactory([{"memory": float(OVERSEER_BYTES)}])
    gpus = plan.resources.gpus_per_worker
    if handout is not None and handout.alone:
        gpus = math.ceil(gpus)
    return PlacementGroupFactory([{"CPU": float(plan.resources.cpus_per_worker), "GPU": float(gpus)}])


def group_name(sweep_id: str, handout: Handout) -> str:
    """Return the name under which one attempt at a trial reserves resources; no other attempt has it."""
    return f"{sweep_id}/{trial_name(handout.trial)}/{handout.handed_ms}"


def remove_groups(name: str) -> int:
    """Give back what is reserved under a name, or under one that begins with it, and end what runs there; return how
    many there were.
    """
    found = [
        key
        for key, group in placement_group_table().items()
        if group["name"].startswith(name) and group["state"] != "REMOVED"
    ]
    for key in found:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(key)))
    return len(found)


class DeadTrials:
    """Gives back, for a while after the process of a trial died, what is reserved under the name of that attempt.

    For a while, because what the process had begun may still reserve something after its death.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, remove: Callable[[str], int] = remove_groups
    ) -> None:
        self._clock, self._remove = clock, remove
        self._until: dict[str, float] = {}
        self._next_look = 0.0

    def add(self, name: str) -> None:
        """Start with an attempt."""
        self._until[name] = self._clock() + _CLEANUP_S
        self._next_look = 0.0

    def end(self) -> None:
        """Give back what there is now; cheap enough to be called at every step."""
        now = self._clock()
        if not self._until or now < self._next_look:
            return
        self._next_look = now + _LOOK_S
        for name in self._until:
            self._remove(name)
        self._until = {name: until for name, until in self._until.items() if now < until}
