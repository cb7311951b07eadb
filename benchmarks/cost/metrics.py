"""Measures what the metrics of a test split cost, compared with scikit-learn's.

    python -m benchmarks.cost metrics [--repeats 7]

Rows: the average precision of every class; mAP and the metrics at a threshold, on one set of labels; and a whole
evaluation, which scikit-learn has no counterpart for: logits in batches of 32, all metrics on true and on observed
labels. scikit-learn works class by class in one thread; ours is timed with one thread and with one per core. Repeats
alternate, after one untimed round. Memory is measured in a separate process. Results go to ``results/metrics.md``.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sklearn
import torch
from sklearn.metrics import average_precision_score, precision_recall_fscore_support
from torch import Tensor

from training.metrics import MetricAccumulator, average_precision, compute_metrics

RESULTS = Path(__file__).parents[1] / "results" / "metrics.md"
AIMED = "COCO's test size"
SIZES = {AIMED: (40_137, 80), "NUS-WIDE's test size": (60_260, 81)}
AIM_S = 1.0
AIM_DIFFERENCE = 1e-6
BATCH = 32
_POSITIVE_FRAC = 0.036
AP, ONE_SET, WHOLE = (
    "average precision of every class",
    "all metrics on one set of labels",
    f"a whole evaluation, in batches of {BATCH}",
)
_MEMORY = """
import sys
from pathlib import Path
import torch
from training.metrics import MetricAccumulator, compute_metrics

def mib(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))

num, num_classes, batch = map(int, sys.argv[1:])
def rows(size):
    return torch.randn(size, num_classes), torch.rand(size, num_classes) < 0.04, torch.rand(size, num_classes) < 0.01
compute_metrics("test", *rows(100))  # imports and sets up what is needed once
before = mib("VmRSS")
accumulator = MetricAccumulator(num_classes, has_true=True)
for start in range(0, num, batch):
    accumulator.update(*rows(min(batch, num - start)))
