"""The plan of a sweep, a training or a promotion: everything that is decided before it starts, as one frozen object.

It is written once as ``plan.json`` and never changed; what happens later (an extension, say) is in the journal.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from search_spaces.ranges import Range
from training.config.run import Scalar, TrainConfig
from training.selection import Protocol, SelectBy

Kind = Literal["sweep", "train", "promote", "ablate"]
Sampler = Literal["tpe", "random", "grid"]
Params = dict[str, Scalar]


@dataclass(frozen=True)
class Resources:
    """What one trial takes: so many workers, each with so many CPUs and GPUs (a GPU may be shared: 0.5)."""

    workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0


@dataclass(frozen=True)
class SweepPlan:
    """What will run.

    Attributes:
        kind: ``sweep``, ``train`` (one trial, no search), ``promote`` (K trials, one per fresh seed) or ``ablate`` (K
            trials of each of its variants).
        created: Unix time in s.
        space, space_text: The space as it was named, and its file.
        method: The label of the method block.
        base: The complete settings of the trials under dotted keys, before a trial's params.
        ranges: Searched key -> range; empty where nothing is searched.
        start_from: Points tried first; what a point leaves out is drawn.
        startup_trials: Trials, start points included, before TPE decides.
        scheduler, grace_epochs, reduction_factor: ``none``, or ASHA with what every trial gets and one in how many goes
            on.
        storage: URI under which checkpoints go; None is the sweep's own folder.
        cap_gib: What the checkpoints of all its trials may take.
        notes: What must be said before it starts.
        parent: The sweep that is promoted, or the run that is trained again.
        time_limit_s: Seconds that a trial may take.
        epoch_s: Measured seconds of an epoch of these settings with one worker, if known.
        variants: Of an ablation: the method's label and those of the blocks that it is compared with, in the order of
            ``start_from``.
        keep_weights: Of a promotion: keep the best weights of every final run, not of the first seed's alone.
        backup: URI that the journal is copied to from the start; later drivers may choose another.
    """

    id: str
    name: str
    kind: Kind
    created: float
    space: str
    space_text: str
    dataset: str
    method: str
    base: Params
    protocol: Protocol
    # The defaults make one trial of the base.
    ranges: dict[str, Range] = field(default_factory=dict)
    start_from: tuple[Params, ...] = ({},)
    num_trials: int = 1
    concurrency: int = 1
    sampler: Sampler = "tpe"
    search_seed: int = 0
    startup_trials: int = 0
    scheduler: Literal["asha", "none"] = "none"
    grace_epochs: int = 1
    reduction_factor: float = 3
    resources: Resources = Resources()
    storage: str | None = None
    cap_gib: float = 20
    notes: tuple[str, ...] = ()
    parent: str | None = None
    time_limit_s: float | None = None
    epoch_s: float | None = None
    variants: tuple[str, ...] = ()
    keep_weights: bool = False
    backup: str | None = None

    @property
    def epochs(self) -> int:
        """Full length of a trial."""
        epochs = self.base["loop.epochs"]
        assert isinstance(epochs, int)
        return epochs

    @property
    def num_points(self) -> int | None:
        """The number of different points there are to try, or None if there is no end to them."""
        return count_points(self.ranges, self.sampler) if self.ranges else len(self.start_from)

    def rungs(self) -> list[int]:
        """Return the epochs at which ASHA may stop a trial."""
        rungs: list[int] = []
        epoch = float(self.grace_epochs)
        while self.scheduler == "asha" and epoch < self.epochs:
            rungs.append(math.ceil(epoch))
            epoch *= self.reduction_factor
        return rungs

    def to_json(self) -> str:
        """Return the plan as the text of ``plan.json``."""
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        plain["ranges"] = {key: found.model_dump(exclude_defaults=True) for key, found in self.ranges.items()}
        plain["protocol"] = vars(self.protocol)
        plain["resources"] = vars(self.resources)
        return json.dumps(plain, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> SweepPlan:
        """Return the plan that :meth:`to_json` wrote.

        Raises:
            ValueError: It is no such text.
        """
        try:
            plain: dict[str, Any] = json.loads(text)
            plain["ranges"] = {key: Range.model_validate(found) for key, found in plain["ranges"].items()}
            plain["protocol"] = Protocol(**{name: SelectBy(value) for name, value in plain["protocol"].items()})
            plain["resources"] = Resources(**plain["resources"])
            plain["start_from"] = tuple(plain["start_from"])
            plain["notes"] = tuple(plain["notes"])
            plain["variants"] = tuple(plain.get("variants", ()))
            return cls(**plain)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"plan must be one that this version wrote, but {error}") from None


def count_points(ranges: Mapping[str, Range], sampler: Sampler) -> int | None:
    """Return the number of different points there are to try: 1 without ranges, None if there is no end to them."""
    if not ranges or sampler == "grid":
        return math.prod(len(found.grid()) for found in ranges.values())
    return None


def trial_config(plan: SweepPlan, params: Mapping[str, Scalar]) -> TrainConfig:
    """Return the settings of one trial: the plan's own, changed by the trial's params. There is no other way from
    params to settings.

    Raises:
        ConfigError: A param is no setting of the run or out of range.
    """
    return TrainConfig.from_flat({**plan.base, **params})
