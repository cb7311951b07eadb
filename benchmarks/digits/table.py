"""Render the tables of ``benchmarks.digits.runs`` and the conclusions from their figures as Markdown.

Nothing here runs anything or reads a file.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Result = dict[str, Any]
"""The result of ``benchmarks.digits.runs.run_one``: a line of ``digits.jsonl``."""
Checked = dict[str, Any]
"""The content of ``digits_checked.json``: at tree ``code``, the repeated ``rows`` of tree ``of`` are equal."""

TITLES = {
    "main": "IGNORE, its bounds and the simplest baselines",
    "rivals": "Rivals",
    "ablations": "IGNORE without one of its parts",
    "query2label": "Query2Label",
}
# Title -> (method, the method to compare it with), over pairs of runs that share scenes, draw and training seed.
QUESTIONS = {
    "SPBC, the strong view and the regularisation": ("IGNORE without rejection", "assumed negative"),
    "Rejection itself": ("IGNORE", "IGNORE without rejection"),
    "A gap threshold times 1.5 (not in the paper)": ("IGNORE, gap threshold x 1.5", "IGNORE"),
    "Perfect rejection over the gap's": ("IGNORE with oracle rejection", "IGNORE"),
    "Full labels over perfect rejection": ("full labels", "IGNORE with oracle rejection"),
    "IGNORE over WAN": ("IGNORE", "WAN"),
    "IGNORE over EM of alpha 0.2": ("IGNORE", "EM, alpha 0.2"),
    "An alpha of 0.2 over 0.1 (EM)": ("EM, alpha 0.2", "EM, alpha 0.1"),
    "Pseudo-labels over EM of the same alpha (EM + APL)": ("EM + APL", "EM, alpha 0.2"),
    "The average-logit test": ("IGNORE", "IGNORE without the average-logit test"),
    "SPBC": ("IGNORE", "IGNORE without SPBC"),
    "The regularisation": ("IGNORE", "IGNORE without regularisation"),
    "The strong view's loss over the weak view's": ("IGNORE", "IGNORE, loss of the weak view"),
    "A boost of the CAM (BoostLU) to LL-R": ("BoostLU + LL-R", "LL-R"),
    "A boost of the CAM (BoostLU) to LL-Ct": ("BoostLU + LL-Ct", "LL-Ct"),
    "A boost of the CAM (BoostLU) to LL-Cp": ("BoostLU + LL-Cp", "LL-Cp"),
    "Rejection itself, Query2Label": ("Query2Label, IGNORE", "Query2Label, IGNORE without rejection"),
    "Perfect rejection over the gap's, Query2Label": (
        "Query2Label, IGNORE with oracle rejection",
        "Query2Label, IGNORE",
    ),
    "LAC, Query2Label": ("Query2Label, PLC + LAC", "Query2Label, PLC"),
    "IGNORE over PLC + LAC, Query2Label": ("Query2Label, IGNORE", "Query2Label, PLC + LAC"),
    "Query2Label over the CAM head, IGNORE": ("Query2Label, IGNORE", "IGNORE"),
}
# Two-sided 95 % points of Student's t by degrees of freedom; other degrees use 2.0.
_T95 = {
    1: 12.71,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
    8: 2.306,
    9: 2.262,
    10: 2.228,
    11: 2.201,
    12: 2.179,
}
_T95 |= {13: 2.160, 14: 2.145, 19: 2.093, 24: 2.064, 29: 2.045}


def render_report(
    results: Sequence[Result], groups: Mapping[str, str], explanations: str, checked: Checked | None = None
) -> str:
    """Render the whole report.

    Args:
        results: Results of one code, or of two that are checked to be equal, with the present settings; no run twice.
        groups: The table of each row, a key of :data:`TITLES`; its order counts where means are equal.
        explanations: Hand-written Markdown for the end of the report.
        checked: The record that an earlier tree's results are valid for this one.
    """
    if not results:
        return "# Methods on digit scenes\n\nNo results of this code.\n"
    tables = []
    for group, title in TITLES.items():
        mine = [result for result in results if groups[result["row"]] == group]
        if mine:
            tables.append(f"## {title}\n\n{render_table(mine, results)}")
    said = "\n".join(
        f"* {line}" for line in [*conclude(results), *conclude_maps(results), *conclude_rejection(results)]
    )
    parts = [_preface(results, checked), *tables, f"## What the figures say\n\n{said}", explanations.strip()]
    return "\n\n".join(part for part in parts if part) + "\n"


def count_runs(report: str) -> int:
    """Return the number of runs in the tables of a report."""
    cells = [line.strip("| ").split("|") for line in report.splitlines() if line.startswith("| ")]
    return sum(int(of_row[-1]) for of_row in cells if of_row[-1].strip().isdecimal())


def render_table(mine: Sequence[Result], results: Sequence[Result]) -> str:
    """Render one table with mean and sample deviation over the runs of each row, sorted by the mean.

    Args:
        mine: Results of the table's rows.
        results: All results; the column of leads needs those of IGNORE on the same model.
    """
    lines = [
        "| method | test mAP | IGNORE's lead | rejection precision | recall | lift | pointing game | CPU s per run | "
        "runs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = dict.fromkeys(result["row"] for result in mine)
    means = {row: statistics.mean(result["test_mAP"] for result in _of(mine, row)) for row in rows}
    for row in sorted(rows, key=means.__getitem__):
        of_row = _of(mine, row)
        cells = [
            row,
            _spread(of_row, "test_mAP", 1),
            _lead(results, row),
            *(_spread(of_row, name, 2) for name in ("rejection_precision", "rejection_recall", "rejection_lift")),
            _spread(of_row, "pointing_hit_rate", 0),
            f"{statistics.mean(result['cpu_s'] for result in of_row):.0f}",
            str(len(of_row)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def conclude(results: Sequence[Result]) -> list[str]:
    """Answer each of :data:`QUESTIONS` from the pairs of runs that share scenes, draw and training seed."""
    answers = []
    for subject, (better, worse) in QUESTIONS.items():
        differences = _paired(results, better, worse)
        if len(differences) > 1:
            mean, half = statistics.mean(differences), _half_width(differences)
            wins = sum(difference > 0 for difference in differences)
            verdict = "gains" if mean > half else "costs" if mean < -half else "no clear difference,"
            answers.append(
                f"{subject}: {verdict} {mean:+.1f} +- {half:.1f} mAP (95 %, {len(differences)} pairs, {wins} of them "
                f"positive)."
            )
    return answers


def conclude_maps(results: Sequence[Result]) -> list[str]:
    """Return which rows' maps do not beat the image's middle at the pointing game, or by how much all beat it."""
    margins = {
        row: statistics.mean(
            result["pointing_hit_rate"] - result["centre_hit_rate"]
            for result in _with(results, row, "pointing_hit_rate")
        )
        for row in dict.fromkeys(result["row"] for result in results)
        if _with(results, row, "pointing_hit_rate")
    }
    if not margins:
        return []
    centre = statistics.mean(result["centre_hit_rate"] for result in results if result["centre_hit_rate"] is not None)
    least = min(margins, key=margins.__getitem__)
    losers = [row for row, margin in margins.items() if margin <= 0]
    text = f"Pointing game: the middle of the image hits {centre:.1f} %; "
    if losers:
        return [f"{text}the maps of {'; '.join(losers)} do no better."]
    return [f"{text}the maps of every row beat it, by at least {margins[least]:.0f} points ({least})."]


def conclude_rejection(results: Sequence[Result]) -> list[str]:
    """Return whether rejected labels are more often false negatives than unobserved labels in general."""
    lifts = {
        row: [result["rejection_lift"] for result in _with(results, row, "rejection_lift")]
        for row in dict.fromkeys(result["row"] for result in results)
    }
    lifts = {row: values for row, values in lifts.items() if values}
    if not lifts:
        return []
    poor = [row for row, values in lifts.items() if min(values) <= 1]
    if poor:
        return [f"Rejection lift of 1 or less in at least one run: {'; '.join(poor)}."]
    least = min(lifts, key=lambda row: min(lifts[row]))
    return [
        f"Rejection lift: above 1 in every run of the {len(lifts)} rows that have one; the lowest is "
        f"{min(lifts[least]):.2f} ({least})."
    ]


def _preface(results: Sequence[Result], checked: Checked | None) -> str:
    scenes, seeds = (
        ", ".join(map(str, sorted({result[name] for result in results}))) for name in ("scene_seed", "seed")
    )
    epochs = " or ".join(map(str, sorted({result["epochs"] for result in results})))
    return (
        "# Methods on digit scenes\n\n"
        f"Test mAP in %, mean and sample deviation over the runs. Scene seeds {scenes} (each redraws scenes and trunk; "
        f"none was used\nto choose a setting), training seeds {seeds} (label draw, order, head; the last column counts "
        f"a row's runs), {epochs} epochs,\nbest epoch by clean validation mAP. IGNORE's lead: its test mAP minus the "
        "row's, over runs that share scenes, draw and\ntraining seed, with half the width of its 95 % interval; for "
        "Query2Label, the lead of IGNORE on Query2Label. Rejection: of the\nunobserved labels that a method rejects or "
        "treats as positive in the last epoch, the share that are false negatives\n(precision), the share of false "
        "negatives found (recall), and precision over the base rate (lift). Pointing game: how often\nthe highest "
        "point of the map lies in the object, in % of pairs of a validation image and a class. CPU seconds on one "
        f"thread,\nwith evaluation, on a machine with other work. {_trees(results, checked)}\n\n"
        "IGNORE's settings were chosen on scene seed 0 while looking at its test mAP. The other methods use the "
        "settings of the space,\nwhich are their authors' unless its comments say otherwise, on IGNORE's schedule and "
        "weak view. A rival that is tuned as\nthoroughly may do better: only an equal budget can decide, not this "
        "table."
    )


def _trees(results: Iterable[Result], checked: Checked | None) -> str:
    codes = sorted({result["code"] for result in results})
    if checked is None or checked["of"] not in codes:
        return f"Git tree of training/: {', '.join(codes)}."
    return (
        f"Measured at git tree {' and '.join(codes)} of\ntraining/; {len(checked['rows'])} of the runs at "
        f"{checked['of']} were repeated at {checked['code']} on {checked['date']}, with results equal to the last "
        "digit."
    )


def _lead(results: Sequence[Result], row: str) -> str:
    champion = "Query2Label, IGNORE" if row.startswith("Query2Label") else "IGNORE"
    differences = _paired(results, champion, row) if row != champion else []
    return f"{statistics.mean(differences):+.1f} +- {_half_width(differences):.1f}" if len(differences) > 1 else ""


def _paired(results: Sequence[Result], better: str, worse: str) -> list[float]:
    scores = {(result["row"], result["scene_seed"], result["seed"]): result["test_mAP"] for result in results}
    pairs = [(key, (worse, *key[1:])) for key in scores if key[0] == better]
    return [scores[first] - scores[second] for first, second in pairs if second in scores]


def _half_width(values: Sequence[float]) -> float:
    """Return half the width of the 95 % interval of a mean.

    It is a little too narrow, because runs that share scenes are not independent.
    """
    return _T95.get(len(values) - 1, 2.0) * statistics.stdev(values) / math.sqrt(len(values))


def _spread(results: Iterable[Result], name: str, digits: int) -> str:
    known = [result[name] for result in results if result[name] is not None]
    if not known:
        return ""
    deviation = f" +- {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{digits}f}{deviation}"


def _of(results: Iterable[Result], row: str) -> list[Result]:
    return [result for result in results if result["row"] == row]


def _with(results: Iterable[Result], row: str, name: str) -> list[Result]:
    return [result for result in _of(results, row) if result[name] is not None]
