"""Estimate what a plan costs, from the seconds of an epoch and from how many trials a scheduler stops. Pure functions.

The cost of a trial is ``start + epochs x seconds an epoch``. Both factors vary from trial to trial and are taken as
independent, so the sum over N trials has the variance ``N Var(trial)``; that only n trials have told the mean seconds
of an epoch adds ``(N E[epochs])^2 sd^2 / n``. The sum of many trials is nearly normal: p50 is its mean, p90 lies 1.28
deviations above.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.planning.cost import Cost
from orchestrator.planning.sweep_plan import SweepPlan

_Z90 = 1.2816
_ASSUMED_SPREAD = 0.25
"""Deviation of the seconds of an epoch, as a share, where only one figure is known: other machines, other settings."""
_METRICS_PER_EPOCH = 20
"""Where no earlier run has told."""
_TAGS_PER_RUN = 30
_BYTES_PER_ROW = 250
_BYTES_PER_EVENT = 1000
_STATES_PER_TRIAL = 7
"""Checkpoints of a trial in sizes of its weights: the best weights, and twice (the newest one replaces the one before)
weights with two moments of the optimiser."""
_GIB = 1024**3
_FREE_KEYS = frozenset({"data.scene_seed", "data.split_seed", "data.draw_seed", "data.store"})
_TIMED_KEYS = frozenset(
    {"optim.name", "optim.batch_size", "optim.average_decay", "loop.precision", "loop.compile", "loop.num_threads"}
)


@dataclass(frozen=True)
class Timing:
    """How long trials take.

    Attributes:
        epoch_s, epoch_sd_s: Mean seconds of an epoch, and the deviation of a trial's own mean from it.
        num: How many trials told.
        source: Where that is from, to be read after "2 s per epoch".
        start_s: Seconds of a trial besides its epochs.
        num_metrics: Metrics that an epoch reports, if known.
        weights_bytes: Size of a model's weights, if known.
    """

    epoch_s: float
    epoch_sd_s: float
    num: int
    source: str
    start_s: float = 0.0
    num_metrics: int | None = None
    weights_bytes: int | None = None

    @classmethod
    def of_one(cls, epoch_s: float, source: str, weights_bytes: int | None = None) -> Timing:
        """Return the timing by a single figure, whose spread has to be assumed."""
        return cls(epoch_s, _ASSUMED_SPREAD * epoch_s, 1, source, weights_bytes=weights_bytes)

    @classmethod
    def of_space(cls, plan: SweepPlan) -> Timing | None:
        """Return the timing that a plan's search space tells, if it does."""
        return None if plan.epoch_s is None else cls.of_one(plan.epoch_s, "as measured when the space was written")


@dataclass(frozen=True)
class Survival:
    """How long trials live.

    Attributes:
        shares: Epoch -> share of the trials that end with it; they sum to 1.
        basis: Why, as part of a sentence.
    """

    shares: Mapping[int, float]
    basis: str

    @property
    def mean(self) -> float:
        """Expected epochs of a trial."""
        return sum(epoch * share for epoch, share in self.shares.items())

    @property
    def mean_square(self) -> float:
        """Expected square of the epochs of a trial."""
        return sum(epoch**2 * share for epoch, share in self.shares.items())


def time_trials(samples: Sequence[tuple[float, int]], starts_s: Sequence[float], source: str) -> Timing:
    """Return the timing by earlier trials.

    Args:
        samples: Per trial, the seconds of its epochs and their number, at least one.
        starts_s: Per trial, the seconds until its first epoch.
        source: As in :class:`Timing`.
    """
    means = [seconds / epochs for seconds, epochs in samples]
    spread = statistics.stdev(means) if len(means) > 1 else _ASSUMED_SPREAD * means[0]
    start_s = statistics.fmean(starts_s) if starts_s else 0.0
    return Timing(statistics.fmean(means), spread, len(means), source, start_s)


def expect_survivors(num_trials: int, reduction_factor: float) -> float:
    """Return how many of so many trials pass a rung of ASHA if their scores come in random order.

    Ray's ASHA stops a trial below the ``1 - 1/eta`` quantile (interpolated) of the scores that reached the rung before.
    The first trial always passes. With k scores before it, a trial's rank is uniform among k + 1 places, so it passes
    with probability ``(1 + (k - 1) / eta) / (k + 1)``: more than ``1 / eta`` while there are few.
    """
    return sum(1.0 if k == 0 else (1 + (k - 1) / reduction_factor) / (k + 1) for k in range(num_trials))


