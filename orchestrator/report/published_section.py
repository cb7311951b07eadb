"""The section of a report that shows what was published about its method and dataset, and what is different there."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.planning.recipe import PUBLISHED, RECIPE_KEY
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.report.document import Column, Headers, Section, make_table
from search_spaces.published import PublishedScore, Source, explain_differences, find_published
from training.config.run import Scalar
from training.selection import Protocol

PUBLISHED_NOTE = (
    "As printed by their sources (`search_spaces/published.yaml`). Deviations are over the runs of that source."
)


def make_published_section(plan: SweepPlan) -> Section:
    """Return the section; it is empty if nothing was published that could stand beside the plan's scores."""
    found = find_published(plan.method, plan.dataset, str(plan.base["model.name"]))
    if not found:
        return Section("published", "Published scores")
    rows = [_row(score, plan) for score in found]
    columns: Headers = ["source", "metric", Column("percent", 2), Column("deviation", 2), "runs", "what differs"]
    table = make_table("published", f"{plan.method} on {plan.dataset} in the literature", columns, rows, PUBLISHED_NOTE)
    paragraph = (
        "Published scores are of the test split. A difference from ours means something only where nothing of the last "
        "column matters; the same method differs by more than a point between papers."
    )
    return Section("published", "Published scores", (paragraph,), (table,))


def _row(found: PublishedScore, plan: SweepPlan) -> tuple[str | float | int | None, ...]:
    source = found.source
    differs = "; ".join(explain(source, plan.base, plan.protocol)) or "nothing that is known"
    return name_source(source), found.metric, found.score.value, found.score.deviation, source.runs, differs


def name_source(source: Source) -> str:
    """Return the paper, and where it prints a score."""
    return f"{source.reference}, {source.where}"


def explain(source: Source, settings: Mapping[str, Scalar], protocol: Protocol | None) -> list[str]:
    """Say what keeps a run from being comparable with a source: recipe, selection, settings, and what else is known.

    Args:
        source: The source.
        settings: Of the run, its recipe included; empty before it is known.
        protocol: Of the run.
    """
    recipe = settings.get(RECIPE_KEY, PUBLISHED)
    more = [] if recipe == PUBLISHED else [f"recipe {recipe} here, the authors' own there"]
    # Tables of this field choose by mAP on a validation split whose labels are all known.
    if protocol is not None and protocol.metric != Protocol().metric:
        more.append(f"selected by {protocol} here, by true labels of val there")
    return [*more, *explain_differences(source, settings)]
