"""Build the report of whatever a word names: a sweep, a training, an ablation or a promotion."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.report.document import Report, Section
from orchestrator.report.openings import find_noise, find_openings, find_promotions
from orchestrator.report.promotion_report import make_promotion_report
from orchestrator.report.sweep_report import make_sweep_report
from orchestrator.report.view import SweepView
from orchestrator.sweep_folder.state import SweepState

Builder = Callable[[SweepPlan, SweepState, bool], Report]


def build_report(plan: SweepPlan, state: SweepState, *, with_images: bool = True) -> Report:
    """Return the report.

    Args:
        plan, state: What it is about.
        with_images: Look at the data and at the winner's weights too, which takes some seconds.
    """
    return _BUILDERS[plan.kind](plan, state, with_images)


def _build_sweep(plan: SweepPlan, state: SweepState, with_images: bool) -> Report:
    promotions = find_promotions(plan.id)
    view = SweepView(plan, state, find_noise(promotions))
    return make_sweep_report(
        view, find_openings(promotions, state.provenance.get("data_hash")), _look_at_images(view) if with_images else []
    )


def _build_promotion(plan: SweepPlan, state: SweepState, with_images: bool) -> Report:
    return make_promotion_report(plan, state, _look_at_images(SweepView(plan, state)) if with_images else [])


def _look_at_images(view: SweepView) -> list[Section]:
    from orchestrator.report.image_sections import make_image_sections  # late, because it imports torch

    return make_image_sections(view)


# What else is reported one day (suites, say) gets a line here; its page is made of the same sections and tables.
_BUILDERS: dict[str, Builder] = {
    "sweep": _build_sweep,
    "train": _build_sweep,
    "ablate": _build_sweep,
    "promote": _build_promotion,
}
