"""Register the model of a promotion, and register champions again that MLflow has lost."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import OrchestratorError
from orchestrator.home import sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.promotion.final_runs import final_config, make_result
from orchestrator.promotion.model_card import render_card
from orchestrator.promotion.verdict import Decision, Result, Verdict
from orchestrator.provenance import UNKNOWN
from orchestrator.redaction import redact
from orchestrator.sweep_folder.checkpoints import trial_uri
from orchestrator.sweep_folder.events import ChampionSet, PromotionDecided
from orchestrator.sweep_folder.journal import JOURNAL_FILE, follow
from orchestrator.sweep_folder.promotion_report import make_report
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.connection import tracking_uri
from orchestrator.tracking.reading import read_sweeps
from orchestrator.tracking.run_tags import SWEEP_TAG

if TYPE_CHECKING:
    from orchestrator.tracking.registry import ModelVersion

IDENTITY_TAG = "orchestrator.identity"
VALUES_TAG = "orchestrator.values"
REGISTERED_TRIAL = 0
"""The run of the first seed, fixed in advance: registering the best of K would select on noise."""


class WeightsGoneError(OrchestratorError):
    """The weights of a final run are missing or broken."""


@dataclass(frozen=True)
class Crowned:
    """A promotion that made its model champion.

    Attributes:
        crowned_ms: When it first did.
    """

    plan: SweepPlan
    state: SweepState
    crowned_ms: int

    @property
    def result(self) -> Result:
        """Its result, as its decision had it."""
        return make_result(self.plan, self.state, sweep_dir(self.plan.id) / JOURNAL_FILE)


def load_best(plan: SweepPlan, state: SweepState, trial: int) -> dict[str, Any]:
    """Return the best weights of a final run.

    Raises:
        WeightsGoneError: They are missing or broken.
    """
    from training.loop.checkpoint import CheckpointStore

    uri = trial_uri(plan, trial)
    found = CheckpointStore(uri).load_best(state.records[trial].chosen_epoch(plan.protocol))
    if found is None:
        raise WeightsGoneError(
            f"The best weights of final run {trial} are missing or broken under {uri}. Move {sweep_dir(plan.id)} away, "
            f"then promote again: `orchestrator promote {plan.parent} --seeds {plan.num_seeds}`"
        )
    return found


def require_same_data(plan: SweepPlan, result: Result) -> None:
    """Check that the data is that of the final runs; digit scenes are made again if they were deleted.

    Raises:
        OrchestratorError: It is not.
    """
    from training.data.registry import dataset_info
    from training.preparation import prepare

    # All final runs share their data; only the seeds differ.
    config = final_config(plan, 0).data
    prepare(config)
    trained_on, there = result.identity["data_hash"], dataset_info(config).data_hash
    # Runs without a known hash are refused by the decision, so there is nothing to compare here.
    if trained_on not in (UNKNOWN, there):
        raise OrchestratorError(
            f"The final runs were trained on {config.name} {trained_on[:12]}, but it is now {there[:12]}, so its test "
            f"split does not match. Restore the earlier data, then: orchestrator resume {plan.id}"
        )


def register_model(name: str, plan: SweepPlan, state: SweepState, result: Result) -> ModelVersion:
    """Register the run of a promotion's first seed, after its decision and its test figures; return the version.

    Raises:
        WeightsGoneError: Its weights are missing.
        OrchestratorError: MLflow does not answer, or does not have all final runs yet.
    """
    from orchestrator.tracking.registry import register_version
    from orchestrator.tracking.store import find_trial_run
    from orchestrator.tracking.tracker import sync
    from training.data.registry import dataset_info
    from training.inference.predictor import save_model

    assert state.promotion is not None
    weights = load_best(plan, state, REGISTERED_TRIAL)
    require_same_data(plan, result)
    # A registered version links to its run, so the run must be in MLflow first.
    run_id = find_trial_run(plan, REGISTERED_TRIAL) if sync(plan.id) else None
    if run_id is None:
        raise OrchestratorError(
            f"MLflow at {redact(tracking_uri())} does not have all final runs yet, and a model is registered with its "
            f"run. Nothing is lost. Continue when MLflow is back: orchestrator resume {plan.id}"
        )
    config, test = final_config(plan, REGISTERED_TRIAL), read_test(state)
    decision = read_decision(state.promotion)
    report = make_report(plan, state.records, {str(trial): figures for trial, figures in test.items()})
    card = render_card(name, plan, config, weights["classes"], state.provenance, result, decision, test, report)
    tags = {SWEEP_TAG: plan.id, IDENTITY_TAG: json.dumps(result.identity), VALUES_TAG: json.dumps(result.values)}
    # MLflow copies the folder into its artifacts.
    with tempfile.TemporaryDirectory(prefix="model-") as folder:
        save_model(Path(folder), config, weights, dataset_info(config.data).scale, card)
        return register_version(name, config.data.name, run_id, Path(folder), tags)


def restore_champions(name: str, say: Callable[[str], None]) -> tuple[str, ...]:
    """Register the champions of this home again if MLflow has lost them: after the loss of its database, say.

    They get their versions in the order in which they became champion; the last one becomes champion.

    Args:
        name: Name of the registered model.
        say: Called with what is done.

    Returns:
        What could not be restored, as sentences.

    Raises:
        OrchestratorError: MLflow does not answer.
    """
    from orchestrator.tracking.registry import find_champion, find_version_of, set_champion

    if find_champion(name) is not None:
        return ()
    gone = []
    # One whose version is still there has not been lost: somebody has taken its alias away.
    for crowned in [found for found in find_crowned(name) if find_version_of(name, found.plan.id) is None]:
        say(f"MLflow has lost {name}@champion of {crowned.plan.id}: registering it again")
        try:
            set_champion(register_model(name, crowned.plan, crowned.state, crowned.result))
        except WeightsGoneError as error:
            gone.append(
                f"the former champion {crowned.result} of {crowned.plan.id} is not compared with: MLflow has lost it, "
                f"and it cannot be registered again. {error}"
            )
    return tuple(gone)


def find_crowned(name: str) -> list[Crowned]:
    """Return the promotions of this home that made this model champion, in the order in which they did."""
    found = []
    for plan, state in read_sweeps({"promote"}):
        if state.champion is not None and state.promotion is not None and state.promotion.model == name:
            events = follow(sweep_dir(plan.id) / JOURNAL_FILE)[0]
            crowned_ms = min(event.time_ms for event in events if isinstance(event, ChampionSet))
            found.append(Crowned(plan, state, crowned_ms))
    return sorted(found, key=lambda crowned: crowned.crowned_ms)


def read_decision(event: PromotionDecided) -> Decision:
    """Return the decision in an event."""
    return Decision(Verdict(event.verdict), event.reason, tuple(event.marks))


def read_test(state: SweepState) -> Mapping[int, dict[str, float]]:
    """Return trial -> figures on the test split."""
    assert state.test is not None
    return {int(trial): dict(metrics) for trial, metrics in state.test.figures.items()}
