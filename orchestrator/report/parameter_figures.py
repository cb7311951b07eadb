"""Figures of what each parameter does: importance, responses, the sheet for tau, and SPBC weight by reg weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from orchestrator.report.document import Cell, Column, Figure, Headers, make_table
from orchestrator.report.statistics import Floats, Interval, Response, importance, response, thin
from orchestrator.report.svg import (
    BLUE,
    DASHES,
    GREEN,
    INK,
    MARKERS,
    MUTED,
    PURPLE,
    RED,
    count_along,
    make_logarithmic,
    new_figure,
)
from orchestrator.report.view import TAU, Parameter, SweepView
from orchestrator.results.comparison import correct_holm
from orchestrator.sweep_folder.records import TrialState
from training.metric_names import (
    TRAIN_MASK_KEPT_FRAC,
    TRAIN_REJECTED_FRAC,
    TRAIN_REJECTION_LIFT,
    TRAIN_REJECTION_PRECISION,
    TRAIN_REJECTION_RECALL,
)

MIN_TRIALS = 8
"""Fewer trials than that say nothing about a parameter."""
NOISE_LEVEL = 0.05
_MOST_POINTS = 300
_NUM_PLACES = 41
_COLUMNS = 3


@dataclass(frozen=True)
class Effect:
    """What one parameter does to the score.

    Attributes:
        probability: Of a curve like this if it had no effect, corrected for the number of parameters (Holm).
        change: Difference between the highest and the lowest place of the curve, in points.
        best: The value at the highest place, as text.
        over: The values that it took, as text.
    """

    parameter: Parameter
    response: Response
    probability: float
    change: float
    best: str
    over: str

    @property
    def is_noise(self) -> bool:
        """Whether the trials cannot tell it from a parameter without any effect."""
        return self.probability > NOISE_LEVEL

    @property
    def verdict(self) -> str:
        """Say whether it has an effect, in a few words."""
        if self.probability < NOISE_LEVEL / 5:
            return f"effect, p < {NOISE_LEVEL / 5:g}"
        # Three decimals where two could not tell it from the level.
        chance = f"p = {self.probability:.{3 if self.probability < 2 * NOISE_LEVEL else 2}f}"
        return f"no effect seen, {chance}" if self.is_noise else f"effect, {chance}"


def compute_effects(view: SweepView) -> list[Effect]:
    """Return what each parameter does; empty if there are too few trials."""
    trials, points = view.points
    if len(trials) < MIN_TRIALS:
        return []
    found = {}
    for column, parameter in enumerate(view.parameters):
        rows = view.acting(parameter)
        where = points[rows, column]
        if len(rows) < MIN_TRIALS or np.ptp(where) == 0:
            continue
        # No further than the trials reach: beyond them, a curve is a guess.
        at = np.linspace(where.min(), where.max(), _NUM_PLACES) if parameter.is_smooth else np.unique(where)
        scores = [view.comparable.scores[trials[row]] for row in rows]
        found[column] = response(list(where), scores, list(at), is_smooth=parameter.is_smooth)
    corrected = correct_holm([each.probability for each in found.values()])
    return [
        _make_effect(view.parameters[column], each, probability)
        for (column, each), probability in zip(found.items(), corrected, strict=True)
    ]


def _make_effect(parameter: Parameter, found: Response, probability: float) -> Effect:
    top = int(np.nanargmax(found.mean))
    change = float(np.nanmax(found.mean) - np.nanmin(found.mean))
    first, last = (_name(parameter, float(found.at[end])) for end in (0, -1))
    return Effect(parameter, found, probability, change, _name(parameter, float(found.at[top])), f"{first} to {last}")


def _name(parameter: Parameter, place: float) -> str:
    """Return the value at a place as text."""
    if parameter.values is None:
        return f"{parameter.value(place):.3g}"
    return str(parameter.values[round(place * (len(parameter.values) - 1))])


def draw_importance(view: SweepView) -> Figure | None:
    """Show how much of the scores' variance each parameter accounts for."""
    trials, points = view.points
    if len(trials) < MIN_TRIALS or not view.parameters:
        return None
    shares = importance(points, [view.comparable.scores[trial] for trial in trials])
    pairs = sorted(zip(view.parameters, shares, strict=True), key=lambda pair: -pair[1].value)
    rows: list[tuple[Cell, ...]] = [
        (parameter.key, share.value, share.low, share.high, "not more than noise" if share.low <= 0 else "effect")
        for parameter, share in pairs
    ]
    columns: Headers = ["parameter", Column("share (%)", 1), Column("5 %", 1), Column("95 %", 1), "reading"]
    table = make_table("importance", "Importance of the parameters", columns, rows)

    def draw() -> Drawing:
        figure = new_figure(0.7 + 0.26 * len(pairs))
        axes = figure.subplots()
        for place, (parameter, share) in enumerate(reversed(pairs)):
            _draw_share(axes, place, share)
            axes.text(-0.02, place, parameter.name, transform=axes.get_yaxis_transform(), ha="right", va="center")
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set(xlabel="share of the variance of scores (%)", yticks=[], ylim=(-0.6, len(pairs) - 0.4))
        axes.spines["left"].set_visible(False)
        return figure

    description = (
        f"From {len(trials)} trials: forests are grown on resampled trials, and each parameter is shuffled among the "
        f"trials left out. The dot is the mean share of the variance that goes with it (Sobol's total "
        f"effect), the line 90 % of the resamples. Grey hollow dots, whose line reaches zero, are not more than "
        f"noise. Shares need not add up to 100.{view.describe_idle()} {view.comparable.note}"
    )
    return Figure("importance", "Which parameters matter", description, draw, table)


