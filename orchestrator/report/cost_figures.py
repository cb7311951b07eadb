"""Figures of what a sweep cost: its timeline, where the time went, and what failed."""

from __future__ import annotations

from collections import Counter

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.patches import Patch

from orchestrator.report.document import Column, Figure, Headers, Table, make_table
from orchestrator.report.svg import BLUE, GREEN, INK, MUTED, PAPER, PURPLE, RED, new_figure
from orchestrator.report.view import SweepView
from orchestrator.results.spending import IDLE, LOST
from orchestrator.sweep_folder.records import TrialState
from training.metric_names import TIME_CHECKPOINT_S, TIME_DATA_S, TIME_EPOCH_S, TIME_EVAL_S, TIME_TRAIN_S

_LOOKS = {
    TrialState.COMPLETE: (BLUE, "", "complete"),
    TrialState.PRUNED: (GREEN, "//", "pruned"),
    TrialState.FAILED: (RED, "xx", "failed"),
    LOST: (PURPLE, "..", "lost, tried again"),
    TrialState.INTERRUPTED: (MUTED, "--", "interrupted"),
    TrialState.SET_ASIDE: (MUTED, "\\\\", "set aside"),
    TrialState.RUNNING: (MUTED, "", "running"),
}
_MOST_BARS = 300
_NUM_BINS = 150
_MOST_LABELS = 40


def draw_timeline(view: SweepView) -> Figure | None:
    """Show what each worker did when, with what came of it."""
    attempts = view.attempts
    if not attempts:
        return None
    spent = view.spent_s()
    total = sum(spent.values()) or 1.0
    counts = Counter(attempt.outcome for attempt in attempts)
    rows = [
        (
            _LOOKS[outcome][2] if outcome in _LOOKS else outcome,
            counts.get(outcome),
            view.hours(seconds),
            100 * seconds / total,
        )
        for outcome, seconds in sorted(spent.items(), key=lambda pair: (pair[0] == IDLE, -pair[1]))
    ]
    columns: Headers = ["what", "attempts", Column(view.hours_unit, 3), Column("share (%)", 1)]
    table = make_table("timeline", "Where the time of the workers went", columns, rows)
    is_gantt = len(attempts) <= _MOST_BARS

    def draw() -> Drawing:
        figure = new_figure(0.9 + (0.28 * min(view.num_lanes, 16) if is_gantt else 2.0))
        axes = figure.subplots()
        span_s = max([attempt.end_s for attempt in attempts] + [end for _, end in view.driver_spans_s])
        unit, name = (3600, "hours") if span_s > 2 * 3600 else (60, "minutes") if span_s > 120 else (1, "seconds")
        _shade_gaps(axes, view, unit, span_s)
        (_draw_bars if is_gantt else _draw_area)(axes, view, unit, span_s)
        axes.set(xlabel=f"{name} since the start", xlim=(0, span_s / unit))
        axes.grid(False)
        patches = [
            Patch(facecolor=_LOOKS[outcome][0], hatch=_LOOKS[outcome][1], edgecolor=PAPER, label=_LOOKS[outcome][2])
            for outcome in _LOOKS
            if outcome in counts
        ]
        figure.legend(handles=patches, loc="outside upper left", ncols=6)
        return figure

    description = (
        "Each row is a place at which one trial runs at a time, each bar an attempt at a trial, with its number where "
        "there is room. White is idle time; grey stripes are times without a driver."
        if is_gantt
        else "How many trials ran at a time, by what came of them. Grey stripes are times without a driver."
    )
    return Figure("timeline", "Timeline", description, draw, table)


def _shade_gaps(axes: Axes, view: SweepView, unit: float, span_s: float) -> None:
    ends = [0.0, *(end for _, end in view.driver_spans_s)]
    starts = [*(start for start, _ in view.driver_spans_s), span_s]
    for gap_start, gap_end in zip(ends, starts, strict=True):
        if gap_end > gap_start:
            axes.axvspan(gap_start / unit, gap_end / unit, facecolor=MUTED, alpha=0.15, linewidth=0)


