"""Simulate the choice of a configuration: the best score of a search, against the rule of ``orchestrator promote``.

    python -m benchmarks.selection [--repetitions 1500] [--only normal "heavy tails" ...]

Both get the same number of runs. The plain way spends all of them on trials and takes the best score. The rule keeps
half of them, asks ``choose_reruns`` how to spend them (its rest goes to further trials) and takes the best shrunken
mean. The truth is known, so the regret is: the true quality of the best of all configurations minus that of the chosen
one, in deviations of the true quality. Then five fresh runs of the chosen configuration are reported. What differs
between the scenarios is in ``benchmarks.selection_scenarios``; those called digits are fitted to recorded runs. Results
and conclusions: ``results/selection.md``.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from benchmarks.selection_scenarios import RESULTS, Floats, Generator, Scenario, make_scenarios
from orchestrator.promotion.rule import (
    Noise,
    Reruns,
    choose_reruns,
    estimate_noise,
    mean_interval,
    race,
    shrunken_means,
    winner_interval,
)

RATIOS = (0.1, 0.2, 0.35, 0.5, 1.0, 2.0)
BUDGETS = (24, 64)
KEPT_SHARE = 0.5
REPORTED_SEEDS = (3, 5, 10)
PILOTS = Reruns(2, 2)
WORST_REGRET = 0.01
AIMED_GAIN = {24: 0.10, 64: 0.35}
AIMED_FROM = 0.5
_ETA = 3
# What a trial of ASHA with one rung at a third costs in full runs: a third for all, two thirds for a third of them.
_ASHA_COST = 1 / _ETA + (1 - 1 / _ETA) / _ETA


@dataclass(frozen=True)
class Figures:
    """Means over the repetitions of one scenario.

    Attributes:
        plain, rule: Mean regret.
        error: Standard error of their difference.
        reruns: Mean number of runs that the rule spends on re-runs.
        spared: Mean number of them that a race does not run.
        raw_bias, race_bias, report_bias: How far the plain winner's score, the mean of all runs of the rule's winner
            and the mean of its five fresh runs are above its truth, in deviations of the seeds.
        coverage: Seeds -> share of t intervals over so many fresh runs that cover.
        winner_coverage: Share of intervals from the search alone that cover the plain winner's truth.
        winner_width: Their mean width, in deviations of the seeds.
    """

    plain: float
    rule: float
    error: float
    reruns: float
    spared: float
    raw_bias: float
    race_bias: float
    report_bias: float
    coverage: Mapping[int, float]
    winner_coverage: float
    winner_width: float

    @property
    def gain(self) -> float:
        """By which share the rule's regret is lower."""
        return 1 - self.rule / self.plain


