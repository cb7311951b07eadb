"""Measures what a driver does that has a thousand trials at a time, each with a result every second.

    python -m benchmarks.cost many [--at-once 100 300 1000] [--seconds 60]

Everything in the driver's process is real: Tune's loop, the director with TPE and ASHA, the journal on disk, MLflow on
sqlite, the lease, the progress table. The trials themselves train nothing and share two processes
(:mod:`benchmarks.cost.hosted`). Measured is the time after the first results of all trials. The table goes into
``results/scale.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from benchmarks.cost.hosted import MADE, hosted_trials
from benchmarks.cost.scale_report import Figures, render_many, replace_section
from orchestrator.sweep_folder.events import EpochReported, Event, TrialEnded, TrialStarted
from orchestrator.sweep_folder.journal import JOURNAL_FILE, follow
from training.metric_names import VAL_MAP

RESULTS = Path(__file__).parents[1] / "results" / "scale.md"
SWEEP = "many-00000001"
EPOCHS, GRACE_EPOCHS = 90, 30
_START_LIMIT_S = 300.0


class Clock:
    """Notes what a driver has used so far, and how long every decision of its director took."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, float]] = []
        self.decided: list[tuple[float, float]] = []
        self.tracker: Any = None

    def timed(self, function: Any, times: list[tuple[float, float]]) -> Any:
        """Return a function that notes (start, seconds) of every call."""

        def call(*arguments: Any, **options: Any) -> Any:
            began, started = time.time(), time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                times.append((began, time.perf_counter() - started))

        return call

    def read(self) -> Figures:
        """Return the processor times, memory and MLflow's rows of now."""
        writer = self.tracker.cpu_s if self.tracker else 0.0
        return {
            "time": time.time(),
            "driver_cpu_s": time.process_time() - writer,
            "writer_cpu_s": writer,
            "rss_mib": psutil.Process().memory_info().rss / 2**20,
            "logged": count_logged(),
        }


