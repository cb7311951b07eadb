"""Keep a promotion below a limit of GPU-hours: the runs that are reported come first, and the race gets what is left.

The limit is of the promotion as a whole. Its race has it as its own, and keeps the reported runs; those have what the
race has left of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import sweep_dir
from orchestrator.planning.choice import Choice
from orchestrator.planning.cost import Reserve
from orchestrator.planning.estimate import Timing, estimate_cost
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.index import load_plan
from orchestrator.sweep_folder.journal import JOURNAL_FILE, replay
from orchestrator.sweep_folder.records import TrialRecord
from orchestrator.sweep_folder.spent import sum_runs
from orchestrator.trials.limit import Pace, PastTrials, round_up

LEAST_HOURS = 1e-9
"""A limit must be above 0; with this one, nothing starts."""


@dataclass(frozen=True)
class RunHours:
    """What runs of full length take, as the slowest tenth of a sweep's trials says.

    Attributes:
        pace: Of those trials.
        hours: GPU-hours of a run (CPU-hours without GPUs), in the race and afterwards.
    """

    pace: Pace
    hours: float

    @classmethod
    def of(cls, plan: SweepPlan, records: Sequence[TrialRecord]) -> RunHours:
        """Return what runs of a sweep's configurations take."""
        pace = PastTrials(plan, records).measure_pace([])
        return cls(pace, plan.resources.hours(plan.epochs * pace.epoch_s + pace.start_s))

    def limit(self, plan: SweepPlan, max_hours: float | None, num_later: int = 0) -> SweepPlan:
        """Return a race or final runs with a limit that keeps so many later runs; unchanged without a limit."""
        if max_hours is None:
            return plan
        timing = Timing(self.pace.epoch_s, 0.0, 1, "as in the sweep", self.pace.start_s)
        limited = replace(plan, max_gpu_hours=max(LEAST_HOURS, max_hours), reserve=Reserve(0, num_later))
        # Workers of a final run share its epochs, so it takes as many GPU-hours as one worker alone.
        single = replace(limited, resources=replace(plan.resources, workers=1))
        return replace(limited, cost=estimate_cost(single, timing, plan.concurrency))


def count_reported(choice: Choice, num_draws: int) -> int:
    """Return the number of final runs: the winner's, and as many of a champion that takes part."""
    return choice.seeds * num_draws * (2 if choice.champion_point is not None else 1)


def count_runs(choice: Choice, num_draws: int) -> int:
    """Return the number of runs of a promotion, with those of the race if nobody is dropped."""
    return choice.num_entrants * choice.blocks + count_reported(choice, num_draws)


def fit_choice(
    choose: Callable[..., Choice],
    budget: int | None,
    run: RunHours,
    max_hours: float | None,
    num_draws: int,
    *,
    least: bool,
) -> Choice:
    """Return the choice with the largest race that a limit allows, once the reported runs are kept.

    Args:
        choose: Returns the choice for a ``budget`` of runs of candidates; None is the default number.
        budget: The one that was asked for.
        run: What a run takes.
        max_hours: The limit of the whole promotion; None is no limit.
        num_draws: Label draws of the final runs.
        least: Take the smallest race if no other fits, rather than refuse.

    Raises:
        UserError: Not even the smallest one fits; the message has the least limit that would do.
    """
    choice = choose(budget=budget)
    if max_hours is None or count_runs(choice, num_draws) * run.hours <= max_hours:
        return choice
    asked, most = choice.budget, int(max_hours / run.hours) - count_reported(choice, num_draws)
    for runs in range(min(asked, max(0, most)), -1, -1):
        smaller = choose(budget=runs)
        if (least and runs == 0) or count_runs(smaller, num_draws) * run.hours <= max_hours:
            return replace(smaller, limited_from=asked)
    raise too_low(max_hours, count_runs(smaller, num_draws), run)


def too_low(max_hours: float, num_runs: int, run: RunHours) -> UserError:
    """Return the error for a limit below which a promotion could not report anything."""
    return UserError(
        f"--max-gpu-hours={max_hours:g} is less than a promotion takes: at least {num_runs} runs of about "
        f"{run.hours:.2g} hours. Use at least --max-gpu-hours {round_up(num_runs * run.hours):g}"
    )


def read_hours(sweep_id: str | None) -> float:
    """Return what the runs of a race or of final runs have taken so far, in hours; 0 of none, or if it is damaged."""
    if sweep_id is None:
        return 0.0
    try:
        return sum_runs(load_plan(sweep_id), replay(sweep_dir(sweep_id) / JOURNAL_FILE).records.values()).hours
    except OrchestratorError:
        return 0.0


def read_limit(plan: SweepPlan) -> float | None:
    """Return the present limit of a race or of final runs, which an extension may have changed."""
    return replay(sweep_dir(plan.id) / JOURNAL_FILE).max_gpu_hours or plan.max_gpu_hours


def own_limit(plan: SweepPlan, max_hours: float | None) -> float | None:
    """Return the limit of a race or of final runs, given that of the whole promotion."""
    if max_hours is None or plan.kind == "race":
        return max_hours
    return max(LEAST_HOURS, max_hours - read_hours(None if plan.choice is None else plan.choice.race))


def describe_short(plan: SweepPlan, records: Sequence[TrialRecord]) -> str:
    """Say how far final runs have got at their limit, and which limit of the promotion is enough for the others."""
    ended, epochs = sum(record.ended for record in records), sum(record.last_epoch for record in records)
    text = (
        f"the limit of GPU-hours is reached: {ended} of {plan.num_trials} final runs have ended, so nothing is "
        f"decided, and the test set stays closed."
    )
    if plan.suite is not None:
        return text
    spent = sum_runs(plan, records).hours
    race = read_hours(None if plan.choice is None else plan.choice.race)
    # Without a single epoch, nothing but the plan says how long one takes.
    epoch = spent / epochs if epochs else plan.resources.hours(PastTrials(plan).measure_pace([]).epoch_s)
    enough = round_up(1.1 * (race + spent + (plan.num_trials * plan.epochs - epochs) * epoch))
    return f"{text} Raise it: orchestrator extend {plan.id} --max-gpu-hours {enough:g}"
