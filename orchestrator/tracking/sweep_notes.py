"""Say in a sweep's own run what MLflow's lists do not: how the sweep stands, its best trials, and what to do next."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.home import trial_name
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.promotion_report import GIVEN, DrawEstimate, find_test_metric, make_report, of_winner
from orchestrator.sweep_folder.records import TrialRecord, TrialState, leaderboard
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.markdown import block, code, escape, table
from orchestrator.tracking.trial_notes import MAX_NOTE, format_value, label_param
from training.counts import counted

LEADERBOARD_FILE = "leaderboard.json"
# Without this tag, MLflow shows the file as text.
LEADERBOARD_TAGS = {"mlflow.loggedArtifacts": json.dumps([{"path": LEADERBOARD_FILE, "type": "table"}])}

LEAST_REPORTED = 5
"""Trials from which on the page of the report is put into MLflow: of fewer, figures say less than the table does."""

_NUM_BEST = 10
_NUM_ROWS = 1000  # MLflow's page shows a table whole
_NUM_PARAMS = 6

Rows = Sequence[Mapping[str, Any]]
Link = Callable[[int], str | None]
"""Returns the address of a trial's run, if it has one."""


def describe_sweep(plan: SweepPlan, state: SweepState, rows: Rows, link: Link, promotions: Sequence[str] = ()) -> str:
    """Return the description of a sweep's run, as Markdown.

    Args:
        plan: The sweep.
        state: Its state.
        rows: Its leaderboard.
        link: Where the runs of its trials are.
        promotions: Descriptions of the promotions of this sweep.
    """
    parts = [_head(plan), _progress(plan, state)]
    if plan.kind == "promote":
        parts += [_decision(state), tabulate_promotion(plan, state, link)]
    elif rows:
        parts.append(_tabulate_best(plan, rows[:_NUM_BEST], link))
    parts += [*promotions, _point_to_report(plan, state, len(rows)), block(next_commands(plan, state))]
    return _fit([part for part in parts if part])


def has_report(plan: SweepPlan, num_trials: int) -> bool:
    """Whether the page of a report is put into a sweep's run at its end."""
    return plan.kind == "promote" or (plan.kind in ("sweep", "ablate") and num_trials >= LEAST_REPORTED)


def _point_to_report(plan: SweepPlan, state: SweepState, num_trials: int) -> str:
    if plan.kind != "sweep" or state.driver_state != "FINISHED" or not has_report(plan, num_trials):
        return ""
    return (
        f"Whether the lead is more than noise, what each setting does, what it cost, and how often the test split was "
        f"opened: {code('report.html')} among the artifacts says it in its first lines."
    )


def describe_promotion(plan: SweepPlan, state: SweepState) -> str:
    """Return what a promotion found, for the description of the sweep that it promotes."""
    heading = f"**Promotion** {code(plan.id)}"
    return "\n\n".join([heading, _decision(state), tabulate_promotion(plan, state, lambda trial: None)])


def tabulate_promotion(plan: SweepPlan, state: SweepState, link: Link) -> str:
    """Return a table of a promotion's final runs: the score on validation data, and on test data once it was opened."""
    tests = {} if state.test is None else state.test.figures
    opened = find_test_metric(tests.values())
    columns = [plan.protocol.metric, *([opened] if opened else [])]
    scores = {
        trial: [record.value(plan.protocol), *([tests.get(str(trial), {}).get(opened)] if opened else [])]
        for trial, record in sorted(state.records.items())
    }
    if not scores:
        return ""
    lines = [
        [_link(_name_final(plan, state.records[trial]), link(trial)), *map(_score, values)]
        for trial, values in scores.items()
    ]
    summary = [_mean_and_deviation(column) for column in zip(*of_winner(scores, plan), strict=True)]
    mean = "**mean**" if plan.num_draws == 1 else f"**mean, draw {plan.base['data.draw_seed']}**"
    lines.append([mean, *summary])
    found = make_report(plan, state.records, tests or None)
    if found.draws:
        over = [found.draws.get(name) for name in ("reported", "test")[: len(columns)]]
        lines.append([f"**mean, {plan.num_draws} label draws**", *map(_mean_and_interval, over)])
    given = "\n\nThe observed labels are given, not drawn: only seeds vary." if found.labels == GIVEN else ""
    return table(["final run", *map(escape, columns)], lines) + given


def _name_final(plan: SweepPlan, record: TrialRecord) -> str:
    draw = f", draw {record.params.get('data.draw_seed', plan.base['data.draw_seed'])}" if plan.num_draws > 1 else ""
    return f"seed {record.params.get('loop.seed')}{draw}{', champion' if record.trial >= plan.num_final else ''}"


