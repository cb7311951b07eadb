"""A sweep and its promotion with scores, ledger, Parquet rows and MLflow runs that all agree, made without training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from orchestrator.planning.config_hash import hash_config
from orchestrator.planning.sweep_plan import SweepPlan, trial_config
from orchestrator.sweep_folder.events import EpochReported, Event, PromotionDecided, TestOpened, TrialStarted
from orchestrator.sweep_folder.final_sets import FinalSet, final_sets
from orchestrator.sweep_folder.journal import replay
from orchestrator.sweep_folder.ledger import COMPARISON, Opening, TestSet, register_opening
from orchestrator.sweep_folder.rows import write_results
from orchestrator.sweep_folder.score_files import scores_file
from orchestrator.tracking.runs import RunsWriter
from tests.kit import sweeps
from tests.kit.fake_store import FakeStore
from training.config.run import Scalar, TrainConfig
from training.criteria import measure_criteria
from training.data.split import InMemoryImages, SplitData
from training.inference.scores import Scores

PROVENANCE = sweeps.PROVENANCE | {"changes": "none", "dirty": "false"}
_CLASSES = ("cat", "dog", "owl")
_NUM = {"val": 30, "test": 40}
_EPOCHS = 3


@dataclass
class Work:
    """What was made.

    Attributes:
        store: What MLflow would hold.
    """

    search: SweepPlan
    promotion: SweepPlan
    opening: Opening
    store: FakeStore = field(default_factory=FakeStore)


def make_base(**changes: Any) -> dict[str, Any]:
    """Return settings whose digit scenes nobody has made, so that nothing is compared with them."""
    flat = {"data.image_size": 40, "data.scene_seed": 99991, "loop.epochs": _EPOCHS, "loop.recipe": "digits"}
    return TrainConfig.from_flat({**flat, **changes}).flatten()


def make_work(
    name: str = "digits",
    *,
    seeds: Sequence[int] = (1001, 1002, 1003),
    draws: Sequence[int] = (1200,),
    search_scores: Sequence[float] = (60.0, 62.0, 61.0, 58.0),
    provenance: dict[str, str] | None = None,
    store: FakeStore | None = None,
    skill: float = 1.0,
    **changes: Any,
) -> Work:
    """Make a search, its promotion and everything that they leave.

    Args:
        name: Of the search.
        seeds: Of the final runs; on each further label draw, as many of the next hundreds.
        draws: Label draws of the final runs.
        search_scores: One per trial of the search.
        provenance: Of all drivers.
        store: Where the runs go.
        skill: How far the final runs' logits follow the labels.
        changes: To both plans.
    """
    origin = PROVENANCE | (provenance or {})
    common = {"base": make_base(), "scheduler": "none", **changes}
    search = sweeps.make_sweep(f"{name}-0000000a", num_trials=len(search_scores), **common)
    sweeps.write_events(search, _events_of_search(search, search_scores, origin))
    best = max(range(len(search_scores)), key=lambda trial: search_scores[trial])
    points = tuple(
        {**_params(best), **({"data.draw_seed": draw} if number else {}), "loop.seed": seed + 100 * number}
        for number, draw in enumerate(draws)
        for seed in seeds
    )
    identity: dict[str, Any] = {"kind": "promote", "parent": search.id, "start_from": points, "num_trials": len(points)}
    identity["label_draws"] = tuple(draws)
    promotion = sweeps.make_sweep(f"{name}-promote-0000000b", **common | identity)
    opening = write_promotion(promotion, origin, skill)
    work = Work(search, promotion, opening, store or FakeStore())
    write_views([search, promotion], work.store)
    return work


def write_promotion(plan: SweepPlan, origin: dict[str, str], skill: float = 1.0, **decided: Any) -> Opening:
    """Write the journal, the scores and the openings of a promotion; return the winner's opening."""
    openings = {runs: open_runs(plan, origin, runs) for runs in final_sets(plan)}
    sweeps.write_events(plan, _events_of_promotion(plan, origin, openings, skill, decided))
    return next(iter(openings.values()))


def write_views(plans: Iterable[SweepPlan], store: FakeStore) -> None:
    """Write the rows of results and what MLflow would hold."""
    for plan in plans:
        write_results(plan, replay(sweeps.journal_path(plan)))
        RunsWriter(plan, sweeps.journal_path(plan), store).catch_up()


def started(trial: int, params: Mapping[str, Scalar]) -> TrialStarted:
    return replace(sweeps.trial_started(trial, 1), params=dict(params))


