"""The worked example of ``docs/results.md``, passed through the program: what it prints is what the page says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.planning.choice import Choice
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.promotion.final_runs import make_result
from orchestrator.promotion.race import Champion, make_final, make_race, plan_choice, settle_choice
from orchestrator.promotion.verdict import Result, decide
from orchestrator.sweep_folder.events import Event
from orchestrator.sweep_folder.journal import replay
from orchestrator.sweep_folder.promotion_report import PromotionReport, make_report
from orchestrator.sweep_folder.records import TrialRecord
from orchestrator.trials.race_blocks import read_race
from tests.kit import sweeps
from training.config.run import Scalar

PAGE = Path(__file__).parents[4] / "docs" / "results.md"
TAU = "method.cam_threshold"
CHAMPION = "digits.resnet_cam/1"
_CHAMPION_TAU = 0.9


class Page:
    """The numbers of the page."""

    def __init__(self) -> None:
        text = PAGE.read_text(encoding="utf-8").partition("### A worked example")[2].partition("\n## ")[0]
        self.shown = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", text, re.MULTILINE))
        intro = [float(number) for number in re.findall(r"\d\d\.\d", text.partition("There is a champion")[0])]
        self.scores, self.earlier = intro[:8], [intro[start : start + 4] for start in (8, 12, 16)]

    def runs(self, step: str) -> list[float]:
        """Return the scores of single runs, which have one decimal."""
        return [float(number) for number in re.findall(r"\d\d\.\d(?!\d)", self.shown[step])]


def write(plan: SweepPlan, runs: Sequence[tuple[Mapping[str, Scalar], float]]) -> list[TrialRecord]:
    """Write the journal of a sweep whose runs have given scores."""
    events: list[Event] = [sweeps.driver_started(plan)]
    for trial, (params, score) in enumerate(runs):
        named: dict[str, Any] = dict(params)
        events += [sweeps.trial_started(trial, 1, **named), sweeps.epoch_reported(trial, 1, 2, score)]
        events.append(sweeps.trial_ended(trial, 3))
    sweeps.write_events(plan, [*events, sweeps.driver_ended(4)])
    return list(replay(sweeps.journal_path(plan)).records.values())


def follow(page: Page) -> tuple[Choice, Choice, PromotionReport, SweepPlan]:
    """Promote as the program does; return the choice before the race, after it, the report and the final plan."""
    points = [(f"0.{number}", scores) for number, scores in enumerate(page.earlier, start=1)]
    before = sweeps.make_sweep(
        "earlier-race-00000001",
        kind="race",
        num_trials=12,
        start_from=tuple({TAU: float(tau), "loop.seed": seed} for tau, scores in points for seed in range(len(scores))),
        created=sweeps.START_MS / 1000 - 10,
    )
    write(before, list(zip(before.start_from, [score for _, scores in points for score in scores], strict=True)))
    search = sweeps.make_sweep("digits-00000002", num_trials=8, scheduler="none")
    records = write(search, [({TAU: 0.5 + 0.01 * trial}, score) for trial, score in enumerate(page.scores)])
    planned = plan_choice(search, records, Champion(CHAMPION, {TAU: _CHAMPION_TAU}), seeds=5, workers=1, budget=12)
    race = make_race(search, records, planned)
    sweeps.create(race)
    entrants = [page.runs(f"race, trial {trial}") for trial in planned.candidates] + [page.runs("race, champion")]
    width = len(entrants)
    scores = [entrants[place % width][place // width] for place in range(len(race.start_from))]
    raced = write(race, list(zip(race.start_from, scores, strict=True)))
    settled = settle_choice(search, records, race, raced)
    assert set(settled.left) == {planned.candidates[entrant] for entrant in read_race(race, raced).left if entrant < 3}
    final = make_final(search, records, settled)
    sweeps.create(final)
    fresh = page.runs(f"fresh seeds, trial {settled.trial}") + page.runs("fresh seeds, champion")
    reported = write(final, list(zip(final.start_from, fresh, strict=True)))
    return planned, settled, make_report(final, dict(enumerate(reported)), None), final


def test_the_program_gives_what_the_page_says(home: Path) -> None:
    page = Page()
    planned, settled, report, final = follow(page)
    shown = page.shown
    assert f"{planned.seed_sd:.2f}" == shown["deviation between seeds, pooled"]
    assert f"{planned.config_sd:.2f}" == shown["deviation between configurations"]
    assert f"{planned.raw:.2f}" == shown["best score"]
    assert f"{planned.shrunk:.2f}" == shown["shrunken"]
    assert f"{planned.low:.2f} to {planned.high:.2f}" == shown["its interval, from the sweep alone"]
    assert len(planned.candidates) == int(shown["further runs within 12"].partition(" candidates")[0])
    assert f"; {planned.blocks} seeds, as the champion takes part" in shown["further runs within 12"]
    dropped = [trial for trial in planned.candidates if "dropped" in shown[f"race, trial {trial}"]]
    assert sorted({*planned.candidates} - {*settled.left}) == dropped
    assert shown["deviations, with the race"] == f"{settled.seed_sd:.2f} and {settled.config_sd:.2f}"
    assert settled.posterior is not None
    assert settled.champion_mean is not None
    step = f"shrunken mean of all runs, trial {settled.trial}"
    assert shown[step] == f"{settled.posterior:.2f}: above the champion, PROMOTE"
    assert shown["race, champion"].endswith(f"mean {settled.champion_mean:.2f}")
    result = make_result(final, replay(sweeps.journal_path(final)), sweeps.journal_path(final))
    theirs = Result(CHAMPION, result.identity, (82.0,))
    assert shown[step].endswith(str(decide(result, theirs, choice=settled).verdict))
    assert report.reported is not None
    found = report.reported
    assert shown[f"fresh seeds, trial {settled.trial}"].endswith(
        f": {found.mean:.2f}, {found.low:.2f} to {found.high:.2f}"
    )
    assert report.difference is not None
    found = report.difference
    assert shown["fresh seeds, champion"].endswith(f"{found.mean:+.2f}, {found.low:+.2f} to {found.high:+.2f}")


def test_the_example_of_label_draws_is_what_the_program_computes(home: Path) -> None:
    shown = Page().shown
    rows = {
        name: [float(score) for score in re.findall(r"\d\d\.\d(?!\d)", shown[name])]
        for name in shown
        if name.startswith("draw 12")
    }
    assert list(rows) == ["draw 1200, 3 seeds", "draw 1201, 3 seeds", "draw 1202, 3 seeds"]
    scores = [score for runs in rows.values() for score in runs]
    plan = sweeps.make_sweep(
        "digits-promote-00000001",
        kind="promote",
        num_trials=9,
        label_draws=(1200, 1201, 1202),
        start_from=tuple({"loop.seed": seed, "data.draw_seed": 1200 + seed // 3} for seed in range(9)),
    )
    records = write(plan, list(zip(plan.start_from, scores, strict=True)))
    report = make_report(plan, dict(enumerate(records)), None)
    found, own = report.draws["reported"], report.reported
    assert own is not None
    assert shown["reported, on draw 1200"] == f"{own.mean:.2f}, {own.low:.2f} to {own.high:.2f}"
    assert shown["all draws"] == f"{found.mean:.2f}, {found.low:.2f} to {found.high:.2f}"
    assert shown["deviation between draws, and between seeds"] == f"{found.draw_sd:.2f} and {found.seed_sd:.2f}"
