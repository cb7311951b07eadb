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


def count_race_runs(full_runs: float) -> int:
    """Return how many runs of candidates a race has at most by default: half of what the search took.

    Args:
        full_runs: The epochs of all trials of the search, in runs of full length.
    """
    return max(LEAST_RACE_RUNS, round(full_runs / 2))


def count_reserved_runs(full_runs: float) -> int:
    """Return how many runs a promotion by the rule takes after a search: the race, and the seeds that are reported.

    The runs of a champion, where there is one, come on top.
    """
    return count_race_runs(full_runs) + REPORTED_SEEDS