def count_most_epochs(plan: SweepPlan, num_trials: int) -> int:
    """Return the epochs of so many trials of a plan, unless ASHA or a rule of a trial's own ends some early."""
    screen = plan.screen_epoch or plan.epochs
    return num_trials * screen + plan.count_kept(num_trials) * (plan.epochs - screen)


def expect_survival(plan: SweepPlan) -> Survival:
    """Return how long trials live: under ASHA if their scores come in random order at every rung."""
    rungs = plan.rungs()
    if plan.screen_epoch is not None:
        kept = plan.count_kept(plan.num_trials)
        share = kept / plan.num_trials
        basis = f"the screen lets {kept} of {plan.num_trials} trials run to their end"
        return Survival({plan.screen_epoch: 1 - share, plan.epochs: share}, basis)
    if not rungs:
        return Survival({plan.epochs: 1.0}, "every trial runs to its end")
    shares: dict[int, float] = {}
    reached = float(plan.num_trials)
    for rung in rungs:
        # What is reached is no whole number after the first rung, so it lies between two sums.
        low = math.floor(reached)
        below, above = (expect_survivors(num, plan.reduction_factor) for num in (low, low + 1))
        passed = below + (reached - low) * (above - below)
        shares[rung] = (reached - passed) / plan.num_trials
        reached = passed
    shares[plan.epochs] = reached / plan.num_trials
    basis = f"ASHA is expected to let {_percent(shares[plan.epochs])} run to their end, as if scores came in any order"
    return Survival(shares, basis)


def record_survival(plan: SweepPlan, last_epochs: Iterable[int], source: str) -> Survival:
    """Return how long the trials of an earlier sweep with the same rungs lived."""
    lengths = list(last_epochs)
    shares = {epoch: lengths.count(epoch) / len(lengths) for epoch in sorted(set(lengths))}
    basis = f"{_percent(shares.get(plan.epochs, 0.0))} of the trials run to their end, as in {source}"
    return Survival(shares, basis)


def estimate_cost(
    plan: SweepPlan,
    timing: Timing,
    slots: int,
    survival: Survival | None = None,
    price_per_hour: float | None = None,
) -> Cost:
    """Return what a plan is expected to cost.

    Args:
        plan: A sweep, a training or an ablation; only a sweep is promoted, so only it reserves runs.
        timing: Of its trials.
        slots: How many trials have resources of their own at a time. More trials at a time share these.
        survival: Of its trials; None is :func:`expect_survival`.
        price_per_hour: Of a GPU-hour (of a CPU-hour if trials use no GPU).
    """
    lives = survival or expect_survival(plan)
    num, mean, square = plan.num_trials, lives.mean, lives.mean_square
    total_s = _count_starts(plan) * timing.start_s + num * mean * timing.epoch_s
    own_var = square * (timing.epoch_s**2 + timing.epoch_sd_s**2) - (mean * timing.epoch_s) ** 2
    shared_var = (num * mean * timing.epoch_sd_s) ** 2 / timing.num
    late_s = total_s + _Z90 * math.sqrt(num * max(0.0, own_var) + shared_var)
    slow_epoch_s = timing.epoch_s + _Z90 * timing.epoch_sd_s
    parallel = max(1, min(plan.concurrency, slots))
    reserved = plan.count_reserved(num * mean / plan.epochs)
    full_s = timing.start_s + plan.epochs * timing.epoch_s
    slow = replace(timing, epoch_s=slow_epoch_s)
    rows = _count_rows(plan, num * mean, timing)
    return Cost(
        p50_hours=plan.resources.hours(total_s),
        p90_hours=plan.resources.hours(late_s),
        epochs=num * mean,
        p50_wall_s=_wall_s(plan, total_s, parallel, timing),
        p90_wall_s=_wall_s(plan, late_s, parallel, slow),
        slots=slots,
        reserved_runs=reserved,
        reserved_hours=plan.resources.hours(reserved * full_s),
        epoch_basis=f"{timing.epoch_s:.3g} s per epoch, {timing.source}",
        survival_basis=lives.basis,
        disk_gib=_disk_gib(plan, num * mean, timing, rows),
        mlflow_rows=rows,
        price_per_hour=price_per_hour,
    )


