"""Optuna's samplers over the ranges of a plan: TPE that looks at no more trials than it has a use for, and a GP."""

from __future__ import annotations

import copy
import heapq
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution

from training.config.run import Scalar

MOST_RECENT_TRIALS = 1000
MOST_GOOD_TRIALS = 50
"""What TPE sees of a longer sweep: its latest trials, and the best of the older ones."""


class Memory:
    """Chooses the trials that TPE has a use for: the latest, and the best of the older ones.

    TPE takes time in proportion to all trials. It models at most 25 of them as good ones, and gives the others the less
    weight the older they are. A memory looks at each trial once, when it is no longer one of the latest.
    """

    def __init__(self) -> None:
        self._border = 0
        self._open: list[int] = []
        self._good: list[tuple[float, int]] = []

    def choose(self, trials: Sequence[optuna.trial.FrozenTrial]) -> list[optuna.trial.FrozenTrial]:
        """Return the chosen trials of all, by number."""
        border = max(0, len(trials) - MOST_RECENT_TRIALS)
        older = [trials[number] for number in (*self._open, *range(self._border, border))]
        self._border, self._open = border, [trial.number for trial in older if not trial.state.is_finished()]
        scored = [
            (-trial.value, trial.number)
            for trial in older
            if trial.state is optuna.trial.TrialState.COMPLETE and trial.value
        ]
        # The earliest of equals, whatever else there is: the same after a restart.
        self._good = heapq.nsmallest(MOST_GOOD_TRIALS, [*self._good, *scored])
        return [*(trials[number] for number in sorted(number for _, number in self._good)), *trials[border:]]


class PlannedTpe(optuna.samplers.TPESampler):
    """Samples the plan's ranges by TPE.

    Optuna would derive the search space from all earlier trials at every draw; ours is known. Each group of ranges is
    modelled by itself, from the trials in which it acts, as Optuna does with ``group=True``. There is one group, unless
    some settings act only with certain values of others.
    """

    def __init__(self, groups: Sequence[dict[str, BaseDistribution]], seed: int, memory: Memory) -> None:
        # One start-up trial, because OptunaProposer counts the random phase by trial number. Optuna counts finished
        # trials, so its own start-up would grow with the number of trials that run at once.
        # The constant liar counts running trials as bad ones, so that parallel trials do not crowd at one point.
        super().__init__(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=1)
        self._groups, self._memory = groups, memory

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {key: distribution for group in self._groups for key, distribution in group.items()}

    def sample_relative(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        trials = self._memory.choose(study.get_trials(deepcopy=False))
        bounded, drawn = cast(optuna.Study, _Shown(study, trials)), dict[str, Any]()
        for group in self._groups:
            drawn |= super().sample_relative(bounded, trial, group)
        return drawn

    # Another private method, which a test looks after too. Of a running trial, Optuna would also count what was sampled
    # for it and then not used, because it does not act there.
    def _get_params(self, trial: optuna.trial.FrozenTrial, study: optuna.Study) -> dict[str, Any]:
        return trial.params


class _Shown:
    """A study that shows a sampler the given trials in place of its own."""

    def __init__(self, study: optuna.Study, trials: Sequence[optuna.trial.FrozenTrial]) -> None:
        self._study, self._trials = study, trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    # Optuna's samplers call this private method; with another name in a later version, a test fails.
    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Collection[optuna.trial.TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[optuna.trial.FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]


class PlannedGp(optuna.samplers.GPSampler):
    """Samples the plan's ranges by a Gaussian process, which estimates the noise of the scores itself.

    It learns from complete trials alone, so it gains nothing from those that were cut short. It models all ranges
    together: what does not act in a trial counts as the middle of its range there.
    """

    def __init__(self, distributions: dict[str, BaseDistribution], seed: int, middles: Mapping[str, Scalar]) -> None:
        super().__init__(seed=seed, n_startup_trials=1, deterministic_objective=False)
        self._planned, self._middles = distributions, middles

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._planned

    def sample_relative(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if self._middles:
            study = cast(optuna.Study, _Shown(study, [self._fill(found) for found in study.get_trials(deepcopy=False)]))
        return super().sample_relative(study, trial, search_space)

    def _fill(self, trial: optuna.trial.FrozenTrial) -> optuna.trial.FrozenTrial:
        """Return a trial with all parameters: those that it lacks have the middles of their ranges."""
        missing = [key for key in self._middles if key not in trial.params]
        if not missing or not trial.params:  # one that is being asked for has none yet
            return trial
        filled = copy.copy(trial)
        filled.params = trial.params | {key: self._middles[key] for key in missing}
        filled.distributions = trial.distributions | {key: self._planned[key] for key in missing}
        return filled
