"""Schedulers that the product does not have, to be measured against the one that it has."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import pairwise

import numpy as np

from orchestrator.planning.sweep_plan import Params, SweepPlan


class _Scheduler:
    """Runs everything to the end; the others change that."""

    def __init__(self, plan: SweepPlan) -> None:
        self.plan = plan

    def started(self, trial: int, params: Params) -> None:
        """Learn of a trial before its first epoch."""

    def cuts(self, trial: int, epoch: int, value: float) -> bool:
        return False

    def pauses(self, trial: int, epoch: int, value: float) -> bool:
        return False

    def resume(self, nothing_new: bool, running: int) -> int | None:
        return None


class Promotion(_Scheduler):
    """ASHA as published: a trial pauses at every rung and continues once it is in the best third of that rung.

    (Li et al., MLSys 2020.) The product uses Ray's form, which decides when a trial reaches a rung, and stops it then.
    When nothing else is left to do, the best paused trial continues, so that a sweep of few trials has a result.
    """

    def __init__(self, plan: SweepPlan) -> None:
        super().__init__(plan)
        self._rungs: dict[int, dict[int, float]] = {epoch: {} for epoch in plan.rungs()}
        self._promoted: set[tuple[int, int]] = set()
        self._is_over = False

    def pauses(self, trial: int, epoch: int, value: float) -> bool:
        if epoch in self._rungs:
            self._rungs[epoch][trial] = value
        return epoch in self._rungs

    def cuts(self, trial: int, epoch: int, value: float) -> bool:
        return epoch in self._rungs and (epoch, trial) not in self._promoted

    def resume(self, nothing_new: bool, running: int) -> int | None:
        for epoch in sorted(self._rungs, reverse=True):
            reached = self._rungs[epoch]
            allowed = int(len(reached) / self.plan.reduction_factor)
            if not allowed and nothing_new and not running and epoch == max(e for e in self._rungs if self._rungs[e]):
                allowed = 1
            for trial in sorted(reached, key=lambda trial: (-reached[trial], trial))[:allowed]:
                if (epoch, trial) not in self._promoted:
                    self._promoted.add((epoch, trial))
                    return trial
        return None


class Relative(_Scheduler):
    """ASHA's stopping form with rungs counted from the end of each trial's own warm-up, compared at equal distance."""

    def __init__(self, plan: SweepPlan, first: int = 2) -> None:
        super().__init__(plan)
        self._first = first
        self._warmups: dict[int, int] = {}
        self._rungs: defaultdict[int, list[float]] = defaultdict(list)

    def started(self, trial: int, params: Params) -> None:
        self._warmups[trial] = warmup_of(self.plan, params)

    def cuts(self, trial: int, epoch: int, value: float) -> bool:
        distance = epoch - self._warmups[trial]
        if not self._is_rung(distance) or epoch >= self.plan.epochs:
            return False
        return _is_behind(self._rungs[distance], value, self.plan.reduction_factor)

    def _is_rung(self, distance: int) -> bool:
        rung = float(self._first)
        while math.ceil(rung) < distance:
            rung *= self.plan.reduction_factor
        return math.ceil(rung) == distance


class Exempt(Relative):
    """ASHA's stopping form at fixed epochs, which stops no trial before its own warm-up + 2.

    The rungs begin at the smallest warm-up + 2. A trial is compared with all that have reached the epoch.
    """

    def __init__(self, plan: SweepPlan, first: int = 3) -> None:
        super().__init__(plan, first)

    def cuts(self, trial: int, epoch: int, value: float) -> bool:
        if not self._is_rung(epoch) or epoch >= self.plan.epochs:
            return False
        behind = _is_behind(self._rungs[epoch], value, self.plan.reduction_factor)
        return behind and epoch >= self._warmups[trial] + 2


class Pasha(Promotion):
    """PASHA's rule on our rungs: promotion, but only up to a top rung that rises while the order below is unstable.

    (Bohdal et al., ICLR 2023.) The order is stable if the trials in the top rung are ranked alike one rung below,
    counting scores closer than ``tolerance`` as equal. At the end, the best trial of the top rung runs to its end.
    """

    def __init__(self, plan: SweepPlan, tolerance: float) -> None:
        super().__init__(plan)
        self._tolerance = tolerance
        self._top = min(2, len(self._rungs)) - 1

    def resume(self, nothing_new: bool, running: int) -> int | None:
        order = sorted(self._rungs)
        self._raise_top(order)
        for epoch in reversed(order[: self._top]):
            reached = self._rungs[epoch]
            for trial in self._ranked(epoch)[: int(len(reached) / self.plan.reduction_factor)]:
                if (epoch, trial) not in self._promoted:
                    self._promoted.add((epoch, trial))
                    return trial
        if nothing_new and not running and not self._is_over:
            best = next(epoch for epoch in reversed(order) if self._rungs[epoch])
            trial = self._ranked(best)[0]
            self._is_over = True
            if (best, trial) not in self._promoted:
                self._promoted |= {(epoch, trial) for epoch in order}
                return trial
        return None

    def pauses(self, trial: int, epoch: int, value: float) -> bool:
        return super().pauses(trial, epoch, value) and (epoch, trial) not in self._promoted

    def _ranked(self, epoch: int) -> list[int]:
        return sorted(self._rungs[epoch], key=lambda trial: (-self._rungs[epoch][trial], trial))

    def _raise_top(self, order: list[int]) -> None:
        if self._top >= len(order):
            return
        above, below = self._rungs[order[self._top]], self._rungs[order[self._top - 1]]
        ranked = sorted(above, key=lambda trial: -above[trial])
        for better, worse in pairwise(ranked):
            if below[better] < below[worse] - self._tolerance:
                self._top += 1
                return


def warmup_of(plan: SweepPlan, params: Params) -> int:
    """Return the warm-up of a trial; 0 if its method has none."""
    found = params.get("method.warmup_epochs", plan.base.get("method.warmup_epochs", 0))
    return found if isinstance(found, int) else 0


def _is_behind(recorded: list[float], value: float, factor: float) -> bool:
    """Return whether a value is below the best ``1 / factor`` of those recorded before, and record it: Ray's rule."""
    behind = bool(recorded) and value < float(np.percentile(recorded, (1 - 1 / factor) * 100))
    recorded.append(value)
    return behind