def _mean_and_interval(found: DrawEstimate | None) -> str:
    if found is None:
        return ""
    bounds = "" if found.low is None or found.high is None else f" ({found.low:.2f} to {found.high:.2f})"
    return f"**{found.mean:.2f}{bounds}**"


def next_commands(plan: SweepPlan, state: SweepState) -> list[str]:
    """Return the commands that a reader may want next."""
    if state.driver_state == "RUNNING":
        return [f"orchestrator status {plan.id}"]
    is_done = state.driver_state == "FINISHED" and (plan.kind != "promote" or state.is_concluded)
    if not is_done:
        return [f"orchestrator resume {plan.id}"]
    if plan.kind == "promote":
        # Only a winner is registered.
        return [] if state.champion is None else [f"orchestrator evaluate {state.champion.version}"]
    promote = [] if plan.kind == "ablate" else [f"orchestrator promote {plan.id}"]
    return [f"orchestrator leaderboard {plan.id}", f"orchestrator browse {plan.id}", *promote]


def tabulate_leaderboard(plan: SweepPlan, rows: Rows) -> str:
    """Return a leaderboard as the JSON of a table of MLflow's, with its best 1,000 rows."""
    keys = list(dict.fromkeys(key for row in rows[:_NUM_ROWS] for key in row["params"]))
    columns = ["rank", "trial", "state", "value", "epoch", "last_epoch", "run_s", "attempts", "cause"]
    names = [plan.protocol.metric if column == "value" else column for column in columns]
    data = [
        [*(row[column] for column in columns), *(row["params"].get(key) for key in keys)] for row in rows[:_NUM_ROWS]
    ]
    return json.dumps({"columns": [*names, *keys], "data": data})


def rank(plan: SweepPlan, state: SweepState) -> Rows:
    """Return the rows of a sweep's leaderboard."""
    return leaderboard(state.records.values(), plan.protocol)


def _head(plan: SweepPlan) -> str:
    of = f" of {code(plan.parent)}" if plan.parent else ""
    return (
        f"**{plan.kind}** {code(plan.id)}{of}: {code(plan.method)} on {code(plan.dataset)}, recipe "
        f"{code(str(plan.base['loop.recipe']))}; {code(plan.protocol.metric)} in percent, selected by "
        f"{escape(str(plan.protocol))}."
    )


def _progress(plan: SweepPlan, state: SweepState) -> str:
    counts = Counter(record.state for record in state.records.values())
    ended = [f"{counts[kind]} {kind.lower()}" for kind in TrialState if kind not in _OPEN and counts[kind]]
    num_ended = sum(counts[kind] for kind in TrialState if kind not in _OPEN)
    listed = f" ({', '.join(ended)})" if ended else ""
    early = "" if state.early_end is None else f" It ended early: {escape(state.early_end)}."
    ended_of = f"{num_ended:,} of {counted(state.total(plan.num_trials), 'trial')} have ended{listed}"
    return f"{state.driver_state}: {ended_of}.{early}"


_OPEN = (TrialState.RUNNING, TrialState.INTERRUPTED, TrialState.SET_ASIDE)


def _decision(state: SweepState) -> str:
    decided = state.promotion
    if decided is None:
        return "Not decided yet."
    parts = [f"**{decided.verdict}**: {escape(decided.reason)}."]
    if state.champion is not None:
        parts.append(f"Registered as {code(state.champion.version)}.")
    return "\n\n".join([" ".join(parts), *(f"- {escape(mark)}" for mark in decided.marks)])


def _tabulate_best(plan: SweepPlan, rows: Rows, link: Link) -> str:
    keys = list(plan.ranges) or list(dict.fromkeys(key for row in rows for key in row["params"]))
    keys = keys[:_NUM_PARAMS]
    headers = ["trial", plan.protocol.metric, "epoch", "state", *map(label_param, keys)]
    lines = [
        [
            _link(trial_name(row["trial"]), link(row["trial"])),
            _score(row["value"]),
            "" if row["epoch"] is None else f"{row['epoch']}/{row['last_epoch']}",
            str(row["state"]),
            *(escape(format_value(row["params"][key])) if key in row["params"] else "" for key in keys),
        ]
        for row in rows
    ]
    return table([*map(escape, headers)], lines)


def _link(text: str, address: str | None) -> str:
    return escape(text) if address is None else f"[{escape(text)}]({address})"


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _mean_and_deviation(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    # One seed has no deviation.
    spread = f" ± {statistics.stdev(known):.2f}" if len(known) > 1 else ""
    return f"**{statistics.fmean(known):.2f}{spread}**"


def _fit(parts: list[str]) -> str:
    # Whole parts are left out, the longest first: half a table would not be one.
    while len(text := "\n\n".join(parts)) > MAX_NOTE and len(parts) > 1:
        parts.remove(max(parts, key=len))
    return text[:MAX_NOTE]
