"""Show a sweep's trials as tables: ranked, one row per trial, one row per epoch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.records import TrialRecord, leaderboard
from orchestrator.sweep_folder.state import SweepState

if TYPE_CHECKING:
    import pandas as pd

_COUNTS = ("rank", "trial", "epoch", "last_epoch", "attempts")
_TEXTS = ("state", "origin", "cause", "message")


def rank_trials(plan: SweepPlan, state: SweepState) -> list[dict[str, Any]]:
    """Return the leaderboard's rows; those of a promotion that has opened the test split have its figures."""
    if state.driver_state == "RUNNING":
        state.end_attempts(round(time.time() * 1000))  # they have run until now, however long ago their last epoch was
    rows = leaderboard(state.records.values(), plan.protocol)
    if state.test is None:
        return rows
    return [{**row, "test": dict(state.test.figures.get(str(row["trial"]), {}))} for row in rows]


def make_leaderboard(plan: SweepPlan, state: SweepState) -> pd.DataFrame:
    """Return the table that ``orchestrator leaderboard`` prints, see :attr:`orchestrator.Sweep.leaderboard`."""
    rows = [
        {
            **_select(row, "rank", "trial", "state", "value", "epoch", "last_epoch"),
            **row["params"],
            **row.get("test", {}),
        }
        | _select(row, "origin", "run_s", "attempts", "cause", "message")
        for row in rank_trials(plan, state)
    ]
    return _make_frame(rows, ("rank", "trial", "state", "value", "epoch", "last_epoch"))


def make_trials(plan: SweepPlan, state: SweepState) -> pd.DataFrame:
    """Return one row per trial, in their order, see :attr:`orchestrator.Sweep.trials`."""
    frame = _make_frame([_describe(record, plan) for record in _sorted(state)], ("trial", "state", "origin"))
    for name in {"started", "ended"} & set(frame.columns):
        frame[name] = _to_times(frame[name])
    return frame


def make_epochs(state: SweepState) -> pd.DataFrame:
    """Return one row per trial and epoch, see :attr:`orchestrator.Sweep.epochs`."""
    rows = [
        {"trial": record.trial, **metrics, "epoch": epoch}
        for record in _sorted(state)
        for epoch, metrics in sorted(record.metrics.items())
    ]
    return _make_frame(rows, ("trial", "epoch"))


def _describe(record: TrialRecord, plan: SweepPlan) -> dict[str, Any]:
    chosen = record.chosen_epoch(plan.protocol)
    metrics = {} if chosen is None else record.metrics[chosen]
    return {
        "trial": record.trial,
        "state": str(record.state),
        "origin": record.origin,
        **record.params,
        **{name: value for name, value in metrics.items() if name != "epoch"},
        "epoch": chosen,
        "last_epoch": record.last_epoch,
        "started": record.started_ms,
        "ended": record.ended_ms,
        "run_s": record.run_s,
        "queue_s": record.queue_s,
        "start_s": record.start_s,
        "attempts": record.attempts,
        "cause": None if record.cause is None else str(record.cause),
        "message": record.message,
    }


def _sorted(state: SweepState) -> list[TrialRecord]:
    return [record for _, record in sorted(state.records.items())]


def _select(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names}


def _make_frame(rows: Iterable[Mapping[str, Any]], first: tuple[str, ...]) -> pd.DataFrame:
    """Return rows as a frame with the columns of all of them; a missing count does not turn the others into floats."""
    import pandas as pd

    rows = list(rows)
    columns = dict.fromkeys([*first, *(name for row in rows for name in row)])
    values = {name: [row.get(name) for row in rows] for name in columns}
    return pd.DataFrame({name: pd.Series(column, dtype=_choose_dtype(name, column)) for name, column in values.items()})


def _choose_dtype(name: str, values: list[Any]) -> str:
    kinds = {type(value) for value in values if value is not None}
    if name in _COUNTS or kinds == {int}:
        return "Int64"
    if name in _TEXTS or kinds == {str}:
        return "str"
    if kinds == {bool}:
        return "boolean"
    return "float64" if kinds <= {int, float} else "object"


def _to_times(milliseconds: pd.Series) -> pd.Series:
    import pandas as pd

    return pd.to_datetime(milliseconds, unit="ms", utc=True)
