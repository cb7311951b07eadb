"""Find the pages of MLflow's UI that show a sweep or a benchmark, and open them."""

from __future__ import annotations

import webbrowser
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.tracking.store import find_experiment_with, find_suite_run, find_sweep_run, has_experiment_tag
from orchestrator.tracking.suite_runs import EXPERIMENT
from orchestrator.tracking.ui import run_url
from orchestrator.tracking.views import VIEW_TAG, compare_url, list_url, suite_url


@dataclass(frozen=True)
class Pages:
    """Addresses of a sweep's pages.

    Attributes:
        trials: The list of its trials alone, the best first.
        charts: The same trials compared in charts.
        own: The page of the sweep's own run, with its description.
    """

    trials: str
    charts: str
    own: str


def find_pages(base: str, plan: SweepPlan) -> Pages | None:
    """Return where a sweep is shown, or None if MLflow has none of its runs yet.

    Args:
        base: The address of the server.
        plan: The sweep.

    Raises:
        MlflowFailedError: MLflow does not answer.
    """
    found = find_sweep_run(plan)
    if found is None:
        return None
    experiment_id, run_id = found
    has_view = has_experiment_tag(experiment_id, f"{VIEW_TAG}{plan.id}")
    return Pages(
        list_url(base, experiment_id, plan, has_view=has_view),
        compare_url(base, experiment_id, plan, has_view=has_view),
        run_url(base, experiment_id, run_id),
    )


@dataclass(frozen=True)
class SuitePages:
    """Addresses of a benchmark's pages.

    Attributes:
        own: The page of its own run, with its description.
        final_runs: Dataset -> the final runs of all methods, compared; only those that have some.
    """

    own: str
    final_runs: Mapping[str, str]


def find_suite_pages(base: str, suite_id: str, datasets: Iterable[str]) -> SuitePages | None:
    """Return where a benchmark is shown, or None if MLflow has no run of it yet.

    Args:
        base: The address of the server.
        suite_id: The benchmark.
        datasets: Those that it uses.

    Raises:
        MlflowFailedError: MLflow does not answer.
    """
    found = find_suite_run(suite_id, EXPERIMENT)
    if found is None:
        return None
    final_runs = {}
    for dataset in datasets:
        experiment_id = find_experiment_with(dataset, f"{VIEW_TAG}{suite_id}")
        if experiment_id is not None:
            final_runs[dataset] = suite_url(base, experiment_id, suite_id)
    return SuitePages(run_url(base, *found), final_runs)


def open_page(address: str) -> bool:
    """Open an address in the user's browser, without a password in it; return whether there is a browser."""
    parts = urlsplit(address)
    # A command line is public on a machine; the browser asks for the password itself.
    plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    try:
        return webbrowser.open(plain)
    except webbrowser.Error:
        return False