def _draw_share(axes: Axes, place: int, share: Interval) -> None:
    is_noise = share.low <= 0
    colour = MUTED if is_noise else BLUE
    axes.plot([share.low, share.high], [place, place], "--" if is_noise else "-", color=colour)
    axes.plot(share.value, place, "o", color=colour, markerfacecolor="none" if is_noise else colour, markersize=6)


def draw_responses(view: SweepView, effects: Sequence[Effect]) -> Figure | None:
    """Show the score against each parameter."""
    if not effects:
        return None
    rows = [
        (effect.parameter.key, _name(effect.parameter, float(at)), float(mean), float(low), float(high), effect.verdict)
        for effect in effects
        for at, mean, low, high in list(
            zip(effect.response.at, effect.response.mean, effect.response.low, effect.response.high, strict=True)
        )[:: 5 if effect.parameter.is_smooth else 1]
    ]
    columns: Headers = ["parameter", "value", *(Column(name, 2) for name in ("score", "5 %", "95 %")), "reading"]
    table = make_table("responses", "Response to each parameter", columns, rows)
    num_rows = math.ceil(len(effects) / _COLUMNS)

    def draw() -> Drawing:
        figure = new_figure(0.3 + 2.05 * num_rows)
        grid = figure.subplots(num_rows, _COLUMNS, sharey=True, squeeze=False)
        for axes in grid.flat[len(effects) :]:
            axes.axis("off")
        shown = _shown_trials(view)
        for axes, effect in zip(grid.flat, effects, strict=False):
            draw_response(axes, view, effect, shown)
            axes.set_title(effect.verdict, color=MUTED if effect.is_noise else INK, fontsize=8)
        figure.supylabel(view.comparable.label, fontsize=9)
        return figure

    description = (
        f"One panel per parameter: every trial (filled: complete, hollow: stopped), and the curve through them, "
        f"whatever the other parameters were, with the range of 90 % of resampled trials. A grey dashed curve is no "
        f"more than what shuffled scores would show (permutation test, corrected for {len(effects)} parameters). The "
        f"star is the winner.{view.describe_idle()} {view.comparable.note}{_describe_thinning(view)}"
    )
    return Figure("responses", "What each parameter does", description, draw, table)


def _describe_thinning(view: SweepView) -> str:
    trials, _ = view.points
    return (
        f" Of {len(trials):,} trials, {_MOST_POINTS} are drawn: the best and every so many of the others; curves "
        f"use up to 1,000."
        if len(trials) > _MOST_POINTS
        else ""
    )