held = mib("VmRSS")
accumulator.compute("test")
print(held - before, mib("VmHWM") - held)
"""


@dataclass(frozen=True)
class Timing:
    """The wall time and the CPU time of each repeat, in seconds."""

    wall_s: list[float]
    cpu_s: list[float]


@dataclass(frozen=True)
class SizeReport:
    """What was measured at one size.

    Attributes:
        shape: The numbers of images and classes.
        timings: The times, by row and implementation.
        held_mib: The memory that the accumulator of a whole evaluation holds.
        ranking_mib: The memory that computing takes in addition, at its peak.
    """

    shape: tuple[int, int]
    timings: dict[tuple[str, str], Timing]
    held_mib: float
    ranking_mib: float


def make_split(num: int, num_classes: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits that correlate with the labels, true labels as dense as COCO's, and one observed label an image."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.rand(num, num_classes, generator=generator) < _POSITIVE_FRAC
    observed = torch.zeros_like(true)
    chosen = (true * torch.rand(num, num_classes, generator=generator)).argmax(1, keepdim=True)
    observed.scatter_(1, chosen, true.gather(1, chosen))
    return 2 * torch.randn(num, num_classes, generator=generator) - 3 + 3 * true, true, observed


def largest_difference(num: int, num_classes: int) -> dict[str, float]:
    """Return how far any class's average precision is from scikit-learn's, by how many scores are tied."""
    logits, true, _ = make_split(num, num_classes)
    kinds = {
        "no ties": logits,
        "rounded to tenths": (10 * logits).round() / 10,
        "bfloat16": logits.bfloat16().float(),
    }
    return {
        name: float(
            (
                average_precision(scores, true)
                - torch.tensor(_scikit_average_precision(scores, true), dtype=torch.float64)
            )
            .abs()
            .max()
        )
        for name, scores in kinds.items()
    }


def measure_size(num: int, num_classes: int, repeats: int) -> SizeReport:
    """Time every row at one size, and measure the memory of a whole evaluation."""
    logits, true, observed = make_split(num, num_classes)
    probs = logits.sigmoid()

    def scikit_one_set() -> None:
        _scikit_average_precision(logits, true)
        for average in ("macro", "micro"):
            precision_recall_fscore_support(true.numpy(), (probs > 0.5).numpy(), average=average, zero_division=0)

    def whole() -> None:
        accumulator = MetricAccumulator(num_classes, has_true=True)
        for parts in zip(logits.split(BATCH), true.split(BATCH), observed.split(BATCH), strict=True):
            accumulator.update(*parts)
        accumulator.compute("test")

    rows: dict[tuple[str, str], Callable[[], object]] = {
        (AP, "scikit-learn"): lambda: _scikit_average_precision(logits, true),
        (ONE_SET, "scikit-learn"): scikit_one_set,
    }
    for threads in dict.fromkeys((1, os.cpu_count() or 1)):
        who = f"ours, {threads} thread{'s' if threads > 1 else ''}"
        rows[AP, who] = _with_threads(threads, lambda: average_precision(logits, true))
        rows[ONE_SET, who] = _with_threads(threads, lambda: compute_metrics("test", logits, None, true))
        rows[WHOLE, who] = _with_threads(threads, whole)
    return SizeReport((num, num_classes), alternate(rows, repeats), *_weigh(num, num_classes))


def alternate(rows: dict[tuple[str, str], Callable[[], object]], repeats: int) -> dict[tuple[str, str], Timing]:
    """Time all rows in turn, ``repeats`` times, after one round that does not count."""
    timings = {name: Timing([], []) for name in rows}
    for turn in range(repeats + 1):
        for name, action in rows.items():
            wall, cpu = time.perf_counter(), time.process_time()
            action()
            if turn > 0:
                timings[name].wall_s.append(time.perf_counter() - wall)
                timings[name].cpu_s.append(time.process_time() - cpu)
    return timings


def render_report(sizes: dict[str, SizeReport], differences: dict[str, float], load: float) -> str:
    """Return the results as Markdown."""
    repeats = len(next(iter(next(iter(sizes.values())).timings.values())).wall_s)
    head = (
        f"# Metrics\n\n{os.cpu_count()} cores, Linux {platform.machine()}, Python {platform.python_version()}, torch "
        f"{torch.__version__}, scikit-learn {sklearn.__version__}.\nLoad average at the start {load:.1f}. Seconds, "
        f"median of {repeats} alternated repeats (lowest - highest); CPU is the CPU time of the process."
    )
    return (
        "\n\n".join([head, *(_size_table(name, report) for name, report in sizes.items()), _agreement(differences)])
        + "\n"
    )


def _size_table(name: str, report: SizeReport) -> str:
    lines = [
        f"## {name}: {report.shape[0]:,} x {report.shape[1]}",
        "",
        "| | | wall, s | CPU, s |",
        "|---|---|---|---|",
    ]
    for row in (AP, ONE_SET, WHOLE):
        for (of, who), timing in report.timings.items():
            if of == row:
                lines.append(f"| {row} | {who} | {_spread(timing.wall_s)} | {statistics.median(timing.cpu_s):.3f} |")
    lines += [
        "",
        f"A whole evaluation, on true and on observed labels, holds {report.held_mib:.0f} MiB (6 bytes per entry) and "
        "takes",
    ]
    lines += [f"{report.ranking_mib:.0f} MiB more while it computes, a few classes at a time."]
    if name == AIMED:
        whole = {who: statistics.median(timing.wall_s) for (of, who), timing in report.timings.items() if of == WHOLE}
        verdicts = ", ".join(f"{who} {seconds:.2f} s ({_verdict(seconds < AIM_S)})" for who, seconds in whole.items())
        lines[-1] += f" Aim: under {AIM_S:g} s of wall time: {verdicts}."
    return "\n".join(lines)


def _agreement(differences: dict[str, float]) -> str:
    lines = [
        "Largest difference between our average precision of a class (0-1) and scikit-learn's:",
        "",
        "| scores | difference | |",
        "|---|---|---|",
    ]
    for name, value in differences.items():
        lines.append(f"| {name} | {value:.0e} | at most {AIM_DIFFERENCE:g}: {_verdict(value <= AIM_DIFFERENCE)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} - {max(values):.3f})"


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def _scikit_average_precision(scores: Tensor, labels: Tensor) -> list[float]:
    found: list[float] = average_precision_score(labels.numpy(), scores.numpy(), average=None).tolist()
    return found


def _with_threads(num: int, action: Callable[[], object]) -> Callable[[], object]:
    def act() -> None:
        torch.set_num_threads(num)
        action()

    return act


def _weigh(num: int, num_classes: int) -> tuple[float, float]:
    command = [sys.executable, "-c", _MEMORY, str(num), str(num_classes), str(BATCH)]
    held, ranking = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(held), float(ranking)


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    load = os.getloadavg()[0]
    sizes = {name: measure_size(*shape, repeats) for name, shape in SIZES.items()}
    text = render_report(sizes, largest_difference(*next(iter(SIZES.values()))), load)
    RESULTS.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
