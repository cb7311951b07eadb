"""Tables of a benchmark: results, contrasts, all metrics, planned against spent, and where each figure comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from orchestrator.report.document import Cell, Column, Headers, Link, Table, make_table
from orchestrator.report.suite_view import SuiteView, name_metric
from orchestrator.results.spending import sum_spending
from orchestrator.results.suite_budget import find_allowed, measure_spent
from orchestrator.results.suite_cells import DONE
from orchestrator.results.suite_results import CellResult, DatasetResult

_SHORT = 12
_INTERVALS = (
    "Means are over training seeds that chose nothing, the same for all methods; 95 % intervals are Student's t over "
    "them, on this one test split. Methods with the same number under tie cannot be told apart from the best of them "
    "(paired t, Holm). P(best) is the probability that a method's true mean is the highest."
)


def overview_table(view: SuiteView) -> Table | None:
    """Return methods x datasets; None for one dataset, whose own table says it all."""
    datasets = view.found.datasets
    if len(datasets) < 2:
        return None
    by_key = {(cell.dataset, cell.method): cell for cell in view.found.cells}
    rows: list[list[Cell]] = []
    for method in (*view.record.methods, *view.record.bounds):
        cells = [by_key.get((dataset.dataset, method)) for dataset in datasets]
        marks = next((cell.told for cell in cells if cell is not None and cell.told), "")
        rows.append(
            [method, *(None if cell is None else Link(_summarise(cell), view.anchor(cell)) for cell in cells), marks]
        )
    names: Headers = [f"{dataset.dataset}, {name_metric(dataset)} (%)" for dataset in datasets]
    columns, rows = drop_empty(["method", *names, "marks"], rows, 1 + len(names))
    note = (
        "Mean over training seeds and half of its 95 % interval (Student's t); in brackets the tie group within the "
        "dataset: methods of one group cannot be told apart from the best of it."
    )
    return make_table("overview", "Methods and datasets", columns, rows, note)


def _summarise(cell: CellResult) -> str:
    if cell.mean is None or cell.high is None:
        return cell.state
    group = "" if cell.group is None else f" [{cell.group}]"
    return f"{cell.mean:.2f} ± {cell.high - cell.mean:.2f}{group}"


def results_table(view: SuiteView, dataset: DatasetResult, published: dict[str, str]) -> Table:
    """Return the main table of a dataset.

    Args:
        view: The benchmark.
        dataset: The dataset.
        published: Method -> the published score that is nearest to ours in its set-up, as text.
    """
    cells = dataset.cells
    if sum(cell.group is not None for cell in cells) < 2:  # the only one that is done is tied with nobody
        cells = tuple(replace(cell, group=None, best_prob=None) for cell in cells)
    rows = [_result_row(view, cell, published) for cell in cells]
    scores: Headers = [Column(name, 2) for name in (f"{name_metric(dataset)} (%)", "low", "high")]
    columns: Headers = [
        "method",
        *scores,
        "seeds",
        "tie",
        Column("P(best)", 2),
        "trials",
        Column("budget used (%)", 1),
        "published",
        "marks",
        "state",
    ]
    columns, rows = drop_empty(columns, rows, 5)
    note = f"{_INTERVALS} The budget of a search is {view.record.budget}. Method names lead to the runs behind a row."
    if published:
        note += " Published scores are not comparable unless they say so: see their table."
    return make_table(
        f"results{view.of_dataset(dataset.dataset)}",
        f"{name_metric(dataset)} on {dataset.dataset}",
        columns,
        rows,
        note,
    )


def drop_empty(columns: Headers, rows: list[list[Cell]], num_kept: int) -> tuple[Headers, list[list[Cell]]]:
    """Drop columns without any entry, which only take room, after the first ones."""
    kept = [
        place for place in range(len(columns)) if place < num_kept or any(row[place] not in (None, "") for row in rows)
    ]
    return [columns[place] for place in kept], [[row[place] for place in kept] for row in rows]


def _result_row(view: SuiteView, cell: CellResult, published: dict[str, str]) -> list[Cell]:
    used = find_used_frac(view, cell)
    state = "" if cell.state == DONE else ", ".join(word for word in (cell.state, cell.details) if word)
    return [
        Link(cell.method, view.anchor(cell)),
        cell.mean,
        cell.low,
        cell.high,
        len(cell.scores),
        cell.group,
        cell.best_prob,
        cell.trials,
        None if used is None else 100 * used,
        published.get(cell.method, ""),
        cell.told,
        state,
    ]


def find_used_frac(view: SuiteView, cell: CellResult) -> float | None:
    """Return which part of its budget the search of a cell has used, if both are known."""
    used, allowed = _measure_search(view, cell), find_allowed(view.record, cell.dataset, view.cells)
    return None if used is None or not allowed else used / allowed


def _measure_search(view: SuiteView, cell: CellResult) -> float | None:
    return None if cell.search is None else measure_spent(cell.search, view.record.budget, cell.trials)


def contrasts_table(view: SuiteView) -> Table | None:
    """Return the registered contrasts."""
    if not view.found.contrasts:
        return None
    floors = {dataset.dataset: dataset.floor for dataset in view.found.datasets}
    rows: list[list[Cell]] = []
    for each in view.found.contrasts:
        found = each.difference
        name = f"{each.method} - {each.against}"
        if found is None:
            rows.append([name, each.dataset, *[None] * 6, floors.get(each.dataset), "not yet"])
            continue
        told = "yes" if each.is_significant else "no"
        figures = [found.mean, found.low, found.high, found.num, found.p, each.p_holm]
        rows.append([name, each.dataset, *figures, floors.get(each.dataset), told])
    differences: Headers = [Column(name, 2) for name in ("difference", "low", "high")]
    probs: Headers = ["p", "p Holm", Column("floor", 2)]
    note = (
        "Paired seed by seed, in points; registered before anything ran. Intervals are Student's t, 95 %, each on its "
        "own; p Holm is corrected for all contrasts, those without a result counting as p = 1. Floor: the smallest "
        "difference that could be significant, as the first of all contrasts, of two methods whose difference varies "
        "from seed to seed as that of pairs does on average; pairs that vary less can be told apart below it."
    )
    columns: Headers = ["contrast", "dataset", *differences, "seeds", *probs, "significant"]
    return make_table("contrasts", "Registered contrasts", columns, rows, note)


def spending_table(view: SuiteView) -> Table:
    """Return, for each cell, what was planned and what was spent."""
    unit = {"images": "images", "trials": "trials", "gpu-hours": "hours"}[view.record.budget.by]
    rows = [_spending_row(view, cell) for cell in view.found.cells]
    amounts: Headers = [Column(f"{what} ({unit})", 3 if unit == "hours" else 0) for what in ("budget", "spent")]
    hours: Headers = [f"hours {what}" for what in ("planned, p50", "of search", "of race", "of final runs")]
    more: Headers = [Column(f"images of {what}", 0) for what in ("race", "final runs")]
    columns: Headers = ["dataset", "method", *amounts, "trials planned", "trials run", *hours, "of", *more]
    columns, rows = drop_empty(columns, rows, 2)
    note = (
        f"The budget is for the search alone: {view.record.budget}. Pruned and failed trials cost less than planned, "
        f"and what they leave pays for further trials. Hours are those for which runs held their resources; images are "
        f"those passed forward and backward."
    )
    return make_table("spending", "Planned and spent", columns, rows, note)


def _spending_row(view: SuiteView, cell: CellResult) -> list[Cell]:
    work, parts = view.of(cell), (cell.search, cell.race, cell.reported)
    allowed = find_allowed(view.record, cell.dataset, view.cells)
    if work.search is None:
        return [cell.dataset, cell.method, allowed, *[None] * 10]
    plan = work.search[0]
    return [
        cell.dataset,
        cell.method,
        allowed,
        _measure_search(view, cell),
        plan.num_trials,
        cell.trials,
        sum_spending(*work.search).planned_p50,
        *(None if part is None else part.hours for part in parts),
        plan.resources.hours_unit.removesuffix("-hours") + "s",
        *(None if part is None else part.images for part in parts[1:]),
    ]


def origins_table(view: SuiteView) -> Table:
    """Return, for each cell, the sweeps, the configuration and the commit behind it."""
    rows = [_origin_row(view, cell) for cell in view.found.cells]
    work: Headers = ["dataset", "method", "state", "search", "race", "final runs"]
    columns: Headers = [*work, "configuration", "commit", "recipe", "protocol", "data", "weights", "opening"]
    note = (
        "`orchestrator report ID` shows a search or its final runs; the configuration is a hash of all settings but "
        "seeds and places; openings are lines of the test ledger."
    )
    anchors = [view.anchor(cell) for cell in view.found.cells]
    return make_table("origins", "Where each cell comes from", columns, rows, note, anchors)


def _origin_row(view: SuiteView, cell: CellResult) -> list[Cell]:
    work = view.of(cell)
    rows = view.final_rows[cell.dataset, cell.method]
    origin = {} if work.search is None else work.search[1].provenance
    known = {name: ", ".join(dict.fromkeys(str(row[name])[:_SHORT] for row in rows if row[name])) for name in _ORIGINS}
    commit = known["commit"] or origin.get("commit", "")[:_SHORT]
    is_dirty = any(row["dirty"] == "true" for row in rows)
    recipe = "" if work.search is None else str(work.search[0].base.get("loop.recipe"))
    return [
        cell.dataset,
        cell.method,
        ", ".join(word for word in (cell.state, cell.details) if word),
        *(", ".join(plan.id for plan, _ in part) for part in (work.searches, work.races, work.finals)),
        known["config_hash"],
        commit + (" (changed)" if is_dirty else ""),
        recipe,
        "" if work.search is None else str(work.search[0].protocol),
        known["data_hash"] or origin.get("data_hash", "")[:_SHORT],
        known["weights_hash"],
        ", ".join(map(str, cell.openings)),
    ]


_ORIGINS = ("config_hash", "commit", "data_hash", "weights_hash")


def runs_table(view: SuiteView) -> Table | None:
    """Return every final run with its seed and its score on the test split."""
    rows = [row for cell in view.found.cells for row in _list_runs(view, cell)]
    if not rows:
        return None
    origin: Headers = ["configuration", "commit"]
    columns: Headers = ["dataset", "method", "run", "seed", "label draw", Column("score (%)", 2), "epoch", *origin]
    note = "`orchestrator reproduce RUN` trains one again."
    return make_table("runs", "The final runs", columns, rows, note)


def _list_runs(view: SuiteView, cell: CellResult) -> Iterator[list[Cell]]:
    for row in view.test_rows(cell):
        if row["metric"] == cell.metric:
            yield [
                *(cell.dataset, cell.method, f"{row['sweep']}/{row['trial']}", row["training_seed"], row["draw_seed"]),
                *(row["value"], row["epoch"], row["config_hash"], str(row["commit"])[:_SHORT]),
            ]