def is_alike(plan: SweepPlan, other: SweepPlan) -> bool:
    """Return whether an epoch of two plans costs the same on the same hardware."""
    if (plan.dataset, plan.method, plan.resources) != (other.dataset, other.method, other.resources):
        return False
    if plan.ranges.get("optim.batch_size") != other.ranges.get("optim.batch_size"):
        return False
    keys = {key for key in {*plan.base, *other.base} if _sets_time(key, plan) or _sets_time(key, other)}
    return all(plan.base.get(key) == other.base.get(key) for key in keys)


def has_same_rungs(plan: SweepPlan, other: SweepPlan) -> bool:
    """Return whether ASHA stops the trials of two plans by the same rule: how many it lets pass is not fixed."""
    if not plan.scheduler == other.scheduler == "asha":
        return False
    same = (plan.rungs(), plan.epochs, plan.reduction_factor) == (
        other.rungs(),
        other.epochs,
        other.reduction_factor,
    )
    return same and bool(plan.rungs())


def _sets_time(key: str, plan: SweepPlan) -> bool:
    if key.startswith(("data.", "model.")):
        return key not in _FREE_KEYS
    # A method's words and switches say which passes it makes; its numbers are weights and thresholds.
    return key in _TIMED_KEYS or (key.startswith("method.") and isinstance(plan.base.get(key), str | bool))


def _count_starts(plan: SweepPlan) -> int:
    """Return how often the trials of a plan start; with a screen, those that it keeps start twice."""
    return plan.num_trials if plan.screen_epoch is None else plan.num_trials + plan.count_kept(plan.num_trials)


def _wall_s(plan: SweepPlan, total_s: float, parallel: int, timing: Timing) -> float:
    """Return how long trials take; with a screen, those that it keeps follow when all others have ended."""
    if plan.screen_epoch is None:
        return _wall_of_s(total_s, parallel, timing.start_s + plan.epochs * timing.epoch_s)
    kept = plan.count_kept(plan.num_trials)
    final_s = timing.start_s + (plan.epochs - plan.screen_epoch) * timing.epoch_s
    first_s = _wall_of_s(total_s - kept * final_s, parallel, timing.start_s + plan.screen_epoch * timing.epoch_s)
    return first_s + math.ceil(kept / parallel) * final_s


def _wall_of_s(total_s: float, parallel: int, each_s: float) -> float:
    # At the end, when nothing is left to start, the others wait for half a trial.
    return max(each_s, total_s / parallel + (1 - 1 / parallel) * each_s / 2)


def _count_rows(plan: SweepPlan, epochs: float, timing: Timing) -> int:
    """Return the rows of MLflow: metrics with their last values, params and tags."""
    metrics = timing.num_metrics or _METRICS_PER_EPOCH
    return round(epochs * metrics + plan.num_trials * (metrics + len(plan.base) + _TAGS_PER_RUN))


def _disk_gib(plan: SweepPlan, epochs: float, timing: Timing, rows: int) -> float | None:
    if timing.weights_bytes is None:
        return None
    # Those that are set aside are as many as the screen keeps.
    num_open = plan.concurrency + (0 if plan.screen_epoch is None else plan.count_kept(plan.num_trials))
    checkpoints = (num_open * _STATES_PER_TRIAL + 1) * timing.weights_bytes
    return min(plan.cap_gib, checkpoints / _GIB) + (rows * _BYTES_PER_ROW + epochs * _BYTES_PER_EVENT) / _GIB


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def count_affordable(plan: SweepPlan, cost: Cost, max_hours: float) -> int:
    """Return how many trials are expected to run below a limit that keeps what their promotion takes."""
    whole = count_most_epochs(plan, plan.num_trials)
    run_hours = cost.reserved_hours / cost.reserved_runs if cost.reserved_runs else 0.0

    def is_affordable(num: int) -> bool:
        share = count_most_epochs(plan, num) / whole
        reserved = plan.count_reserved(share * cost.epochs / plan.epochs)
        return share * cost.p50_hours + reserved * run_hours <= max_hours

    return next((num for num in range(plan.num_trials, 0, -1) if is_affordable(num)), 0)
