"""Promote a sweep's winner: final runs, then the decision, the test split and the registry, in this order.

Like a sweep, a promotion has a folder with a plan and a journal. Each step is in the journal before the next one
begins, and none is taken twice: a promotion that died at any point is resumed, and a finished one is only read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from orchestrator.errors import UserError
from orchestrator.home import sweep_dir
from orchestrator.planning.choice import Choice
from orchestrator.planning.cost import REPORTED_SEEDS
from orchestrator.planning.data_fit import locate_data
from orchestrator.planning.follow_up import FreshSeeds, drop_replaced, make_promotion_plan
from orchestrator.planning.plan import make_identity
from orchestrator.planning.request import PlanRequest, require_hours
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.promotion.conclusion import PromotionOutcome, conclude
from orchestrator.promotion.earlier import find_by_rule, find_final_runs, has_failed, list_promotions
from orchestrator.promotion.final_runs import choose_draws, choose_workers, find_same, plan_promotion, read_promotable
from orchestrator.promotion.limit import RunHours, count_reported, fit_choice, own_limit, read_limit, too_low
from orchestrator.promotion.lock import promoting
from orchestrator.promotion.opponent import find_opponent
from orchestrator.promotion.race import describe_cost, make_final, make_race, plan_choice, settle_choice
from orchestrator.sweep.driver import FINISHED, SweepOutcome, resume, run_sweep
from orchestrator.sweep.options import DEFAULT, DriveOptions
from orchestrator.sweep_folder.checkpoints import find_storage
from orchestrator.sweep_folder.index import load_plan
from orchestrator.sweep_folder.journal import JOURNAL_FILE, replay
from orchestrator.sweep_folder.records import TrialRecord, best
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.connection import require_answer
from orchestrator.tracking.reading import read_sweep
from orchestrator.writable import require_writable

_NEEDS_MLFLOW = (
    "Nothing was started: a promotion needs MLflow, which knows the champion and registers the model. See what is "
    "wrong: orchestrator doctor"
)


def promote(
    sweep_id: str,
    options: DriveOptions = DEFAULT,
    *,
    seeds: int = 3,
    draws: int = 1,
    workers: int | None = None,
    keep_weights: bool = False,
    max_gpu_hours: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> PromotionOutcome:
    """Train the trial with the best score with fresh seeds, decide on it, open the test split, register it if it won.

    This is ``--rule best-score``: the best of many scores is too high, and its fresh runs decide and report at once.

    The same final runs (sweep, winner, seeds, workers) are carried out only once: an interrupted promotion is
    continued, a finished one is read.

    Args:
        sweep_id: A finished sweep or training.
        options: How to run the final runs.
        seeds: Number of final runs on each label draw.
        draws: Number of label draws: the sweep's own, which decides, and further ones. Where the observed labels are
            given, there is nothing to draw.
        workers: Ray Train workers of each run; None is 1, or as many as fit on the GPUs if the sweep's trials use GPUs.
        keep_weights: Keep the best weights of every final run once the test figures are stored, not only those of the
            first seed.
        max_gpu_hours: No run starts that could bring the promotion above this.
        say: Called with each step after the final runs.

    Raises:
        UserError: No such sweep exists, it is not finished, has no COMPLETE trial, or is being promoted; or as
            :func:`orchestrator.sweep.driver.resume`.
        OrchestratorError: Ray or MLflow cannot be reached. The promotion can be resumed.
    """
    # Stored in the plan, because the `resume` of an interrupted promotion must know it.
    planned = replace(plan_promotion(sweep_id, seeds, workers, options.address, draws), keep_weights=keep_weights)
    with promoting(sweep_id):
        # Looked up before anything is trained: a second `promote` of the same winner must not cost K more runs.
        known = find_same(planned)
        if known is None or not _is_concluded(known.id):
            _require_outside(options)
        started = time.monotonic()
        if known is None:
            trained = run_sweep(_limit_final(planned, max_gpu_hours), options)
        else:
            trained = resume(known.id, replace(options, max_gpu_hours=max_gpu_hours))
        return conclude(trained, started, say, keep_weights=keep_weights or trained.plan.keep_weights)


def promote_by_rule(
    sweep_id: str,
    options: DriveOptions = DEFAULT,
    *,
    seeds: int = REPORTED_SEEDS,
    draws: int = 1,
    workers: int | None = None,
    budget: int | None = None,
    keep_weights: bool = False,
    max_gpu_hours: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> PromotionOutcome:
    """Choose a winner by the rule (``docs/results.md``), report it from fresh seeds, and register it if it won.

    The best candidates and the champion race on common fresh seeds; the highest posterior mean wins. The winner and the
    champion are then trained with further seeds, which choose nothing. What was asked for before is not run again, and
    its choice stands if only more label draws are asked for.

    Args:
        sweep_id: A finished sweep or training.
        options: How to run.
        seeds: Fresh seeds that are reported, on each label draw.
        draws: As for :func:`promote`.
        workers: As for :func:`promote`; the race runs like the trials of the sweep.
        budget: Most runs of candidates in the race; None is half of what the sweep took.
        keep_weights: As for :func:`promote`.
        max_gpu_hours: The reported runs are kept below this limit; the race gets what is left, and ends when that is
            spent. Runs of a promotion that is continued count.
        say: Called with what will run, and with each step.

    Raises: as :func:`promote`; also UserError if every candidate fails in the race.
    """
    PlanRequest(seeds=seeds, workers=1 if workers is None else workers, max_gpu_hours=max_gpu_hours).check_counts()
    if budget is not None and budget < 0:
        raise UserError(f"--race-runs must be at least 0, but got --race-runs={budget}.")
    plan, state = read_promotable(sweep_id)
    label_draws = choose_draws(plan, draws)
    with promoting(sweep_id):
        started, num_trials = time.monotonic(), len(state.records)

        def find(num_draws: int | None) -> SweepPlan | None:
            asked = {"workers": workers, "budget": budget, "num_draws": num_draws}
            return find_by_rule(sweep_id, num_trials, seeds=seeds, **asked)

        known = find(max(1, len(label_draws or ())))
        if known is None or not _is_concluded(known.id):
            _require_outside(options)
        if known is not None:
            return _follow_rule(known, options, started, say, keep_weights=keep_weights, max_gpu_hours=max_gpu_hours)
        records = list(state.records.values())
        earlier = find(None)
        if earlier is not None and earlier.choice is not None and earlier.kind == "promote":
            say(f"Chosen by {earlier.id}, which stands: only the label draws are others")
            begun = _limit_final(make_final(plan, records, earlier.choice, label_draws), max_gpu_hours)
        else:
            run, num_draws = RunHours.of(plan, records), max(1, len(label_draws or ()))
            choose = _prepare_choice(plan, state, options, seeds, workers, say)
            choice = fit_choice(choose, budget, run, max_gpu_hours, num_draws, least=False)
            for line in describe_cost(plan, records, choice, label_draws):
                say(line)
            begun = _begin(plan, records, choice, label_draws, max_gpu_hours)
        trained = run_sweep(replace(begun, keep_weights=keep_weights), options)
        return _follow_rule(trained.plan, options, started, say, trained, keep_weights=keep_weights)


def _begin(
    plan: SweepPlan,
    records: Sequence[TrialRecord],
    choice: Choice,
    label_draws: tuple[int, ...] | None,
    max_gpu_hours: float | None,
    suite: str | None = None,
) -> SweepPlan:
    """Return the plan of a choice's race, or of its final runs if nobody races."""
    run = RunHours.of(plan, records)
    if not choice.num_entrants:
        fresh = None if suite is None else FreshSeeds(suite)
        return run.limit(make_final(plan, records, choice, label_draws, fresh), max_gpu_hours)
    race = make_race(plan, records, choice, label_draws, suite)
    return run.limit(race, max_gpu_hours, count_reported(choice, max(1, len(label_draws or ()))))


