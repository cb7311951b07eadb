"""Simulate what the rule of a promotion does not do: other ways to re-run, and other scales of the winner's interval.

    python -m benchmarks.selection_alternatives

*Re-runs*: with known, normal noise, the best fixed design (so many trials, then k candidates with m seeds each) against
the best one that goes on with the few best posterior means after every run. Designs are chosen by one simulation and
measured by another, so that the best of many is not too good by luck. *Intervals*: how often, and how wide,
``winner_interval`` covers if its noise is known, estimated, or taken for heavy-tailed. Results:
``results/selection_alternatives.md``; what follows from them is at the end of ``results/selection.md``.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.selection import BUDGETS, Lab, _reference
from benchmarks.selection_scenarios import RESULTS, Floats, Scenario, make_scenarios
from orchestrator.promotion.rule import Noise, estimate_noise, winner_interval

PATH = RESULTS / "selection_alternatives.json"
RERUN_RATIOS = (0.35, 0.5, 1.0, 2.0)
INTERVAL_RATIOS = (0.35, 1.0, 2.0)
_HEAVY_DF = 5.0
_EARLIER, _SEEDS = 4, 3

Design = tuple[tuple[int, int], ...]
"""Rounds: so many of the best posterior means get so many further runs each."""


def regret_of(total: int, ratio: float, design: Design, repetitions: int, seed: int) -> tuple[float, float]:
    """Return the mean regret of the best score of ``total`` runs, and of a design that takes its re-runs from them."""
    generator, num = np.random.default_rng(seed), total - sum(k * m for k, m in design)
    rows = np.arange(repetitions)
    truth = generator.standard_normal((repetitions, total))
    scores = truth + ratio * generator.standard_normal(truth.shape)
    best = truth.max(axis=1)
    plain = best - truth[rows, scores.argmax(axis=1)]
    sums, counts = scores[:, :num].copy(), np.ones((repetitions, num))
    mean = scores[:, :num].mean(axis=1, keepdims=True)
    for k, m in design:
        chosen = np.argsort(-_posterior(sums, counts, ratio, mean), axis=1)[:, :k]
        news = m * np.take_along_axis(truth, chosen, 1)
        news = news + ratio * np.sqrt(m) * generator.standard_normal(chosen.shape)
        np.put_along_axis(sums, chosen, np.take_along_axis(sums, chosen, 1) + news, 1)
        np.put_along_axis(counts, chosen, np.take_along_axis(counts, chosen, 1) + m, 1)
    winner = _posterior(sums, counts, ratio, mean).argmax(axis=1)
    return float(plain.mean()), float((best - truth[rows, winner]).mean())


def _posterior(sums: Floats, counts: Floats, ratio: float, mean: Floats) -> Floats:
    return np.asarray(mean + (sums / counts - mean) / (1 + ratio**2 / counts))


def fixed_designs(total: int) -> Iterable[Design]:
    """Yield designs with one round."""
    for k, m in itertools.product((2, 3, 4, 5, 6, 8, 10), (1, 2, 3, 4, 6)):
        if max(k, total // 4) <= total - k * m:
            yield ((k, m),)


def adaptive_designs(total: int) -> Iterable[Design]:
    """Yield designs that run the best again one seed at a time, fewer of them after the first round."""
    for first, later, rounds in itertools.product((2, 4, 6, 8, 12), (2, 3), (1, 2, 3, 4, 6, 8)):
        design: Design = ((first, 1), *(((min(first, later), 1),) * rounds))
        if max(first, total // 4) <= total - sum(k * m for k, m in design):
            yield design


def compare_designs(total: int, ratio: float, repetitions: int) -> dict[str, Any]:
    """Return the best design of each kind, and by which share its regret is below that of the best score."""
    found: dict[str, Any] = {"runs": total, "ratio": ratio}
    for name, designs in (("fixed", fixed_designs(total)), ("adaptive", adaptive_designs(total))):
        best = min(designs, key=lambda design: regret_of(total, ratio, design, repetitions // 4, 1)[1])
        plain, ours = regret_of(total, ratio, best, repetitions, 2)
        found |= {name: best, f"{name}_gain": round(1 - ours / plain, 3)}
    return found


def cover(scenario: Scenario, num: int, ratio: float, repetitions: int) -> dict[str, Any]:
    """Return how often each interval covers the truth of the best score's configuration, and its mean width."""
    counts: dict[str, list[float]] = {}
    for index in range(repetitions):
        lab = Lab(scenario, num, ratio, np.random.default_rng([5, index]))
        lab.begin()
        configs, scores = lab.search(num)
        truth = float(lab.truth[configs[int(np.argmax(scores))]])
        for name, noise in _noises(lab, scenario, ratio, scores).items():
            low, high = winner_interval(scores, noise)
            known = counts.setdefault(name, [0.0, 0.0])
            known[0] += low <= truth <= high
            known[1] += (high - low) / ratio
    shares = {name: [round(sum_ / repetitions, 3) for sum_ in sums] for name, sums in counts.items()}
    return {"scenario": scenario.name, "runs": num, "ratio": round(ratio, 3), **shares}


