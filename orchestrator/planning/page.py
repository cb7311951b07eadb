"""Describes a plan before it starts: its notes, and the page that ``plan`` and ``--dry-run`` print."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping

from orchestrator.durations import format_estimate, format_hours
from orchestrator.planning.cost import Cost, Reserve
from orchestrator.planning.estimate import count_affordable, count_most_epochs
from orchestrator.planning.recipe import COMMON, CUSTOM, PUBLISHED, RECIPE_KEY
from orchestrator.planning.sweep_plan import SweepPlan
from search_spaces.schema import SearchSpace
from training.config.run import Scalar
from training.counts import counted
from training.selection import SelectBy

_RECIPES: dict[Scalar, str] = {
    COMMON: "one set-up for all methods of the space",
    PUBLISHED: "as the method's authors train it",
    CUSTOM: "the published one, changed",
}
_AFTER_WARMUP: dict[Scalar, str] = {"em_apl": "pseudo-labelling", "crisp": "its own risk", "splc": "correction"}
"""Method -> what starts after its warm-up; for all other methods, it is rejection."""
# Reduced runs show that things work. Their ranking says little about the ranking at full length.
_REDUCED = "reduced run: do not report these numbers"
LEARNING = {"tpe": "TPE", "gp": "the Gaussian process"}
"""Samplers that learn from earlier trials -> what messages call them."""
_CUT_KEYS = ("data.num_train", "data.num_val", "data.num_test")


def make_notes(
    plan: SweepPlan, space: SearchSpace, slots: int, largest_warmup: int, num_learned: int = 0
) -> tuple[str, ...]:
    """Return what the user should know before a sweep starts.

    Args:
        plan: The sweep.
        space: The search space that it was made from.
        slots: Trials that the machine can run at a time.
        largest_warmup: Most epochs before the first rejection in any trial.
        num_learned: How many of the start points come from earlier sweeps.
    """
    notes = [
        _recipe_note(plan),
        _reduced_note(plan, space),
        _search_note(plan, space) if plan.kind == "sweep" else None,
        _start_note(plan, space),
        _learned_note(num_learned),
        _pruning_note(plan, space),
        _screen_note(plan, space, largest_warmup),
        _warmup_note(plan, largest_warmup),
        f"{plan.concurrency} trials at a time share resources for {slots}" if plan.concurrency > slots else None,
    ]
    return tuple(note for note in notes if note)


def make_rerun_notes(plan: SweepPlan, full_epochs: int) -> tuple[str, ...]:
    """Return what the user should know before an earlier configuration is trained again."""
    cut = f"{_REDUCED}: {plan.epochs} of {full_epochs} epochs" if plan.epochs < full_epochs else None
    return tuple(note for note in (cut, _warmup_note(plan, int(plan.base.get("method.warmup_epochs") or 0))) if note)


def render_plan(plan: SweepPlan) -> list[str]:
    """Return the lines that say what would run, for how long, and why."""
    lines = [f"{plan.kind} {plan.name}: {plan.method} on {plan.dataset}, from {plan.space}"]
    lines += _table(_budget_rows(plan), indent=2)
    if plan.ranges:
        lines += ["  searched", *_table({key: str(found) for key, found in plan.ranges.items()}, indent=4)]
    for number, point in enumerate(plan.start_from):
        lines += _wrapped(f"trial {number}", point)
    # Start points may name keys that are no longer searched; the point fixes them.
    searched = {*plan.ranges, *(key for point in plan.start_from for key in point)}
    # In the order of the sections in a run, data first.
    for section in dict.fromkeys(key.split(".")[0] for key in plan.base):
        lines += _wrapped(
            f"fixed {section}",
            {key: plan.base[key] for key in plan.base if key.startswith(f"{section}.") and key not in searched},
        )
    notes = [note for note in (*plan.notes, _one_at_a_time_note(plan)) if note]
    return lines + [f"note: {note}" for note in notes]


def _budget_rows(plan: SweepPlan) -> dict[str, str]:
    rows = {"trials": f"{plan.num_trials}, {_epochs(plan.epochs)} each, {plan.concurrency} at a time"}
    if plan.ranges:
        rows["search"] = f"{plan.sampler}, seed {plan.search_seed}{_describe_startup(plan)}"
    recipe = plan.base[RECIPE_KEY]
    rows["recipe"] = f"{recipe}, {_RECIPES[recipe]}" if recipe in _RECIPES else str(recipe)
    if rules := _stopping_rules(plan):
        rows["stops early"] = rules
    rows["pruning"] = _describe_pruning(plan)
    if plan.min_gain is not None:
        rows["may end"] = (
            f"early, once the trials left are expected to gain less than {plan.min_gain:g} points together"
        )
    rows["selection"] = f"{plan.protocol} ({plan.protocol.metric})"
    rows["per trial"] = plan.resources.describe()
    rows["total epochs"] = _count_epochs(plan)
    rows |= _cost_rows(plan)
    rows["checkpoints"] = f"{plan.storage or 'in its own folder'}, at most {plan.cap_gib:g} GiB"
    if plan.parent:
        rows["from"] = plan.parent
    return rows


def _describe_startup(plan: SweepPlan) -> str:
    drawn = "evenly spread" if plan.startup == "quasi_random" else "random"
    if plan.sampler in LEARNING:
        return f"; {min(plan.startup_trials, plan.num_trials)} {drawn} start-up trials, including start points"
    return f"; {drawn} points" if plan.sampler == "random" and plan.startup == "quasi_random" else ""


def _describe_pruning(plan: SweepPlan) -> str:
    if plan.screen_epoch is not None:
        kept = plan.count_kept(plan.num_trials)
        best = f"the best {kept} of {plan.num_trials}" if kept < plan.num_trials else "all"
        return f"screen; all trials run to epoch {plan.screen_epoch}, then {best} to epoch {plan.epochs}"
    rungs = ", ".join(map(str, plan.rungs()))
    return f"ASHA; the best 1 in {plan.reduction_factor:g} continue after epoch {rungs}" if rungs else "none"


def _stopping_rules(plan: SweepPlan) -> str:
    patience, drop = plan.base["loop.patience_epochs"], plan.base["loop.max_drop_percent"]
    rules = []
    if isinstance(patience, int):
        rules.append(
            "at the first epoch without improvement"
            if patience == 0
            else f"after more than {patience} epochs without improvement"
        )
    if isinstance(drop, float):
        rules.append(f"at more than {drop:g} points below the best")
    return " or ".join(rules)


def _count_epochs(plan: SweepPlan) -> str:
    least = most = count_most_epochs(plan, plan.num_trials)
    if plan.rungs() and plan.screen_epoch is None:
        # At least: all trials but one are stopped at the first rung.
        least = (plan.num_trials - 1) * plan.rungs()[0] + plan.epochs
    # A rule may end every run at its first epoch.
    least = plan.num_trials if _stopping_rules(plan) else least
    if least == most:
        return str(most)
    return f"{least} to {most}" + (f", about {plan.cost.epochs:.0f} expected" if plan.cost else "")


def _cost_rows(plan: SweepPlan) -> dict[str, str]:
    cost, unit = plan.cost, plan.resources.hours_unit
    if cost is None:
        known = "unknown: nothing has measured an epoch of these settings. Measure it: --probe"
        return {"cost": known} | ({} if plan.max_gpu_hours is None else {"limit": f"{plan.max_gpu_hours:g} {unit}"})
    rows = {"cost": f"{format_hours(cost.p50_hours)} {unit} (p50), {format_hours(cost.p90_hours)} (p90)"}
    if cost.reserved_runs:
        reserve = plan.reserve or Reserve()
        reported = reserve.reported * (2 if reserve.with_champion else 1)
        race = f"at most {cost.reserved_runs - reported} in the race, {reported} reported"
        race += ", the champion's included" if reserve.with_champion else ""
        hours = format_hours(cost.reserved_hours)
        rows["promotion"] = f"{hours} {unit} more, for {cost.reserved_runs} runs: {race}"
    if cost.price_per_hour is not None:
        low, high = ((found + cost.reserved_hours) * cost.price_per_hour for found in (cost.p50_hours, cost.p90_hours))
        both = " with the promotion" if cost.reserved_runs else ""
        per = unit.removesuffix("s")
        rows["money"] = f"{low:,.2f} (p50), {high:,.2f} (p90){both}, at {cost.price_per_hour:g} per {per}"
    if plan.max_gpu_hours is not None:
        rows["limit"] = _describe_limit(plan, cost, plan.max_gpu_hours)
    parallel = min(plan.concurrency, cost.slots)
    times = [format_estimate(cost.p50_wall_s), format_estimate(cost.p90_wall_s)]
    rows["time"] = f"about {times[0]} (p50), {times[1]} (p90), on resources for {parallel} at a time"
    if cost.disk_gib is not None:
        rows["disk"] = f"about {cost.disk_gib:.1g} GiB" if cost.disk_gib < 10 else f"about {cost.disk_gib:.0f} GiB"
    if cost.mlflow_rows is not None:
        rows["MLflow"] = f"about {float(f'{cost.mlflow_rows:.2g}'):,.0f} rows"
    return rows | {"pace": cost.epoch_basis, "survival": cost.survival_basis}


def _describe_limit(plan: SweepPlan, cost: Cost, max_hours: float) -> str:
    affordable = count_affordable(plan, cost, max_hours)
    kept = ", with what is kept for the promotion" if cost.reserved_runs else ""
    enough = "enough" if affordable == plan.num_trials else f"enough for about {affordable} of {plan.num_trials} trials"
    return f"{max_hours:g} {plan.resources.hours_unit}{kept}: {enough}"


def _epochs(num: int) -> str:
    return counted(num, "epoch")


def _table(rows: Mapping[str, str], indent: int) -> list[str]:
    width = max(map(len, rows))
    return [f"{' ' * indent}{key:{width}}  {value}" for key, value in rows.items()]


def _wrapped(title: str, settings: Mapping[str, Scalar]) -> list[str]:
    words = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]
    # Wrapped at a fixed width, so that the page is the same in a pipe and on a terminal.
    text = textwrap.fill(
        " ".join(words), 100, initial_indent=" " * 4, subsequent_indent=" " * 4, break_long_words=False
    )
    return [f"  {title}", *text.splitlines()] if words else []


def _recipe_note(plan: SweepPlan) -> str | None:
    if plan.base[RECIPE_KEY] != CUSTOM:
        return None
    return "no longer the published recipe: --set or --epochs changed it, so results are marked custom"


def _reduced_note(plan: SweepPlan, space: SearchSpace) -> str | None:
    """Return a warning if epochs or data are reduced from what the space says."""
    if plan.base[RECIPE_KEY] in (PUBLISHED, CUSTOM):
        return None  # it has its own budget, and another note for changes
    cuts = []
    if plan.epochs < space.budget.epochs:
        cuts.append(f"{plan.epochs} of {space.budget.epochs} epochs")
    for key in _CUT_KEYS:
        full, own = space.shared.fixed.get(key), plan.base.get(key)
        if isinstance(full, int) and isinstance(own, int) and own < full:
            cuts.append(f"{key} {own} of {full}")
    if not cuts:
        return None
    if plan.kind == "sweep" and plan.num_trials < space.budget.trials:
        # Fewer trials alone make a smaller search, not a reduced run; together with other reductions, they are
        # mentioned.
        cuts.insert(0, f"{plan.num_trials} of {space.budget.trials} trials")
    return f"{_REDUCED}: {', '.join(cuts)}"


def _search_note(plan: SweepPlan, space: SearchSpace) -> str | None:
    if plan.base[RECIPE_KEY] == PUBLISHED and not plan.ranges:
        return "published: nothing is searched; the published settings run once"
    if not plan.ranges:
        if plan.protocol.select_config_by is SelectBy.PUBLISHED:
            return "published: nothing is searched; the first start point runs once"
        return "nothing is left to search: one trial runs"
    if plan.sampler == "gp" and plan.screen_epoch is not None:
        return (
            f"{LEARNING['gp']} never decides: it learns from complete trials alone, and with the screen none is "
            "complete before all have been proposed. TPE learns from all: --set search.sampler=tpe"
        )
    points = plan.num_points
    if points is not None and points > plan.num_trials:
        return f"the grid has {points} points; only the first {plan.num_trials} run"
    # A reduced run already has its warning.
    if plan.sampler in LEARNING and plan.startup_trials >= plan.num_trials and _reduced_note(plan, space) is None:
        return (
            f"{LEARNING[plan.sampler]} never decides: all {plan.num_trials} trials are random start-up trials. Lower "
            "--startup-trials"
        )
    return None


def _start_note(plan: SweepPlan, space: SearchSpace) -> str | None:
    if plan.base[RECIPE_KEY] in (PUBLISHED, CUSTOM):
        return None
    if plan.sampler == "grid" and plan.ranges and space.methods[plan.method].start_from:
        return "start_from is ignored: a grid runs every point anyway"
    if plan.ranges and len(plan.start_from) > plan.num_trials:
        return f"only the first {plan.num_trials} of {len(plan.start_from)} start points run"
    return None


def _learned_note(num_learned: int) -> str | None:
    if not num_learned:
        return None
    return f"the last {num_learned} start points are the best trials of the sweeps that --learn-from names"


def _pruning_note(plan: SweepPlan, space: SearchSpace) -> str | None:
    if plan.kind != "sweep" or plan.scheduler == space.scheduler.name or plan.base[RECIPE_KEY] in (PUBLISHED, CUSTOM):
        return None
    # With one trial there is nothing to prune.
    if plan.num_trials == 1:
        return None
    by_warmup = space.scheduler.grace_epochs is None and space.scheduler.name == "asha"
    why = "largest warm-up + 2" if by_warmup else "scheduler.grace_epochs"
    return (
        f"pruning is off: it cannot stop a trial before epoch {plan.grace_epochs} ({why}), and trials have "
        f"{_epochs(plan.epochs)}"
    )


def _screen_note(plan: SweepPlan, space: SearchSpace, largest_warmup: int) -> str | None:
    if plan.screen_epoch is None:
        return None
    if plan.num_trials <= plan.keep:
        return f"the screen stops no trial: it keeps {plan.keep}, and there are {plan.num_trials}"
    if space.scheduler.grace_epochs is not None and plan.screen_epoch <= largest_warmup:
        return (
            f"the screen compares trials after epoch {plan.screen_epoch}; in those whose warm-up is "
            f"{_epochs(plan.screen_epoch)} or more, {_after_warmup(plan)} has not begun by then"
        )
    return None


def _one_at_a_time_note(plan: SweepPlan) -> str | None:
    if plan.kind != "sweep" or plan.scheduler != "asha" or plan.concurrency > 1 or plan.num_trials == 1:
        return None
    return (
        "one trial at a time: ASHA compares a trial with those that ran before it, so the first one runs to its end, "
        "and so does every trial that is the best so far"
    )


def _warmup_note(plan: SweepPlan, largest_warmup: int) -> str | None:
    # Allowed, because a test or a demo may want it, but rarely intended.
    if largest_warmup < plan.epochs:
        return None
    which = "trials whose warm-up is" if "method.warmup_epochs" in plan.ranges else "these trials, whose warm-up is"
    if plan.kind == "train":
        which = "this run, whose warm-up is"
    return f"{_after_warmup(plan)} never starts in {which} {plan.epochs} epochs or more"


def _after_warmup(plan: SweepPlan) -> str:
    return _AFTER_WARMUP.get(plan.base["method.name"], "rejection")