def _limit_final(planned: SweepPlan, max_gpu_hours: float | None) -> SweepPlan:
    """Return final runs with the limit of their promotion, unless it is too low for them.

    Raises:
        UserError: It is.
    """
    if max_gpu_hours is None:
        return planned
    require_hours(max_gpu_hours)
    assert planned.parent is not None
    sweep, state = read_sweep(planned.parent)
    run, left = RunHours.of(sweep, list(state.records.values())), own_limit(planned, max_gpu_hours)
    if left is None or planned.num_trials * run.hours > left:
        raise too_low(max_gpu_hours, planned.num_trials, run)
    return run.limit(planned, left)


def _prepare_choice(
    plan: SweepPlan,
    state: SweepState,
    options: DriveOptions,
    seeds: int,
    workers: int | None,
    say: Callable[[str], None],
) -> Callable[..., Choice]:
    """Return a function that says what the rule chooses before anything runs again, within a ``budget`` of runs."""
    winner = best(state.records.values(), plan.protocol)
    assert winner is not None
    workers = choose_workers(plan, winner.params, workers, options.address)
    final = make_promotion_plan(plan, winner.params, seeds=seeds, workers=workers, storage=find_storage(plan))
    opponent = find_opponent(plan, state, final, say)
    records = list(state.records.values())
    return partial(plan_choice, plan, records, opponent, seeds=seeds, workers=workers)


def _follow_rule(
    plan: SweepPlan,
    options: DriveOptions,
    started: float,
    say: Callable[[str], None],
    trained: SweepOutcome | None = None,
    *,
    keep_weights: bool,
    max_gpu_hours: float | None = None,
) -> PromotionOutcome:
    """Go on from a race or from final runs, which are resumed unless they have just been trained.

    ``max_gpu_hours`` is a new limit of the promotion; None leaves it as it is.
    """
    if trained is None:
        limit = own_limit(plan, max_gpu_hours)
        trained = _read_race(plan) or resume(plan.id, replace(options, max_gpu_hours=limit))
    if plan.kind == "race" and trained.state == FINISHED:
        assert plan.parent is not None
        # Those that the race began with: the sweep may have been extended meanwhile.
        sweep, state = read_sweep(plan.parent)
        assert plan.choice is not None
        records = [record for trial, record in sorted(state.records.items()) if trial < plan.choice.num_trials]
        choice = settle_choice(sweep, records, plan, trained.records)
        say(f"Chosen: trial {choice.trial} of {sweep.id}. Now {choice.seeds} fresh seeds, which choose nothing")
        fresh = None if plan.suite is None else FreshSeeds(plan.suite)
        final = make_final(locate_data(sweep), records, choice, plan.label_draws, fresh)
        limit = max_gpu_hours or read_limit(plan)
        final = RunHours.of(sweep, records).limit(final, own_limit(final, limit))
        trained = run_sweep(replace(final, keep_weights=plan.keep_weights), options)
    return conclude(trained, started, say, keep_weights=keep_weights or trained.plan.keep_weights)


