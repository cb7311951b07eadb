"""Find out how long trials of a plan take: from a probe, from earlier runs in this home, or from the search space."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from orchestrator.errors import OrchestratorError
from orchestrator.home import sweep_dir
from orchestrator.planning.capacity import name_devices
from orchestrator.planning.estimate import (
    Survival,
    Timing,
    estimate_cost,
    has_same_rungs,
    is_alike,
    record_survival,
    time_trials,
)
from orchestrator.planning.sweep_plan import SweepPlan, trial_config
from orchestrator.sweep_folder.checkpoints import checkpoint_uri
from orchestrator.sweep_folder.index import list_sweeps, load_plan
from orchestrator.sweep_folder.journal import JOURNAL_FILE, replay
from orchestrator.sweep_folder.records import TrialRecord, TrialState
from orchestrator.sweep_folder.state import SweepState
from training.counts import counted

_MOST_PLANS = 200
"""Earlier plans that are looked at, the latest first; of those that are alike, as many journals as needed are read."""
_ENOUGH_TRIALS = 8
PROBE_STEPS = 20
_ENDED_WELL = (TrialState.COMPLETE, TrialState.PRUNED)


def add_cost(
    plan: SweepPlan,
    slots: int,
    *,
    probed: Timing | None = None,
    price_per_hour: float | None = None,
    here: bool = True,
    survival: Survival | None = None,
) -> SweepPlan:
    """Return a plan with the cost that this home knows best: from a probe, earlier runs alike, or the search space.

    Args:
        plan: A sweep, a training or an ablation.
        slots: How many trials have resources of their own at a time.
        probed: What a probe on this machine has measured.
        price_per_hour: Of a GPU-hour (of a CPU-hour if trials use no GPU).
        survival: Of its trials; None is what an earlier sweep with the same rungs tells.
        here: Whether it runs on this machine, so that only runs on the same model of GPU or CPU tell how long.
    """
    earlier = list(_find_earlier(plan))
    timing = probed or _time_earlier(earlier, name_devices(plan.resources) if here else None) or Timing.of_space(plan)
    if timing is None:
        return plan
    lives = survival or _find_survival(plan, earlier)
    return replace(plan, cost=estimate_cost(plan, timing, slots, lives, price_per_hour))


def probe_plan(plan: SweepPlan, num_steps: int = PROBE_STEPS) -> Timing:
    """Measure, by a few steps of the real training on this machine, how long an epoch of a plan's first trial takes.

    Raises: as :class:`training.loop.run.TrainingRun`.
    """
    # These bring torch, which takes seconds.
    from training.loop.probe import measure_pace

    pace = measure_pace(trial_config(plan, plan.start_from[0] if plan.start_from else {}), num_steps)
    source = f"by {counted(pace.num_steps, 'step')} on {pace.device}"
    return Timing.of_one(pace.epoch_s, source, weights_bytes=pace.weights_bytes)


def _find_earlier(plan: SweepPlan) -> Iterator[tuple[SweepPlan, SweepState]]:
    """Yield earlier runs whose epochs cost the same on the same hardware, until enough trials are known."""
    known = 0
    for entry in list_sweeps(kinds={"sweep", "train", "race"})[:_MOST_PLANS]:
        with suppress(OrchestratorError):  # what cannot be read tells nothing
            other = load_plan(entry.id)
            if other.id != plan.id and is_alike(plan, other):
                state = replay(sweep_dir(other.id) / JOURNAL_FILE)
                known += sum(bool(record.metrics) for record in state.records.values())
                yield other, state
        if known >= _ENOUGH_TRIALS:
            return


def _time_earlier(earlier: Sequence[tuple[SweepPlan, SweepState]], devices: Sequence[str] | None) -> Timing | None:
    trials = [
        (plan, record)
        for plan, state in earlier
        for record in state.records.values()
        if record.metrics and len(record.devices) == 1 and (devices is None or record.devices[0] in devices)
    ]
    if not trials:
        return None
    # Trials on different hardware are not mixed: the latest counts.
    device = trials[0][1].devices[0]
    told = [(plan, record) for plan, record in trials if record.devices[0] == device]
    samples = [(max(0.0, record.held_s - record.start_s), len(record.metrics)) for _, record in told]
    source = f"as in {told[0][0].id} on {device}"
    timing = time_trials(samples, [record.start_s for _, record in told], source)
    return replace(timing, num_metrics=_count_metrics(told[0][1]), weights_bytes=_measure_weights(told[0][0]))


def _count_metrics(record: TrialRecord) -> int:
    return max(map(len, record.metrics.values()))


def _measure_weights(plan: SweepPlan) -> int | None:
    """Return the size of the weights that a finished sweep has kept on this machine; None if there are none."""
    folder = Path(checkpoint_uri(plan))
    sizes = [path.stat().st_size for path in folder.glob("t*/best-*.pt")] if folder.is_dir() else []
    return round(statistics.median(sizes)) if sizes else None


def _find_survival(plan: SweepPlan, earlier: Sequence[tuple[SweepPlan, SweepState]]) -> Survival | None:
    for other, state in earlier:
        lengths = [record.last_epoch for record in state.records.values() if record.state in _ENDED_WELL]
        if other.kind == "sweep" and has_same_rungs(plan, other) and len(lengths) >= _ENOUGH_TRIALS:
            return record_survival(plan, lengths, other.id)
    return None
