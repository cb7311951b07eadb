"""Measure rules that end a sweep when further trials are not worth it: what they save, and what they lose.

    python -m benchmarks.search.stopping --cells FOLDER [--repetitions 20]

A rule decides from the trials before, so each sweep is simulated once, whole, and every rule is asked after each of its
trials. Two functions have a known noise. The tables of :mod:`benchmarks.search` are taken whether they are whole or
not: all that counts here are their scores and their noise, known from replicates. Optuna's evaluators take up to a
second each, so they are asked after every fourth trial. Writes ``results/search_stopping.md``; finished sweeps are kept
in the folder, so the same command goes on where it was killed.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna

from benchmarks.search.lines import append_line, read_lines
from benchmarks.search.measure import WORKERS, load_objective, table_file
from benchmarks.search.simulate import Stopping, run_clock
from benchmarks.search.table import Floats
from benchmarks.search.tables import TABLES
from orchestrator.intervals import mean_interval
from orchestrator.planning.sweep_plan import Params, SweepPlan
from orchestrator.sweep_folder.events import TrialEnded
from orchestrator.sweep_folder.journal import follow
from orchestrator.sweep_folder.records import TrialState
from orchestrator.trials.over import LEAST_COMPLETE, expected_gain
from orchestrator.trials.proposers import _distribution

RESULTS = Path(__file__).parents[1] / "results"
SWEEPS_FILE = "stopping.jsonl"
BUDGETS = (24, 64)
SWEEPS: dict[str, dict[str, Any]] = {
    "random": {"sampler": "random", "scheduler": "none"},
    "TPE": {"sampler": "tpe", "startup_trials": 8, "scheduler": "none"},
    "TPE, ASHA": {"sampler": "tpe", "startup_trials": 8, "scheduler": "asha", "grace_epochs": 4},
}
_ASKED_EVERY = 4
_MOST_OPTUNA = 6
"""Repetitions of a cell in which Optuna's rules are asked."""

Line = dict[str, Any]


class Function(Protocol):
    """What simulated trials are measured by; a table is one."""

    def truth(self, params: Params) -> float:
        """Return the true quality of a point in percent."""

    def curve(self, params: Params, generator: np.random.Generator) -> Floats:
        """Return the score of every epoch of one run."""

    def seconds(self, params: Params) -> Floats:
        """Return the seconds of every epoch."""


@dataclass(frozen=True)
class Bowl:
    """A bowl over the plan's ranges, off its middle: 40 points between its best and its worst place.

    Attributes:
        noise: Deviation between seeds, in points.
    """

    plan: SweepPlan
    noise: float

    def truth(self, params: Params) -> float:
        """Return the true quality of a point in percent."""
        places = np.array([found.place_of(params[key]) for key, found in self.plan.ranges.items()])
        centres, weights = np.linspace(0.25, 0.7, len(places)), np.linspace(2.0, 0.5, len(places))
        depth = weights @ (places - centres) ** 2 + 0.5 * (places[0] - centres[0]) * (places[1] - centres[1])
        return float(75 - 40 * depth / weights.sum() / 0.3)

    def curve(self, params: Params, generator: np.random.Generator) -> Floats:
        """Return the score of every epoch of one run: it rises to its end."""
        rise = 1 - np.exp(-np.arange(1, self.plan.epochs + 1) / 2)
        return np.asarray(self.truth(params) * rise / rise[-1] + generator.normal(0, self.noise))

    def seconds(self, params: Params) -> Floats:
        """Return the seconds of every epoch."""
        return np.ones(self.plan.epochs)


@dataclass(frozen=True)
class Case:
    """A function with its noise and the plan of its sweeps."""

    plan: SweepPlan
    function: Function
    noise: float


@cache
def load_case(name: str, folder: Path) -> Case:
    """Return a function by its name: ``bowl 0.5``, or a table with its way of looking up."""
    word, how = name.split()
    if word == "bowl":
        plan = TABLES["em_apl"].plan
        return Case(plan, Bowl(plan, float(how)), float(how))
    found = load_objective(word, "nearest" if how == "nearest" else "fitted", folder)
    return Case(found.table.spec.plan, found, found.table.seed_deviation)