def _read_race(plan: SweepPlan) -> SweepOutcome | None:
    """Return a race that is over; a drop spares runs, so it may have fewer than planned, and must not start Ray."""
    state = replay(sweep_dir(plan.id) / JOURNAL_FILE)
    if plan.kind != "race" or state.driver_state != FINISHED:
        return None
    return SweepOutcome(plan, tuple(record for _, record in sorted(state.records.items())), FINISHED, 0.0)


def resume_promotion(
    promotion_id: str,
    options: DriveOptions = DEFAULT,
    *,
    max_gpu_hours: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> PromotionOutcome:
    """Continue a promotion, from its race or its final runs; one that is finished is only read.

    A new limit of GPU-hours is for the whole promotion; None leaves it as it is.

    Raises: as :func:`promote`.
    """
    started, plan = time.monotonic(), load_plan(promotion_id)
    parent = plan.parent or promotion_id
    with promoting(parent):
        if plan.kind == "race":
            plan = find_final_runs(plan.id, parent, plan.suite) or plan
        # A benchmark registers nothing, so it can do without MLflow.
        if plan.suite is None and not _is_concluded(plan.id):
            _require_outside(options)
        return _follow_rule(plan, options, started, say, keep_weights=plan.keep_weights, max_gpu_hours=max_gpu_hours)


def promote_in_suite(
    sweep_id: str,
    options: DriveOptions = DEFAULT,
    *,
    seeds: int,
    race_runs: int,
    max_gpu_hours: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> PromotionOutcome:
    """Take the next step of a benchmark's promotion: choose by the rule, without a champion, and report fresh seeds.

    All methods of a benchmark have the same fresh seeds. Nothing is registered. What has been run is not run again; if
    there are fewer seeds than asked for, the rest are run with the configuration that was chosen, as another opening
    of the test set. Final runs of which one has failed are run again, with the same seeds.

    Args:
        sweep_id: A finished sweep that is part of a benchmark.
        options: How to run.
        seeds: Fresh seeds that are to be reported in all.
        race_runs: Most runs in the race; 0 is no race.
        max_gpu_hours: As for :func:`promote_by_rule`, but final runs that have been concluded do not count.
        say: Called with what will run, and with each step.

    Raises: as :func:`promote_by_rule`.
    """
    plan, state = read_promotable(sweep_id)
    assert plan.suite is not None, "only what is part of a benchmark is promoted in one"
    with promoting(sweep_id):
        started = time.monotonic()
        known = list_promotions(sweep_id, plan.suite)
        finals = drop_replaced([found for found in known if found.kind == "promote"])
        num_planned = sum(found.num_final for found in finals)
        failed = [found for found in finals if has_failed(found)]
        open_ = [found for found in finals if not _is_concluded(found.id)] or ([] if finals else known[:1])
        if open_ or (num_planned >= seeds and not failed):
            latest = (open_ or finals)[-1]
            return _follow_rule(latest, options, started, say, keep_weights=False, max_gpu_hours=max_gpu_hours)
        records = list(state.records.values())
        if failed:
            # The same seeds once more: for the ledger that is the same opening.
            begun = replace(failed[-1], **make_identity("promote", failed[-1].name), max_gpu_hours=max_gpu_hours)
        elif finals:
            assert finals[0].choice is not None
            choice = replace(finals[0].choice, seeds=seeds - num_planned)
            begun = make_final(plan, records, choice, fresh=FreshSeeds(plan.suite, num_planned))
            begun = RunHours.of(plan, records).limit(begun, max_gpu_hours)
        else:
            # As many workers as in the search, whatever the machine, so that all methods have the same.
            workers = plan.resources.workers
            choose = partial(plan_choice, plan, records, None, seeds=seeds, workers=workers)
            choice = fit_choice(choose, race_runs, RunHours.of(plan, records), max_gpu_hours, 1, least=True)
            for line in describe_cost(plan, records, choice):
                say(line)
            begun = _begin(plan, records, choice, None, max_gpu_hours, plan.suite)
        trained = run_sweep(begun, options)
        return _follow_rule(trained.plan, options, started, say, trained, keep_weights=False)


def _require_outside(options: DriveOptions) -> None:
    """Check what the work needs outside its own folder, before hours go into it."""
    require_writable(options.address)
    require_answer(_NEEDS_MLFLOW)


def _is_concluded(promotion_id: str) -> bool:
    return replay(sweep_dir(promotion_id) / JOURNAL_FILE).is_concluded
