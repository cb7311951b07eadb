"""Put together the report of a benchmark, finished or not."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.report.document import Part, Report, Section
from orchestrator.report.findings import name_times
from orchestrator.report.suite_figures import draw_contrasts, draw_means
from orchestrator.report.suite_findings import describe_suite
from orchestrator.report.suite_published import find_nearest, metrics_table, published_table
from orchestrator.report.suite_tables import (
    contrasts_table,
    origins_table,
    overview_table,
    results_table,
    runs_table,
    spending_table,
)
from orchestrator.report.suite_view import SuiteView
from orchestrator.report.sweep_report import merge_sections
from orchestrator.results.suite_record import describe_contrasts
from training.counts import counted

_METRICS = "The columns of Table 2 of IGNORE's supplement, for every method, beside what its authors print."
_PUBLISHED = (
    "Published scores are of the test split. A difference from ours means something only where nothing under why not "
    "matters; the same method differs by more than a point between papers."
)


def make_suite_report(view: SuiteView) -> Report:
    """Return the report of a benchmark."""
    record, datasets = view.record, view.found.datasets
    results: list[Part | None] = [overview_table(view)]
    for dataset in datasets:
        results += [results_table(view, dataset, find_nearest(view, dataset)), draw_means(view, dataset)]
    sections = [
        _section("results", "Results", results),
        _section("compared", "Contrasts", [contrasts_table(view), draw_contrasts(view)]),
        _section("all-metrics", "All metrics", [metrics_table(view, each) for each in datasets], _METRICS),
        _section("literature", "Published scores", [published_table(view, each) for each in datasets], _PUBLISHED),
        _section("cost", "What it cost", [spending_table(view)]),
        _section("origin", "Where it comes from", [origins_table(view), runs_table(view)]),
    ]
    return Report(
        name=record.id,
        title=f"Benchmark {record.id}",
        context=describe_context(view),
        findings=tuple(describe_suite(view)),
        facts=_facts(view),
        sections=merge_sections(sections),
        footer=_describe_origin(view),
    )


def _section(name: str, title: str, parts: Sequence[Part | None], paragraph: str | None = None) -> Section:
    kept = tuple(part for part in parts if part is not None)
    return Section(name, title, (paragraph,) if paragraph and kept else (), kept)


def describe_context(view: SuiteView) -> str:
    """Say what all figures of a page refer to."""
    record = view.record
    bounds = f" and {counted(len(record.bounds), 'bound')}" if record.bounds else ""
    settings = ", ".join(f"{key}={value}" for key, value in record.settings.items())
    return (
        f"{counted(len(record.methods), 'method')}{bounds} on {', '.join(record.spaces)}, each tuned with the same "
        f"budget ({record.budget}) and reported with the same {counted(record.seeds, 'fresh seed')}, which chose "
        f"nothing." + (f" Fixed for all: {settings}." if settings else "")
    )


def _facts(view: SuiteView) -> tuple[tuple[str, str], ...]:
    found, datasets = view.found, view.found.datasets
    facts = [("cells done", f"{len(found.cells) - len(view.unfinished)} of {len(found.cells)}")]
    for dataset in datasets:
        scored = [cell for cell in dataset.cells if cell.scores and not cell.is_bound]
        if scored:
            facts.append((f"highest mean, {dataset.dataset}", f"{scored[0].method} {scored[0].mean:.2f} %"))
    if any(contrast.difference for contrast in found.contrasts):
        shown = sum(contrast.is_significant for contrast in found.contrasts)
        facts.append(("contrasts that are significant", f"{shown} of {len(found.contrasts)}"))
    for dataset in datasets if len(datasets) == 1 else ():  # of several, sentences say it: there is no room here
        if dataset.floor is not None:
            facts.append(("resolution floor", f"{dataset.floor:.2f} points"))
        if dataset.openings is not None and dataset.openings.num is not None:
            facts.append(("test split opened", name_times(dataset.openings.num)))
    return tuple(facts)


def _describe_origin(view: SuiteView) -> tuple[str, ...]:
    record = view.record
    commit = f" by commit `{record.commit[:12]}`" + (" (changed)" if record.dirty == "true" else "")
    return (
        f"Registered {record.utc}{commit}, spaces {', '.join(record.spaces.values())}. Contrasts, registered before "
        f"the first run: {describe_contrasts(record)}.",
        f"Made from the journals and the test ledger by `orchestrator report {record.id}`; `orchestrator audit "
        f"{record.id}` checks every figure. Equal journals give equal reports.",
    )
