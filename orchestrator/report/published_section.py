"""The section of a report that shows what was published about its method and dataset, and what is different there."""

from __future__ import annotations

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.report.document import Column, Headers, Section, make_table
from search_spaces.published import PublishedScore, explain_differences, find_published


def make_published_section(plan: SweepPlan) -> Section:
    """Return the section; it is empty if nothing was published that could stand beside the plan's scores."""
    found = find_published(plan.method, plan.dataset, str(plan.base["model.name"]))
    if not found:
        return Section("published", "Published scores")
    rows = [_row(score, plan) for score in found]
    columns: Headers = ["source", "metric", Column("percent", 2), Column("deviation", 2), "runs", "what differs"]
    note = "As printed by their sources (`search_spaces/published.yaml`). Deviations are over the runs of that source."
    table = make_table("published", f"{plan.method} on {plan.dataset} in the literature", columns, rows, note)
    paragraph = (
        "Published scores are of the test split. A difference from ours means something only where nothing of the last "
        "column matters; the same method differs by more than a point between papers."
    )
    return Section("published", "Published scores", (paragraph,), (table,))


def _row(found: PublishedScore, plan: SweepPlan) -> tuple[str | float | int | None, ...]:
    source = found.source
    differs = "; ".join(explain_differences(source, plan.base)) or "nothing that is known"
    place = f"{source.reference}, {source.where}"
    return place, found.metric, found.score.value, found.score.deviation, source.runs, differs
