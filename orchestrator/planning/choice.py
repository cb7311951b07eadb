"""What a promotion by the rule has chosen, and from which figures; stored in the plans of its race and final runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from pydantic import ConfigDict

RULE = "race"
BEST_SCORE = "best-score"
RULES = (RULE, BEST_SCORE)


@dataclass(frozen=True)
class Choice:
    """The figures of a choice, scores in percent; those of the race are None until it has ended, or without one.

    A new field needs a default, because plans that earlier versions wrote do not have it.

    Attributes:
        trial: The chosen trial of the sweep; before the race, the one with the best score.
        raw: The best score of the sweep.
        shrunk: Its shrunken mean.
        low, high: The interval for its true quality, from the sweep alone.
        config_sd, seed_sd: Deviations between configurations and between seeds.
        noise_from: Where ``seed_sd`` comes from.
        mean: What scores are shrunken to; None for their own mean.
        candidates: The trials in the race.
        blocks: Seeds that each runs, unless it is dropped.
        budget: How many runs there were for it.
        limited_from: How many there would have been without a limit of GPU-hours that leaves fewer.
        num_trials: How many trials the sweep had.
        seeds: Fresh seeds that are reported.
        workers: Ray Train workers of a final run.
        champion: ``NAME/VERSION`` that took part; None if there was none.
        champion_point: Its settings, where they differ from the sweep's.
        race: Id of the race.
        left: Who was not dropped.
        race_mean: Mean of the chosen trial's runs in the race; ``race_runs`` is their number.
        posterior: Its shrunken mean over all its runs.
        champion_mean: Mean of the champion's runs in the race.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    trial: int
    raw: float
    shrunk: float
    low: float
    high: float
    config_sd: float
    seed_sd: float
    noise_from: str
    candidates: tuple[int, ...]
    blocks: int
    budget: int
    num_trials: int
    seeds: int
    workers: int
    mean: float | None = None
    seed_df: float | None = None
    champion: str | None = None
    champion_point: dict[str, str | int | float | bool | None] | None = None
    race: str | None = None
    left: tuple[int, ...] = ()
    race_mean: float | None = None
    race_runs: int = 0
    posterior: float | None = None
    champion_mean: float | None = None
    limited_from: int | None = None

    @property
    def num_entrants(self) -> int:
        """Number of those that race, with the champion."""
        return (len(self.candidates) + (self.champion_point is not None)) if self.blocks else 0

    @property
    def asked_budget(self) -> int:
        """How many runs were asked for, whatever a limit left of them."""
        return self.budget if self.limited_from is None else self.limited_from

    def to_json(self) -> dict[str, Any]:
        """Return the fields, the rule first."""
        return {"rule": RULE, **asdict(self)}
