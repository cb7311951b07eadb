"""Write the figure and the page of the measured searchers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from benchmarks.search.measure import WORKERS, Cell, Reference, load_objective
from benchmarks.search.searchers import FULL
from benchmarks.search.table import Floats, LookUp, Objective, Table, cross_validate
from orchestrator.intervals import mean_interval

Key = tuple[str, LookUp]
_FAMILIES = {
    FULL.name: ("#000000", "o"),
    "TPE, full length": ("#0072B2", "s"),
    "random, screen at 3, best half": ("#009E73", "^"),
    "random, ASHA from 2": ("#D55E00", "v"),
    "TPE, ASHA from 2": ("#56B4E9", "P"),
    "TPE, ASHA from 6": ("#CC79A7", "D"),
    "TPE, screen at 3, best half": ("#E69F00", "X"),
}
_HEAD = (
    "| searcher | regret | seed deviations | above random, same trials | cost | of that of random | recall | "
    "below random, same cost |"
)
_RULE = "|---|---|---|---|---|---|---|---|"


def write_report(cells: Sequence[Cell], tables: Path, out: Path, explained: str) -> None:
    """Write ``search.md`` and ``search.svg``."""
    groups: dict[Key, list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.table, cell.look_up), []).append(cell)
    lines = ["# Searchers, measured on tables of finished runs", "", explained.strip(), ""]
    for name in dict.fromkeys(table for table, _ in groups):
        lines += _describe(load_objective(name, "fitted", tables).table)
    for (name, look_up), found in groups.items():
        objective = load_objective(name, look_up, tables)
        for budget in sorted({cell.num_trials for cell in found}):
            lines += [f"## {_title(objective.table, look_up)}, {budget} trials", "", _HEAD, _RULE]
            lines += [*render_rows(found, objective, budget), ""]
    (out / "search.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    draw(groups, tables, out / "search.svg")


def _title(table: Table, look_up: LookUp) -> str:
    """Return the name of a figure or of a part of the page, which says if its table is not complete."""
    return f"{table.spec.name}{'' if table.is_complete else f' (PARTIAL: {table.progress})'}, {look_up}"


def _describe(table: Table) -> list[str]:
    """Return what a reader must know of a table: how much of it there is, its noise, how well it can be fitted."""
    truth, state = table.truth, "complete" if table.is_complete else "PARTIAL"
    shown = f"{table.progress}, {table.num_runs} runs"
    text = (
        f"**{table.spec.name}** ({state}: {shown}). Best {truth.max():.1f}, median {np.median(truth):.1f}, worst "
        f"{truth.min():.1f} % validation mAP; deviation between points {truth.std(ddof=1):.2f}, between seeds "
        f"{table.seed_deviation:.2f}; a full run costs {table.passes.sum(1).mean() * table.second_per_pass:.1f} CPU s."
    )
    predicted = cross_validate(table)
    rank = stats.spearmanr(predicted, truth).statistic
    left = float(np.mean((predicted - truth) ** 2) / np.var(truth))
    return [f"{text} `fitted`, on points left out: rank correlation {rank:.2f}, R2 {1 - left:.2f}.", ""]


def render_rows(cells: Sequence[Cell], objective: Objective, budget: int) -> list[str]:
    """Return the rows of one budget, the lowest regret first.

    Two columns compare with random search at full length. With as many trials, repetition by repetition: both begin
    with the same seeds, and where both draw at random, they draw the same points and the same noise, so that the
    interval is narrow. And with random search that stopped after the same cost: its mean regret there minus the
    searcher's, with Student's interval for the difference of two means.
    """
    randoms = {cell.num_trials: cell for cell in cells if cell.searcher == FULL.name}
    full, reference = randoms[budget], Reference.of(randoms[max(randoms)], objective)
    scale = (objective.best - objective.median) / objective.table.seed_deviation
    rows = []
    for cell in sorted(
        (cell for cell in cells if cell.num_trials == budget), key=lambda cell: cell.regrets(objective).mean()
    ):
        regrets, cost = cell.regrets(objective), float(np.mean([outcome.cost for outcome in cell.outcomes]))
        recall = float(np.mean([outcome.recall for outcome in cell.outcomes]))
        gain, half = compare(reference.at(cost), regrets)
        paired = regrets - full.regrets(objective)
        rows.append(
            f"| {cell.searcher} | {_with_interval(regrets)} | {regrets.mean() * scale:.2f} | "
            f"{_with_interval(paired, signed=True)} | {cost / 3600:.3f} h | "
            f"{cell.cost(full):.2f} | {recall:.2f} | {gain:+.3f} ± {half:.3f} |"
        )
    return rows


def compare(theirs: npt.ArrayLike, mine: npt.ArrayLike) -> tuple[float, float]:
    """Return the mean of theirs minus that of mine, and half of the 95 % interval of the difference (Welch)."""
    groups = [np.asarray(values, dtype=float) for values in (theirs, mine)]
    gain = float(groups[0].mean() - groups[1].mean())
    squares = [float(values.var(ddof=1)) / values.size for values in groups]
    if not sum(squares):
        return gain, 0.0
    parts = (square**2 / (values.size - 1) for square, values in zip(squares, groups, strict=True))
    freedom = sum(squares) ** 2 / sum(parts)
    return gain, float(stats.t.ppf(0.975, freedom) * np.sqrt(sum(squares)))


def draw(groups: Mapping[Key, Sequence[Cell]], tables: Path, path: Path) -> None:
    """Draw regret against cost: random search at every cost, the others at the end of each budget."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "search"}):
        figure = Figure(figsize=(9, 3.4 * -(-len(groups) // 2)), layout="constrained")
        axes = figure.subplots(-(-len(groups) // 2), 2, squeeze=False).ravel()
        for axis, ((name, look_up), cells) in zip(axes, groups.items(), strict=False):
            objective = load_objective(name, look_up, tables)
            _draw_group(axis, cells, objective)
            axis.set_title(_title(objective.table, look_up), fontsize=9)
        axes[0].legend(fontsize=7)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _draw_group(axis: Axes, cells: Sequence[Cell], objective: Objective) -> None:
    randoms = {cell.num_trials: cell for cell in cells if cell.searcher == FULL.name}
    reference = Reference.of(randoms[max(randoms)], objective)
    per_trial = float(reference.costs[-1]) / max(randoms)
    axis.plot(reference.costs / per_trial, reference.regrets.mean(0), color="#999999", lw=1)
    for searcher, (colour, marker) in _FAMILIES.items():
        mine = sorted((cell for cell in cells if cell.searcher == searcher), key=lambda cell: cell.num_trials)
        if not mine:
            continue
        costs = [np.mean([outcome.cost for outcome in cell.outcomes]) / per_trial for cell in mine]
        means = [cell.regrets(objective).mean() for cell in mine]
        halves = [np.diff(mean_interval(cell.regrets(objective).tolist()))[0] / 2 for cell in mine]
        axis.errorbar(costs, means, halves, color=colour, marker=marker, ms=4, lw=1, capsize=2, label=searcher)
    axis.set_xscale("log")
    axis.set_xlim(left=0.9 * WORKERS)  # until the first trials have ended, all choose blindly
    axis.set_ylim(top=0.5)
    axis.set_xticks((4, 8, 16, 32, 64), labels=("4", "8", "16", "32", "64"), minor=False)
    axis.minorticks_off()
    axis.set_xlabel("cost, in trials of full length")
    axis.set_ylabel("regret (best - median = 1)")


def _with_interval(values: Floats, *, signed: bool = False) -> str:
    low, high = mean_interval(values.tolist())
    return f"{values.mean():{'+' if signed else ''}.3f} ± {(high - low) / 2:.3f}"
