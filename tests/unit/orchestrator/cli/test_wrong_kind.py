"""Test what each verb says of something that exists, but is not of the kind that it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.sweep_folder.events import ChampionSet, PromotionDecided, TestOpened
from orchestrator.sweep_folder.index import load_plan
from orchestrator.tracking import registry, store
from tests.kit.program import run
from tests.kit.sweeps import driver_started, make_sweep, whole_sweep, write_events

SWEEP, TRAINING, ABLATION, PROMOTION = (
    "s-00000001",
    "t-00000002",
    "a-00000003",
    "p-00000004",
)
"""Each has a name of one letter, and exists once."""


@pytest.fixture(autouse=True)
def home_with_one_of_each(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make one of each kind; MLflow knows none of them."""
    sweep = make_sweep(SWEEP, num_trials=4)
    write_events(sweep, whole_sweep(sweep))
    for sweep_id, kind in ((TRAINING, "train"), (ABLATION, "ablate"), (PROMOTION, "promote")):
        plan = make_sweep(sweep_id, kind=kind, parent=SWEEP, start_from=({},), num_trials=1)
        write_events(plan, [driver_started(plan)])

    def find_run(run_id: str) -> None:
        pytest.fail(f"MLflow was asked for {run_id}")

    monkeypatch.setattr(store, "find_run", find_run)
    return home


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("promote {}", {"a": f"{ABLATION} is an ablation, and the best", "p": f"{PROMOTION} is itself a promotion"}),
        (
            "extend {} --trials +1",
            {
                "t": f"{TRAINING} is a training, and only a sweep can be extended. Train it again",
                "a": f"{ABLATION} is an ablation, and only a sweep can be extended.",
                "p": f"with more seeds: orchestrator promote {SWEEP} --seeds K",
            },
        ),
        (
            "extend {} --max-gpu-hours 9",
            {
                "t": f"{TRAINING} is a training, and only a sweep can be extended. Train it again",
                "a": f"{ABLATION} is an ablation, and only a sweep can be extended.",
            },
        ),
        (
            "train --from {}",
            {
                "s": f"for example its best: --from {SWEEP}/3",
                "t": f"t is a training, not one of its trials. Name a trial, for example its first: --from {TRAINING}",
                "a": "a is an ablation, not one of its trials",
                "p": "p is a promotion, not one of its trials",
                "voc": "voc is a search space, not a run. Train it: orchestrator train voc",
            },
        ),
        (
            "sweep {}",
            {
                "s": f"s is a sweep, not a search space. See it: orchestrator status {SWEEP}",
                "t": "t is a training, not a search space",
                "a": "a is an ablation, not a search space",
                "p": "p is a promotion, not a search space",
            },
        ),
        (
            "cancel {}",
            {
                "s": f"s is a sweep, not a job. See it: orchestrator status {SWEEP}",
                "p": "p is a promotion, not a job",
            },
        ),
        (
            "status {}",
            {
                "voc": "voc is a search space, and",
                "mine.yaml": "Start one: orchestrator sweep mine.yaml",
                f"{SWEEP}/0": f"{SWEEP}/0 is a trial. Name its sweep: {SWEEP}",
                "s.bundle.zip": "Look into a bundle: orchestrator browse s.bundle.zip",
            },
        ),
        ("data verify {} --source .", {"digits": "digits is built in and needs no preparation"}),
    ],
)
def test_a_verb_says_what_the_thing_is(capsys: pytest.CaptureFixture[str], words: str, answer: dict[str, str]) -> None:
    for word, expected in answer.items():
        code, _, err = run(capsys, *words.format(word).split())
        assert code == 2, err
        assert expected in err, f"{words} of {word}"


def test_without_a_name_the_kinds_that_are_there_are_named(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    (home / "sweeps" / SWEEP).rename(home / "gone")
    for words in (("promote",), ("extend", "--trials", "+1")):
        _, _, err = run(capsys, *words)
        assert f"No sweep in {home}/sweeps, only a promotion, a training, an ablation. Name one" in err


def test_a_model_is_not_a_sweep_or_a_promotion(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def what_is_said(word: str) -> str:
        with pytest.raises(UserError) as told:
            registry._refuse_sweep(word)
        return str(told.value)

    assert what_is_said("s").endswith(f"Register its best trial as one: orchestrator promote {SWEEP}")
    assert what_is_said(f"{SWEEP}/2").startswith(f"{SWEEP}/2 is a trial, not a model.")
    assert what_is_said("a") == "a is an ablation, not a model. The variants of an ablation are not registered."
    assert what_is_said("p").endswith(f"It is not concluded yet: orchestrator resume {PROMOTION}")
    plan = load_plan(PROMOTION)
    write_events(plan, [PromotionDecided("PROMOTE", "", (), "m"), TestOpened({}, {}), ChampionSet("m/7")])
    assert what_is_said("p") == "p is a promotion, not a model. It registered m/7: name that."
    registry._refuse_sweep("digits")


def test_settings_of_a_run_are_no_search_space(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "winner.yaml"
    file.write_text("data.name: digits\nloop.epochs: 3\n")
    for verb in ("sweep", "train", "ablate", "plan"):
        code, _, err = run(capsys, verb, str(file))
        assert code == 2
        assert f"{file}:1: these are the settings of one run, not a search space. Train them: orchestrator train" in err
