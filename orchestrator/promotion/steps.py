"""Conclude a promotion after its final runs: decide, open the test split, register. No step is taken twice."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.home import home
from orchestrator.planning.run_config import render_config
from orchestrator.planning.sweep_plan import SweepPlan, trial_config
from orchestrator.promotion.final_runs import final_config, make_result
from orchestrator.promotion.model_card import render_card
from orchestrator.promotion.verdict import Decision, Result, Verdict, decide, registered_name
from orchestrator.provenance import UNKNOWN
from orchestrator.redaction import redact
from orchestrator.sweep_folder.checkpoints import delete_checkpoints, trial_uri
from orchestrator.sweep_folder.events import ChampionSet, Event, PromotionDecided, TestOpened
from orchestrator.sweep_folder.index import load_plan
from orchestrator.sweep_folder.journal import Journal
from orchestrator.sweep_folder.records import TrialState
from orchestrator.tracking.connection import tracking_uri
from orchestrator.tracking.runs import SWEEP_TAG
from training.config.run import PLACE_KEYS

PROMOTED_DIR = "promoted"
IDENTITY_TAG = "orchestrator.identity"
VALUES_TAG = "orchestrator.values"
REGISTERED_TRIAL = 0
"""The run of the first seed, fixed in advance: registering the best of K would select on noise."""


class PromotionSteps:
    """The steps after the final runs. Each is taken unless the journal says that it already was.

    Attributes:
        name: Name of the registered model that the result belongs to.
        taken: Whether any step had to be taken.
    """

    def __init__(self, plan: SweepPlan, journal: Journal, say: Callable[[str], None]) -> None:
        self._plan, self._journal, self._state, self._say = plan, journal, journal.state, say
        self._result = make_result(plan, journal.state, journal.path)
        self.name = registered_name(self._result.identity)
        self.taken = False

    def decide(self) -> Decision:
        """Compare the result with the champion; compare again if it changed before a PROMOTE was carried out."""
        from orchestrator.tracking.registry import find_champion, find_other_champions

        # A decision is final unless it is a PROMOTE that was never carried out and the champion has since changed.
        known = self._state.promotion
        if known is not None and (known.verdict != Verdict.PROMOTE or self._state.champion is not None):
            return _read_decision(known)
        champion = find_champion(self.name)
        against = None if champion is None else str(champion)
        # A kill between the alias and its journal event leaves our own version as the champion.
        ours = champion is not None and champion.tags.get(SWEEP_TAG) == self._plan.id
        if known is not None and (ours or against == known.champion):
            return _read_decision(known)
        # Only the first result under its conditions is compared with results under other conditions.
        others = [] if champion else find_other_champions(self._result.identity["dataset"], self.name)
        decision = decide(
            self._result,
            None if champion is None else _read_result(str(champion), champion.tags),
            [_read_result(str(other), other.tags) for other in others],
        )
        self._append(
            PromotionDecided(
                str(decision.verdict), decision.reason, tuple(decision.marks), model=self.name, champion=against
            )
        )
        return decision

    def open_test(self) -> dict[int, dict[str, float]]:
        """Evaluate every complete final run on the test split, only once; return trial -> figures."""
        # The results are in the journal before anything else happens, so the split is opened once, whatever dies.
        if self._state.test is None:
            from training.inference.evaluation import evaluate_test

            self._check_data()
            # A failed run has no weights worth evaluating; the decision has already refused it.
            states = {
                trial: self._load_best(trial)
                for trial, record in self._state.records.items()
                if record.state is TrialState.COMPLETE
            }
            self._say(f"Evaluating {len(states)} final runs on the test split, which is opened only once")
            figures = {
                str(trial): evaluate_test(final_config(self._plan, trial), state) for trial, state in states.items()
            }
            self._append(TestOpened(figures, epochs={str(trial): state["epoch"] for trial, state in states.items()}))
            self._sync()
        assert self._state.test is not None
        return {int(trial): dict(metrics) for trial, metrics in self._state.test.figures.items()}

    def register(self, decision: Decision, test: Mapping[int, Mapping[str, float]]) -> str:
        """Register the run of the first seed and make it champion; return ``NAME/VERSION``."""
        if self._state.champion is not None:
            return self._state.champion.version
        from orchestrator.tracking.registry import register_version, set_champion
        from orchestrator.tracking.store import find_trial_run
        from training.data.registry import dataset_info
        from training.inference.predictor import save_model

        self._say(f"Registering the run of the first seed as {self.name}@champion")
        # A registered version links to its run, so the run must be in MLflow first.
        run_id = find_trial_run(self._plan, REGISTERED_TRIAL) if self._sync() else None
        if run_id is None:
            raise OrchestratorError(
                f"MLflow at {redact(tracking_uri())} does not have all final runs yet, and a model is registered with "
                f"its run. Nothing is lost. Continue when MLflow is back: orchestrator resume {self._plan.id}"
            )
        config, state = final_config(self._plan, REGISTERED_TRIAL), self._load_best(REGISTERED_TRIAL)
        card = render_card(
            self.name, self._plan, config, state["classes"], self._state.provenance, self._result, decision, test
        )
        tags = {
            SWEEP_TAG: self._plan.id,
            IDENTITY_TAG: json.dumps(self._result.identity),
            VALUES_TAG: json.dumps(self._result.values),
        }
        # MLflow copies the folder into its artifacts.
        with tempfile.TemporaryDirectory(prefix="model-") as folder:
            save_model(Path(folder), config, state, dataset_info(config.data).scale, card)
            version = register_version(self.name, config.data.name, run_id, Path(folder), tags)
        # The alias moves before the event is written: setting an alias twice is harmless, losing a champion is not.
        set_champion(version)
        self._append(ChampionSet(str(version)))
        self._sync()
        return str(version)

    def drop_weights(self) -> None:
        """Delete the weights of all runs but the first seed's; their figures are stored."""
        for trial in self._state.records:
            if trial != REGISTERED_TRIAL:
                with suppress(OSError):  # left-over weights take disk space, but the promotion is valid
                    delete_checkpoints(self._plan, trial)

    def _check_data(self) -> None:
        """Check that the test split belongs to the data of the final runs; recreate it if it was deleted."""
        from training.data.registry import dataset_info
        from training.preparation import prepare

        # All final runs share their data; only the seeds differ.
        config = final_config(self._plan, 0).data
        prepare(config)
        trained_on, there = self._result.identity["data_hash"], dataset_info(config).data_hash
        # Runs without a known hash are refused by the decision, so there is nothing to compare here.
        if trained_on not in (UNKNOWN, there):
            raise OrchestratorError(
                f"The final runs were trained on {config.name} {trained_on[:12]}, but it is now {there[:12]}, so its "
                f"test split does not match. Restore the earlier data, then: orchestrator resume {self._plan.id}"
            )

    def _append(self, event: Event) -> None:
        self._journal.append(event)
        self.taken = True

    def _sync(self) -> bool:
        from orchestrator.tracking.tracker import sync

        return sync(self._plan.id)

    def _load_best(self, trial: int) -> dict[str, Any]:
        from training.loop.checkpoint import CheckpointStore

        uri = trial_uri(self._plan, trial)
        state = CheckpointStore(uri).load_best(self._state.records[trial].chosen_epoch(self._plan.protocol))
        if state is None:
            raise OrchestratorError(
                f"The best weights of final run {trial} are missing or broken under {uri}. Promote the sweep again."
            )
        return state


