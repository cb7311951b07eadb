"""Measure what a scheduler would have lost on recorded sweeps of full size, all of whose trials ran to their end.

    python -m benchmarks.search.recorded                        # write results/search_recorded.md
    python -m benchmarks.search.recorded --take NAME=SWEEP ...  # first copy the curves of sweeps of this home

The tables of :mod:`benchmarks.search` are small and start from a trunk that has seen all labels, so their early epochs
may say more than those of a user's sweep. Here the curves are those of the digits benchmark. Each repetition draws some
trials of a sweep without replacement, in random order; the scheduler sees them four at a time.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.search.measure import WORKERS
from benchmarks.search.tables import TABLES
from orchestrator.api import open_sweep
from orchestrator.intervals import mean_interval
from orchestrator.trials.pruner import Pruner
from training.metric_names import TRAIN_IMAGES_BACKWARD, TRAIN_IMAGES_FORWARD, VAL_MAP

Floats = npt.NDArray[np.float64]
RESULTS = Path(__file__).parents[1] / "results"
CURVES_FILE = "search_recorded.parquet"
_MOST_TRIALS = 24
_REPETITIONS = 1000


@dataclass(frozen=True)
class Sweep:
    """The trials of a recorded sweep.

    Attributes:
        name: Of its method.
        curves: (trials, epochs), validation mAP in percent.
        passes: (trials, epochs), images passed in training: forward, and backward counted twice.
    """

    name: str
    curves: Floats
    passes: Floats

    @property
    def num_drawn(self) -> int:
        """How many trials a repetition draws."""
        return min(_MOST_TRIALS, len(self.curves) * 3 // 4)


Rule = Callable[[Floats], npt.NDArray[np.int64]]
"""Curves (trials, epochs) in the order of their trials -> the epoch at which each one ends."""


def screen(share_of_epochs: float, share_kept: float) -> Rule:
    """Return the screen: all run to one epoch, the best few of them to their end."""

    def end(curves: Floats) -> npt.NDArray[np.int64]:
        epoch = round(share_of_epochs * curves.shape[1])
        best = np.argsort(-curves[:, :epoch].max(1), kind="stable")[: math.ceil(share_kept * len(curves))]
        ends = np.full(len(curves), epoch)
        ends[best] = curves.shape[1]
        return ends

    return end


def asha(share_of_epochs: float, reduction_factor: float = 3.0) -> Rule:
    """Return the product's ASHA, which sees trials four at a time."""

    def end(curves: Floats) -> npt.NDArray[np.int64]:
        num_epochs = curves.shape[1]
        plan = TABLES["ignore"].plan
        plan = replace(
            plan,
            base={**plan.base, "loop.epochs": num_epochs},
            scheduler="asha",
            grace_epochs=round(share_of_epochs * num_epochs),
            reduction_factor=reduction_factor,
        )
        pruner, ends = Pruner(plan), np.full(len(curves), num_epochs)
        waiting = list(range(len(curves)))
        running = {waiting.pop(0): 0 for _ in range(min(WORKERS, len(waiting)))}
        while running:
            for trial in list(running):
                running[trial] += 1
                epoch = running[trial]
                if epoch == num_epochs or pruner.cuts(trial, epoch, float(curves[trial, epoch - 1])):
                    ends[trial] = epoch
                    del running[trial]
                    if waiting:
                        running[waiting.pop(0)] = 0
        return ends

    return end


RULES: dict[str, Rule] = {
    **{f"ASHA from {share:.0%} of the epochs": asha(share) for share in (0.1, 0.2, 0.3, 0.5)},
    **{
        f"screen at {share:.0%} of the epochs, best {name}": screen(share, kept)
        for share in (0.1, 0.2, 0.3, 0.4)
        for name, kept in (("fifth", 0.2), ("third", 1 / 3), ("half", 0.5))
    },
}


