"""Renders the figures of :mod:`benchmarks.cost.scale` as Markdown, compared with their aims."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.cost.overhead import NUM_SLOTS

NUM_REPORTS, MANY_REPORTS = 3, 13
MANY_HEADING = "## Many trials at a time"
MANY_TRIALS = 10_000
MAX_TRIAL_MS, MAX_RESULT_MS, MAX_GROWTH_RATIO = 35.0, 5.0, 1.1
MIN_RESULTS_PER_S, MAX_RESUME_S, MAX_VERB_S = 200.0, 5.0, 1.0
Figures = dict[str, Any]


@dataclass
class Measured:
    """All figures of one run.

    Attributes:
        plain, ours: The sweeps of plain Ray Tune and ours, by number of trials.
        once, often: Our shortest sweep repeated, and with more reports per trial.
        tpe, journal, resumed: What each costs, by the number of trials before.
        num_stored: The number of trials that MLflow catches up with.
        catch_up: How fast it does, by store.
        num_listed: The number of trials that the verbs read.
        verbs: Their times, by verb.
        load: The load average of the machine at the start.
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


def render_report(found: Measured) -> str:
    """Return the report: the tables, whether each aim is met, and the conclusions."""
    sections = [
        _render_driver(found),
        render_rows(
            "TPE, by the number of trials before",
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
            f"MLflow's catch-up, {found.num_stored} trials of {NUM_REPORTS} results; CPU of the writer per trial",
            ["results_per_s", "cpu_ms"],
            found.catch_up,
        ),
        conclude_mlflow(found.once, found.catch_up),
        render_rows(
            "Resume (s; only the last column includes Ray's own start)",
            ["read_s", "read_cpu_s", "first_hand_out_s"],
            {f"{num:,} trials": row for num, row in found.resumed.items()},
            ("read_s", lambda seconds: _against(seconds, MAX_RESUME_S)),
        ),
        render_rows(
            f"Verbs on {found.num_listed:,} trials (s): again, the first time, and `--help`",
            ["wall_s", "cpu_s", "first_cpu_s", "bare_cpu_s"],
            found.verbs,
            ("wall_s", lambda seconds: _against(seconds, MAX_VERB_S)),
        ),
    ]
    return f"# Sweeps of thousands of trials\n\n{_describe_machine(found)}\n\n" + "\n".join(sections)


