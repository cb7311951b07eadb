"""Measure rules that end a sweep when further trials are not worth it: what they save, and what they lose.

    python -m benchmarks.search.stopping --cells FOLDER [--repetitions 100] [--swept 20] [--optuna 4]

A rule decides from the trials before, so each sweep is simulated once, whole, and every rule is asked after each of its
trials. A sweep of fewer trials is the beginning of a longer one with the same seed.
Two functions have a known noise. Draws of them at random, and by a simple searcher, take no time; the product's own
sweeps take seconds each. The tables of :mod:`benchmarks.search` are taken whether they are whole or not: all that
counts here are their scores and their noise, known from replicates. Optuna's evaluators take up to a second each, so
they are asked after every eighth trial, in the first repetitions. Writes ``results/search_stopping.md``; finished
sweeps are kept in the folder, so the same command goes on where it was killed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from benchmarks.search.lines import append_line, read_lines
from benchmarks.search.measure import WORKERS, load_objective, table_file
from benchmarks.search.simulate import Function, Stopping, run_clock
from benchmarks.search.table import Floats
from benchmarks.search.tables import TABLES
from orchestrator.intervals import mean_interval
from orchestrator.planning.sweep_plan import Params, SweepPlan
from orchestrator.sweep_folder.events import TrialEnded
from orchestrator.sweep_folder.journal import follow
from orchestrator.sweep_folder.records import TrialState
from orchestrator.trials.over import LEAST_COMPLETE, expected_gain, gain_of_latest, gain_of_tail
from orchestrator.trials.proposers import _distribution
from training.config.run import Scalar

RESULTS = Path(__file__).parents[1] / "results"
SWEEPS_FILE = "stopping.jsonl"
BUDGETS = (24, 64)
DRAWN = ("random draws", "narrowing draws")
SWEPT: dict[str, dict[str, Any]] = {
    "TPE": {"sampler": "tpe", "startup_trials": 8, "scheduler": "none"},
    "TPE, ASHA": {"sampler": "tpe", "startup_trials": 8, "scheduler": "asha", "grace_epochs": 4},
}
_ASKED_EVERY, _LEARNS_AFTER = 8, 8

Line = dict[str, Any]
Group = tuple[str, str, int, str]
"""Function, sweep, trials, rule."""


@dataclass(frozen=True)
class Bowl:
    """A bowl over the plan's ranges, off its middle: 40 points between its best and its worst place.

    Attributes:
        noise: Deviation between seeds, in points.
    """

    plan: SweepPlan
    noise: float

    def truth(self, params: Mapping[str, Scalar]) -> float:
        """Return the true quality of a point in percent."""
        return float(self.at(np.array([found.place_of(params[key]) for key, found in self.plan.ranges.items()])))

    def at(self, places: Floats) -> Floats:
        """Return the true quality (...) at places (..., D) of the unit cube."""
        centres, weights = np.linspace(0.25, 0.7, places.shape[-1]), np.linspace(2.0, 0.5, places.shape[-1])
        apart = places - centres
        depth = (apart**2 * weights).sum(-1) + 0.5 * apart[..., 0] * apart[..., 1]
        return np.asarray(75 - 40 * depth / weights.sum() / 0.3)

    def curve(self, params: Mapping[str, Scalar], generator: np.random.Generator) -> Floats:
        """Return the score of every epoch of one run: it rises to its end."""
        rise = 1 - np.exp(-np.arange(1, self.plan.epochs + 1) / 2)
        return np.asarray(self.truth(params) * rise / rise[-1] + generator.normal(0, self.noise))

    def seconds(self, params: Mapping[str, Scalar]) -> Floats:
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
    found = load_objective(word, "fitted", folder)
    return Case(found.table.spec.plan, found, found.table.seed_deviation)


def list_cases(folder: Path) -> list[str]:
    """Return the names of the functions: tables without replicates have no known noise, and are left out."""
    tables = [name for name in TABLES if table_file(folder, name).is_file()]
    names = [f"{name} fitted" for name in tables]
    known = [name for name in names if not math.isnan(load_case(name, folder).noise)]
    return ["bowl 0.5", "bowl 2", *known]


def draw_sweep(bowl: Bowl, seed: int, *, narrows: bool) -> Line:
    """Return draws of a bowl: all at random, or from the ninth on 4 in 5 around the best so far, ever nearer to it."""
    num, size, dice = max(BUDGETS), len(bowl.plan.ranges), np.random.default_rng(seed)
    places, noise = dice.random((num, size)), dice.normal(0, bowl.noise, num)
    values = bowl.at(places) + noise
    for trial in range(_LEARNS_AFTER, num) if narrows else ():
        if dice.random() < 0.8:
            step = dice.normal(0, 0.25 * math.sqrt(_LEARNS_AFTER / trial), size)
            places[trial] = np.clip(places[values[:trial].argmax()] + step, 0, 1)
            values[trial] = bowl.at(places[trial]) + noise[trial]
    truths = bowl.at(places).tolist()
    return {
        "trials": [*range(num)],
        "params": [{}] * num,
        "values": values.tolist(),
        "truths": truths,
        "costs": [1] * num,
    }


def simulate_sweep(case: Case, changes: Mapping[str, Any], seed: int) -> Line:
    """Return what a sweep of the largest budget was like, trial by trial in the order in which they ended."""
    plan = replace(case.plan, num_trials=max(BUDGETS), concurrency=WORKERS, search_seed=seed, **changes)
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
    """That the sweep's best scores have an exponential tail, alone."""
    if len(past.values) < LEAST_COMPLETE:
        return False
    return gain_of_tail(past.values, past.num_started, past.num_trials) < past.noise


