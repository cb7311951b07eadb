"""Put together the report of a sweep, a training or an ablation."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.durations import format_hours
from orchestrator.home import ERRORS_DIR
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.report.cost_figures import draw_breakdown, draw_timeline, failures_table
from orchestrator.report.document import Column, Headers, Part, Report, Section, Table, make_table
from orchestrator.report.findings import (
    describe_ablation,
    describe_agreement,
    describe_cost,
    describe_curse,
    describe_effects,
    describe_failures,
    describe_openings,
    describe_winner,
    name_times,
)
from orchestrator.report.label_free import rankings_table
from orchestrator.report.openings import Openings
from orchestrator.report.parameter_figures import (
    Effect,
    compute_effects,
    draw_importance,
    draw_rejection,
    draw_responses,
    draw_tau,
)
from orchestrator.report.published_section import make_published_section
from orchestrator.report.search_figures import (
    compute_agreement,
    draw_agreement,
    draw_best_so_far,
    draw_learning_curves,
    draw_survival,
    leaderboard_table,
)
from orchestrator.report.view import SweepView
from orchestrator.report.weights_figure import draw_weights
from orchestrator.results.ablation import tabulate_ablation
from orchestrator.results.opened_test import find_openings
from orchestrator.results.summary import make_heading
from training.counts import counted

_UNKNOWN = Openings()


def make_sweep_report(view: SweepView, openings: Openings = _UNKNOWN, extra: Sequence[Section] = ()) -> Report:
    """Return the report of a sweep.

    Args:
        view: The sweep.
        openings: How often the test split was opened.
        extra: Sections about its data and its pictures.
    """
    plan = view.plan
    if plan.kind == "sweep":
        effects = compute_effects(view)
        findings = [*describe_winner(view), describe_curse(view), *describe_effects(view, effects)]
        findings += [describe_cost(view), describe_failures(view), describe_openings(openings)]
        sections = _search_sections(view, effects)
    else:
        is_ablation = plan.kind == "ablate"
        found = describe_ablation(tabulate_ablation(plan, view.trials)) if is_ablation else describe_winner(view)
        findings = [*found, describe_cost(view), describe_failures(view)]
        curves = None if is_ablation else draw_rejection(view)
        sections = [
            _section("ablation", "What each part is worth", [_ablation_table(view)]),
            _section("runs", "The runs", [draw_learning_curves(view), leaderboard_table(view)]),
            _section("method", "The method at work", [curves]),
        ]
    sections += [make_published_section(plan), *extra, _cost_section(view)]
    return Report(
        name=plan.id,
        title=f"{_KINDS[plan.kind]} {plan.id}",
        context=describe_context(view),
        findings=tuple(sentence for sentence in findings if sentence),
        facts=_facts(view, openings),
        sections=merge_sections(sections),
        footer=describe_origin(view),
    )


def _search_sections(view: SweepView, effects: Sequence[Effect]) -> list[Section]:
    agreeing = compute_agreement(view)
    parts = [draw_importance(view), draw_responses(view, effects), draw_tau(view, effects), draw_weights(view)]
    early = describe_agreement(view, agreeing)
    return [
        _section("search", "The search", [draw_best_so_far(view), draw_learning_curves(view), leaderboard_table(view)]),
        _section("parameters", "The parameters", parts),
        _section("early", "Early stopping", [draw_agreement(view, agreeing), draw_survival(view)], early),
        _section("criteria", "Choosing without true labels", [rankings_table(view)]),
        _section("method", "The method at work", [draw_rejection(view)]),
    ]


_KINDS = {"sweep": "Sweep", "train": "Training", "ablate": "Ablation", "promote": "Promotion"}


def describe_context(view: SweepView) -> str:
    """Say what all scores of a page refer to."""
    plan, heading = view.plan, make_heading(view.plan)
    marks = f" ({heading.marks})" if heading.marks else ""
    return (
        f"{plan.method}{marks} on {plan.dataset}, recipe {heading.recipe}. Scores are {view.metric} in percent, "
        f"selected by {plan.protocol}. {_describe_search(view)}"
    )


def _describe_search(view: SweepView) -> str:
    plan = view.plan
    if plan.kind != "sweep":
        return f"Runs have at most {counted(plan.epochs, 'epoch')}."
    num_trials = view.state.total(plan.num_trials)
    return (
        f"{counted(num_trials, 'trial')} of at most {counted(plan.epochs, 'epoch')}, proposed by "
        f"{plan.sampler} (seed {plan.search_seed}); {_describe_stopping(plan)}."
    )


def _describe_stopping(plan: SweepPlan) -> str:
    if plan.screen_epoch is not None:
        return f"after epoch {plan.screen_epoch}, the best {plan.keep} continue"
    return "none is stopped early" if plan.scheduler == "none" else f"weak ones are stopped by {plan.scheduler.upper()}"


def _facts(view: SweepView, openings: Openings) -> tuple[tuple[str, str], ...]:
    winner = view.winner
    best = "none yet" if winner is None else f"{view.complete[winner.trial]:.2f} %"
    who = "best score" if winner is None else f"best score, trial {winner.trial}"
    noise = "not known" if view.noise is None else f"{view.noise.deviation.value:.2f} points"
    hours = view.total_hours
    facts = [
        (who, best),
        ("seed deviation", noise),
        ("trials ended", f"{sum(record.ended for record in view.trials)} of {view.state.total(view.plan.num_trials)}"),
        (view.hours_unit, format_hours(hours)),
    ]
    if view.plan.kind == "sweep":
        facts.append(("test split opened", name_times(max(openings.of_data or 0, len(openings.own)))))
    return tuple(facts)


def describe_origin(view: SweepView) -> tuple[str, ...]:
    """Say with what a sweep ran, for the foot of a page."""
    known = view.state.provenance
    names = {"commit": "commit", "data_hash": "data", "weights_hash": "weights", "lock_hash": "lock file"}
    parts = [f"{name} `{known[key][:12]}`" for key, name in names.items() if known.get(key)]
    openings = find_openings(view.state)
    # The only thing here that is not from the journal: other sweeps open the same test set.
    counted = () if openings is None else (f"From the test ledger, when this was made: {openings}.",)
    return (
        f"Space {view.plan.space}. {'; '.join(parts)}.",
        *counted,
        f"Made from the journal by `orchestrator report {view.plan.id}`; equal journals give equal reports.",
    )


def _section(name: str, title: str, parts: Sequence[Part | None], paragraph: str | None = None) -> Section:
    kept = tuple(part for part in parts if part is not None)
    return Section(name, title, (paragraph,) if paragraph and kept else (), kept)


def merge_sections(sections: Sequence[Section]) -> tuple[Section, ...]:
    """Return the sections that hold something, with those of one name as one."""
    merged: dict[str, Section] = {}
    for section in sections:
        if not section.parts and not section.paragraphs:
            continue
        known = merged.get(section.name, Section(section.name, section.title))
        merged[section.name] = Section(
            section.name, known.title, known.paragraphs + section.paragraphs, known.parts + section.parts
        )
    return tuple(merged.values())


def _ablation_table(view: SweepView) -> Table | None:
    if view.plan.kind != "ablate":
        return None
    rows = [
        (
            row["variant"],
            row["num_seeds"],
            row["num_failed"],
            row["mean"],
            row["deviation"],
            row["difference"],
            row["difference_deviation"],
        )
        for row in tabulate_ablation(view.plan, view.trials)
    ]
    names = ["mean (%)", "deviation", "difference", "its deviation"]
    note = "Deviations are over training seeds; the difference from the complete method is taken seed by seed."
    columns: Headers = ["variant", "seeds", "failed", *(Column(name, 2) for name in names)]
    return make_table("ablation", "With and without each part", columns, rows, note)


def _cost_section(view: SweepView) -> Section:
    failures = failures_table(view)
    paragraph = f"Tracebacks are in `sweeps/{view.plan.id}/{ERRORS_DIR}` of the home." if failures else None
    return _section("cost", "What it cost", [draw_timeline(view), draw_breakdown(view), failures], paragraph)