def list_cases(folder: Path) -> list[str]:
    """Return the names of the functions: tables without replicates have no known noise, and are left out."""
    tables = [name for name in TABLES if table_file(folder, name).is_file()]
    names = [f"{name} {how}" for name in tables for how in ("nearest", "fitted")]
    known = [name for name in names if not math.isnan(load_case(name, folder).noise)]
    return ["bowl 0.5", "bowl 2", *known]


def simulate_sweep(case: Case, changes: Mapping[str, Any], num_trials: int, seed: int) -> Line:
    """Return what a sweep to its end was like, trial by trial in the order in which they ended."""
    plan = replace(case.plan, num_trials=num_trials, concurrency=WORKERS, search_seed=seed, **changes)
    with run_clock(plan, case.function, seed, Stopping) as (_, journal):
        ends = [event.trial for event in follow(journal.path)[0] if isinstance(event, TrialEnded)]
        records = journal.state.records
        complete = {trial for trial in ends if records[trial].state is TrialState.COMPLETE}
        return {
            "trials": ends,
            "params": [dict(records[trial].params) for trial in ends],
            "values": [records[trial].value(plan.protocol) if trial in complete else None for trial in ends],
            "truths": [case.function.truth(records[trial].params) for trial in ends],
            "costs": [
                float(case.function.seconds(records[trial].params)[: records[trial].last_epoch].sum()) for trial in ends
            ],
        }


@dataclass(frozen=True)
class Past:
    """What a rule may look at after a trial has ended.

    Attributes:
        points: Of the complete trials, in the order of their ends.
        values: Their scores.
        num_started, num_trials: Trials.
        noise: Deviation between seeds.
        space: Of the points.
    """

    points: Sequence[Params]
    values: Sequence[float]
    num_started: int
    num_trials: int
    noise: float
    space: Mapping[str, optuna.distributions.BaseDistribution]


def by_tail(past: Past) -> bool:
    """Our rule: see :func:`orchestrator.trials.over.expected_gain`."""
    gain = expected_gain(past.values, past.num_started, past.num_trials)
    return gain is not None and gain < past.noise