class Lab:
    """Configurations with a known truth, which can be run."""

    def __init__(self, scenario: Scenario, num: int, ratio: float, generator: Generator) -> None:
        self._scenario, self._generator = scenario, generator
        self.truth = scenario.draw_truth(generator, num)
        # Of mean square 1, so that the ratio is that of the whole.
        spread = scenario.spread
        self.seed_sds = ratio * np.exp(spread * generator.standard_normal(num) - spread**2)

    def run(self, configs: Sequence[int] | Floats, num_seeds: int) -> Floats:
        """Return scores, one row per configuration."""
        rows = np.asarray(configs, dtype=int)
        noise = self._scenario.draw_noise(self._generator, (rows.size, num_seeds))
        return np.asarray(self.truth[rows, None] + self.seed_sds[rows, None] * noise)

    def search(self, num: int) -> tuple[list[int], list[float]]:
        """Run the first configurations once; return those that finish, and their scores."""
        scores = self.scores[:num]
        if not self._scenario.asha:
            return list(range(num)), scores.tolist()
        kept = np.argsort(-self.early[:num])[: max(1, num // _ETA)]
        return sorted(map(int, kept)), scores[np.sort(kept)].tolist()

    def begin(self) -> None:
        """Draw the scores of the search, so that both ways see the same."""
        num = self.truth.size
        noise = self._scenario.draw_noise(self._generator, (num, 3))
        self.scores = self.truth + self.seed_sds * noise[:, 0]
        # Early on, a run has half of the luck of its end, luck of its own, and an order that still changes.
        early = 0.5 * noise[:, 0] + math.sqrt(0.75) * noise[:, 1]
        self.early = self.truth + self.seed_sds * early + 0.5 * noise[:, 2]


def choose(lab: Lab, scenario: Scenario, num_runs: int, ratio: float) -> tuple[int, float, int, int]:
    """Follow the rule; return the chosen configuration, the mean of its runs, and the re-runs planned and spared."""
    cost = _ASHA_COST if scenario.asha else 1.0
    kept = int(num_runs * KEPT_SHARE)
    configs, scores = lab.search(int((num_runs - kept) / cost))
    extra: dict[int, list[float]] = {}
    if not scenario.is_known and not scenario.num_earlier:
        chosen = [configs[index] for index in np.argsort(scores)[::-1][: PILOTS.k]]
        extra = dict(zip(chosen, lab.run(chosen, PILOTS.m).tolist(), strict=True))
        kept -= PILOTS.num_runs
    noise = _know(lab, scenario, ratio, scores, extra, int(num_runs * (1 - KEPT_SHARE) / cost))
    reruns = choose_reruns(scores, noise, kept)
    num = int((num_runs - PILOTS.num_runs * bool(extra) - reruns.num_runs) / cost)
    configs, scores = lab.search(num)
    noise = _with_mean(scenario, noise, scores, num)
    observed = {config: [score, *extra.get(config, [])] for config, score in zip(configs, scores, strict=True)}
    ranked = sorted(observed, key=lambda config: -observed[config][0])[: reruns.k]
    news = dict(zip(ranked, lab.run(ranked, reruns.m), strict=True)) if ranked else {}
    spared = 0
    for config, count in _race(news, reruns.m).items():
        observed[config] += news[config][:count].tolist()
        spared += reruns.m - count
    posterior = shrunken_means(observed, noise)
    winner = max(posterior, key=lambda config: posterior[config])
    return winner, float(np.mean(observed[winner])), reruns.num_runs, spared


def _know(
    lab: Lab, scenario: Scenario, ratio: float, scores: list[float], extra: Mapping[int, list[float]], num: int
) -> Noise:
    if scenario.is_known:
        return _with_mean(scenario, Noise(float(np.std(_reference(scenario))), ratio), scores, num)
    if scenario.num_earlier:
        # Runs of other configurations, from an earlier promotion: they cost nothing now.
        earlier = Lab(scenario, scenario.num_earlier, ratio, lab._generator)
        replicates = earlier.run(list(range(scenario.num_earlier)), 3).tolist()
    else:
        replicates = list(extra.values())
    return estimate_noise(replicates, scores, selected=True, num_trials=num if scenario.asha else None)


def _with_mean(scenario: Scenario, noise: Noise, scores: list[float], num: int) -> Noise:
    if not scenario.asha:
        return noise
    # The finished trials are the best by a related score: their order among all gives the mean of all.
    mean = estimate_noise([[0.0, 0.0]], scores, selected=True, num_trials=num).mean
    return replace(noise, mean=mean)


@cache
def _reference(scenario: Scenario) -> Floats:
    return scenario.draw_truth(np.random.default_rng(7), 20_000)


def _race(news: Mapping[int, Floats], num_blocks: int) -> dict[int, int]:
    """Return candidate -> how many blocks it runs."""
    counts = dict.fromkeys(news, num_blocks)
    blocks = [{config: float(values[block]) for config, values in news.items()} for block in range(num_blocks)]
    for num in range(3, num_blocks):
        for config in set(news) - set(race(blocks[:num], num_blocks)):
            counts[config] = min(counts[config], num)
    return counts


def simulate(scenario: Scenario, num_runs: int, ratio: float, repetitions: int, seed: int = 0) -> Figures:
    """Simulate both ways."""
    rows = [_repeat(scenario, num_runs, ratio, np.random.default_rng([seed, index])) for index in range(repetitions)]
    table = np.array(rows)
    means = table.mean(axis=0)
    plain, rule, reruns, spared, raw, raced, report = means[:7].tolist()
    cover = dict(zip(REPORTED_SEEDS, means[7:10].tolist(), strict=True))
    error = float((table[:, 0] - table[:, 1]).std() / math.sqrt(repetitions))
    return Figures(plain, rule, error, reruns, spared, raw, raced, report, cover, float(means[10]), float(means[11]))


def _repeat(scenario: Scenario, num_runs: int, ratio: float, generator: Generator) -> list[float]:
    lab = Lab(scenario, int(num_runs / (_ASHA_COST if scenario.asha else 1.0)), ratio, generator)
    lab.begin()
    configs, scores = lab.search(lab.truth.size)
    plain = configs[int(np.argmax(scores))]
    winner, raced, reruns, spared = choose(lab, scenario, num_runs, ratio)
    scale, best = float(np.std(_reference(scenario))), float(lab.truth.max())
    fresh = lab.run([winner], max(REPORTED_SEEDS))[0]
    # The mean that fresh runs estimate; with heavy tails or failing seeds, noise may have another mean than 0.
    target = float(lab.truth[winner])
    low, high = winner_interval(scores, Noise(scale, ratio))
    covers = [bounds[0] <= target <= bounds[1] for bounds in (mean_interval(fresh[:num]) for num in REPORTED_SEEDS)]
    return [
        (best - float(lab.truth[plain])) / scale,
        (best - target) / scale,
        reruns,
        spared,
        (max(scores) - float(lab.truth[plain])) / ratio,
        (raced - target) / ratio,
        (float(fresh[:5].mean()) - target) / ratio,
        *map(float, covers),
        float(low <= lab.truth[plain] <= high),
        (high - low) / ratio,
    ]


def main() -> None:
    """Simulate what is asked for, and write the report from everything simulated so far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--only", nargs="*", help="names of scenarios; by default all")
    options = parser.parse_args()
    path = RESULTS / "selection.json"
    known: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    for name, scenario in make_scenarios().items():
        if options.only and name not in options.only:
            continue
        for num_runs in BUDGETS:
            for ratio in RATIOS if scenario.ratio is None else (scenario.ratio,):
                found = simulate(scenario, num_runs, ratio, options.repetitions)
                row = {"repetitions": options.repetitions, "runs": num_runs, "ratio": round(ratio, 3), **vars(found)}
                known.setdefault(name, {})[f"{num_runs} {ratio:.3g}"] = row
                path.write_text(json.dumps(known, indent=1) + "\n")
                print(
                    name, num_runs, f"{ratio:.3g}", f"{found.plain:.3f} {found.rule:.3f} {found.gain:+.0%}", flush=True
                )
    (RESULTS / "selection.md").write_text(render_report(known))


def render_report(known: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return the report: what was simulated, then what was concluded from it by hand."""
    parts = [_INTRODUCTION, *(_render_scenario(name, list(rows.values())) for name, rows in known.items())]
    conclusions = (RESULTS / "selection_explained.md").read_text().rstrip()
    return "\n\n".join([*parts, conclusions]) + "\n"


def _render_scenario(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        f"## {name[0].upper()}{name[1:]}",
        "",
        "| runs | ratio | regret, best score | rule | gain | re-runs | bias: best score | race | reported | "
        "t covers: 3 | 5 | 10 | winner's covers | width |",
        "|---" * 14 + "|",
    ]
    for row in rows:
        cover = {int(num): share for num, share in row["coverage"].items()}
        plain, rule, error = row["plain"], row["rule"], row["error"]
        lines.append(
            f"| {row['runs']} | {row['ratio']:g} | {plain:.3f} | {rule:.3f} | {1 - rule / plain:+.0%} -+ "
            f"{1.96 * error / plain:.0%} | {row['reruns']:.1f} | {row['raw_bias']:+.2f} | {row['race_bias']:+.2f} | "
            f"{row['report_bias']:+.2f} | {cover[3]:.3f} | {cover[5]:.3f} | {cover[10]:.3f} | "
            f"{row['winner_coverage']:.3f} | {row['winner_width']:.1f} |"
        )
    return "\n".join(lines)


_INTRODUCTION = """# Choosing a configuration: the best score, or the rule of promote

Simulated, with known truth: `python -m benchmarks.selection`. Both ways have the same number of runs. *Best score*
spends all on trials. The *rule* keeps half of them, asks `choose_reruns` how to spend them (the rest goes to further
trials), races the candidates over common seeds and takes the best shrunken mean. Ratio: deviation of the seeds over
that of the true qualities. Regret: true quality of the best of all configurations minus that of the chosen one, in
deviations of the true quality. Gain: by how much the rule's regret is lower, with half the width of its 95 % interval.
Bias: how far a figure is above the truth of its configuration, in deviations of the seeds: the best score, the mean of
all runs of the rule's winner, and the mean of its five fresh runs, which is what is reported. Coverage: how often
intervals that claim 95 % contain the truth: Student's t over 3, 5 and 10 fresh runs, and the interval from the search
alone, whose width is in deviations of the seeds.

Conclusions are at the end."""


if __name__ == "__main__":
    main()
