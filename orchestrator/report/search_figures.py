"""Figures of how a search went: best so far, learning curves, survival, and how early scores agree with final ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from orchestrator.report.document import Column, Figure, Headers, Table, make_table
from orchestrator.report.statistics import Agreement, BestOf, agreement, expected_best, thin
from orchestrator.report.svg import BLUE, DASHES, GREEN, INK, MARKERS, MUTED, RED, count_along, new_figure
from orchestrator.report.view import FIRST_KEYS, SweepView
from orchestrator.sweep_folder.records import TrialState
from training.counts import counted

_MOST_CURVES = 60
"""More curves than that are a band."""
_MOST_ROWS = 100
_MIN_AGREEING = 5
_NUM_TOP = 3
_TOP_COLOURS = (BLUE, RED, GREEN)


def draw_best_so_far(view: SweepView) -> Figure | None:
    """Show the best score against trials and hours, with what as many random trials would be expected to find."""
    ended = sorted(
        (record for record in view.trials if record.ended), key=lambda record: (record.ended_ms or 0, record.trial)
    )
    if not view.complete:
        return None
    hours = np.cumsum([view.hours(record.held_s) for record in ended])
    scores = np.array([view.complete.get(record.trial, -np.inf) for record in ended])
    best = np.maximum.accumulate(scores)
    band = expected_best(list(view.scored.values()))
    numbers = np.arange(1, len(ended) + 1)
    rows = []
    for at in thin(len(ended), _MOST_ROWS):
        # Failed trials have no score, so the band counts the others only.
        place = min(int(np.searchsorted(band.num_trials, numbers[at])), len(band.num_trials) - 1)
        so_far = float(best[at]) if np.isfinite(best[at]) else None
        figures = [float(series[place]) for series in (band.mean, band.low, band.high)]
        rows.append((int(numbers[at]), float(hours[at]), so_far, *figures))
    names = ("best so far", "expected best", "10 %", "90 %")
    columns: Headers = ["trials", Column(view.hours_unit, 3), *(Column(name, 2) for name in names)]
    table = make_table("best_so_far", "Best score so far", columns, rows)
    seen = np.isfinite(best)

    def draw() -> Drawing:
        figure = new_figure(2.9)
        left, right = figure.subplots(1, 2, sharey=True)
        per_trial = float(hours[-1]) / len(ended)
        for axes, along, scale in ((left, numbers, 1.0), (right, hours, per_trial)):
            _draw_band(axes, band, scale)
            axes.step(along[seen], best[seen], where="post", color=BLUE, label="best so far")
            axes.plot(along[seen][_changes(best[seen])], best[seen][_changes(best[seen])], "o", color=BLUE)
        left.set(xlabel="trials ended", ylabel=f"{view.metric} (%)")
        right.set(xlabel=f"{view.hours_unit} spent")
        left.legend(loc="lower right")
        return figure

    description = (
        f"The step line is the best complete trial so far. The dashed line is the expected best of as many trials "
        f"drawn at random from these {len(view.scored)}, the band its 10 % and 90 % quantiles; "
        f"a stopped trial counts with the score that it had. A search that learns stays above the dashed line; where "
        f"the band is flat, more trials of this space would gain little."
    )
    return Figure("best_so_far", "Best score against trials and cost", description, draw, table)


def _draw_band(axes: Axes, band: BestOf, scale: float) -> None:
    along = band.num_trials * scale
    axes.fill_between(along, band.low, band.high, color=MUTED, alpha=0.2, linewidth=0)
    axes.plot(along, band.mean, "--", color=MUTED, label="expected best of random trials")


def _changes(best: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.diff(best, prepend=-np.inf) > 0)


def draw_learning_curves(view: SweepView) -> Figure | None:
    """Show the score over epochs of the best three trials and of all others."""
    num_epochs = max((record.last_epoch for record in view.trials), default=0)
    if num_epochs < 2:
        return None
    values = np.full((len(view.trials), num_epochs), np.nan)
    for row, record in enumerate(view.trials):
        for epoch in record.metrics:
            value = view.score_at(record, epoch)
            values[row, epoch - 1] = np.nan if value is None else value
    counts = np.isfinite(values).sum(0)
    spread = np.full((3, num_epochs), np.nan)
    spread[:, counts > 0] = np.nanquantile(values[:, counts > 0], (0.1, 0.5, 0.9), axis=0)
    top = view.ranking[:_NUM_TOP]
    row_of = {record.trial: row for row, record in enumerate(view.trials)}
    rows = [
        (
            epoch + 1,
            int(counts[epoch]),
            *map(float, spread[[1, 0, 2], epoch]),
            *(float(values[row_of[trial], epoch]) for trial in top),
        )
        for epoch in range(num_epochs)
    ]
    names = ["median", "10 %", "90 %", *(f"trial {trial}" for trial in top)]
    table = make_table(
        "learning_curves",
        f"{view.metric} over epochs",
        ["epoch", "trials", *(Column(name, 2) for name in names)],
        rows,
    )

    def draw() -> Drawing:
        figure = new_figure(3.2)
        axes = figure.subplots()
        epochs = np.arange(1, num_epochs + 1)
        others = [row for row, record in enumerate(view.trials) if record.trial not in top]
        if len(others) > _MOST_CURVES:
            axes.fill_between(
                epochs, spread[0], spread[2], color=MUTED, alpha=0.25, linewidth=0, label="80 % of trials"
            )
            axes.plot(epochs, spread[1], color=MUTED, linewidth=1, label="median trial")
        else:
            for row in others:
                axes.plot(epochs, values[row], color=MUTED, linewidth=0.8, alpha=0.6)
                _mark_end(axes, view, row, values)
        for place, trial in enumerate(top):
            axes.plot(
                epochs,
                values[row_of[trial]],
                DASHES[place],
                color=_TOP_COLOURS[place],
                marker=MARKERS[place],
                label=f"{place + 1}. trial {trial}",
            )
        axes.set(xlabel="epoch", ylabel=f"{view.metric} (%)")
        count_along(axes)
        axes.legend()
        return figure

    description = (
        "The best three trials are coloured, and each has its own marker and dashes; the others are grey. A cross "
        "ends a trial that the scheduler stopped, a triangle one that failed."
    )
    return Figure("learning_curves", "Learning curves", description, draw, table)


def _mark_end(axes: Axes, view: SweepView, row: int, values: np.ndarray) -> None:
    marker = {TrialState.PRUNED: "x", TrialState.FAILED: "v"}.get(view.trials[row].state)
    known = np.flatnonzero(np.isfinite(values[row]))
    if marker and len(known):
        colour = RED if marker == "v" else MUTED
        axes.plot(known[-1] + 1, values[row, known[-1]], marker, color=colour, markersize=4)


def draw_survival(view: SweepView) -> Figure | None:
    """Show how many trials reached each epoch, and what ended the others at each rung."""
    num_epochs, rungs = view.plan.epochs, view.plan.rungs()
    if len(view.trials) < 2 or num_epochs < 2:
        return None
    last = np.array([record.last_epoch for record in view.trials])
    states = np.array([str(record.state) for record in view.trials])
    reached = [int((last >= epoch).sum()) for epoch in range(1, num_epochs + 1)]
    rows = []
    for epoch in [*rungs, num_epochs]:
        here = states[last == epoch]
        pruned = int((here == TrialState.PRUNED).sum())
        went_on = int((last > epoch).sum())
        share = 100 * went_on / reached[epoch - 1] if reached[epoch - 1] and epoch < num_epochs else None
        failed = int((states[last < epoch] == TrialState.FAILED).sum())
        rows.append((epoch, reached[epoch - 1], pruned, went_on, share, failed))
    columns: Headers = ["epoch", "reached", "stopped here", "went on", Column("went on (%)", 0)]
    title = "Trials at each rung" if rungs else "Trials at the last epoch"
    table = make_table("survival", title, [*columns, "failed before"], rows)

    def draw() -> Drawing:
        figure = new_figure(2.3)
        axes = figure.subplots()
        # From epoch e - 1 to e ran those that reached e.
        axes.step(np.arange(0, num_epochs + 1), [len(view.trials), *reached], where="pre", color=BLUE)
        for rung in rungs:
            axes.axvline(rung, color=MUTED, linestyle=":")
        axes.set(xlabel="epoch", ylabel="trials that reached it", ylim=(0, None), xlim=(0, num_epochs))
        count_along(axes)
        count_along(axes, y=True)
        return figure

    description = (
        f"Trials that reached each epoch. {_describe_rungs(view)}"
        if rungs
        else "Trials that reached each epoch. No scheduler stopped any, so all that is lost has failed."
    )
    return Figure("survival", "Survival of trials", description, draw, table)


def _describe_rungs(view: SweepView) -> str:
    if (epoch := view.plan.screen_epoch) is None:
        factor = f"{view.plan.reduction_factor:g}"
        return f"Dotted lines are the rungs at which ASHA stops all but about one in {factor} of those seen so far."
    waiting = sum(record.state is TrialState.SET_ASIDE for record in view.trials)
    told = f"; {counted(waiting, 'trial')} set aside there" if waiting else ""
    return f"The dotted line is the screen: after epoch {epoch}, the best {view.plan.keep} of all continue{told}."


def compute_agreement(view: SweepView) -> dict[int, Agreement]:
    """Return epoch -> how the order of complete trials at that epoch agrees with the final one."""
    found = {}
    for epoch in range(1, view.plan.epochs):
        pairs = [
            (value, final)
            for trial, final in view.complete.items()
            if (value := view.score_at(view.state.records[trial], epoch)) is not None
        ]
        if len(pairs) >= _MIN_AGREEING:
            early, final = zip(*pairs, strict=True)
            found[epoch] = agreement(early, final, _NUM_TOP, 1 / view.plan.reduction_factor)
    return found


def draw_agreement(view: SweepView, found: Mapping[int, Agreement]) -> Figure | None:
    """Show the rank correlation of each epoch with the final score, and the recall of the best three."""
    if not found:
        return None
    rows = [
        (epoch, each.num_trials, each.correlation.value, each.correlation.low, each.correlation.high, 100 * each.recall)
        for epoch, each in found.items()
    ]
    names = ("rank correlation", "low", "high")
    table = make_table(
        "agreement",
        "Agreement of early scores with the final one",
        ["epoch", "trials", *(Column(name, 2) for name in names), Column("recall of the best three (%)", 0)],
        rows,
    )
    kept = f"one in {view.plan.reduction_factor:g}"

    def draw() -> Drawing:
        figure = new_figure(2.7)
        axes = figure.subplots()
        epochs = list(found)
        values = [each.correlation for each in found.values()]
        axes.fill_between(
            epochs, [each.low for each in values], [each.high for each in values], color=BLUE, alpha=0.15, linewidth=0
        )
        axes.plot(epochs, [each.value for each in values], "-o", color=BLUE, label="rank correlation (95 % band)")
        axes.plot(epochs, [each.recall for each in found.values()], "--s", color=RED, label="recall of the best three")
        axes.axhline(0, color=INK, linewidth=0.6)
        for rung in view.plan.rungs():
            axes.axvline(rung, color=MUTED, linestyle=":")
        axes.set(xlabel="epoch", ylabel="agreement", ylim=(-1.05, 1.05))
        count_along(axes)
        axes.legend(loc="lower right")
        return figure

    description = (
        f"Of {max(each.num_trials for each in found.values())} complete trials: Spearman's correlation of the score at "
        f"an epoch with the final one, and how many of the best three were among the first {kept} at that epoch. "
        + (
            "Trials that were stopped have no final score, so these are a selected sample. "
            if view.plan.rungs()
            else ""
        )
        + "Where the recall is 1, stopping there would have cost none of the best three."
    )
    return Figure("agreement", "Does an early epoch tell the winner?", description, draw, table)


def leaderboard_table(view: SweepView) -> Table:
    """Return all trials, best first, with their searched settings."""
    from orchestrator.sweep_folder.records import leaderboard

    ranked = leaderboard(view.trials, view.plan.protocol)
    known = dict.fromkeys(key for row in ranked for key in row["params"])
    keys = [key for key in FIRST_KEYS if key in known] + [key for key in known if key not in FIRST_KEYS]
    rows = [
        (
            row["rank"],
            row["trial"],
            row["state"],
            row["value"],
            row["epoch"],
            row["last_epoch"],
            *(_plain(row["params"].get(key)) for key in keys),
            row["run_s"],
            row["origin"],
        )
        for row in ranked
    ]
    columns: Headers = ["rank", "trial", "state", Column(f"{view.metric} (%)", 2), "epoch", "last epoch"]
    names = [key.rsplit(".", 1)[-1] for key in keys]
    # Two settings with the same last word keep their whole keys.
    shown = [name if names.count(name) == 1 else key for name, key in zip(names, keys, strict=True)]
    columns += [*shown, Column("time (s)", 0), "from"]
    return make_table("leaderboard", "All trials, best first", columns, rows)


def _plain(value: object) -> str | int | float | None:
    if isinstance(value, bool):
        return str(value).lower()
    return value if value is None or isinstance(value, str | int | float) else str(value)
