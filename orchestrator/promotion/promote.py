"""Promote a sweep's winner: final runs, then the decision, the test split and the registry, in this order.

Like a sweep, a promotion has a folder with a plan and a journal. Each step is in the journal before the next one
begins, and none is taken twice: a promotion that died at any point is resumed, and a finished one is only read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock

from orchestrator.home import sweep_dir, sweeps_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.promotion.final_runs import find_same, plan_promotion
from orchestrator.promotion.lock import promoting
from orchestrator.promotion.steps import PromotionSteps, write_config
from orchestrator.promotion.verdict import Decision, Verdict
from orchestrator.sweep.driver import FINISHED, INTERRUPTED, SweepOutcome, resume, run_sweep
from orchestrator.sweep.options import DEFAULT, DriveOptions
from orchestrator.sweep_folder.index import load_plan
from orchestrator.sweep_folder.journal import JOURNAL_FILE, Journal, replay
from orchestrator.sweep_folder.lease import Lease
from orchestrator.sweep_folder.records import TrialRecord
from orchestrator.tracking.connection import MlflowFailedError, require_answer
from orchestrator.writable import require_writable

_LOCK_FILE = ".promotion.lock"
_NEEDS_MLFLOW = (
    "Nothing was started: a promotion needs MLflow, which knows the champion and registers the model. See what is "
    "wrong: orchestrator doctor"
)


@dataclass(frozen=True)
class PromotionOutcome:
    """The result of a promotion.

    Attributes:
        state: ``FINISHED``, or ``INTERRUPTED`` before the decision, which leaves the fields below empty.
        decision: The verdict, its reason and its marks.
        test: Trial -> test metrics in percent; they did not influence the decision.
        model: The registered model's name.
        version: ``NAME/VERSION`` under which it is registered, if it was promoted.
        config_file: The winner's settings, for you to commit.
        reused: Whether every step had already been taken.
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
    keep_weights: bool = False
    tracking_problem: str | None = None
    champion: str | None = None


def promote(
    sweep_id: str,
    options: DriveOptions = DEFAULT,
    *,
    seeds: int = 3,
    workers: int | None = None,
    keep_weights: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> PromotionOutcome:
    """Train a sweep's winner with fresh seeds, decide on it, open the test split, and register it if it won.

    The same final runs (sweep, winner, seeds, workers) are carried out only once: an interrupted promotion is
    continued, a finished one is read.

    Args:
        sweep_id: A finished sweep or training.
        options: How to run the final runs.
        seeds: Number of final runs.
        workers: Ray Train workers of each run; None is 1, or as many as fit on the GPUs if the sweep's trials use GPUs.
        keep_weights: Keep the best weights of every final run once the test figures are stored, not only those of the
            first seed.
        say: Called with each step after the final runs.

    Raises:
        UserError: No such sweep exists, it is not finished, has no COMPLETE trial, or is being promoted; or as
            :func:`orchestrator.sweep.driver.resume`.
        OrchestratorError: Ray or MLflow cannot be reached. The promotion can be resumed.
    """
    # Stored in the plan, because the `resume` of an interrupted promotion must know it.
    planned = replace(plan_promotion(sweep_id, seeds, workers, options.address), keep_weights=keep_weights)
    with promoting(sweep_id):
        # Looked up before anything is trained: a second `promote` of the same winner must not cost K more runs.
        known = find_same(planned)
        if known is None or not _is_concluded(known.id):
            _require_outside(options)
        started = time.monotonic()
        trained = run_sweep(planned, options) if known is None else resume(known.id, options)
        return _conclude(trained, started, say, keep_weights=keep_weights or trained.plan.keep_weights)


def resume_promotion(
    promotion_id: str, options: DriveOptions = DEFAULT, *, say: Callable[[str], None] = lambda text: None
) -> PromotionOutcome:
    """Continue a promotion; one that is finished is only read.

    Raises: as :func:`promote`.
    """
    started = time.monotonic()
    with promoting(load_plan(promotion_id).parent or promotion_id):
        if not _is_concluded(promotion_id):
            _require_outside(options)
        trained = resume(promotion_id, options)
        return _conclude(trained, started, say, keep_weights=trained.plan.keep_weights)


def _require_outside(options: DriveOptions) -> None:
    """Check what the work needs outside its own folder, before hours go into it."""
    require_writable(options.address)
    require_answer(_NEEDS_MLFLOW)


def _is_concluded(promotion_id: str) -> bool:
    return replay(sweep_dir(promotion_id) / JOURNAL_FILE).is_concluded


def _conclude(
    trained: SweepOutcome, started: float, say: Callable[[str], None], keep_weights: bool
) -> PromotionOutcome:
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
    if trained.state == FINISHED:
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
    )


def _one_conclusion_at_a_time() -> FileLock:
    """Return the lock that keeps two promotions from deciding against the same champion."""
    # The system releases the lock when its process dies, so no promotion is ever locked out permanently.
    return FileLock(sweeps_dir() / _LOCK_FILE)
