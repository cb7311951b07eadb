"""Plan the final runs of a promotion, find those that already exist, and read their results."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import sweep_dir
from orchestrator.planning.data_fit import locate_data
from orchestrator.planning.follow_up import make_promotion_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.sweep_plan import SweepPlan, trial_config
from orchestrator.promotion.verdict import SET_UP_KEYS, Result
from orchestrator.provenance import UNKNOWN
from orchestrator.sweep_folder.checkpoints import find_storage
from orchestrator.sweep_folder.events import DriverStarted
from orchestrator.sweep_folder.index import list_sweeps, load_plan
from orchestrator.sweep_folder.journal import JOURNAL_FILE, follow, replay
from orchestrator.sweep_folder.lease import find_holder
from orchestrator.sweep_folder.records import TrialState, best
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.reading import read_sweep
from training.config.run import ADDED_SETTINGS, PLACE_KEYS, ModelConfig, Scalar, TrainConfig
from training.data.dataset_names import EMBEDDED
from training.errors import ConfigError, DatasetError

_HASHES = ("data_hash", "weights_hash")


def plan_promotion(
    sweep_id: str, seeds: int, workers: int | None, address: str | None = None, draws: int = 1
) -> SweepPlan:
    """Plan the final runs of a sweep's winner.

    Args:
        sweep_id: A finished sweep or training.
        seeds: Number of final runs on each label draw.
        workers: Ray Train workers of each run; None is as many as fit on the GPUs, or 1 without GPUs.
        address: The Ray cluster whose GPUs are counted; None is this machine.
        draws: Number of label draws.

    Raises:
        UserError: It cannot be promoted; the message says why and what to do.
    """
    plan, state = read_promotable(sweep_id)
    winner = best(state.records.values(), plan.protocol)
    assert winner is not None
    workers = choose_workers(plan, winner.params, workers, address)
    return make_promotion_plan(
        plan,
        winner.params,
        seeds=seeds,
        workers=workers,
        storage=find_storage(plan),
        label_draws=choose_draws(plan, draws),
    )


def choose_draws(plan: SweepPlan, num: int) -> tuple[int, ...] | None:
    """Return the label draws of final runs: the sweep's own, and the seeds that follow it.

    Returns:
        None if there are no data here that tell whether labels are drawn, and one draw is asked for; nothing if the
        observed labels are given, so that there is nothing to draw.

    Raises:
        UserError: ``num`` is less than 1, or more than 1 where the observed labels are given.
        DatasetError, ConfigError: The data are needed and cannot be read.
    """
    PlanRequest(draws=num).check_counts()
    first = int(plan.base["data.draw_seed"] or 0)
    try:
        is_given = plan.dataset != EMBEDDED and _has_given_labels(plan)
    except (DatasetError, ConfigError):
        if num > 1:
            raise
        return None
    if not is_given:
        return tuple(range(first, first + num))
    if num > 1:
        raise UserError(
            f"--draws={num} needs labels that are drawn, but the observed labels of {plan.dataset} are given by the "
            "dataset, so there is no other draw of them. Leave out --draws."
        )
    return ()


def _has_given_labels(plan: SweepPlan) -> bool:
    from training.data.registry import open_dataset
    from training.data.store.known_labels import KnownLabels

    data = trial_config(plan, {}).data
    return not KnownLabels.of(data).draws(open_dataset(data).labels("train"))


def read_promotable(sweep_id: str) -> tuple[SweepPlan, SweepState]:
    """Return the plan of a sweep, with its data where they are now, and its state.

    Raises:
        UserError: It cannot be promoted; the message says why and what to do.
    """
    plan, state = read_sweep(sweep_id)
    plan = locate_data(plan)
    if plan.kind == "race":
        raise UserError(
            f"{sweep_id} is the race of a promotion. Continue that, or read its result: orchestrator resume {sweep_id}"
        )
    if plan.kind == "promote":
        raise UserError(
            f"{sweep_id} is itself a promotion. Promote a sweep or a training, or continue this one: orchestrator "
            f"resume {sweep_id}"
        )
    # Each of its variants is trained at one fixed point: nothing was searched, and nothing won.
    if plan.kind == "ablate":
        raise UserError(
            f"{sweep_id} is an ablation, and the best of its variants is not a winner. Promote a sweep or a training."
        )
    # The journal knows of extensions; the plan has the number of trials at the start.
    num_trials, ended = state.total(plan.num_trials), sum(record.ended for record in state.records.values())
    if not state.is_done(plan.num_trials):
        progress = f"{ended} of {num_trials} trials have ended"
        if find_holder(sweep_dir(sweep_id)) is not None:
            raise UserError(f"{sweep_id} is still running: {progress}. Watch it: orchestrator status {sweep_id}")
        raise UserError(f"{sweep_id} is not finished: {progress}. Finish it: orchestrator resume {sweep_id}")
    winner = best(state.records.values(), plan.protocol)
    if winner is None:
        raise UserError(
            f"No trial of {sweep_id} is COMPLETE, so there is nothing to promote. See why: orchestrator leaderboard "
            f"{sweep_id}"
        )
    return plan, state


def choose_workers(plan: SweepPlan, params: Mapping[str, Scalar], workers: int | None, address: str | None) -> int:
    """Return the number of Ray Train workers of a final run: what was asked for, or what fits on the GPUs."""
    # Counted here and not when the runs start: the number decides whether a promotion is the same.
    if workers is not None:
        return workers
    return count_workers(plan, int(trial_config(plan, params).optim.batch_size), address)


def count_workers(plan: SweepPlan, batch_size: int, address: str | None) -> int:
    """Return how many workers fit on the GPUs, each with whole GPUs and the same share of the global batch."""
    if not plan.resources.gpus_per_worker:
        return 1
    if address is not None:
        from orchestrator.cluster.size import count_cluster

        num_gpus = count_cluster(address)["num_gpus"]
    else:
        import torch

        num_gpus = torch.cuda.device_count()
    # A worker of a final run takes whole GPUs, even if the trials of the sweep shared them.
    most = int(num_gpus / math.ceil(plan.resources.gpus_per_worker))
    return max((workers for workers in range(1, most + 1) if batch_size % workers == 0), default=1)


def find_same(planned: SweepPlan) -> SweepPlan | None:
    """Return the latest promotion with the same final runs, or None; one with a failed run does not count."""
    # The latest comes first.
    for entry in list_sweeps(kinds={"promote"}):
        try:
            plan = load_plan(entry.id)
        except OrchestratorError:
            continue  # written by another version, so its runs are different
        if _runs_of(plan) == _runs_of(planned):
            # Failed runs are never repeated, so only a new promotion can replace them.
            records = replay(sweep_dir(plan.id) / JOURNAL_FILE).records.values()
            return None if any(record.state is TrialState.FAILED for record in records) else plan
    return None


def _runs_of(plan: SweepPlan) -> tuple[Any, ...]:
    # Not the id, the name or the time: those differ between two equal promotions. Nor where the data are.
    base = {key: value for key, value in plan.base.items() if key not in PLACE_KEYS}
    return plan.parent, base, plan.start_from, plan.resources, plan.protocol


def make_result(plan: SweepPlan, state: SweepState, journal: Path) -> Result:
    """Return the results of a promotion's final runs, with everything that comparable results must share."""
    config = final_config(plan, 0)
    provenance = state.provenance | _changed_hashes(journal)
    identity = {
        "dataset": config.data.name,
        "data_hash": provenance.get("data_hash", UNKNOWN),
        "model": _identify_model(config.model),
        "weights_hash": provenance.get("weights_hash", UNKNOWN),
        "recipe": config.loop.recipe,
        "select_config_by": str(plan.protocol.select_config_by),
        "select_epoch_by": str(plan.protocol.select_epoch_by),
        "draw_seed": str(config.data.draw_seed),
        "world_size": str(plan.resources.workers),
        **{key: str(config.flatten()[key]) for key in SET_UP_KEYS},
    }
    # Every seed keeps its place: a failed run must not shift the others' results.
    records = [state.records.get(trial) for trial in range(plan.num_final)]
    complete = [record if record is not None and record.state is TrialState.COMPLETE else None for record in records]
    values = tuple(None if record is None else record.value(plan.protocol) for record in complete)
    # A champion, or a paper, that this is compared with has the sweep's label draw alone.
    return Result(plan.id, identity, values[: plan.num_seeds], values[plan.num_seeds :])


def _identify_model(model: ModelConfig) -> str:
    # Without the name of its weights, which may be a path: the hash identifies them.
    settings = model.model_dump(mode="json", exclude={"weights"})
    return json.dumps(
        {key: value for key, value in settings.items() if ADDED_SETTINGS.get(f"model.{key}", ...) != value},
        sort_keys=True,
    )


def final_config(plan: SweepPlan, trial: int) -> TrainConfig:
    """Return the settings of a final run."""
    return trial_config(plan, plan.start_from[trial])


def _changed_hashes(journal: Path) -> dict[str, str]:
    """Return ``unknown`` for each hash that was not the same for all drivers of a promotion."""
    # A promotion may be resumed with --allow-changed; its runs are then not comparable.
    drivers = [event.provenance for event in follow(journal)[0] if isinstance(event, DriverStarted)]
    return {key: UNKNOWN for key in _HASHES if len({driver.get(key) for driver in drivers}) > 1}
