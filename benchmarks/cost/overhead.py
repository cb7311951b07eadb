"""Measures what a sweep costs besides its training: trivial one-worker trials, compared with plain Ray Tune.

    python -m benchmarks.cost overhead [--trials 8 32 128 300] [--repeats 3] [--samplers random tpe]

Both run the same trial in the same number of actors: a class trainable with three reports and no checkpoints. Plain
Tune reuses its actors and has its loggers off. Ours does everything that a sweep does: ASHA (with constant scores, so
that it stops no trial), the journal (with fsync), and the MLflow writer on a new sqlite store. Each sweep has its own
process, and the two kinds alternate. Both sample at random first, and then with Optuna's TPE (multivariate, constant
liar, in memory), whose own cost grows with the number of trials.

Time runs from the call to the end of the last trial, as the journal has it for ours. It includes the MLflow writer's
work during that time; the writer's processor time, and the time it needs afterwards, are printed separately. A least-
squares line over the numbers of trials gives the fixed cost (such as starting Ray) and the marginal cost per trial. The
ratio of the last to the first quarter shows whether trials become slower as their number grows.

The table goes to ``results/overhead.md``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from orchestrator.sweep_folder.events import TrialEnded
from tests.kit.trivial_run import TrivialRuns
from tests.kit.trivial_sweep import trivial_hooks, trivial_plan

RESULTS = Path(__file__).parents[1] / "results"
NUM_REPORTS = 3
NUM_SLOTS = 2
SAMPLERS = ("random", "tpe")
MAX_MARGINAL_RATIO = 1.5
MAX_GROWTH_RATIO = 1.1


@dataclass(frozen=True)
class Timing:
    """One sweep.

    Attributes:
        ends_s: When each trial ended, in seconds after the call, in order.
        writer_cpu_s, catch_up_s: The MLflow writer's processor time, and how long it still wrote after the last trial.
    """

    ends_s: list[float]
    writer_cpu_s: float = 0.0
    catch_up_s: float = 0.0

    @property
    def total_s(self) -> float:
        """From the call to the end of the last trial."""
        return self.ends_s[-1]

    @property
    def growth(self) -> float:
        """Time per trial in the last quarter over that in the first."""
        quarter = len(self.ends_s) // 4
        return (self.ends_s[-1] - self.ends_s[-1 - quarter]) / (self.ends_s[quarter] - self.ends_s[0])


def time_ours(num_trials: int, sampler: str) -> Timing:
    """Time one of our sweeps in this process."""
    from orchestrator.sweep.driver import run_sweep
    from orchestrator.sweep.hooks import make_mlflow_tracker
    from orchestrator.sweep.options import DriveOptions
    from orchestrator.sweep_folder.journal import follow
    from orchestrator.tracking.tracker import Tracker

    trackers: list[Tracker] = []

    def make_tracker(plan: Any, journal: Path) -> Tracker:
        tracker = make_mlflow_tracker(plan, journal)
        assert isinstance(tracker, Tracker)
        trackers.append(tracker)
        journals.append(journal)
        return tracker

    journals: list[Path] = []
    plan = trivial_plan(
        "trivial-00000001", trials=num_trials, epochs=NUM_REPORTS, concurrency=NUM_SLOTS, sampler=sampler
    )
    hooks = trivial_hooks(TrivialRuns(level=True, keep=False), tracking=True)
    called_s = time.time()
    run_sweep(plan, DriveOptions(hooks=type(hooks)(hooks.make_run, make_tracker, hooks.prepare_inputs)))
    ends = [event.time_ms / 1000 - called_s for event in follow(journals[0])[0] if isinstance(event, TrialEnded)]
    assert len(ends) == num_trials
    return Timing(ends, trackers[0].cpu_s, trackers[0].catch_up_s)


def time_plain_tune(num_trials: int, sampler: str) -> Timing:
    """Time plain Ray Tune in this process."""
    called_s = time.time()
    from orchestrator.cluster.session import quieten

    quieten()
    os.environ.pop("TUNE_GLOBAL_CHECKPOINT_S")  # plain Tune needs its snapshots; we have the journal instead
    import ray
    from ray import tune

    class PlainTrial(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.epoch = 0

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.epoch = 0
            return True

        def step(self) -> dict[str, Any]:
            self.epoch += 1
            return {
                "epoch": self.epoch,
                "val/mAP": 80 - 10 / self.epoch,
                "val/observed_mAP": 70.0,
                "done": self.epoch == NUM_REPORTS,
            }

    class Ends(tune.Callback):
        def __init__(self) -> None:
            self.ends_s: list[float] = []

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.ends_s.append(time.time() - called_s)

    ranges = {"a": tune.uniform(0, 2), "b": tune.loguniform(0.01, 1)}
    search: dict[str, Any] = {"config": ranges}
    if sampler == "tpe":
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        tpe = optuna.samplers.TPESampler(seed=0, multivariate=True, constant_liar=True)
        search = {"search_alg": OptunaSearch(ranges, metric="val/mAP", mode="max", sampler=tpe)}
    ends = Ends()
    ray.init(
        address="local", num_cpus=NUM_SLOTS, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    with tempfile.TemporaryDirectory() as storage:
        tune.run(
            PlainTrial,
            **search,
            num_samples=num_trials,
            max_concurrent_trials=NUM_SLOTS,
            reuse_actors=True,
            storage_path=storage,
            callbacks=[ends],
            verbose=0,
        )
    ray.shutdown()
    assert len(ends.ends_s) == num_trials
    return Timing(ends.ends_s)


SUBJECTS: dict[str, Callable[[int, str], Timing]] = {"plain": time_plain_tune, "ours": time_ours}


def run_apart(subject: str, num_trials: int, sampler: str) -> Timing:
    """Time one subject in its own process, with its own home and store."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "timing.json"
        environment = os.environ | {"ORCHESTRATOR_HOME": folder}
        environment.pop("MLFLOW_TRACKING_URI", None)
        command = [sys.executable, "-m", "benchmarks.cost.overhead", "--subject", subject, "--samplers", sampler]
        command += ["--trials", str(num_trials), "--out", str(out)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{subject} with {num_trials} trials failed:\n{done.stdout}{done.stderr}")
        return Timing(**json.loads(out.read_text()))


def fit_line(timings: Sequence[tuple[int, Timing]]) -> tuple[float, float]:
    """Return the fixed cost in s and the marginal cost per trial in ms: a least-squares line over the total times."""
    marginal, fixed = np.polyfit([num for num, _ in timings], [timing.total_s for _, timing in timings], 1)
    return float(fixed), float(marginal) * 1000


def render_report(timings: dict[str, list[tuple[int, Timing]]]) -> str:
    """Return the tables as Markdown, with the verdict on each aim."""
    numbers = sorted({num for num, _ in timings["ours"]})
    lines = ["| trials | plain Tune, s | ours, s | writer's CPU, s | writer's catch-up, s |", "|---|---|---|---|---|"]
    for num in numbers:
        plain, ours = ([timing for count, timing in timings[subject] if count == num] for subject in ("plain", "ours"))
        figures = [
            median(timing.total_s for timing in plain),
            median(timing.total_s for timing in ours),
            median(timing.writer_cpu_s for timing in ours),
            median(timing.catch_up_s for timing in ours),
        ]
        lines.append(f"| {num} | " + " | ".join(f"{figure:.1f}" for figure in figures) + " |")
    fixed, marginal = zip(*(fit_line(timings[subject]) for subject in ("plain", "ours")), strict=True)
    growth = [
        median(timing.growth for count, timing in timings[subject] if count == numbers[-1])
        for subject in ("plain", "ours")
    ]
    ratio, growth_ratio = marginal[1] / marginal[0], growth[1] / growth[0]
    return "\n".join(
        [
            *lines,
            "",
            "| | plain Tune | ours | ours / plain | aim |",
            "|---|---|---|---|---|",
            f"| fixed cost, s | {fixed[0]:.1f} | {fixed[1]:.1f} | {fixed[1] / fixed[0]:.2f} | |",
            f"| marginal cost per trial, ms | {marginal[0]:.0f} | {marginal[1]:.0f} | {ratio:.2f} "
            f"| {_against(ratio, MAX_MARGINAL_RATIO)} |",
            f"| last / first quarter, {numbers[-1]} trials | {growth[0]:.2f} | {growth[1]:.2f} | {growth_ratio:.2f} "
            f"| {_against(growth_ratio, MAX_GROWTH_RATIO)} |",
            "",
        ]
    )


def describe_machine(repeats: int) -> str:
    """Describe the machine and the settings in one line."""
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} CPU cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}; "
        f"{NUM_SLOTS} trials at a time, {NUM_REPORTS} reports each; median of {repeats}; load average at the start "
        f"{load:.1f}."
    )