def count_logged() -> int:
    """Return how many epochs MLflow's database has."""
    path = Path(os.environ["ORCHESTRATOR_HOME"]) / "mlflow.db"
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10) as database:
            return int(database.execute("select count(*) from metrics where key = ?", [VAL_MAP]).fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # it is not there yet


def run_many(at_once: int, seconds: float, sampler: str) -> Figures:
    """Run one sweep in this process, interrupt it, and return its figures."""
    from orchestrator.cluster import session
    from orchestrator.home import sweep_dir
    from orchestrator.sweep import driver
    from orchestrator.sweep.options import DriveOptions
    from orchestrator.tracking.tracker import Tracker
    from orchestrator.trials.director import Director
    from tests.kit.trivial_run import TrivialRuns
    from tests.kit.trivial_sweep import trivial_hooks, trivial_plan

    clock = Clock()
    readings: list[Figures] = []

    class Quick(Tracker):
        """Leaves what is missing at the end: it is the backlog."""

        def stop(self, drain_s: float = 0.0) -> bool:
            return super().stop(0.0)

    def make_tracker(plan: Any, journal: Path) -> Tracker:
        tracker = Quick(plan, journal)
        clock.tracker = tracker
        return tracker

    def watch() -> None:
        deadline = time.time() + _START_LIMIT_S
        # Until every trial has had a first result, about.
        while len(clock.decided) < at_once and time.time() < deadline:
            time.sleep(0.2)
        readings.append(clock.read())
        time.sleep(seconds)
        readings.append(clock.read())
        os.kill(os.getpid(), signal.SIGINT)

    plan = trivial_plan(
        SWEEP,
        trials=100 * at_once,
        epochs=EPOCHS,
        concurrency=at_once,
        sampler=sampler,
        startup_trials=10,
        grace_epochs=GRACE_EPOCHS,
    )
    hooks = replace(trivial_hooks(TrivialRuns(keep=False), tracking=True), make_tracker=make_tracker)
    start = session.start_ray
    began = time.time()
    with (
        hosted_trials(1.0),
        patch.object(driver, "start_ray", lambda folder, **options: start(folder, **{**options, "num_cpus": 2})),
        patch.object(driver, "require_room_here"),
        patch.object(Director, "next_trial", clock.timed(Director.next_trial, clock.asked)),
        patch.object(Director, "report", clock.timed(Director.report, clock.decided)),
    ):
        threading.Thread(target=watch, daemon=True).start()
        driver.run_sweep(plan, DriveOptions(hooks=hooks))
    stopped = time.time()
    events = follow(sweep_dir(SWEEP) / JOURNAL_FILE)[0]
    first, last = readings
    return {
        **summarise(events, first, last, clock),
        "at_once": at_once,
        "start_s": first["time"] - began,
        "stop_s": stopped - last["time"],
        "load": os.getloadavg()[0],
    }


def summarise(events: list[Event], first: Figures, last: Figures, clock: Clock) -> Figures:
    """Return the figures of the time between two readings."""
    wall = last["time"] - first["time"]

    def is_in(time_s: float) -> bool:
        return bool(first["time"] <= time_s < last["time"])

    epochs = [event for event in events if isinstance(event, EpochReported) and is_in(event.time_ms / 1000)]
    all_epochs = sum(isinstance(event, EpochReported) and event.time_ms / 1000 < last["time"] for event in events)
    waits = [event.time_ms / 1000 - event.metrics[MADE] for event in epochs]
    asked = [took for began, took in clock.asked if is_in(began)]
    decided = [took for began, took in clock.decided if is_in(began)]
    handed = find_gaps(events, first["time"], last["time"])
    counts = Counter(type(event).__name__ for event in events if is_in(event.time_ms / 1000))
    return {
        "results_per_s": len(epochs) / wall,
        "wait_ms": 1000 * statistics.median(waits),
        "driver_cpu": (last["driver_cpu_s"] - first["driver_cpu_s"]) / wall,
        "result_ms": 1000 * (last["driver_cpu_s"] - first["driver_cpu_s"]) / len(epochs),
        "most_per_s": len(epochs) / (last["driver_cpu_s"] - first["driver_cpu_s"]),
        "writer_cpu": (last["writer_cpu_s"] - first["writer_cpu_s"]) / wall,
        "report_ms": 1000 * statistics.mean(decided),
        "ask_ms": 1000 * statistics.median(asked) if asked else float("nan"),
        "handed_out": counts[TrialStarted.__name__],
        "gap_ms": 1000 * statistics.median(handed) if handed else float("nan"),
        "rss_mib": last["rss_mib"],
        "rss_growth_mib": last["rss_mib"] - first["rss_mib"],
        "logged_per_s": (last["logged"] - first["logged"]) / wall,
        "backlog": all_epochs - last["logged"],
        "backlog_per_s": (len(epochs) - last["logged"] + first["logged"]) / wall,
    }


def find_gaps(events: list[Event], start_s: float, end_s: float) -> list[float]:
    """Return the seconds from every end of a trial to the start of the trial that took its place."""
    ends = [event.time_ms / 1000 for event in events if isinstance(event, TrialEnded)]
    starts = [event.time_ms / 1000 for event in events if isinstance(event, TrialStarted)]
    # As many trials as run at a time start before the first end.
    later = starts[len(starts) - len([start for start in starts if ends and start >= ends[0]]) :] if ends else []
    return [start - end for end, start in zip(ends, later, strict=False) if start_s <= end < end_s]


def run_apart(at_once: int, seconds: float, sampler: str) -> Figures:
    """Run one sweep in its own process, with its own home and store."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        environment = os.environ | {"ORCHESTRATOR_HOME": folder}
        environment.pop("MLFLOW_TRACKING_URI", None)
        part = json.dumps([at_once, seconds, sampler])
        command = [sys.executable, "-m", "benchmarks.cost.many", "--part", part, "--out", str(out)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if not out.exists():
            raise RuntimeError(f"{at_once} trials failed:\n{done.stdout}{done.stderr}")
        figures: Figures = json.loads(out.read_text())
    print({name: round(value, 2) for name, value in figures.items()}, file=sys.stderr, flush=True)
    return figures


def main() -> None:
    """Measure, print the table, and put it into results/scale.md."""
    parser = argparse.ArgumentParser(description="Measure what a driver of a thousand trials at a time does.")
    parser.add_argument("--at-once", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.part:
        arguments.out.write_text(json.dumps(run_many(*json.loads(arguments.part))))
        return
    rows = [run_apart(at_once, arguments.seconds, arguments.sampler) for at_once in arguments.at_once]
    section = render_many(rows, arguments.seconds)
    print(section)
    before = arguments.out.read_text() if arguments.out.exists() else ""
    arguments.out.write_text(replace_section(before, section))


if __name__ == "__main__":
    main()