def _render_driver(found: Measured) -> str:
    lines = [
        f"## Driver: CPU per trial with its {NUM_REPORTS} results",
        "",
        "| trials | plain Tune, ms | ours, ms | ours, wall ms | last / first quarter, plain | ours | ours / plain | "
        "writer, ms per trial |",
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
            f"every further result {result_ms:.2f} ms {_against(result_ms, MAX_RESULT_MS)}, measured on "
            f"{next(iter(found.ours))} trials with {MANY_REPORTS} results.",
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


def render_many(rows: list[Figures], seconds: float) -> str:
    """Return the section on many trials at a time."""
    columns = {
        "results/s": "results_per_s",
        "driver, CPUs": "driver_cpu",
        "CPU per result, ms": "result_ms",
        "results/s on a whole CPU": "most_per_s",
        "a result waits, ms": "wait_ms",
        "the director takes, ms": "report_ms",
        "it proposes a trial in, ms": "ask_ms",
        "a trial starts after an end, ms": "gap_ms",
        "memory, MiB": "rss_mib",
        "MLflow, results/s": "logged_per_s",
        "first results of all after, s": "start_s",
        "end after Ctrl-C, s": "stop_s",
    }
    lines = [
        MANY_HEADING,
        "",
        f"{time.strftime('%Y-%m-%d')}; {seconds:.0f} s each, after the first results of all trials; every trial has a "
        "result per second, with 17 figures. Simulated: the trials, which wait and report in two processes, and the "
        "placement groups. Real: the driver's process with Ray Tune, TPE, ASHA, the journal on disk and MLflow on "
        "sqlite. Load average at the end "
        f"{max(row['load'] for row in rows):.1f} on {os.cpu_count()} cores: the more others work, the more only CPU "
        "times count.",
        "",
        "| trials at a time | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
        *(
            f"| {row['at_once']:,} | " + " | ".join(_format(row[name]) for name in columns.values()) + " |"
            for row in rows
        ),
        "",
        conclude_many(rows),
    ]
    return "\n".join(lines)


def conclude_many(rows: list[Figures]) -> str:
    """Return where the knee is: how many trials with a result per second take a whole CPU of the driver."""
    # CPU per result grows with the trials at a time, because Ray looks at all of them for every result.
    slope, start = np.polyfit([row["at_once"] for row in rows], [row["result_ms"] for row in rows], 1)
    # num * (start + slope * num) / 1000 = 1
    knee = 1000 / start if slope < 1e-6 else (-start + np.sqrt(start**2 + 4000 * slope)) / (2 * slope)
    thousand = start + 1000 * max(slope, 0.0)
    return (
        f"**The knee is at about {10 * round(knee / 10):.0f} results per second**, where the driver's loop takes a "
        f"whole CPU, by a line through the CPU per result ({start:.1f} ms, and {1000 * slope:.1f} ms more for every "
        f"thousand trials). With 1,000 trials at a time a result takes about {thousand:.0f} ms, so each of them may "
        f"have one every {thousand:.0f} s. Beyond that results wait, and trials with them; nothing is lost. MLflow "
        "falls behind far earlier and catches up later: the journal is its backlog.\n"
    )


def replace_section(text: str, section: str) -> str:
    """Return a report with one section, which begins with a heading, replaced or added at its end."""
    heading = section.partition("\n")[0]
    before, found, rest = text.partition(f"{heading}\n")
    if not found:
        return f"{text.rstrip()}\n\n{section}"
    _, found, after = rest.partition("\n## ")
    return f"{before}{section}" + (f"\n## {after}" if found else "")


def find_section(text: str, heading: str) -> str:
    """Return a section of a report with its heading; empty if there is none."""
    _, found, rest = text.partition(f"{heading}\n")
    return f"{heading}\n" + rest.partition("\n## ")[0] if found else ""


def _format(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3g}"


def conclude_tpe(tpe: Mapping[int, Figures]) -> str:
    """Return what TPE's look at earlier trials costs: at the end, and on average until then (trapezoidal rule)."""
    behind, asks = sorted(tpe), [tpe[num]["ask_ms"] for num in sorted(tpe)]
    mean = float(np.trapezoid([asks[0], *asks], [0, *behind])) / behind[-1]
    return (
        f"TPE sees the latest 1,000 trials and the best 50 of the others: an ask after {behind[-1]:,} trials takes "
        f"{asks[-1]:.0f} ms of CPU, and about {mean:.0f} ms on average until then. Whether it would propose better "
        "points if it saw all of them was not measured.\n"
    )


def conclude_mlflow(ours: Figures, catch_up: Mapping[str, Figures]) -> str:
    """Compare how fast trivial trials report with how fast the stores take their results."""
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
        f"Trivial trials report {reported:.3g} results/s, {taken}: {verdict}. The sweep does not wait for MLflow: the "
        "journal on disk is the backlog, and `orchestrator browse` or the next `resume` writes what is missing at the "
        "end.\n"
    )


def _against(value: float, aim: float, *, least: bool = False) -> str:
    met = value >= aim if least else value <= aim
    return f"(at {'least' if least else 'most'} {aim:g}: {'met' if met else 'missed'})"


def _describe_machine(found: Measured) -> str:
    cores = os.cpu_count() or 1
    text = (
        f"{cores} CPU cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}; "
        f"{NUM_SLOTS} trials at a time; {time.strftime('%Y-%m-%d')}; load average at the start {found.load:.1f}. "
        "Single runs; CPU is the processor time of the process."
    )
    if found.load > cores / 2:
        text += "\n\n**The machine was busy with other work**: CPU times roughly hold, wall times and rates do not."
    if (most := max(found.ours)) < MANY_TRIALS:
        text += f"\n\nThe driver was not measured beyond {most:,} trials."
    return text