def by_gain(past: Past) -> bool:
    """The rule of ``--min-gain``."""
    gain = expected_gain(past.values, past.num_started, past.num_trials)
    return gain is not None and gain < past.noise


def by_patience(past: Past) -> bool:
    """No trial of the latest third of them has raised the best score by more than the noise."""
    return len(past.values) >= LEAST_COMPLETE and gain_of_latest(past.values) < past.noise


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
    "--min-gain": by_gain,
    "exponential tail alone": by_tail,
    "no gain in the latest third": by_patience,
    "Optuna: regret bound": by_regret_bound,
    "Optuna: EMMR": by_emmr,
}
_SLOW = (by_regret_bound, by_emmr)


def cut(line: Line, num_trials: int) -> Line:
    """Return the beginning of a sweep: its first trials."""
    kept = [index for index, trial in enumerate(line["trials"]) if trial < num_trials]
    return {name: [values[index] for index in kept] for name, values in line.items()}


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


class Stored:
    """Simulated sweeps, and what slow rules made of them, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[str, Line] = {json.dumps(line["key"]): line["found"] for line in read_lines(path)}

    def get(self, key: Sequence[str | int], make: Callable[[], Line]) -> Line:
        """Return what is stored under a key, made first if it is not there."""
        if (text := json.dumps(key)) not in self._lines:
            self._lines[text] = make()
            append_line(self._path, {"key": key, "found": self._lines[text]})
        return self._lines[text]


def measure(
    stored: Stored, case: Case, which: tuple[str, str, int], num_optuna: int
) -> Iterator[tuple[Group, dict[str, float]]]:
    """Yield what every rule makes of one sweep, for each budget; Optuna's only of the first of the product's sweeps."""
    name, sweep, seed = which
    if sweep in DRAWN:
        assert isinstance(case.function, Bowl)
        line, num_optuna = draw_sweep(case.function, seed, narrows=sweep == DRAWN[1]), 0
    else:
        line = stored.get(which, lambda: simulate_sweep(case, SWEPT[sweep], seed))
    for budget, (rule, decide) in itertools.product(BUDGETS, RULES.items()):
        if decide in _SLOW and seed < num_optuna:
            found = stored.get((*which, budget, rule), lambda: apply_rule(decide, case, cut(line, budget)))  # noqa: B023
        elif decide not in _SLOW:
            found = apply_rule(decide, case, cut(line, budget))
        else:
            continue
        yield (name, sweep, budget, rule), found


def render(groups: Mapping[Group, list[dict[str, float]]]) -> list[str]:
    """Return the table: one row per function, sweep, budget and rule."""
    lines = [
        "| function | sweep | trials | rule | sweeps that ended early | trials run | cost | lost, points | lost, seed "
        "deviations | worst |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (case, sweep, budget, rule), found in groups.items():
        early = float(np.mean([one["trials"] < 1 for one in found]))
        trials, cost, points = (float(np.mean([one[key] for one in found])) for key in ("trials", "cost", "lost"))
        lost = [one["lost_in_noise"] for one in found]
        low, high = mean_interval(lost) if len(lost) > 1 else (-math.inf, math.inf)
        lines.append(
            f"| {case} | {sweep} | {budget} | {rule} | {early:.0%} of {len(found)} | {trials:.0%} | {cost:.0%} | "
            f"{points:.2f} | {np.mean(lost):.2f} ({low:.2f} to {high:.2f}) | "
            f"{max(lost):.1f} |"
        )
    return lines


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=100, help="Of draws.")
    parser.add_argument("--swept", type=int, default=20, help="Repetitions of the product's own sweeps.")
    parser.add_argument("--cells", type=Path, required=True, help="Folder that keeps finished sweeps.")
    parser.add_argument("--tables", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--optuna", type=int, default=4, help="In how many repetitions Optuna's rules are asked.")
    arguments = parser.parse_args()
    arguments.cells.mkdir(parents=True, exist_ok=True)
    groups: dict[Group, list[dict[str, float]]] = {}
    stored = Stored(arguments.cells / SWEEPS_FILE)
    names = list_cases(arguments.tables)
    tasks = [(name, sweep, seed) for seed in range(arguments.repetitions) for name in names[:2] for sweep in DRAWN]
    # Every repetition of every cell once, then the next one: what is there at any time is even.
    tasks += [(name, sweep, seed) for seed in range(arguments.swept) for name in names for sweep in SWEPT]
    for task in tasks:
        for group, found in measure(stored, load_case(task[0], arguments.tables), task, arguments.optuna):
            groups.setdefault(group, []).append(found)
    order = {rule: place for place, rule in enumerate(RULES)}
    groups = dict(sorted(groups.items(), key=lambda item: (*item[0][:3], order[item[0][3]])))
    explained = (RESULTS / "search_stopping_explained.md").read_text(encoding="utf-8").strip()
    text = "\n".join(["# When a sweep is over", "", explained, "", *render(groups)])
    (arguments.out / "search_stopping.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
