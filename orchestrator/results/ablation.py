"""Tabulate an ablation: what each part of a method contributes, on validation data."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.records import TrialRecord, TrialState

SEED_KEY = "loop.seed"


def tabulate_ablation(plan: SweepPlan, records: Iterable[TrialRecord]) -> list[dict[str, Any]]:
    """Return one row per variant, the complete method first.

    Args:
        plan: The ablation; its trials are its variants, each with every seed.
        records: The records of its trials so far.

    Returns:
        Rows with ``variant``, the settings it ``changes``, ``num_seeds`` that have a score, ``num_failed`` that are
        FAILED, ``mean`` and ``deviation`` of their scores in percent, and the ``difference`` from the complete method
        with its ``difference_deviation``, over the seeds that both have. A figure is None if there are too few seeds.
    """
    by_trial = {record.trial: record for record in records}
    # Pruned or failed trials have no score that counts.
    known = {
        trial: record.value(plan.protocol) for trial, record in by_trial.items() if record.state is TrialState.COMPLETE
    }
    failed = {trial for trial, record in by_trial.items() if record.state is TrialState.FAILED}
    # Trials are numbered variant by variant, each with all its seeds.
    num_seeds = plan.num_trials // len(plan.variants)
    trials = [range(first, first + num_seeds) for first in range(0, plan.num_trials, num_seeds)]
    scores = [[known.get(trial) for trial in own] for own in trials]
    rows = []
    for number, (variant, own) in enumerate(zip(plan.variants, scores, strict=True)):
        there = [score for score in own if score is not None]
        # Paired by seed: most of the variation between seeds is common to all variants.
        apart = [
            score - whole
            for score, whole in zip(own, scores[0], strict=True)
            if score is not None and whole is not None
        ]
        # The first variant is the complete method, which does not differ from itself.
        difference = (None, None) if number == 0 else (_mean(apart), _deviation(apart))
        rows.append(
            {
                "variant": variant,
                "changes": {
                    key: value for key, value in plan.start_from[number * num_seeds].items() if key != SEED_KEY
                },
                "num_seeds": len(there),
                "num_failed": len(failed.intersection(trials[number])),
                "mean": _mean(there),
                "deviation": _deviation(there),
                "difference": difference[0],
                "difference_deviation": difference[1],
            }
        )
    return rows


def find_failed(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the variants of :func:`tabulate_ablation` of which no run has a score and some have failed."""
    return [str(row["variant"]) for row in rows if row["num_failed"] and not row["num_seeds"]]


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _deviation(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
