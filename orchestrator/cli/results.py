"""The verbs that tell what became of a sweep: status, leaderboard."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import EXIT_FAILURE, JsonOption, SweepArgument
from orchestrator.cli.output import (
    format_number,
    format_score,
    print_csv,
    print_json,
    print_line,
    print_next,
    print_note,
    print_table,
    print_text,
)
from orchestrator.durations import format_seconds

if TYPE_CHECKING:
    from orchestrator.errors import UserError
    from orchestrator.planning.sweep_plan import SweepPlan
    from orchestrator.sweep_folder.index import SweepEntry
    from orchestrator.sweep_folder.records import TrialRecord
    from orchestrator.sweep_folder.state import SweepState
    from orchestrator.tracking.recall import RecalledSweep

BROKEN = "BROKEN"
MAX_SCREEN_ROWS = 300
NO_TRUE_LABELS = (
    "True labels are not available: val/mAP, rejection precision and recall, and false negatives are not measured."
)


def status(
    sweep: SweepArgument = None,
    every: Annotated[bool, typer.Option("--all", help="List all sweeps, trainings and promotions.")] = False,
    json: JsonOption = False,
) -> None:
    """Tell where a sweep stands.

    Its trials, the best so far, and what to type next. One that is not in this home is looked for in MLflow.
    """
    from orchestrator.sweep_folder.index import list_sweeps

    if every:
        summaries = [_summarise_or_tell(entry) for entry in list_sweeps()]
        _print_all(summaries, json)
        if any(found["state"] == BROKEN for found in summaries):
            raise typer.Exit(EXIT_FAILURE)
        return
    found = _find(sweep)
    if isinstance(found, str):
        summary = _summarise(found)
    else:
        _print_source(found)
        summary = {**_summarise_state(found.plan, found.state, str(found.state.driver_state)), **_source(found)}
    if json:
        print_json(summary)
    else:
        _print_status(summary)


def leaderboard(
    sweep: SweepArgument = None,
    json: JsonOption = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Rank a sweep's trials.

    By its protocol; scores are percent. A sweep that is not in this home is looked for in MLflow.
    """
    from orchestrator.errors import UserError

    if json and csv:
        raise UserError("leaderboard must be printed one way, but got --json and --csv. Leave one out.")
    found = _find(sweep)
    if isinstance(found, str):
        show_leaderboard(*read_sweep(found), json=json, csv=csv)
    else:
        _print_source(found)
        show_leaderboard(found.plan, found.state, json=json, csv=csv, source=_source(found))


def show_leaderboard(
    plan: SweepPlan,
    state: SweepState,
    *,
    json: bool = False,
    csv: bool = False,
    num_rows: int | None = None,
    source: Mapping[str, Any] | None = None,
) -> None:
    """Print a leaderboard with the recipe and the protocol that it stands for.

    Args:
        plan: The sweep.
        state: What its journal comes to.
        json, csv: Not for eyes; every row then carries recipe and protocol.
        num_rows: Print only so many on a screen.
        source: Of a sweep that is not in this home, what JSON is to say of where this comes from.
    """
    from orchestrator.results.ablation import tabulate_ablation
    from orchestrator.sweep_folder import records

    rows = records.leaderboard(state.records.values(), plan.protocol)
    ablation = tabulate_ablation(plan, state.records.values()) if plan.kind == "ablate" else None
    if json:
        named = {**_identify(plan), **(source or {}), "true_labels": _true_labels(state)}
        print_json({**named, "rows": rows, **({"ablation": ablation} if ablation else {})})
    elif csv:
        print_csv([{**row, **_identify(plan)} for row in rows])
    else:
        # More is not read on a screen, and drawing thousands of rows takes seconds.
        _print_leaderboard(
            plan, rows, num_rows or (MAX_SCREEN_ROWS if sys.stdout.isatty() else None), is_here=source is None
        )
        if ablation:
            _print_ablation(plan, ablation)
        if _true_labels(state) == "not available":
            print_text(NO_TRUE_LABELS)


