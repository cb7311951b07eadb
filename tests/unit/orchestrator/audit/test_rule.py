"""Test the audit of a promotion by the rule: an honest race passes, and every planted cheat is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator.audit.audit import audit
from orchestrator.audit.plain_rule import plain_noise, plain_posterior, plain_race
from orchestrator.home import sweep_dir
from orchestrator.planning.choice import Choice
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.promotion.rule import Noise, estimate_noise, race, shrunken_means
from orchestrator.sweep_folder.ledger import COMPARISON, read_ledger, register_opening
from orchestrator.sweep_folder.score_files import scores_file
from tests.kit.fake_store import FakeStore
from tests.kit.openings import SET
from tests.kit.raced import make_raced


def test_an_honest_race_holds_and_is_computed_a_second_time(store: FakeStore, home: Path) -> None:
    work = make_raced(store)
    choice = work.promotion.choice
    assert choice is not None
    assert choice.trial != choice.candidates[0], "the best score was a lucky one"
    whole = (work.search.id, work.race.id, work.promotion.id)
    # The race alone does not know its promotion.
    for word, subjects in ((work.search.id, whole), (work.promotion.id, whole), (work.race.id, whole[:2])):
        found = audit(word)
        assert (found.report.findings, found.subjects) == ([], subjects)
    found = audit(work.promotion.id)
    checked = found.report.checked
    assert (checked["choices by the rule"], checked["sizes of races"]) == (1, 1)
    assert checked["runs of races"] == choice.num_entrants * choice.blocks
    assert checked["figures of choices"] == 2 * 3 + 4 + 6, "two noises; from the sweep; from the race"
    assert checked["final runs"] == 10, "those of the champion too"
    frame = orchestrator.read_results(work.promotion.id)
    tests = frame[frame.metric == "test/mAP"]
    assert tests.opening.tolist() == [1] * 5 + [2] * 5, "each of the two has its own opening"


def more_candidates(choice: Choice) -> Choice:
    return replace(choice, candidates=(*choice.candidates, 7))


def fewer_seeds(choice: Choice) -> Choice:
    return replace(choice, blocks=choice.blocks - 1)


def a_favourite(choice: Choice) -> Choice:
    return replace(choice, candidates=(*choice.candidates[:-1], 7))


def other_noise(choice: Choice) -> Choice:
    return replace(choice, config_sd=2 * choice.config_sd)


def other_order(plan: SweepPlan) -> SweepPlan:
    points = plan.start_from
    return replace(plan, start_from=(points[1], points[0], *points[2:]))


def another_seed_for_one(plan: SweepPlan) -> SweepPlan:
    points = plan.start_from
    return replace(plan, start_from=({**points[0], "loop.seed": 4}, *points[1:]))


def a_seed_twice(plan: SweepPlan) -> SweepPlan:
    width = plan.choice.num_entrants if plan.choice else 0
    points = tuple({**point, "loop.seed": plan.start_from[0]["loop.seed"]} for point in plan.start_from[-width:])
    return replace(plan, start_from=(*plan.start_from[:-width], *points))


def report_seeds_of_the_race(plan: SweepPlan) -> SweepPlan:
    shifted = [{**point, "loop.seed": int(point["loop.seed"] or 0) - 100} for point in plan.start_from]
    return replace(plan, start_from=tuple(shifted))


def report_another_trial(plan: SweepPlan) -> SweepPlan:
    points = [{**point, "optim.lr": 0.003} if run < 5 else point for run, point in enumerate(plan.start_from)]
    return replace(plan, start_from=tuple(points))


def choose_the_lucky_one(choice: Choice) -> Choice:
    return replace(choice, trial=choice.candidates[0])


def raise_the_posterior(choice: Choice) -> Choice:
    return replace(choice, posterior=(choice.posterior or 0) + 1)


def lower_the_champion(choice: Choice) -> Choice:
    return replace(choice, champion_mean=(choice.champion_mean or 0) - 1)


def narrow_the_interval(choice: Choice) -> Choice:
    return replace(choice, low=choice.raw - 0.1)


CHEATS: list[tuple[dict[str, Any], str, str]] = [
    ({"change_choice": more_candidates}, "rule", "it planned . candidates with . seeds each, but the rule gives"),
    ({"change_choice": fewer_seeds}, "rule", "it planned . candidates with 2 seeds each, but the rule gives . with 3"),
    ({"change_choice": a_favourite}, "rule", "its candidates are trial .*7, but the best of raced-0000000a are trial"),
    ({"change_choice": other_noise}, "decision", "config_sd of its choice is .*: its noise was changed"),
    ({"change_race": other_order}, "race", r"run 0 should be trial 2 with seed \d+, but has optim.lr=0.00"),
    ({"change_race": another_seed_for_one}, "race", r"run 0 should be trial 2 with seed \d+, but has loop.seed=4"),
    ({"change_race": a_seed_twice}, "race", r"should be trial 2 with seed \d+, but has loop.seed="),
    ({"is_run": lambda place: place != 4}, "seeds", r"the run of .* with seed \d+ is missing, .* was dropped"),
    ({"change_final": report_seeds_of_the_race}, "seeds", r"was already used by raced-race-\w+, the race that chose"),
    ({"change_final": report_another_trial}, "decision", "final runs do not have the settings of trial 4 of raced-"),
    ({"change_settled": choose_the_lucky_one}, "decision", "trial of its choice is 2, but the runs give 4"),
    ({"change_settled": raise_the_posterior}, "decision", "posterior of its choice is"),
    ({"change_settled": lower_the_champion}, "decision", "champion_mean of its choice is"),
    ({"change_settled": narrow_the_interval}, "decision", "low of its choice is"),
    ({"verdict": "KEEP"}, "decision", "it decided KEEP, but the posterior mean .* gives PROMOTE"),
]


def test_every_planted_cheat_is_found(
    store: FakeStore, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (cheat, kind, words) in enumerate(CHEATS):
        monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / f"home{number}"))
        work = make_raced(FakeStore(), **cheat)
        findings = audit(work.promotion.id).report.findings
        texts = [str(finding) for finding in findings if finding.kind == kind]
        with pytest.raises(AssertionError, match=words):
            raise AssertionError("\n".join(texts) or f"{cheat}: {[str(finding) for finding in findings]}")


def test_a_champion_is_opened_once(store: FakeStore, home: Path) -> None:
    work = make_raced(store)
    theirs = read_ledger()[1]
    again = {name: getattr(theirs, name) for name in SET.__dataclass_fields__}
    register_opening(replace(SET, **{**again, "commit": "decaf"}), theirs.purpose, "false")
    [finding] = audit(work.promotion.id).report.findings
    assert (finding.kind, finding.where.rpartition(":")[2]) == ("openings", "3")
    assert f"{work.promotion.id} opened the test set for the champion once more than its journal says" in str(finding)
    assert theirs.purpose.endswith(COMPARISON)


def test_figures_of_the_champion_are_computed_again(store: FakeStore, home: Path) -> None:
    work = make_raced(store)
    scores_file(work.promotion.id, 7, "test").unlink()
    [finding] = audit(work.promotion.id).report.findings
    assert "t0007-test.parquet: it cannot be read" in str(finding)


def test_a_race_that_is_gone_is_found(store: FakeStore, home: Path) -> None:
    work = make_raced(store)
    sweep_dir(work.race.id).rename(home / "elsewhere")
    assert [finding.kind for finding in audit(work.search.id).report.findings] == ["missing"]


def test_both_paths_give_the_same() -> None:
    scores = [84.6, 83.5, 83.1, 82.2, 80.6, 79.8, 78.4, 76.9]
    replicates = [[82.0, 84.4, 81.1, 83.3], [80.1, 82.9, 79.4, 81.2], [77.7, 80.6, 79.0, 80.9]]
    for num_trials in (None, 30):
        noise = estimate_noise(replicates, scores, selected=True, num_trials=num_trials)
        found = plain_noise(replicates, scores, num_trials)
        assert found == pytest.approx((noise.config_sd, noise.seed_sd, noise.mean))
    observed = {0: [84.6, 81.3, 82.9], 1: [83.5], 2: [83.1, 80.3]}
    for mean in (None, 80.0):
        right = shrunken_means(observed, Noise(2.2, 1.5, mean))
        assert plain_posterior(observed, 2.2, 1.5, mean) == pytest.approx(right)
    blocks: list[dict[int, float | None]] = [
        {0: 81.3, 1: 82.8, 2: 80.3, 9: 82.4},
        {0: 82.9, 1: 83.9, 2: None, 9: 83.5},
        {0: 81.9, 1: 82.7, 9: 82.2},
        {1: 82.0, 9: 81.9},
    ]
    runs = {each: [block[each] for block in blocks if each in block] for each in (0, 1, 2, 9)}
    assert race(blocks, 4) == sorted(plain_race(runs, 4)[0])
    assert plain_race({**runs, 1: runs[1][:1]}, 4)[1] == [(1, 1)]