def _params(trial: int) -> dict[str, float]:
    return {"optim.lr": 0.001 * (trial + 1)}


def _events_of_search(plan: SweepPlan, scores: Sequence[float], origin: dict[str, str]) -> list[Event]:
    events: list[Event] = [sweeps.driver_started(plan, provenance=origin)]
    events += [started(trial, _params(trial)) for trial in range(len(scores))]
    for epoch in range(1, _EPOCHS + 1):
        for trial, score in enumerate(scores):
            events.append(sweeps.epoch_reported(trial, epoch, 1 + epoch, score - _EPOCHS + epoch))
    return [*events, *(sweeps.trial_ended(trial, 9) for trial in range(len(scores))), sweeps.driver_ended(10)]


def make_scores(split: str, seed: int, skill: float = 1.0) -> Scores:
    """Return scores of a run that has learned something; the labels are the same for every seed."""
    generator = torch.Generator().manual_seed(len(split))
    true = torch.rand(_NUM[split], len(_CLASSES), generator=generator) < 0.4
    observed = true & (true.cumsum(1) == 1)
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(seed))
    data = SplitData(split, InMemoryImages(torch.zeros(len(true), 3, 1, 1)), observed, true, None, _CLASSES)
    return Scores.of(data, skill * (2 * true.float() - 1) + noise)


def open_runs(plan: SweepPlan, origin: dict[str, str], runs: FinalSet) -> Opening:
    """Register the opening of a set of final runs."""
    configs = [trial_config(plan, plan.start_from[trial]) for trial in runs.trials]
    wanted = TestSet(
        dataset=plan.dataset,
        data_hash=origin["data_hash"],
        split_hash=make_scores("test", 0).labels_hash,
        method=plan.method,
        recipe=str(configs[0].loop.recipe),
        protocol=str(plan.protocol),
        config_hash=hash_config(configs[0].flatten()),
        seeds=tuple(sorted(config.loop.seed for config in configs)),
        draws=tuple(sorted({config.data.draw_seed for config in configs})),
        commit=origin["commit"],
        changes=origin["changes"],
    )
    purpose = f"promote {plan.id}" + f": {COMPARISON}" * runs.is_champion
    return register_opening(wanted, purpose, origin["dirty"])


def _events_of_promotion(
    plan: SweepPlan, origin: dict[str, str], openings: Mapping[FinalSet, Opening], skill: float, decided: dict[str, Any]
) -> list[Event]:
    events: list[Event] = [sweeps.driver_started(plan, provenance=origin)]
    figures, epochs, hashes = {}, {}, {}
    for trial, point in enumerate(plan.start_from):
        seed = int(point["loop.seed"] or 0)
        val, test = make_scores("val", seed, skill), make_scores("test", seed, skill)
        events.append(started(trial, point))
        for epoch in range(1, _EPOCHS + 1):
            # The second epoch is the best, and the last one is lower: it must not be taken for the result.
            figures_of_val = val.metrics() | measure_criteria(val.logits, val.observed)
            measured = {name: value - 5 * abs(epoch - 2) for name, value in figures_of_val.items()}
            reported = sweeps.epoch_reported(trial, epoch, 1 + epoch)
            metrics = {**reported.metrics, **measured}
            events.append(EpochReported(trial, epoch, metrics, time_ms=reported.time_ms))
        events.append(sweeps.trial_ended(trial, 9))
        figures[str(trial)], epochs[str(trial)] = test.metrics(), 2
        for scores in (val, test):
            path = scores_file(plan.id, trial, scores.split)
            hashes[path.name] = scores.write(path, {"sweep": plan.id, "trial": str(trial), "epoch": "2"})
    verdict = PromotionDecided(
        **{"verdict": "KEEP", "reason": "not higher", "marks": (), "model": "digits.resnet_cam", **decided},
        time_ms=sweeps.at(11),
    )
    own = next(iter(openings.values()))
    theirs = next((line for runs, line in openings.items() if runs.is_champion and not runs.draw), None)
    further = {runs.key: line for runs, line in openings.items() if runs.draw}
    opened = TestOpened(
        figures,
        epochs,
        own.n,
        own.hash,
        hashes,
        champion_opening=None if theirs is None else theirs.n,
        champion_line_hash=None if theirs is None else theirs.hash,
        draw_openings={key: line.n for key, line in further.items()},
        draw_line_hashes={key: line.hash for key, line in further.items()},
        time_ms=sweeps.at(12),
    )
    return [*events, sweeps.driver_ended(10), verdict, opened]
