"""Define the tables that searchers are measured on: a space, small enough to be tried out, and its points.

A table's ranges are those that ``orchestrator sweep digits`` searches. What differs is the size, so that a run takes a
quarter of the time: 400 scenes, 10 epochs (and warm-ups of half the length), and a trunk that has seen other scenes
with all labels, in place of ImageNet weights. From the trunk of the digits recipe, so few steps would only measure how
fast a network learns to see digits at all. Single runs of IGNORE at this size, in validation mAP: start point 70.3 and
69.2 (two seeds), without rejection 68.8, tau 0.9 69.0, regularisation 1.0 68.2, SPBC 2.0 69.4, warm-up 1 and 4 70.0 and
69.8, learning rates 1e-3 and 1e-2 62.2 and 68.6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from scipy.stats import qmc

from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.sweep_plan import Params, SweepPlan, trial_config
from search_spaces.ranges import Range
from training.config.run import Scalar, TrainConfig

TRUNK_SCENES = 77
"""Scene seed of the trunk, which no table uses."""
SHARE_REPLICATED = 3
"""One in this many configurations, the best ones, is trained with all seeds."""


@dataclass(frozen=True)
class TableSpec:
    """A table: which method, which scenes, which points.

    Attributes:
        name: Name of the table and its files.
        method: Label of the method block.
        settings: What differs from the search space.
        ranges: Ranges that do.
        num_configs: Points of the table.
        seeds: Training seeds; the first is trained for every point.
    """

    name: str
    method: str
    settings: Mapping[str, Scalar]
    ranges: Mapping[str, Range]
    num_configs: int
    seeds: tuple[int, ...] = (0, 1, 2)

    @cached_property
    def plan(self) -> SweepPlan:
        """The plan of a sweep over the table's ranges, as the user would start it."""
        request = PlanRequest("digits", method=self.method, overrides=self.settings, num_cpus=1, num_gpus=0)
        plan = make_plan(request)
        # Start points are left out: they were tuned on digits, and would hide what a searcher finds by itself.
        return replace(plan, ranges={**plan.ranges, **self.ranges}, start_from=())

    @cached_property
    def points(self) -> list[Params]:
        """The points, a scrambled Sobol sequence.

        Every beginning of the sequence is spread well too, so a table that is not complete yet is a smaller table.
        """
        ranges = self.plan.ranges
        sequence = qmc.Sobol(len(ranges), scramble=True, rng=0).random(2 ** math.ceil(math.log2(self.num_configs)))
        points = [
            {key: found.at(place) for (key, found), place in zip(ranges.items(), row, strict=True)}
            for row in sequence.tolist()
        ]
        return points[: self.num_configs]

    def config(self, point: Params, seed: int, trunk: str) -> TrainConfig:
        """Return the settings of one run, with the file of the trunk."""
        plan = replace(self.plan, base={**self.plan.base, "model.weights": trunk, "loop.seed": seed})
        return trial_config(plan, point)


_SMALL: Params = {
    "data.num_train": 400,
    "data.num_val": 300,
    "data.num_test": 10,
    "loop.epochs": 10,
}
_WARMUP = {"method.warmup_epochs": Range(type="int", low=1, high=4)}

TABLES = {
    "ignore": TableSpec("ignore", "ignore", {**_SMALL, "data.scene_seed": 3}, _WARMUP, 300),
    "em_apl": TableSpec("em_apl", "em_apl", {**_SMALL, "data.scene_seed": 4, "method.warmup_epochs": 5}, {}, 60),
}
