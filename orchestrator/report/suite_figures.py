"""Figures of a benchmark: each method's mean with its seeds, and the registered contrasts."""

from __future__ import annotations

from statistics import fmean

import numpy as np
from matplotlib.figure import Figure as Drawing

from orchestrator.intervals import mean_interval
from orchestrator.report.document import Column, Figure, Headers, make_table
from orchestrator.report.suite_view import SuiteView, name_metric
from orchestrator.report.svg import BLUE, GREEN, INK, MUTED, RED, new_figure
from orchestrator.results.suite_results import ContrastResult, DatasetResult

_ROW_IN = 0.3


def draw_means(view: SuiteView, dataset: DatasetResult) -> Figure | None:
    """Show every method's mean with its interval and its seeds."""
    cells = [cell for cell in dataset.cells if cell.scores]
    if not cells:
        return None
    metric = f"{name_metric(dataset)} (%)"
    rows = [(cell.method, seed, score) for cell in cells for seed, score in sorted(cell.scores.items())]
    name = f"means{view.of_dataset(dataset.dataset)}"
    table = make_table(name, f"Scores of all seeds on {dataset.dataset}", ["method", "seed", Column(metric, 2)], rows)

    def draw() -> Drawing:
        figure = new_figure(0.8 + _ROW_IN * len(cells))
        axes = figure.subplots()
        for place, cell in enumerate(cells):
            colour, marker = (GREEN, "D") if cell.is_bound else (BLUE, "o")
            values = list(cell.scores.values())
            axes.plot(mean_interval(values), [place, place], color=colour, linewidth=6, alpha=0.25)
            axes.plot(values, np.full(len(values), place), marker, color=colour, markerfacecolor="none")
            axes.plot(fmean(values), place, "|", color=INK, markersize=13, markeredgewidth=2)
        axes.set_yticks(range(len(cells)), [cell.method for cell in cells])
        axes.set(xlabel=metric, ylim=(len(cells) - 0.5, -0.5))
        axes.grid(False, axis="y")
        return figure

    bounds = " Diamonds are bounds, which know more than the others." if any(cell.is_bound for cell in cells) else ""
    description = (
        f"One mark per training seed; the tick is their mean, the bar its 95 % interval (Student's t). Bars that "
        f"overlap do not show a tie, because seeds are compared in pairs: the table does.{bounds}"
    )
    return Figure(name, f"Means on {dataset.dataset}", description, draw, table)


def draw_contrasts(view: SuiteView) -> Figure | None:
    """Show the registered contrasts that have a result, next to what could have been seen."""
    known = [(each, each.difference) for each in view.found.contrasts if each.difference is not None]
    if not known:
        return None
    floors = {dataset.dataset: dataset.floor for dataset in view.found.datasets}
    names = [f"{each.method} - {each.against}, {each.dataset}" for each, _ in known]
    differences = [_subtract(view, each) for each, _ in known]
    rows = [(name, seed, value) for name, own in zip(names, differences, strict=True) for seed, value in own.items()]
    columns: Headers = ["contrast", "seed", Column("difference", 2)]
    table = make_table("differences", "Differences seed by seed", columns, rows)

    def draw() -> Drawing:
        figure = new_figure(0.8 + _ROW_IN * len(known))
        axes = figure.subplots()
        for place, (contrast, found) in enumerate(known):
            floor = floors.get(contrast.dataset)
            if floor is not None:
                axes.barh(place, 2 * floor, left=-floor, height=0.8, color=MUTED, alpha=0.18)
            colour, marker = (RED, "s") if contrast.is_significant else (BLUE, "o")
            axes.plot([found.low, found.high], [place, place], color=colour)
            values = list(differences[place].values())
            axes.plot(values, np.full(len(values), place + 0.22), "|", color=colour, markersize=5)
            axes.plot(found.mean, place, marker, color=colour, markersize=6)
        axes.use_sticky_edges = False  # else the grey bars end where the figure does
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_yticks(range(len(known)), names)
        axes.set(xlabel="difference (points)", ylim=(len(known) - 0.5, -0.5))
        axes.grid(False, axis="y")
        return figure

    description = (
        "The mean difference over common seeds with its own 95 % interval (Student's t); the strokes below are the "
        "seeds. Squares are significant after Holm's correction, circles are not. Inside the grey bar, no difference "
        "could have been, as the first of all contrasts, unless it varies less over seeds than that of most pairs."
    )
    return Figure("differences", "Differences", description, draw, table)


def _subtract(view: SuiteView, contrast: ContrastResult) -> dict[int, float]:
    scores = {cell.method: cell.scores for cell in view.found.cells if cell.dataset == contrast.dataset}
    ours, theirs = scores[contrast.method], scores[contrast.against]
    return {seed: ours[seed] - theirs[seed] for seed in sorted(set(ours) & set(theirs))}