def _shown_trials(view: SweepView) -> list[int]:
    """Return the trials to draw as points: all, or of thousands the best and some of the others."""
    trials = sorted(view.points[0], key=lambda trial: -view.comparable.scores[trial])
    if len(trials) <= _MOST_POINTS:
        return trials
    best = trials[: _MOST_POINTS // 5]
    others = trials[len(best) :]
    return best + [others[row] for row in thin(len(others), _MOST_POINTS - len(best))]


def draw_response(axes: Axes, view: SweepView, effect: Effect, shown: Sequence[int]) -> None:
    """Draw one parameter's panel."""
    parameter, found = effect.parameter, effect.response
    for is_complete in (False, True):
        acting = [trial for trial in shown if parameter.key in view.state.records[trial].params]
        trials = [trial for trial in acting if (trial in view.complete) == is_complete]
        along = [_along(parameter, view, trial) for trial in trials]
        scores = [view.comparable.scores[trial] for trial in trials]
        face = MUTED if is_complete else "none"
        axes.plot(along, scores, "o", color=MUTED, markerfacecolor=face, markersize=3.5, alpha=0.75)
    colour, dash = (MUTED, "--") if effect.is_noise else (BLUE, "-")
    _draw_curve(axes, parameter, found, colour, dash)
    winner = view.winner
    if winner is not None and winner.trial in view.comparable.scores and parameter.key in winner.params:
        at = _along(parameter, view, winner.trial)
        axes.plot(at, view.comparable.scores[winner.trial], "*", color=RED, markersize=10)
    _set_scale(axes, parameter)


def _draw_curve(axes: Axes, parameter: Parameter, found: Response, colour: str, dash: str) -> None:
    if parameter.is_smooth:
        along = [parameter.value(at) for at in found.at]
        axes.fill_between(along, found.low, found.high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(along, found.mean, dash, color=colour)
        return
    apart = np.stack([found.mean - found.low, found.high - found.mean]).clip(0)
    places = found.at * (len(parameter.values or ()) - 1)
    axes.errorbar(places, found.mean, apart, fmt="s", color=colour, capsize=4, markersize=6)


def _along(parameter: Parameter, view: SweepView, trial: int) -> float:
    """Return where a trial lies on a panel's axis."""
    value = view.state.records[trial].params[parameter.key]
    if parameter.values is None:
        assert isinstance(value, int | float)
        return float(value)
    # Beside each other, by number and not by chance, so that the same sweep gives the same picture.
    return parameter.place(value) * (len(parameter.values) - 1) + 0.3 * ((trial * 0.618) % 1 - 0.5)


def _set_scale(axes: Axes, parameter: Parameter) -> None:
    axes.set_xlabel(parameter.name)
    if parameter.values is not None:
        axes.set_xticks(range(len(parameter.values)), [str(value) for value in parameter.values], fontsize=8)
        axes.set_xlim(-0.5, len(parameter.values) - 0.5)
    elif parameter.range.log:
        make_logarithmic(axes)


_TAU_METRICS = {
    TRAIN_REJECTION_PRECISION: "rejection precision",
    TRAIN_REJECTION_RECALL: "rejection recall",
    TRAIN_REJECTION_LIFT: "rejection lift",
    TRAIN_REJECTED_FRAC: "share of labels rejected",
    TRAIN_MASK_KEPT_FRAC: "share of pixels kept",
}
_TAU_COLOURS = (BLUE, RED, GREEN, PURPLE, INK)


def draw_tau(view: SweepView, effects: Sequence[Effect]) -> Figure | None:
    """Show what tau does to the score, to rejection and to masks."""
    effect = next((each for each in effects if each.parameter.key == TAU), None)
    if effect is None:
        return None
    values = {key: view.measured(key, TAU) for key in _TAU_METRICS}
    known = {key: found for key, found in values.items() if len(found) >= MIN_TRIALS}
    places = effect.response.at
    curves = {key: _curve_of(effect.parameter, view, found, places) for key, found in known.items()}
    rows = [
        (
            effect.parameter.value(float(places[at])),
            float(effect.response.mean[at]),
            *(float(curve.mean[at]) for curve in curves.values()),
        )
        for at in range(0, len(places), 4)
    ]
    columns: Headers = [
        Column("tau", 3),
        Column(view.comparable.label, 2),
        *(Column(_TAU_METRICS[key], 3) for key in curves),
    ]
    table = make_table("tau", "What tau does", columns, rows)

    def draw() -> Drawing:
        figure = new_figure(2.7)
        left, *others = figure.subplots(1, 3 if curves else 1, squeeze=False)[0]
        draw_response(left, view, effect, _shown_trials(view))
        left.set(ylabel=view.comparable.label, xlabel="tau", title=effect.verdict)
        if others:
            parts = [key for key in curves if key != TRAIN_REJECTION_LIFT]
            _draw_shares(others[0], effect.parameter, {key: curves[key] for key in parts})
            _draw_lift(others[1], effect.parameter, known, curves, view)
        return figure

    description = (
        "Left: the score, as in the panel above. Middle: at the chosen epoch of each trial, the precision and recall "
        "of rejection, where true labels are known, and the shares of labels rejected and of pixels that the mask "
        "keeps. Right: the lift of rejection over rejecting at random, which has 1. Bands are 90 % "
        "of resampled trials. The paper leaves tau at 0.8 without a study of it."
    )
    return Figure("tau", "Sensitivity to tau", description, draw, table)


def _draw_shares(axes: Axes, tau: Parameter, curves: Mapping[str, Response]) -> None:
    for place, (key, curve) in enumerate(curves.items()):
        along = [tau.value(at) for at in curve.at]
        colour, name = _TAU_COLOURS[place], _TAU_METRICS[key]
        axes.fill_between(along, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
        dash, marker = DASHES[place % len(DASHES)], MARKERS[place % len(MARKERS)]
        axes.plot(along, curve.mean, dash, marker=marker, markevery=10, color=colour, label=name)
    axes.set(xlabel="tau", ylim=(0, 1))
    axes.legend(fontsize=7)


def _draw_lift(
    axes: Axes,
    tau: Parameter,
    known: Mapping[str, Mapping[int, float]],
    curves: Mapping[str, Response],
    view: SweepView,
) -> None:
    if TRAIN_REJECTION_LIFT not in curves:
        axes.axis("off")
        return
    found, curve = known[TRAIN_REJECTION_LIFT], curves[TRAIN_REJECTION_LIFT]
    shown = [trial for trial in _shown_trials(view) if trial in found]
    axes.plot(
        [_along(tau, view, trial) for trial in shown], [found[trial] for trial in shown], "o", color=MUTED, ms=3.5
    )
    _draw_curve(axes, tau, curve, GREEN, "-.")
    axes.axhline(1, color=INK, linewidth=0.8, linestyle=":")
    axes.set(xlabel="tau", title="rejection lift", ylim=(0, None))


def _curve_of(tau: Parameter, view: SweepView, values: Mapping[int, float], places: Floats) -> Response:
    where = [tau.place(view.state.records[trial].params[tau.key]) for trial in values]
    return response(where, list(values.values()), list(places), is_smooth=True, num_resampled=100)


def draw_rejection(view: SweepView) -> Figure | None:
    """Show precision, recall and lift of the winner's rejection over epochs."""
    if view.winner is None:
        return None
    keys = (TRAIN_REJECTION_PRECISION, TRAIN_REJECTION_RECALL, TRAIN_REJECTED_FRAC, TRAIN_REJECTION_LIFT)
    metrics = view.winner.metrics
    epochs = [epoch for epoch in sorted(metrics) if keys[0] in metrics[epoch] or keys[1] in metrics[epoch]]
    if len(epochs) < 2:
        return None
    series = {key: [metrics[epoch].get(key, math.nan) for epoch in epochs] for key in keys}
    rows = [(epoch, *(series[key][place] for key in keys)) for place, epoch in enumerate(epochs)]
    columns: Headers = ["epoch", *(Column(_TAU_METRICS[key], 3) for key in keys)]
    table = make_table("rejection", "Rejection over epochs", columns, rows)
    chosen = view.winner.chosen_epoch(view.plan.protocol)
    num, state = view.winner.trial, view.winner.state
    assert state is TrialState.COMPLETE

    def draw() -> Drawing:
        figure = new_figure(2.6)
        left, right = figure.subplots(1, 2)
        for place, key in enumerate(keys[:3]):
            look = {"color": _TAU_COLOURS[place], "marker": MARKERS[place], "label": _TAU_METRICS[key]}
            left.plot(epochs, series[key], DASHES[place], **look)
        left.set(xlabel="epoch", ylim=(0, 1))
        left.legend()
        right.plot(epochs, series[keys[3]], "-.D", color=GREEN)
        right.axhline(1, color=INK, linewidth=0.8, linestyle=":")
        top = 1.1 * max([1.0, *(lift for lift in series[keys[3]] if lift == lift)])
        right.set(xlabel="epoch", title="rejection lift", ylim=(0, top))
        for axes in (left, right):
            count_along(axes)
            if chosen is not None:
                axes.axvline(chosen, color=MUTED, linestyle=":")
        return figure

    description = (
        f"Trial {num}. Precision: how many of the rejected labels are truly there. Recall: how many of the hidden true "
        f"labels are rejected. Lift: precision over that of random rejection, so 1 is no "
        f"better than chance. The dotted line is the chosen epoch."
    )
    return Figure("rejection", "Does rejection find false negatives?", description, draw, table)