def _read_decision(event: PromotionDecided) -> Decision:
    return Decision(Verdict(event.verdict), event.reason, tuple(event.marks))


def _read_result(name: str, tags: Mapping[str, str]) -> Result:
    return Result(name, json.loads(tags.get(IDENTITY_TAG, "{}")), tuple(json.loads(tags.get(VALUES_TAG, "[]"))))


def write_config(plan: SweepPlan, decision: Decision) -> Path:
    """Write the winner's settings to a file that can be committed; return it."""
    assert plan.parent is not None
    # Each final run has its own seed; the winner itself has none.
    winner = {key: value for key, value in plan.start_from[0].items() if key != "loop.seed"}
    config = trial_config(load_plan(plan.parent), winner).flatten()
    # Without paths: a committed file is read on machines that keep their data elsewhere.
    config = {key: value for key, value in config.items() if key not in PLACE_KEYS}
    path = home() / PROMOTED_DIR / f"{plan.id}.yaml"
    path.parent.mkdir(exist_ok=True)
    comment = (
        f"Winner of {plan.parent} ({plan.method} on {plan.dataset}, selected by {plan.protocol}).\n"
        f"{decision.verdict}: {decision.reason}.\n"
        f"Train it again: orchestrator train --from {PROMOTED_DIR}/{path.name}"
    )
    path.write_text(render_config(config, comment), encoding="utf-8")
    return path