def measure(sweep: Sweep, rule: Rule, repetitions: int = _REPETITIONS) -> tuple[Floats, float, float]:
    """Return what a rule would have done to a sweep.

    Returns:
        Points of validation mAP by which the best trial that ran to its end is below the best of all drawn trials, one
        per repetition; the mean share of the three best trials that ran to their end; the mean share of the cost.
    """
    generator, lost, kept, cost = np.random.default_rng(0), [], [], []
    finals, epochs = sweep.curves.max(1), np.arange(sweep.curves.shape[1])
    for _ in range(repetitions):
        drawn = generator.permutation(len(sweep.curves))[: sweep.num_drawn]
        ends = rule(sweep.curves[drawn])
        finished = finals[drawn][ends == len(epochs)]
        lost.append(finals[drawn].max() - finished.max())
        kept.append(np.mean(ends[np.argsort(-finals[drawn])[:3]] == len(epochs)))
        passes = sweep.passes[drawn]
        cost.append(float((passes * (epochs < ends[:, None])).sum() / passes.sum()))
    return np.array(lost), float(np.mean(kept)), float(np.mean(cost))


def render(sweeps: Sequence[Sweep], repetitions: int = _REPETITIONS) -> str:
    """Return the page."""
    lines = [
        "# Schedulers on recorded sweeps of full size",
        "",
        f"Written by `python -m benchmarks.search.recorded`, {repetitions} repetitions. The sweeps are those of [the",
        "digits benchmark](digits_benchmark.md): 20 epochs, 1,500 scenes, TPE, nothing stopped. Lost: points of",
        "validation mAP by which the best trial left is below the best of those drawn, with the 95 % interval of the",
        "mean. Recall: share of the three best that ran to their end. Cost: images passed in training, as a share of",
        "those at full length.",
    ]
    for sweep in sweeps:
        finals = np.sort(sweep.curves.max(1))[::-1]
        lines += [
            "",
            f"## {sweep.name}, {sweep.num_drawn} of {len(finals)} trials drawn",
            "",
            f"Best {finals[0]:.1f}, third {finals[2]:.1f}, median {np.median(finals):.1f} % validation mAP.",
            "",
            "| scheduler | lost | recall | cost |",
            "|---|---|---|---|",
        ]
        for name, rule in RULES.items():
            lost, recall, cost = measure(sweep, rule, repetitions)
            low, high = mean_interval(lost.tolist())
            lines.append(f"| {name} | {lost.mean():.2f} ± {(high - low) / 2:.2f} | {recall:.2f} | {cost:.2f} |")
    return "\n".join(lines) + "\n"


def take(named: Sequence[str], path: Path) -> None:
    """Copy the curves of sweeps of this home into a Parquet file."""
    parts = []
    for text in named:
        name, _, sweep = text.partition("=")
        found = open_sweep(sweep).epochs
        parts.append(found[["trial", "epoch", VAL_MAP, TRAIN_IMAGES_FORWARD, TRAIN_IMAGES_BACKWARD]].assign(sweep=name))
    tables = [pa.Table.from_pandas(part, preserve_index=False) for part in parts]
    pq.write_table(pa.concat_tables(tables), path, compression="zstd")


def read(path: Path) -> list[Sweep]:
    """Return the recorded sweeps; trials that did not reach their last epoch are left out."""
    rows = pq.read_table(path).to_pandas()
    sweeps = []
    for name, found in rows.groupby("sweep", sort=False):
        wide = found.pivot(index="trial", columns="epoch").dropna()
        passes = wide[TRAIN_IMAGES_FORWARD].to_numpy() + 2 * wide[TRAIN_IMAGES_BACKWARD].to_numpy()
        sweeps.append(Sweep(str(name), wide[VAL_MAP].to_numpy(), passes))
    return sweeps


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", nargs="+", metavar="NAME=SWEEP", help="Copy the curves of these sweeps first.")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.take:
        take(arguments.take, arguments.out / CURVES_FILE)
    (arguments.out / "search_recorded.md").write_text(render(read(arguments.out / CURVES_FILE)), encoding="utf-8")


if __name__ == "__main__":
    main()
