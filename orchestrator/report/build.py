"""Build the report of a sweep, a training, an ablation, a promotion or a benchmark."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.report.document import Report, Section
from orchestrator.report.openings import find_noise, find_openings, find_promotions
from orchestrator.report.promotion_report import make_promotion_report
from orchestrator.report.suite_report import make_suite_report
from orchestrator.report.suite_view import read_view
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


def build_suite_report(suite_id: str, *, allow_mixed: bool = False) -> Report:
    """Return the report of a benchmark, as far as it is done.

    Raises:
        UserError: Its cells cannot be compared.
        OrchestratorError: Its record cannot be read.
    """
    return make_suite_report(read_view(suite_id, allow_mixed=allow_mixed))


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


_BUILDERS: dict[str, Builder] = {
    "sweep": _build_sweep,
    "train": _build_sweep,
    "ablate": _build_sweep,
    "promote": _build_promotion,
}