def main() -> None:
    """Time both, print the table and write it to results/."""
    parser = argparse.ArgumentParser(description="Measure what a sweep costs besides its training.")
    parser.add_argument("--trials", type=int, nargs="+", default=[8, 32, 128, 300])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=SAMPLERS)
    parser.add_argument("--subject", choices=list(SUBJECTS), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS / "overhead.md")
    arguments = parser.parse_args()
    if arguments.subject:
        timing = SUBJECTS[arguments.subject](arguments.trials[0], arguments.samplers[0])
        arguments.out.write_text(json.dumps(asdict(timing)))
        return
    report = f"# Overhead of a sweep\n\n{describe_machine(arguments.repeats)}\n"
    for sampler in arguments.samplers:
        timings: dict[str, list[tuple[int, Timing]]] = {subject: [] for subject in SUBJECTS}
        for num in arguments.trials * arguments.repeats:
            for subject in SUBJECTS:
                timings[subject].append((num, run_apart(subject, num, sampler)))
                print(f"{sampler}, {subject} {num}: {timings[subject][-1][1].total_s:.1f} s", file=sys.stderr)
        report += f"\n## {sampler}\n\n{render_report(timings)}"
    print(report)
    arguments.out.write_text(report)


def _against(ratio: float, aim: float) -> str:
    return f"at most {aim:g}: {'met' if ratio <= aim else 'missed'}"


if __name__ == "__main__":
    main()
