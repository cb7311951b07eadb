"""A sweep, the race of its best trials against a champion, and final runs, made without training by the real rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TypeVar

from orchestrator.planning.choice import Choice
from orchestrator.planning.follow_up import first_race_seed
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.promotion.race import Champion, make_final, make_race, plan_choice, settle_choice
from orchestrator.sweep_folder.events import Event
from orchestrator.sweep_folder.journal import replay
from orchestrator.sweep_folder.ledger import Opening
from tests.kit import sweeps
from tests.kit.fake_store import FakeStore
from tests.kit.promoted import PROVENANCE, make_base, make_scores, started, write_promotion, write_views
from training.config.run import Scalar

_LR = "optim.lr"
_SEED = "loop.seed"
CHAMPION = "digits.resnet_cam/1"
QUALITY = (-1.0, 0.6, 0.2, -2.0, 1.0, -4.0, -3.0, -6.0)
"""How good each trial is, in points around what the final runs score; the search had luck of its own."""
_LUCK = (0.2, -0.3, 1.9, 0.4, -0.6, 0.1, -0.2, 0.3)


@dataclass
class Raced:
    """What was made."""

    search: SweepPlan
    race: SweepPlan
    promotion: SweepPlan
    opening: Opening
    store: FakeStore


T = TypeVar("T")


def _same(value: T) -> T:
    return value


def make_raced(
    store: FakeStore,
    *,
    change_choice: Callable[[Choice], Choice] = _same,
    change_race: Callable[[SweepPlan], SweepPlan] = _same,
    is_run: Callable[[int], bool] = lambda place: True,
    change_settled: Callable[[Choice], Choice] = _same,
    change_final: Callable[[SweepPlan], SweepPlan] = _same,
    verdict: str | None = None,
) -> Raced:
    """Make a promotion by the rule, with a champion in the race; each argument can plant a cheat.

    Args:
        store: What MLflow would hold.
        change_choice: To what was planned to run again.
        change_race: To the plan of the race.
        is_run: Whether a run of the race, by its place, is in the journal.
        change_settled: To what was chosen after the race.
        change_final: To the plan of the final runs.
        verdict: Other than the rule's.
    """
    search = sweeps.make_sweep("raced-0000000a", base=make_base(), num_trials=len(QUALITY), scheduler="none")
    first = first_race_seed(search)
    usual = fmean(make_scores("val", first + 100 + run).metrics()["val/mAP"] for run in range(5))
    scores = [usual + quality + luck for quality, luck in zip(QUALITY, _LUCK, strict=True)]
    points = [{_LR: 0.001 * (trial + 1)} for trial in range(len(scores))]
    _write_runs(search, [(trial, point, scores[trial]) for trial, point in enumerate(points)])
    records = list(replay(sweeps.journal_path(search)).records.values())
    champion = Champion(CHAMPION, {_LR: 0.0123})
    choice = change_choice(plan_choice(search, records, champion, seeds=5, workers=1, budget=12))
    race = change_race(replace(make_race(search, records, choice), created=search.created + 100))
    sweeps.create(race)
    _write_runs(race, _run_race(race, usual, is_run))
    raced = list(replay(sweeps.journal_path(race)).records.values())
    settled = change_settled(settle_choice(search, records, race, raced))
    final = change_final(replace(make_final(search, records, settled), created=search.created + 200))
    sweeps.create(final)
    assert settled.posterior is not None
    assert settled.champion_mean is not None
    right = "PROMOTE" if settled.posterior > settled.champion_mean else "KEEP"
    opening = write_promotion(final, PROVENANCE, verdict=verdict or right, champion=CHAMPION)
    write_views([search, race, final], store)
    return Raced(search, race, final, opening, store)


def _run_race(
    race: SweepPlan, usual: float, is_run: Callable[[int], bool]
) -> list[tuple[int, Mapping[str, Scalar], float]]:
    """Run the race block by block, as far as it goes."""
    done: list[tuple[int, Mapping[str, Scalar], float]] = []
    assert race.choice is not None
    width = race.choice.num_entrants
    for block in range(race.choice.blocks):
        for place in range(block * width, (block + 1) * width):
            point = race.start_from[place]
            lr, seed = float(point[_LR] or 0), int(point[_SEED] or 0)
            number = round(lr * 1000) - 1
            quality = QUALITY[number] if number < len(QUALITY) else -0.5
            score = usual + quality + math.sin(seed) + 0.3 * math.sin(7 * seed + 1000 * lr)
            if is_run(place):
                done.append((len(done), point, score))
    return done


def _write_runs(plan: SweepPlan, runs: list[tuple[int, Mapping[str, Scalar], float]]) -> None:
    events: list[Event] = [sweeps.driver_started(plan, provenance=PROVENANCE)]
    events += [started(trial, point) for trial, point, _ in runs]
    for epoch in (1, 2, 3):
        events += [sweeps.epoch_reported(trial, epoch, 1 + epoch, score - 3 + epoch) for trial, _, score in runs]
    events += [sweeps.trial_ended(trial, 9) for trial, _, _ in runs]
    sweeps.write_events(plan, [*events, sweeps.driver_ended(10)])
