"""Score the final runs of a promotion image by image, on validation data and on the test set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.promotion.final_runs import final_config
from orchestrator.promotion.registration import load_best
from orchestrator.promotion.test_set import Registered, open_test_set
from orchestrator.sweep_folder.events import TestOpened
from orchestrator.sweep_folder.final_sets import final_sets
from orchestrator.sweep_folder.ledger import COMPARISON
from orchestrator.sweep_folder.records import TrialState
from orchestrator.sweep_folder.score_files import scores_file
from orchestrator.sweep_folder.state import SweepState
from training.config.run import TrainConfig
from training.data.registry import load_split
from training.inference.evaluation import score_weights
from training.inference.scores import Scores


def score_final_runs(plan: SweepPlan, state: SweepState, say: Callable[[str], None]) -> TestOpened:
    """Score every complete final run on both splits, write the scores, and return the event for the journal.

    Raises:
        OrchestratorError: Weights are missing, or the test ledger is damaged or cannot be written.
    """
    # All planned runs, whether or not they failed: the opening was decided when they were.
    configs = {trial: final_config(plan, trial) for trial in range(plan.num_trials)}
    winner, champion = _register(plan, configs)
    # A failed run has no weights worth evaluating; the decision has already refused it.
    complete = [trial for trial in configs if _is_complete(state, trial)]
    states = {trial: load_best(plan, state, trial) for trial in complete}
    say(f"Evaluating {len(states)} final runs on the test split, which is opened only once")
    val = _score_val(configs, states)
    opening, test = open_test_set(winner, _of(winner, states))
    other = None
    if champion is not None:
        # Another configuration, so an opening of its own.
        other, theirs = open_test_set(champion, _of(champion, states))
        test = {**test, **theirs}
    hashes = [
        _write(plan, trial, states[trial]["epoch"], scores) for found in (val, test) for trial, scores in found.items()
    ]
    return TestOpened(
        {str(trial): test[trial].metrics() if trial in test else {} for trial in states},
        epochs={str(trial): best["epoch"] for trial, best in states.items()},
        opening=None if opening is None else opening.n,
        line_hash=None if opening is None else opening.hash,
        scores=dict(hashes),
        champion_opening=None if other is None else other.n,
        champion_line_hash=None if other is None else other.hash,
    )


def _register(plan: SweepPlan, configs: dict[int, TrainConfig]) -> tuple[Registered, Registered | None]:
    """Return what is opened for the winner, and for the champion if it ran too."""
    own, *others = ({trial: configs[trial] for trial in found.trials} for found in final_sets(plan))
    winner = Registered(plan.method, str(plan.protocol), own, f"promote {plan.id}")
    if not others:
        return winner, None
    theirs = others[0]
    name = next(iter(theirs.values())).method.name
    method = plan.method if name == own[0].method.name else name
    return winner, Registered(method, str(plan.protocol), theirs, f"promote {plan.id}: {COMPARISON}")


def _of(registered: Registered, states: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {trial: best for trial, best in states.items() if trial in registered.configs}


def _is_complete(state: SweepState, trial: int) -> bool:
    record = state.records.get(trial)
    return record is not None and record.state is TrialState.COMPLETE


def _score_val(configs: Mapping[int, TrainConfig], states: Mapping[int, dict[str, Any]]) -> dict[int, Scores]:
    # The images are the same for all; only the observed labels depend on the draw.
    data = {configs[trial].data.draw_seed: configs[trial].data for trial in states}
    splits = {draw: load_split(found, "val") for draw, found in data.items()}
    return {
        trial: score_weights(configs[trial], best, splits[configs[trial].data.draw_seed])
        for trial, best in states.items()
    }


def _write(plan: SweepPlan, trial: int, epoch: int, scores: Scores) -> tuple[str, str]:
    """Write the scores of a run on one split; return the name and the hash of the file."""
    file = scores_file(plan.id, trial, scores.split)
    return file.name, scores.write(file, {"sweep": plan.id, "trial": str(trial), "epoch": str(epoch)})