def _identify(plan: SweepPlan) -> dict[str, str]:
    from orchestrator.planning.recipe import RECIPE_KEY

    return {
        "sweep": plan.id,
        "dataset": plan.dataset,
        "method": plan.method,
        "recipe": str(plan.base[RECIPE_KEY]),
        "metric": plan.protocol.metric,
        "select_config_by": str(plan.protocol.select_config_by),
        "select_epoch_by": str(plan.protocol.select_epoch_by),
    }


def read_sweep(sweep_id: str) -> tuple[SweepPlan, SweepState]:
    """Return a sweep's plan and what its journal comes to."""
    from orchestrator.home import sweep_dir
    from orchestrator.sweep_folder.index import load_plan
    from orchestrator.sweep_folder.journal import JOURNAL_FILE, replay

    return load_plan(sweep_id), replay(sweep_dir(sweep_id) / JOURNAL_FILE)


def _true_labels(state: SweepState) -> str | None:
    return state.provenance.get("true_labels")


def _find(sweep: str | None) -> str | RecalledSweep:
    """Return the id of a sweep of this home, else what MLflow knows of one."""
    from orchestrator.errors import UserError
    from orchestrator.home import require_home
    from orchestrator.sweep_folder.index import find_sweep

    require_home()
    try:
        return find_sweep(sweep)
    except UserError as not_here:
        return _recall(sweep, not_here)


def _recall(sweep: str | None, not_here: UserError) -> RecalledSweep:
    from orchestrator.errors import OrchestratorError, UserError
    from orchestrator.redaction import redact
    from orchestrator.tracking.connection import is_shared, tracking_uri
    from orchestrator.tracking.recall import recall_sweep

    if sweep is None and not is_shared():
        raise not_here
    try:
        found = recall_sweep(sweep)
    except OrchestratorError as error:
        raise OrchestratorError(f"{error} It was asked because the sweep is not in this home: {not_here}") from error
    if found is None and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise not_here  # MLflow's store is a file of this home
    if found is None:
        place = f"in this home or in MLflow at {redact(tracking_uri())}"
        raise UserError(f"sweep must be {place}, but neither has {'one' if sweep is None else repr(sweep)}: {not_here}")
    return found


def _source(found: RecalledSweep) -> dict[str, Any]:
    reported = None if found.reported_ms is None else datetime.fromtimestamp(found.reported_ms / 1000).astimezone()
    return {"mlflow": found.uri, "last_event": None if reported is None else reported.isoformat(timespec="seconds")}


def _print_source(found: RecalledSweep) -> None:
    last = (
        ""
        if found.reported_ms is None
        else f"; its last event is {format_seconds(max(0.0, time.time() - found.reported_ms / 1000))} old"
    )
    print_note(
        f"{found.plan.id} is not in this home: this is what MLflow at {found.uri} knows, maybe some seconds "
        f"behind{last}."
    )


def _summarise(sweep_id: str) -> dict[str, Any]:
    from orchestrator.home import sweep_dir
    from orchestrator.sweep_folder.lease import find_holder

    plan, state = read_sweep(sweep_id)
    return _summarise_state(
        plan, state, _driver_state(state.driver_state, is_driven=find_holder(sweep_dir(sweep_id)) is not None)
    )


def _summarise_state(plan: SweepPlan, state: SweepState, driver_state: str) -> dict[str, Any]:
    from orchestrator.sweep_folder.records import TrialState, best

    records = list(state.records.values())
    counts = Counter(record.state for record in records)
    winner = best(records, plan.protocol)
    return {
        **_identify(plan),
        "name": plan.name,
        "kind": plan.kind,
        "state": driver_state,
        "created": datetime.fromtimestamp(plan.created).astimezone().isoformat(timespec="seconds"),
        "run_s": _elapsed_s(state),
        "num_trials": state.num_trials or plan.num_trials,
        "epochs": plan.epochs,
        "trials": {str(trial_state): counts[trial_state] for trial_state in TrialState},
        "best": None if winner is None else _trial(winner, plan),
        "true_labels": _true_labels(state),
        "open": [_trial(record, plan) for record in state.open_trials()],
        "decision": None
        if state.promotion is None
        else {key: state.promotion[key] for key in ("verdict", "reason", "model")},
    }


