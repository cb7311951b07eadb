"""The paper's supplementary Fig. 2: the score over SPBC weight and reg weight at a fixed tau."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Drawing
from matplotlib.patches import Rectangle

from orchestrator.report.document import Cell, Column, Figure, Headers, make_table
from orchestrator.report.parameter_figures import MIN_TRIALS
from orchestrator.report.statistics import Floats, Surface, fit_surface, least_difference
from orchestrator.report.svg import INK, RED, new_figure
from orchestrator.report.view import REG, SPBC, TAU, Parameter, SweepView

_NUM_PLACES = 9
_COLOURS = "cividis"  # the same for the colour-blind
_DARK, _LIGHT = "#111111", "#fefefe"
_MOST_TAUS = 4
_LEAST_EXPLAINED = 0.1


@dataclass(frozen=True)
class _Map:
    """Scores over both weights: rows are reg weights, columns SPBC weights, each from low to high."""

    title: str
    spbc: Sequence[float]
    reg: Sequence[float]
    values: Floats


def draw_weights(view: SweepView) -> Figure | None:
    """Show the score over both weights: as measured by a grid, otherwise as a smooth model of the trials has it."""
    spbc, reg = view.parameter(SPBC), view.parameter(REG)
    if spbc is None or reg is None or not (spbc.is_smooth and reg.is_smooth):
        return None
    return _draw_grid(view, spbc, reg) if view.plan.sampler == "grid" else _draw_model(view, spbc, reg)


def _draw_grid(view: SweepView, spbc: Parameter, reg: Parameter) -> Figure | None:
    maps = _measured_maps(view)
    if not maps:
        return None
    limit = None if view.noise is None else least_difference(view.noise.deviation.value, view.noise.num_seeds)
    rows: list[tuple[Cell, ...]] = [
        (each.title, x, y, float(each.values[row, column]))
        for each in maps
        for (row, y), (column, x) in itertools.product(enumerate(each.reg), enumerate(each.spbc))
        if np.isfinite(each.values[row, column])
    ]
    columns: Headers = ["at", Column("SPBC weight"), Column("reg weight"), Column(f"{view.metric} (%)", 2)]
    table = make_table("weights", "Score over SPBC weight and reg weight", columns, rows)
    shown = maps[:_MOST_TAUS]

    def draw() -> Drawing:
        figure = new_figure(3.4 if len(shown) == 1 else 3.0 * -(-len(shown) // 2), 4.6 if len(shown) == 1 else 7.2)
        grid = figure.subplots(-(-len(shown) // 2), min(2, len(shown)), squeeze=False)
        best = max(float(np.nanmax(each.values)) for each in shown)
        norm = Normalize(min(float(np.nanmin(each.values)) for each in shown), best)
        for axes, each in zip(grid.flat, shown, strict=False):
            _draw_map(axes, each, each.values, norm, None if limit is None else best - limit)
        figure.colorbar(ScalarMappable(norm, _COLOURS), ax=grid, label=f"{view.metric} (%)", shrink=0.8)
        return figure

    if limit is None:
        flat = "The deviation between seeds is not known yet, so neighbouring cells cannot be told apart: promote."
    else:
        best = max(float(np.nanmax(each.values)) for each in maps)
        counts = [int((each.values >= best - limit).sum()) for each in maps]
        total = sum(int(np.isfinite(each.values).sum()) for each in maps)
        flat = (
            f"{sum(counts)} of {total} cells, outlined in red, lie within {limit:.2f} points of the best, as far as "
            f"two single runs may differ by with other seeds."
        )
    description = f"As measured: one cell per pair of weights, each a single run or the mean of several. {flat}"
    return Figure("weights", "SPBC weight by reg weight", description, draw, table)


def _measured_maps(view: SweepView) -> list[_Map]:
    cells: dict[str, dict[tuple[float, float], list[float]]] = {}
    for trial, score in view.complete.items():
        params = view.state.records[trial].params
        if {SPBC, REG} - params.keys():
            continue
        tau = params.get(TAU, view.plan.base.get(TAU))
        place = (float(params[SPBC] or 0), float(params[REG] or 0))
        cells.setdefault(f"tau {tau:g}" if isinstance(tau, float) else "", {}).setdefault(place, []).append(score)
    return [_as_map(title, found) for title, found in sorted(cells.items())]


def _as_map(title: str, found: dict[tuple[float, float], list[float]]) -> _Map:
    xs, ys = (sorted({place[axis] for place in found}) for axis in (0, 1))
    values = np.full((len(ys), len(xs)), np.nan)
    for (x, y), scores in found.items():
        values[ys.index(y), xs.index(x)] = np.mean(scores)
    return _Map(title, xs, ys, values)


def _draw_model(view: SweepView, spbc: Parameter, reg: Parameter) -> Figure | None:
    trials, points = view.points
    winner = view.winner
    if len(trials) < MIN_TRIALS or winner is None or {SPBC, REG} - winner.params.keys():
        return None
    keys = [each.key for each in view.parameters]
    places = np.linspace(0, 1, _NUM_PLACES)
    centre = [each.place(winner.params[each.key]) if each.key in winner.params else 0.5 for each in view.parameters]
    at = np.tile(centre, (_NUM_PLACES**2, 1))
    at[:, keys.index(SPBC)] = np.tile(places, _NUM_PLACES)
    at[:, keys.index(REG)] = np.repeat(places, _NUM_PLACES)
    surface = fit_surface(points, [view.comparable.scores[trial] for trial in trials], at)
    shape = (_NUM_PLACES, _NUM_PLACES)
    tau = winner.params.get(TAU, view.plan.base.get(TAU))
    title = f"at tau {tau:.2g}" if isinstance(tau, float) else ""
    deviations = surface.deviation.reshape(shape)
    xs, ys = ([each.value(place) for place in places] for each in (spbc, reg))
    found = _Map(title, xs, ys, surface.mean.reshape(shape))
    rows: list[tuple[Cell, ...]] = [
        (x, y, float(found.values[row, column]), float(deviations[row, column]))
        for (row, y), (column, x) in itertools.product(enumerate(found.reg), enumerate(found.spbc))
    ]
    columns: Headers = ["SPBC weight", "reg weight", Column(view.comparable.label, 2), Column("deviation", 2)]
    table = make_table("weights", "Modelled score over SPBC weight and reg weight", columns, rows)
    top = int(np.argmax(surface.mean))
    apart = 2 * np.hypot(surface.deviation, surface.deviation[top])
    near = surface.mean >= surface.mean[top] - apart

    def draw() -> Drawing:
        figure = new_figure(3.1)
        left, right = figure.subplots(1, 2)
        for axes, values, label in ((left, found.values, "modelled score"), (right, deviations, "its deviation")):
            norm = Normalize(float(values.min()), float(values.max()) + 1e-9)
            _draw_map(axes, found, values, norm, None)
            axes.set_title(f"{label}, {title}")
            figure.colorbar(ScalarMappable(norm, _COLOURS), ax=axes, label="points" if axes is right else "%")
        _draw_trials(left, view, spbc, reg, trials)
        return figure

    description = (
        f"The paper's supplementary Fig. 2, from the sweep's own trials: a Gaussian process over all parameters, cut "
        f"{title} and at the winner's other settings. Circles are trials (at any tau), the star is the "
        f"winner. {_judge(surface)} {int(near.sum())} of {near.size} places cannot be told from the best within two "
        f"deviations, so read the ridge and not its highest point. A grid over both weights measures the map instead."
    )
    return Figure("weights", "SPBC weight by reg weight", description, draw, table)


def _judge(surface: Surface) -> str:
    if surface.explained <= _LEAST_EXPLAINED:
        return (
            f"The trials do not support it: left-out trials are predicted no better than by their mean (leave-one-out "
            f"R² {surface.explained:.2f})."
        )
    return (
        f"It predicts left-out trials with an R² of {surface.explained:.2f}; single runs scatter by "
        f"{surface.scatter:.2f} points around it."
    )


def _draw_map(axes: Axes, shown: _Map, values: Floats, norm: Normalize, outlined_from: float | None) -> None:
    axes.pcolormesh(np.ma.masked_invalid(values), cmap=_COLOURS, norm=norm, edgecolors="none")
    for row, column in itertools.product(range(values.shape[0]), range(values.shape[1])):
        value = values[row, column]
        if not np.isfinite(value):
            continue
        colour = _LIGHT if norm(value) < 0.55 else _DARK
        size = 7 if values.shape[1] <= 6 else 5.5
        axes.text(column + 0.5, row + 0.5, f"{value:.1f}", color=colour, ha="center", va="center", fontsize=size)
        if outlined_from is not None and value >= outlined_from:
            axes.add_patch(_outline(column, row))
    _name_ticks(axes, shown)


def _outline(column: int, row: int) -> Rectangle:
    return Rectangle((column + 0.06, row + 0.06), 0.88, 0.88, fill=False, edgecolor=RED, linewidth=1.4)


def _name_ticks(axes: Axes, shown: _Map) -> None:
    step = 1 if len(shown.spbc) <= 6 else 2
    axes.set_xticks(np.arange(0, len(shown.spbc), step) + 0.5, [f"{value:.2g}" for value in shown.spbc[::step]])
    axes.set_yticks(np.arange(0, len(shown.reg), step) + 0.5, [f"{value:.2g}" for value in shown.reg[::step]])
    axes.set(xlabel="SPBC weight", ylabel="reg weight", title=shown.title)
    axes.grid(False)


def _draw_trials(axes: Axes, view: SweepView, spbc: Parameter, reg: Parameter, trials: Sequence[int]) -> None:
    def place(trial: int) -> tuple[float, float]:
        params = view.state.records[trial].params
        # Cell centres are half a cell from the edges of the map.
        return tuple(0.5 + (_NUM_PLACES - 1) * each.place(params[each.key]) for each in (spbc, reg))  # type: ignore[return-value]

    trials = [trial for trial in trials if {SPBC, REG} <= view.state.records[trial].params.keys()]
    if len(trials) <= 100:
        xs, ys = zip(*map(place, trials), strict=True)
        axes.plot(xs, ys, "o", color=INK, markerfacecolor="none", markersize=3, alpha=0.6)
    assert view.winner is not None
    axes.plot(*place(view.winner.trial), "*", color=RED, markersize=11, markeredgecolor=_LIGHT)