def by_normal(past: Past) -> bool:
    """Expected gain, if new trials are like the latest half: a normal distribution, without the share of noise."""
    if len(past.values) < LEAST_COMPLETE:
        return False
    latest = np.array(past.values[len(past.values) // 2 :])
    mean, spread = latest.mean(), max(float(latest.std(ddof=1)), 1e-9)
    left = (past.num_trials - past.num_started) * len(past.values) / past.num_started
    from scipy import stats

    above = np.linspace(max(past.values), max(past.values) + 6 * spread, 200)
    gain = np.trapezoid(1 - stats.norm.cdf((above - mean) / spread) ** left, above)
    return bool(gain * max(0.0, 1 - past.noise**2 / spread**2) < past.noise)


def by_patience(past: Past) -> bool:
    """No trial of the latest third of them has raised the best score by more than the noise."""
    if len(past.values) < LEAST_COMPLETE:
        return False
    early = max(past.values[: -(len(past.values) // 3)])
    return max(past.values) - early < past.noise


def by_regret_bound(past: Past) -> bool:
    """Optuna's default improvement evaluator (Makarova et al., AutoML 2022), against the noise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.terminator.RegretBoundEvaluator(min_n_trials=LEAST_COMPLETE, seed=0)
        return _is_asked(past) and evaluator.evaluate(_freeze(past), optuna.study.StudyDirection.MAXIMIZE) < past.noise


def by_emmr(past: Past) -> bool:
    """Optuna's EMMR (Ishibashi et al., AISTATS 2023), which counts in deviations of the scores, against the noise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.terminator.EMMREvaluator(min_n_trials=LEAST_COMPLETE, seed=0)
        if not _is_asked(past):
            return False
        gain = evaluator.evaluate(_freeze(past), optuna.study.StudyDirection.MAXIMIZE)
        return gain * float(np.std(past.values)) < past.noise


def _is_asked(past: Past) -> bool:
    return len(past.values) >= LEAST_COMPLETE and past.num_started % _ASKED_EVERY == 0


def _freeze(past: Past) -> list[optuna.trial.FrozenTrial]:
    return [
        optuna.trial.create_trial(params=dict(point), distributions=dict(past.space), value=value)
        for point, value in zip(past.points, past.values, strict=True)
    ]


RULES: dict[str, Callable[[Past], bool]] = {
    "expected gain, exponential tail (ours)": by_tail,
    "expected gain, normal of the latest half": by_normal,
    "no gain in the latest third": by_patience,
    "Optuna: regret bound": by_regret_bound,
    "Optuna: EMMR": by_emmr,
}
_SLOW = (by_regret_bound, by_emmr)


def apply_rule(rule: Callable[[Past], bool], case: Case, line: Line) -> dict[str, float]:
    """Return what a rule makes of a sweep: the shares of trials and cost that are left, and what it loses in points."""
    num = len(line["trials"])
    space = {key: _distribution(found) for key, found in case.plan.ranges.items()}
    stopped = num
    for ended in range(1, num + 1):
        started = min(num, ended + WORKERS - 1)
        if started == num:
            break
        known = [index for index in range(ended) if line["values"][index] is not None]
        points, values = [line["params"][index] for index in known], [line["values"][index] for index in known]
        if rule(Past(points, values, started, num, case.noise, space)):
            stopped = started
            break
    kept = [index for index in range(num) if line["trials"][index] < stopped]
    lost = _choose(line, range(num)) - _choose(line, kept)
    cost = sum(line["costs"][index] for index in kept) / sum(line["costs"])
    return {"trials": stopped / num, "cost": cost, "lost": lost, "lost_in_noise": lost / case.noise}


def _choose(line: Line, kept: Sequence[int]) -> float:
    """Return the true quality of the trial with the best score."""
    scored = [(line["values"][index], index) for index in kept if line["values"][index] is not None]
    return float(line["truths"][max(scored)[1]])


def render(groups: Mapping[tuple[str, str, int, str], list[dict[str, float]]]) -> list[str]:
    """Return the table: one row per function, sweep, budget and rule."""
    lines = [
        "| function | sweep | trials | rule | sweeps that ended early | trials run | cost | lost, points | lost, seed "
        "deviations | worst |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (case, sweep, budget, rule), found in groups.items():
        early, trials, cost = (
            float(np.mean(each))
            for each in ([one["trials"] < 1 for one in found], *([one[key] for one in found] for key in _SHARES))
        )
        lost = [one["lost_in_noise"] for one in found]
        low, high = mean_interval(lost)
        lines.append(
            f"| {case} | {sweep} | {budget} | {rule} | {early:.0%} of {len(found)} | {trials:.0%} | {cost:.0%} | "
            f"{np.mean([one['lost'] for one in found]):.2f} | {np.mean(lost):.2f} ({low:.2f} to {high:.2f}) | "
            f"{max(lost):.1f} |"
        )
    return lines


_SHARES = ("trials", "cost")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--cells", type=Path, required=True, help="Folder that keeps finished sweeps.")
    parser.add_argument("--tables", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--fast", action="store_true", help="Leave out Optuna's rules.")
    arguments = parser.parse_args()
    arguments.cells.mkdir(parents=True, exist_ok=True)
    path = arguments.cells / SWEEPS_FILE
    known = {tuple(line["key"]): line for line in read_lines(path)}
    groups: dict[tuple[str, str, int, str], list[dict[str, float]]] = {}
    # Every repetition of every cell once, then the next one: what is there at any time is even.
    for seed in range(arguments.repetitions):
        for name in list_cases(arguments.tables):
            case = load_case(name, arguments.tables)
            for sweep, changes in SWEEPS.items():
                for budget in BUDGETS:
                    key = (name, sweep, budget, seed)
                    if key not in known:
                        known[key] = {"key": key, **simulate_sweep(case, changes, budget, seed), "rules": {}}
                        append_line(path, known[key])
                    for rule, decide in RULES.items():
                        if decide in _SLOW and (arguments.fast or seed >= _MOST_OPTUNA):
                            continue
                        if rule not in known[key]["rules"]:
                            known[key]["rules"][rule] = apply_rule(decide, case, known[key])
                            if decide in _SLOW:
                                append_line(path, known[key])
                        groups.setdefault((name, sweep, budget, rule), []).append(known[key]["rules"][rule])
        print(f"repetition {seed} is done", flush=True)
    order = {rule: place for place, rule in enumerate(RULES)}
    groups = dict(sorted(groups.items(), key=lambda item: (*item[0][:3], order[item[0][3]])))
    explained = (RESULTS / "search_stopping_explained.md").read_text(encoding="utf-8").strip()
    text = "\n".join(["# When a sweep is over", "", explained, "", *render(groups)])
    (arguments.out / "search_stopping.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