def _summarise_or_tell(entry: SweepEntry) -> dict[str, Any]:
    """Return a summary, or why there is none: one sweep's broken file must not hide the others."""
    from orchestrator.errors import OrchestratorError

    try:
        return _summarise(entry.id)
    except OrchestratorError as error:
        created = datetime.fromtimestamp(entry.created).astimezone().isoformat(timespec="seconds")
        return {
            "sweep": entry.id,
            "name": entry.name,
            "kind": entry.kind,
            "state": BROKEN,
            "created": created,
            "error": str(error),
        }


def _driver_state(journalled: str | None, *, is_driven: bool) -> str:
    """Return what a sweep's driver is doing; before its first line and after its last the journal
    alone does not say.
    """
    if not is_driven or journalled == "RUNNING":
        return journalled or "NOT STARTED"
    # Trained, but not let go: a promotion decides, opens the test split and registers.
    return "CONCLUDING" if journalled == "FINISHED" else "STARTING"


def _trial(record: TrialRecord, plan: SweepPlan) -> dict[str, Any]:
    return {
        "trial": record.trial,
        "state": str(record.state),
        "last_epoch": record.last_epoch,
        "epoch": record.chosen_epoch(plan.protocol),
        "value": record.value(plan.protocol),
        "params": dict(record.params),
    }


def _elapsed_s(state: SweepState) -> float:
    return state.driven_s(time.time() * 1000 if state.driver_state == "RUNNING" else None)


def _print_all(summaries: list[dict[str, Any]], json: bool) -> None:
    if json:
        print_json(summaries)
        return
    if not summaries:
        print_note("There is none yet. Start one: orchestrator sweep digits")
        return
    rows = [
        (
            found["sweep"],
            found["kind"],
            found.get("method"),
            found["state"],
            _progress(found),
            _best_score(found),
            found["created"],
        )
        for found in summaries
    ]
    headers = ["id", "kind", "method", "state", "trials", "best", "created"]
    print_table(headers, rows, right=[4, 5], drop=[6, 2, 1], hint="orchestrator status --all --json")
    for found in summaries:
        if found["state"] == BROKEN:
            print_note(f"{found['sweep']}: {found['error']}")


def _print_status(found: Mapping[str, Any]) -> None:
    unit = "run" if found["kind"] == "promote" else "trial"
    print_line(f"{found['sweep']}: {found['kind']} of {found['method']} on {found['dataset']}, {found['state']}")
    counts = ", ".join(f"{count} {state.lower()}" for state, count in found["trials"].items() if count)
    print_line(f"  {unit + 's':6}  {_progress(found)} ended" + (f" ({counts})" if counts else ""))
    if found["best"]:
        best = found["best"]
        print_line(
            f"  best    {format_score(best['value'])} {found['metric']} in percent: {unit} {best['trial']} at epoch "
            f"{best['epoch']}"
        )
    if found["decision"]:
        print_line(f"  {found['decision']['verdict']}: {found['decision']['reason']}")
    print_line(f"  time    {format_seconds(found['run_s'])}")
    if found["true_labels"] == "not available":
        print_text(NO_TRUE_LABELS)
    if found["open"]:
        rows = [
            (trial["trial"], trial["state"], f"{trial['last_epoch']}/{found['epochs']}", format_score(trial["value"]))
            for trial in found["open"]
        ]
        print_table([unit, "state", "epoch", found["metric"]], rows, right=[0, 2, 3])
    print_next(_next_steps(found))


