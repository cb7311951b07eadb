"""Score the final runs of a promotion image by image, on validation data and on the test set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.promotion.final_runs import final_config
from orchestrator.promotion.registration import load_best
from orchestrator.promotion.test_set import Registered, open_test_set
from orchestrator.sweep_folder.events import TestOpened
from orchestrator.sweep_folder.final_sets import FinalSet, final_sets
from orchestrator.sweep_folder.ledger import COMPARISON, Opening
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
    # A failed run has no weights worth evaluating; the decision has already refused it.
    complete = [trial for trial in configs if _is_complete(state, trial)]
    states = {trial: load_best(plan, state, trial) for trial in complete}
    sets = final_sets(plan)
    say(f"Evaluating {len(states)} final runs on the test split, {_openings(len(sets))}")
    val = _score_val(configs, states)
    lines: dict[FinalSet, Opening] = {}
    test: dict[int, Scores] = {}
    for runs in sets:
        # Another configuration is another opening, and so is another label draw.
        opening, scores = open_test_set(_register(plan, configs, runs), _of(runs, states))
        test |= scores
        if opening is not None:
            lines[runs] = opening
    hashes = [
        _write(plan, trial, states[trial]["epoch"], scores) for found in (val, test) for trial, scores in found.items()
    ]
    own, theirs = (_find(lines, is_champion=is_champion) for is_champion in (False, True))
    further = {runs.key: line for runs, line in lines.items() if runs.draw}
    return TestOpened(
        {str(trial): test[trial].metrics() if trial in test else {} for trial in states},
        epochs={str(trial): best["epoch"] for trial, best in states.items()},
        opening=None if own is None else own.n,
        line_hash=None if own is None else own.hash,
        scores=dict(hashes),
        champion_opening=None if theirs is None else theirs.n,
        champion_line_hash=None if theirs is None else theirs.hash,
        draw_openings={key: line.n for key, line in further.items()} or None,
        draw_line_hashes={key: line.hash for key, line in further.items()} or None,
    )


def _openings(num: int) -> str:
    return "which is opened only once" if num == 1 else f"which is opened {num} times: once per model and label draw"


def _find(lines: Mapping[FinalSet, Opening], *, is_champion: bool) -> Opening | None:
    """Return the opening on the sweep's own label draw."""
    found = (line for runs, line in lines.items() if not runs.draw and runs.is_champion == is_champion)
    return next(found, None)


def _register(plan: SweepPlan, configs: Mapping[int, TrainConfig], runs: FinalSet) -> Registered:
    """Return what is opened for a set of runs."""
    own = {trial: configs[trial] for trial in runs.trials}
    name = own[runs.trials[0]].method.name
    # The champion may be of another method, which the plan has no label for.
    method = plan.method if name == configs[0].method.name else name
    purpose = f"promote {plan.id}" + f": {COMPARISON}" * runs.is_champion
    return Registered(method, str(plan.protocol), own, purpose)


def _of(runs: FinalSet, states: Mapping[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {trial: best for trial, best in states.items() if trial in runs.trials}


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
