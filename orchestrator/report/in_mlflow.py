"""Put the page of a report into the run of its sweep in MLflow, where colleagues look who do not have the home."""

from __future__ import annotations

from orchestrator.redaction import describe_error
from orchestrator.report.build import build_report
from orchestrator.report.write import PAGE_FILE, render_page
from orchestrator.tracking.reading import read_sweep
from orchestrator.tracking.store import log_text
from orchestrator.tracking.sweep_notes import has_report


def log_report(sweep_id: str) -> str | None:
    """Write the page of a sweep, an ablation or a promotion to MLflow; a promotion's sweep gets a new one as well.

    The page has no pictures of images, which would need the data and a minute. Nothing depends on it, so a failure only
    has a text.

    Returns:
        Why it could not be written, or None.
    """
    try:
        plan, state = read_sweep(sweep_id)
        if has_report(plan, len(state.records)):
            log_text(plan, PAGE_FILE, render_page(build_report(plan, state, with_images=False)))
        if plan.kind == "promote" and plan.parent is not None:
            return log_report(plan.parent)
    except Exception as error:
        return describe_error(error)
    return None
