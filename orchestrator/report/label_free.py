"""Tell how well criteria without true labels rank the configurations of a sweep, where true labels exist too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from orchestrator.report.document import Cell, Column, Headers, Table, make_table
from orchestrator.report.statistics import Interval, kendall, spearman
from orchestrator.report.view import SweepView
from orchestrator.sweep_folder.records import TrialRecord, TrialState
from training.metric_names import VAL_MAP
from training.selection import LABEL_FREE, SelectBy, choose_epoch

_LEAST_TRIALS = 5


@dataclass(frozen=True)
class Ranking:
    """How a criterion ranks the complete trials of a sweep, each at the epoch that it chooses itself.

    Attributes:
        select_by: The criterion.
        kendall, spearman: Rank correlation of its scores with mAP on true labels at these epochs, with 95 % intervals
            over trials.
        trial: Its choice.
        clean: mAP of that trial at that epoch, in percent.
        regret: The best mAP of any trial and epoch, minus that, in points.
    """

    select_by: SelectBy
    kendall: Interval
    spearman: Interval
    trial: int
    clean: float
    regret: float


def compute_rankings(records: Sequence[TrialRecord]) -> list[Ranking]:
    """Return a ranking for each criterion that all complete trials have; none without true labels or with few trials.

    The search may have used one of the criteria; with ASHA only the trials that it kept are complete, so that the
    correlation is that among good ones.
    """
    complete = [record for record in records if record.state is TrialState.COMPLETE]
    best = max((clean for record in complete for clean in _clean(record).values()), default=math.nan)
    found = [_rank(select_by, complete, best) for select_by in LABEL_FREE]
    return [ranking for ranking in found if ranking is not None]


def _clean(record: TrialRecord) -> dict[int, float]:
    return {epoch: metrics[VAL_MAP] for epoch, metrics in record.metrics.items() if VAL_MAP in metrics}


def _rank(select_by: SelectBy, complete: Sequence[TrialRecord], best: float) -> Ranking | None:
    pairs: dict[int, tuple[float, float]] = {}
    for record in complete:
        epoch = choose_epoch(record.metrics, select_by)
        if epoch is None or VAL_MAP not in record.metrics[epoch]:
            return None
        pairs[record.trial] = record.metrics[epoch][LABEL_FREE[select_by]], record.metrics[epoch][VAL_MAP]
    if len(pairs) < _LEAST_TRIALS:
        return None
    scores, clean = zip(*pairs.values(), strict=True)
    trial = min(pairs, key=lambda each: (-pairs[each][0], each))
    return Ranking(
        select_by, kendall(scores, clean), spearman(scores, clean), trial, pairs[trial][1], best - pairs[trial][1]
    )


def rankings_table(view: SweepView) -> Table | None:
    """Return the rankings as a table, with the regret of a random choice to compare with."""
    found = compute_rankings(view.trials)
    if not found:
        return None
    rows: list[tuple[Cell, ...]] = [
        (
            str(each.select_by),
            *(each.kendall.value, each.kendall.low, each.kendall.high),
            *(each.spearman.value, each.spearman.low, each.spearman.high),
            each.trial,
            each.clean,
            each.regret,
        )
        for each in found
    ]
    best = _best_of_each(view.trials)
    chance = max(best.values()) - fmean(best.values())
    rows.append(("a random trial", *(None,) * 7, fmean(best.values()), chance))
    columns: Headers = [
        "select by",
        *(Column(f"{name}{end}", 2) for name in ("Kendall", "Spearman") for end in ("", ", low", ", high")),
        "its trial",
        Column("its mAP (%)", 2),
        Column("regret", 2),
    ]
    note = (
        f"Over {len(best)} complete trials, each at the epoch that the criterion chooses. Intervals are 95 %, over "
        f"trials. Both sides are measured on the same validation images, which flatters the agreement a little."
    )
    return make_table("criteria", "How well criteria without true labels rank the trials", columns, rows, note)


def _best_of_each(records: Sequence[TrialRecord]) -> Mapping[int, float]:
    complete = [record for record in records if record.state is TrialState.COMPLETE]
    return {record.trial: max(_clean(record).values()) for record in complete if _clean(record)}