def _draw_bars(axes: Axes, view: SweepView, unit: float, span_s: float) -> None:
    for attempt in view.attempts:
        colour, hatch, _ = _LOOKS[attempt.outcome]
        width = attempt.end_s - attempt.start_s
        axes.barh(
            attempt.lane,
            width / unit,
            left=attempt.start_s / unit,
            height=0.8,
            color=colour,
            hatch=hatch,
            edgecolor=PAPER,
            linewidth=0.8,
        )
        if len(view.attempts) <= _MOST_LABELS and width > 0.025 * span_s:
            middle = (attempt.start_s + width / 2) / unit
            axes.text(middle, attempt.lane, str(attempt.trial), color=PAPER, ha="center", va="center", fontsize=8)
    axes.set_yticks(range(view.num_lanes) if view.num_lanes <= 16 else [])
    axes.set(ylabel="worker", ylim=(view.num_lanes - 0.5, -0.5))


def _draw_area(axes: Axes, view: SweepView, unit: float, span_s: float) -> None:
    edges = np.linspace(0, span_s, _NUM_BINS + 1)
    below = np.zeros(_NUM_BINS)
    for outcome, (colour, hatch, _) in _LOOKS.items():
        own = [attempt for attempt in view.attempts if attempt.outcome == outcome]
        if not own:
            continue
        starts = np.array([attempt.start_s for attempt in own])[:, None]
        ends = np.array([attempt.end_s for attempt in own])[:, None]
        busy = np.diff(np.clip(edges[None, :], starts, ends) - starts, axis=1).sum(0) / np.diff(edges)
        axes.stairs(below + busy, edges / unit, baseline=below, fill=True, color=colour, hatch=hatch, edgecolor=PAPER)
        below = below + busy
    axes.set(ylabel="trials at a time", ylim=(0, view.num_lanes))


def draw_breakdown(view: SweepView) -> Figure | None:
    """Show what trials spent their time on."""
    sums = {
        key: sum(epoch.get(key, 0.0) for record in view.trials for epoch in record.metrics.values())
        for key in (TIME_EPOCH_S, TIME_TRAIN_S, TIME_DATA_S, TIME_EVAL_S, TIME_CHECKPOINT_S)
    }
    if not sums[TIME_EPOCH_S]:
        return None
    parts = {
        "waiting for a process": sum(record.queue_s for record in view.trials),
        "start": sum(record.start_s for record in view.trials),
        "waiting for data": sums[TIME_DATA_S],
        "training": sums[TIME_TRAIN_S],
        "evaluation": sums[TIME_EVAL_S],
        "checkpoints": sums[TIME_CHECKPOINT_S],
    }
    known = sum(sums[key] for key in (TIME_DATA_S, TIME_TRAIN_S, TIME_EVAL_S, TIME_CHECKPOINT_S))
    parts["rest of epochs"] = max(0.0, sums[TIME_EPOCH_S] - known)
    parts["between epochs"] = max(0.0, sum(record.run_s for record in view.trials) - sum(parts.values()))
    total = sum(parts.values())
    rows = [(name, seconds, 100 * seconds / total) for name, seconds in parts.items()]
    table = make_table(
        "breakdown", "What trials spent their time on", ["what", Column("seconds", 1), Column("share (%)", 1)], rows
    )

    def draw() -> Drawing:
        figure = new_figure(2.2)
        axes = figure.subplots()
        names = list(parts)[::-1]
        shares = [100 * parts[name] / total for name in names]
        axes.barh(names, shares, color=[RED if name.startswith("waiting") else BLUE for name in names], height=0.65)
        for place, share in enumerate(shares):
            axes.text(share, place, f" {share:.1f} %", va="center", fontsize=8, color=INK)
        axes.set(xlabel="share of the trials' time (%)", xlim=(0, 1.12 * max(shares)))
        axes.grid(False, axis="y")
        return figure

    description = "Sums over all trials and epochs. Bars in red are waiting, which more or faster machines can shorten."
    return Figure("breakdown", "Wall time", description, draw, table)


def failures_table(view: SweepView) -> Table | None:
    """Return the failed trials with their causes, or None if nothing failed."""
    failed = [record for record in view.trials if record.state is TrialState.FAILED]
    if not failed:
        return None
    rows = [
        (record.trial, str(record.cause or ""), record.last_epoch, record.attempts, record.message or "")
        for record in failed
    ]
    columns: Headers = ["trial", "cause", "last epoch", "attempts", "message"]
    return make_table("failures", "Failed trials", columns, rows)


def count_causes(view: SweepView) -> str:
    """Return how many trials failed of what: ``2 OOM, 1 NAN``."""
    causes = Counter(str(record.cause or "unknown") for record in view.trials if record.state is TrialState.FAILED)
    return ", ".join(f"{count} {cause}" for cause, count in causes.most_common())
