"""Published scores beside a benchmark's, each with what keeps it from being compared, and Table 2 of the supplement."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.report.document import Cell, Column, Headers, Link, Table, make_table
from orchestrator.report.published_section import PUBLISHED_NOTE, explain, name_source
from orchestrator.report.suite_tables import drop_empty
from orchestrator.report.suite_view import Measured, SuiteView
from orchestrator.results.suite_results import CellResult, DatasetResult
from search_spaces.published import MAIN_METRIC, METRICS, PublishedScore, find_published
from training.counts import counted

_ORDER = (*METRICS[1:], MAIN_METRIC)
"""As Table 2 of IGNORE's supplement has them: CP, CR, CF1, OP, OR, OF1, mAP."""


def find_nearest(view: SuiteView, dataset: DatasetResult) -> dict[str, str]:
    """Return method -> its published mAP from the source that least sets apart from us, as text with its mark."""
    nearest = {}
    for cell in dataset.cells:
        known = [(score, _explain_cell(view, cell, score)) for score in _find(cell) if score.metric == MAIN_METRIC]
        if known:
            score, reasons = min(known, key=lambda pair: len(pair[1]))
            mark = " (not comparable)" if reasons else ""
            nearest[cell.method] = f"{score.score.value:.2f} {score.source.reference.partition(',')[0]}{mark}"
    return nearest


def _find(cell: CellResult) -> list[PublishedScore]:
    return find_published(cell.method, cell.dataset)


def _explain_cell(view: SuiteView, cell: CellResult, found: PublishedScore) -> list[str]:
    search = view.of(cell).search
    return explain(found.source, view.settings(cell), None if search is None else search[0].protocol)


def published_table(view: SuiteView, dataset: DatasetResult) -> Table | None:
    """Return every published mAP of a dataset's methods beside ours, with why they cannot be compared."""
    rows: list[list[Cell]] = []
    for cell in dataset.cells:
        for found in _find(cell):
            if found.metric != MAIN_METRIC:
                continue
            reasons = _explain_cell(view, cell, found)
            told = "no" if reasons else "as far as known"
            score = found.score
            printed: list[Cell] = [score.value, score.deviation, found.source.runs]
            ours = _mean(view.measure(cell, MAIN_METRIC))
            why = [told, "; ".join(reasons), name_source(found.source)]
            rows.append([Link(cell.method, view.anchor(cell)), ours, *printed, *why])
    if not rows:
        return None
    scores: Headers = [Column(name, 2) for name in ("mAP here (%)", "published (%)", "deviation")]
    columns: Headers = ["method", *scores, "runs", "comparable", "why not", "source"]
    columns, rows = drop_empty(columns, rows, 3)
    name = f"published{view.of_dataset(dataset.dataset)}"
    return make_table(name, f"{dataset.dataset} in the literature", columns, rows, PUBLISHED_NOTE)


def _mean(found: Measured | None) -> float | None:
    return None if found is None else found.mean


def metrics_table(view: SuiteView, dataset: DatasetResult) -> Table | None:
    """Return CP, CR, CF1, OP, OR, OF1 and mAP of all methods, beside published rows (IGNORE's supplement, Table 2)."""
    rows = [row for cell in dataset.cells for row in (*_measured_rows(view, cell), *_published_rows(view, cell))]
    if not rows:
        return None
    columns: Headers = ["method", "from", *(Column(name, 2) for name in _ORDER)]
    note = (
        "In percent, at a threshold of 0.5 where one is needed. CP, CR and CF1 are means over classes of per-class "
        "precision, recall and F1; OP, OR and OF1 pool all labels. ± is half of the 95 % interval over training seeds "
        "(Student's t)."
    )
    name = f"metrics{view.of_dataset(dataset.dataset)}"
    return make_table(name, f"All metrics on {dataset.dataset}", columns, rows, note)


def _measured_rows(view: SuiteView, cell: CellResult) -> Iterator[list[Cell]]:
    found = [view.measure(cell, metric) for metric in _ORDER]
    known = [each for each in found if each is not None]
    if not known:
        return
    link = Link(cell.method, view.anchor(cell))
    yield [link, f"here, {counted(known[0].num, 'seed')}", *map(_mean, found)]
    yield [link, "±", *(None if each is None else each.half for each in found)]


def _published_rows(view: SuiteView, cell: CellResult) -> Iterator[list[Cell]]:
    by_source: dict[str, dict[str, PublishedScore]] = {}
    for score in _find(cell):
        by_source.setdefault(name_source(score.source), {})[score.metric] = score
    for name, scores in by_source.items():
        if len(scores) > 1:  # sources that print mAP alone have a table of their own
            mark = " (not comparable)" if _explain_cell(view, cell, next(iter(scores.values()))) else ""
            values = [scores[metric].score.value if metric in scores else None for metric in _ORDER]
            yield [Link(cell.method, view.anchor(cell)), f"{name}{mark}", *values]
