"""Conclude a promotion once its final runs have ended, and say how it went."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock

from orchestrator.home import sweep_dir, sweeps_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.promotion.limit import describe_short
from orchestrator.promotion.steps import PromotionSteps, write_config
from orchestrator.promotion.verdict import Decision, Verdict
from orchestrator.sweep.driver import FINISHED, INTERRUPTED, SweepOutcome
from orchestrator.sweep_folder.journal import JOURNAL_FILE, Journal
from orchestrator.sweep_folder.lease import Lease
from orchestrator.sweep_folder.records import TrialRecord
from orchestrator.tracking.connection import MlflowFailedError

LIMITED = "LIMITED"
_LOCK_FILE = ".promotion.lock"


@dataclass(frozen=True)
class PromotionOutcome:
    """The result of a promotion.

    Attributes:
        state: ``FINISHED``; or ``INTERRUPTED``, or ``LIMITED`` by GPU-hours, before the decision, which leaves the
            fields below empty.
        decision: The verdict, its reason and its marks.
        test: Trial -> test metrics in percent; they did not influence the decision.
        model: The registered model's name.
        version: ``NAME/VERSION`` under which it is registered, if it was promoted.
        config_file: The winner's settings, for you to commit.
        reused: Whether every step had already been taken.
        restored: Whether MLflow had lost a champion, which is registered again.
        keep_weights: Whether the weights of every final run are kept.
        tracking_problem: Why MLflow is incomplete, if it is.
        champion: ``NAME/VERSION`` of the present champion, if this promotion is registered.
    """

    plan: SweepPlan
    records: tuple[TrialRecord, ...]
    state: str
    seconds: float
    decision: Decision | None = None
    test: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    model: str | None = None
    version: str | None = None
    config_file: Path | None = None
    reused: bool = False
    restored: bool = False
    keep_weights: bool = False
    tracking_problem: str | None = None
    champion: str | None = None


def conclude(trained: SweepOutcome, started: float, say: Callable[[str], None], keep_weights: bool) -> PromotionOutcome:
    """Take those steps after the final runs that are not in the journal yet."""
    plan = trained.plan
    outcome = PromotionOutcome(
        plan,
        trained.records,
        trained.state,
        0.0,
        keep_weights=keep_weights,
        tracking_problem=trained.tracking_problem,
    )
    # An interrupted promotion must not be decided on the runs that happen to be complete.
    if trained.state == FINISHED and sum(record.ended for record in trained.records) < plan.num_trials:
        say(describe_short(plan, trained.records))
        outcome = replace(outcome, state=LIMITED)
    elif trained.state == FINISHED:
        folder = sweep_dir(plan.id)
        try:
            with (
                Lease(folder) as lease,
                # No other promotion may replace the champion between our look at it and our replacement of it.
                _one_conclusion_at_a_time(),
                Journal.open(folder / JOURNAL_FILE, lease) as journal,
            ):
                outcome = _take_steps(PromotionSteps(plan, journal, say), outcome)
        # The general advice is for sweeps; here the next step is to resume the promotion.
        except MlflowFailedError as error:
            advice = f"Nothing is lost. Continue when MLflow is back: orchestrator resume {plan.id}"
            raise MlflowFailedError(error.problem, advice) from error
        # The steps so far are in the journal, so stopping between two of them loses nothing.
        except KeyboardInterrupt:
            outcome = replace(outcome, state=INTERRUPTED)
    return replace(outcome, seconds=time.monotonic() - started)


def _take_steps(steps: PromotionSteps, outcome: PromotionOutcome) -> PromotionOutcome:
    # The order is the protocol: the test split is opened after the decision, so it cannot influence it.
    decision = steps.decide()
    test = steps.open_test()
    version = steps.register() if decision.verdict is Verdict.PROMOTE else None
    if version is None and not steps.taken:
        steps.restore()
    config_file = write_config(outcome.plan, decision)
    # Not if every step had already been taken: a promotion that is only read must not touch the disk.
    if steps.taken:
        steps.write_results()
        if not outcome.keep_weights:
            steps.drop_weights()
        steps.describe_in_sweep()
    return replace(
        outcome,
        decision=decision,
        test=test,
        model=steps.name,
        version=version,
        champion=None if version is None else steps.find_champion_now(),
        config_file=config_file,
        reused=not steps.taken,
        restored=steps.restored,
    )


def _one_conclusion_at_a_time() -> FileLock:
    """Return the lock that keeps two promotions from deciding against the same champion."""
    # The system releases the lock when its process dies, so no promotion is ever locked out permanently.
    return FileLock(sweeps_dir() / _LOCK_FILE)
