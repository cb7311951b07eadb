"""Renders what each fault cost as a Markdown table."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import dataclass
from datetime import date

NUM_UNCOPIED = 3
"""Epochs of each trial that the backup does not get before the head is lost."""


@dataclass(frozen=True)
class Cost:
    """What one fault cost.

    Attributes:
        fault: What was done, as the report names it.
        seconds: From the fault to the next epoch of every trial that it hit.
        lost: Epochs that were in the journal at the fault and are missing at the end.
        run_again: Epochs that were in the journal and had to be trained again, because no checkpoint held them.
        uncopied: Epochs that are missing because the backup did not have them when the head was lost.
    """

    fault: str
    seconds: float
    lost: int
    run_again: int = 0
    uncopied: int = 0


def render_report(rounds: list[list[Cost]], wrong: list[str]) -> str:
    """Return the figures as Markdown."""
    names = list(dict.fromkeys(cost.fault for costs in rounds for cost in costs))
    lines = [
        "# Faults on a cluster",
        "",
        f"{date.today()}; {os.cpu_count()} CPU cores, {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}; a head and three raylets of two CPUs each on this machine, with token "
        "authentication. Time: from the fault to the next epoch of every trial that it hit; an epoch takes 0.5 s. "
        "Run again: epochs in the journal that had to be trained again. Uncopied: epochs that are missing because the "
        f"backup was out of reach for at least the last {NUM_UNCOPIED} of each trial; the last of them is reported "
        "again.",
        "",
        "| fault | times | epochs lost | run again | uncopied | median s | longest s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        found = [cost for costs in rounds for cost in costs if cost.fault == name]
        seconds = [cost.seconds for cost in found]
        timed = f"{statistics.median(seconds):.1f} | {max(seconds):.1f}" if any(seconds) else "- | -"
        counts = [
            sum(numbers)
            for numbers in zip(*((cost.lost, cost.run_again, cost.uncopied) for cost in found), strict=True)
        ]
        lines.append(f"| {name} | {len(found)} | " + " | ".join(map(str, counts)) + f" | {timed} |")
    return "\n".join([*lines, *(["", *(f"- {fault}" for fault in wrong)] if wrong else [])]) + "\n"