def _next_steps(found: Mapping[str, Any]) -> dict[str, str]:
    sweep, state = found["sweep"], found["state"]
    undecided = found["kind"] == "promote" and state == "FINISHED" and found["decision"] is None
    if state in ("STARTING", "CONCLUDING"):
        return {f"status {sweep}": "see how far it is"}
    if undecided or state not in ("RUNNING", "FINISHED"):
        if "mlflow" in found:
            return {f"submit resume {sweep}": "go on where it stopped, on the cluster whose head has its folder"}
        return {f"resume {sweep}": "go on where it stopped"}
    return {f"leaderboard {sweep}": "its trials, ranked"}


def _progress(found: Mapping[str, Any]) -> str:
    if found["state"] == BROKEN:
        return ""
    ended = found["trials"]["COMPLETE"] + found["trials"]["PRUNED"] + found["trials"]["FAILED"]
    return f"{ended}/{found['num_trials']}"


def _best_score(found: Mapping[str, Any]) -> str:
    return format_score(found["best"]["value"]) if found.get("best") else ""


def _print_leaderboard(plan: SweepPlan, rows: list[dict[str, Any]], num_rows: int | None, *, is_here: bool) -> None:
    named = _identify(plan)
    print_text(
        f"{plan.id}: {plan.method} on {plan.dataset}, recipe {named['recipe']}, {named['metric']} in percent, selected "
        f"by {plan.protocol}"
    )
    if not rows:
        print_note("No trial has started yet.")
        return
    from orchestrator.home import ERRORS_DIR, sweep_dir

    keys = list(dict.fromkeys(key for row in rows for key in row["params"]))
    failed = any(row["cause"] for row in rows)
    headers = [
        "#",
        "trial",
        "state",
        "score",
        "epoch",
        *(key.rsplit(".", 1)[-1] for key in keys),
        "time",
        *(["failure"] if failed else []),
    ]
    shown = rows[:num_rows]
    params = range(5, 5 + len(keys))
    time_s, failure = params.stop, params.stop + 1
    print_table(
        headers,
        [_cells(row, keys)[: len(headers)] for row in shown],
        right=[0, 1, 3, 4, *params, time_s],
        wrapped=[failure],
        # What was searched last in the space goes first; score, state and failure stay.
        drop=[time_s, *reversed(params), 4],
        hint=f"orchestrator leaderboard {plan.id} --csv",
    )
    if failed:
        folder = sweep_dir(plan.id) if is_here else f"in the home of its driver, sweeps/{plan.id}"
        print_note(f"Tracebacks of failed trials: {folder}/{ERRORS_DIR}")
    if len(shown) < len(rows):
        whole = " --csv" if len(shown) >= MAX_SCREEN_ROWS else ""
        print_line(f"  and {len(rows) - len(shown)} more: orchestrator leaderboard {plan.id}{whole}")


def _print_ablation(plan: SweepPlan, rows: list[dict[str, Any]]) -> None:
    print_text(
        f"\n{plan.protocol.metric} on validation data, mean and deviation over training seeds; difference to "
        f"{plan.method} by seed"
    )
    cells = [
        (
            row["variant"],
            row["num_seeds"],
            _plus_minus(row["mean"], row["deviation"]),
            _plus_minus(row["difference"], row["difference_deviation"]),
        )
        for row in rows
    ]
    print_table(["variant", "seeds", "score", "difference"], cells, right=[1, 2, 3])


def _plus_minus(mean: float | None, deviation: float | None) -> str:
    return "" if mean is None else format_score(mean) + ("" if deviation is None else f" +- {format_score(deviation)}")


def _cells(row: Mapping[str, Any], keys: list[str]) -> list[str]:
    epoch = "" if row["epoch"] is None else f"{row['epoch']}/{row['last_epoch']}"
    params = [format_number(row["params"].get(key)) for key in keys]
    failure = f"{row['cause']}: {row['message']}" if row["cause"] else ""
    time_s = format_seconds(row["run_s"])
    return [
        format_number(row["rank"]),
        str(row["trial"]),
        row["state"],
        format_score(row["value"]),
        epoch,
        *params,
        time_s,
        failure,
    ]
