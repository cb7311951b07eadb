"""What a plan is expected to cost: figures that are stored with it, so that what was spent can be compared later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

LEAST_RACE_RUNS = 6
"""Runs that a race may have at least: two candidates can then run three times."""
REPORTED_SEEDS = 5
"""Fresh seeds that the rule of a promotion reports by default."""


@dataclass(frozen=True)
class Cost:
    """The expected cost of a plan; hours are GPU-hours, or CPU-hours if its trials use no GPU.

    A new field needs a default, because plans that earlier versions wrote do not have it.

    Attributes:
        p50_hours, p90_hours: Of all trials of the search: half of such sweeps cost less, and nine in ten.
        epochs: Expected number of epochs of all trials.
        p50_wall_s, p90_wall_s: How long that takes.
        slots: How many trials have resources of their own at a time; more of them share these.
        reserved_runs, reserved_hours: Of a promotion by the rule: race and reported seeds.
        epoch_basis: Where the seconds of an epoch come from.
        survival_basis: Where the lengths of the trials come from.
        disk_gib: What checkpoints, journal and MLflow take at most; None if their size is not known.
        mlflow_rows: Rows that MLflow gets.
        price_per_hour: What an hour costs, if the user said so.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    p50_hours: float
    p90_hours: float
    epochs: float
    p50_wall_s: float
    p90_wall_s: float
    slots: int
    reserved_runs: int
    reserved_hours: float
    epoch_basis: str
    survival_basis: str
    disk_gib: float | None = None
    mlflow_rows: int | None = None
    price_per_hour: float | None = None


@dataclass(frozen=True)
class Reserve:
    """The runs of full length that a limit of GPU-hours keeps for what follows a plan; by default a promotion.

    Attributes:
        race_frac: Runs of candidates in the race, as a share of the search; with 0 there is no race.
        reported: Runs that are reported.
        with_champion: Whether a champion takes part: in the race like one of two candidates, and in the report.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    race_frac: float = 0.5
    reported: int = REPORTED_SEEDS
    with_champion: bool = False

    def count_race(self, full_runs: float) -> int:
        """Return how many runs of candidates a race has at most.

        Args:
            full_runs: The epochs of all trials of the search, in runs of full length.
        """
        return max(LEAST_RACE_RUNS, round(self.race_frac * full_runs)) if self.race_frac else 0

    def count(self, full_runs: float) -> int:
        """Return how many runs are kept in all; ``full_runs`` as for :meth:`count_race`."""
        race = self.count_race(full_runs)
        own = race + self.reported
        return own + race // 2 + self.reported if self.with_champion else own


def count_race_runs(full_runs: float) -> int:
    """Return how many runs of candidates a race has at most by default: half of what the search took.

    Args:
        full_runs: The epochs of all trials of the search, in runs of full length.
    """
    return Reserve().count_race(full_runs)
