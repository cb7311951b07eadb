"""Conclude a promotion after its final runs: decide, open the test split, register. No step is taken twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import home
from orchestrator.planning.data_fit import locate_data
from orchestrator.planning.run_config import render_config
from orchestrator.planning.sweep_plan import SweepPlan, trial_config
from orchestrator.promotion.final_runs import make_result
from orchestrator.promotion.registration import (
    IDENTITY_TAG,
    REGISTERED_TRIAL,
    VALUES_TAG,
    read_decision,
    read_test,
    register_model,
    require_same_data,
    restore_champions,
)
from orchestrator.promotion.verdict import Decision, Result, Verdict, decide, registered_name
from orchestrator.sweep_folder.checkpoints import delete_checkpoints
from orchestrator.sweep_folder.events import ChampionSet, Event, PromotionDecided
from orchestrator.sweep_folder.index import load_plan
from orchestrator.sweep_folder.journal import Journal
from orchestrator.sweep_folder.rows import write_results
from orchestrator.tracking.run_tags import SWEEP_TAG
from training.config.run import PLACE_KEYS

PROMOTED_DIR = "promoted"
_DESCRIBE_S = 20.0


class PromotionSteps:
    """The steps after the final runs. Each is taken unless the journal says that it already was.

    Attributes:
        name: Name of the registered model that the result belongs to.
        taken: Whether any step had to be taken.
    """

    def __init__(self, plan: SweepPlan, journal: Journal, say: Callable[[str], None]) -> None:
        self._plan, self._journal, self._state, self._say = locate_data(plan), journal, journal.state, say
        self._result = make_result(plan, journal.state, journal.path)
        self.name = registered_name(self._result.identity)
        self.taken = self.restored = False

    def decide(self) -> Decision:
        """Compare the result with the champion; compare again if it changed before a PROMOTE was carried out."""
        from orchestrator.tracking.registry import find_champion, find_other_champions

        # A decision is final unless it is a PROMOTE that was never carried out and the champion has since changed.
        known = self._state.promotion
        if known is not None and (known.verdict != Verdict.PROMOTE or self._state.champion is not None):
            return read_decision(known)
        if self._plan.suite is not None:
            return self._decide_nothing()
        gone = restore_champions(self.name, self._say)
        champion = find_champion(self.name)
        against = None if champion is None else str(champion)
        # A kill between the alias and its journal event leaves our own version as the champion.
        ours = champion is not None and champion.tags.get(SWEEP_TAG) == self._plan.id
        if known is not None and (ours or against == known.champion):
            return read_decision(known)
        # Only the first result under its conditions is compared with results under other conditions.
        others = [] if champion else find_other_champions(self._result.identity["dataset"], self.name)
        decision = decide(
            self._result,
            None if champion is None else _read_result(str(champion), champion.tags),
            [_read_result(str(other), other.tags) for other in others],
            self._plan.choice,
        )
        decision = replace(decision, marks=(*decision.marks, *gone))
        self._append(
            PromotionDecided(
                str(decision.verdict), decision.reason, tuple(decision.marks), model=self.name, champion=against
            )
        )
        return decision

    def _decide_nothing(self) -> Decision:
        """Keep the champion, whoever it is: a benchmark compares methods, and registers no model."""
        decision = decide(self._result, None)
        if decision.verdict is Verdict.PROMOTE:
            decision = Decision(
                Verdict.KEEP, f"final runs of the benchmark {self._plan.suite}, which registers no model"
            )
        self._append(PromotionDecided(str(decision.verdict), decision.reason, (), model=self.name))
        return decision

    def open_test(self) -> Mapping[int, dict[str, float]]:
        """Evaluate every complete final run on the test split, only once; return trial -> figures."""
        # The results are in the journal before anything else happens, so the split is opened once, whatever dies.
        if self._state.test is None:
            # Here, because it imports torch, and most calls only read what is there.
            from orchestrator.promotion.scoring import score_final_runs

            require_same_data(self._plan, self._result)
            self._append(score_final_runs(self._plan, self._state, self._say))
            self._sync()
        return read_test(self._state)

    def register(self) -> str:
        """Register the run of the first seed and make it champion; return ``NAME/VERSION``."""
        if self._state.champion is not None:
            return self._find_registered(self._state.champion.version)
        from orchestrator.tracking.registry import set_champion

        self._say(f"Registering the run of the first seed as {self.name}@champion")
        version = register_model(self.name, self._plan, self._state, self._result)
        # The alias moves before the event is written: setting an alias twice is harmless, losing a champion is not.
        set_champion(version)
        self._append(ChampionSet(str(version)))
        self._sync()
        return str(version)

    def _find_registered(self, version: str) -> str:
        """Return the version that was registered earlier, which is registered again if MLflow has lost it."""
        from orchestrator.tracking.registry import find_version_of

        gone = restore_champions(self.name, self._note_restored)
        found = find_version_of(self.name, self._plan.id)
        if found is None and gone:
            raise OrchestratorError(gone[-1])
        if found is None:  # another champion has been registered since, so its version was not needed again
            return version
        # A new registry counts its versions anew. Not a step of the promotion, so it does not count as taken.
        if str(found) != version:
            self._journal.append(ChampionSet(str(found)))
        return str(found)

    def restore(self) -> None:
        """Register the champions again that MLflow has lost, after a promotion that registered nothing itself."""
        restore_champions(self.name, self._note_restored)

    def _note_restored(self, text: str) -> None:
        self.restored = True
        self._say(text)

    def find_champion_now(self) -> str | None:
        """Return the present champion, whoever it is."""
        from orchestrator.tracking.registry import find_champion

        champion = find_champion(self.name)
        return None if champion is None else str(champion)

    def write_results(self) -> None:
        """Write the rows of the results next to the journal."""
        with suppress(OSError):  # a view, which can be made from the journal at any time
            write_results(self._plan, self._state)

    def drop_weights(self) -> None:
        """Delete the weights of all runs but the first seed's; their figures are stored."""
        for trial in self._state.records:
            if trial != REGISTERED_TRIAL:
                with suppress(OSError):  # left-over weights take disk space, but the promotion is valid
                    delete_checkpoints(self._plan, trial)

    def describe_in_sweep(self) -> None:
        """Show the result in the description that the promoted sweep has in MLflow."""
        from orchestrator.tracking.tracker import sync

        # The promotion is valid without it, and the next `browse` writes it.
        with suppress(OrchestratorError, UserError):
            if self._plan.parent is not None:
                sync(self._plan.parent, _DESCRIBE_S)

    def _append(self, event: Event) -> None:
        self._journal.append(event)
        self.taken = True

    def _sync(self) -> bool:
        from orchestrator.tracking.tracker import sync

        return sync(self._plan.id)


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