def _noises(lab: Lab, scenario: Scenario, ratio: float, scores: Sequence[float]) -> dict[str, Noise]:
    earlier = Lab(scenario, _EARLIER, ratio, lab._generator)
    replicates = earlier.run(list(range(_EARLIER)), _SEEDS).tolist()
    known = Noise(float(np.std(_reference(scenario))), ratio)
    estimated = estimate_noise(replicates, scores, selected=True)
    return {
        "known": known,
        "known, as heavy": replace(known, seed_df=_HEAVY_DF),
        "estimated": estimated,
        "estimated, as heavy": replace(estimated, seed_df=_HEAVY_DF),
    }


def main(repetitions: int = 20_000, interval_repetitions: int = 300) -> None:
    """Simulate everything and write the results."""
    found: dict[str, Any] = {"re-runs": [], "intervals": []}
    for total, ratio in itertools.product(BUDGETS, RERUN_RATIOS):
        found["re-runs"].append(compare_designs(total, ratio, repetitions))
        print(found["re-runs"][-1], flush=True)
    names = ("ASHA", "noise estimated")
    for scenario in (each for each in make_scenarios().values() if not each.name.startswith(names)):
        for total in BUDGETS:
            for ratio in INTERVAL_RATIOS if scenario.ratio is None else (scenario.ratio,):
                found["intervals"].append(cover(scenario, total, ratio, interval_repetitions))
                print(found["intervals"][-1], flush=True)
    PATH.write_text(json.dumps(found, indent=1) + "\n")
    PATH.with_suffix(".md").write_text(render(found))


def render(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the results as two tables."""
    lines = [_INTRODUCTION, "| runs | ratio | one round | gain | round by round | gain |", "|---" * 6 + "|"]
    for row in found["re-runs"]:
        kinds = " | ".join(f"{_name(row[kind])} | {row[f'{kind}_gain']:+.0%}" for kind in ("fixed", "adaptive"))
        lines.append(f"| {row['runs']} | {row['ratio']:g} | {kinds} |")
    names = [name for name in found["intervals"][0] if name not in ("scenario", "runs", "ratio")]
    lines += ["", _INTERVALS, f"| noise | runs | ratio | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
    for row in found["intervals"]:
        shares = " | ".join(f"{row[name][0]:.0%}, {row[name][1]:.1f}" for name in names)
        lines.append(f"| {row['scenario']} | {row['runs']} | {row['ratio']:g} | {shares} |")
    return "\n".join(lines) + "\n"


def _name(design: Sequence[Sequence[int]]) -> str:
    return ", ".join(f"{k} x {m}" for k, m in design)


_INTRODUCTION = """# What the rule of promote does not do

Simulated, with known truth: `python -m benchmarks.selection_alternatives`. What follows from it is at the end of
[selection.md](selection.md).

## Other ways to re-run

Known, normal noise. Gain: by how much regret is below that of the best of all runs, for the best design of its kind:
`4 x 2` runs the 4 best again with 2 seeds each. Round by round, each number is one round, which goes on with the best
posterior means so far. All runs count.
"""

_INTERVALS = """## Other scales for the interval from the sweep alone

How often it covers where it claims 95 %, and its width in deviations of the seeds. Estimated: from 4 earlier
configurations of 3 runs, as `promote` does (8 degrees of freedom). As heavy: with the tails of Student's t of 5.
"""


if __name__ == "__main__":
    main()
