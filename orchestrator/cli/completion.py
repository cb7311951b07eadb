"""Completes names in the shell: search spaces, sweeps, methods. Quick, and silent about whatever is wrong."""

from __future__ import annotations

import glob
from collections.abc import Iterable

_ID_DIGITS = 8


def complete_space(incomplete: str) -> list[str]:
    """Return the shipped search spaces, and YAML files, that begin with what was typed."""
    from search_spaces.schema import shipped_spaces

    return [*_beginning(incomplete, shipped_spaces()), *_find_yaml(incomplete)]


def complete_suite(incomplete: str) -> list[str]:
    """Return the shipped suites, and YAML files, that begin with what was typed."""
    from search_spaces.suite import shipped_suites

    return [*_beginning(incomplete, shipped_suites()), *_find_yaml(incomplete)]


def complete_sweep(incomplete: str) -> list[str]:
    """Return names and ids of this home's sweeps, trainings and promotions that begin with what was typed."""
    from orchestrator.home import PLAN_FILE, sweeps_dir

    # By their folders' names, because reading every plan would take long in a large home.
    ids = sorted(plan.parent.name for plan in sweeps_dir().glob(f"[!.]*/{PLAN_FILE}"))
    names = [sweep_id[: -_ID_DIGITS - 1] for sweep_id in ids]
    return list(dict.fromkeys(_beginning(incomplete, [*names, *ids])))


def complete_work(incomplete: str) -> list[str]:
    """Return names and ids of this home's sweeps and benchmarks that begin with what was typed."""
    from orchestrator.results.suite_record import list_suites

    suites = list_suites()
    names = [suite_id[: -_ID_DIGITS - 1] for suite_id in suites]
    return list(dict.fromkeys([*complete_sweep(incomplete), *_beginning(incomplete, [*names, *suites])]))


def complete_method(incomplete: str) -> list[str]:
    """Return the methods that begin with what was typed: all shipped ones, for the space is not known yet."""
    from search_spaces.compose import shipped_methods

    return _beginning(incomplete, shipped_methods())


def _beginning(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


def _find_yaml(incomplete: str) -> list[str]:
    return sorted(path for suffix in ("yaml", "yml") for path in glob.glob(f"{glob.escape(incomplete)}*.{suffix}"))
