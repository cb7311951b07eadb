from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.promotion import promote as promotion_module
from orchestrator.promotion.conclusion import PromotionOutcome
from orchestrator.promotion.verdict import Decision, Verdict
from orchestrator.sweep.options import DriveOptions
from orchestrator.sweep_folder.events import ChampionSet, Event, PromotionDecided, TestOpened
from orchestrator.sweep_folder.journal import replay
from orchestrator.sweep_folder.ledger import LEDGER_FILE
from tests.kit.openings import open_set
from tests.kit.program import parse, run
from tests.kit.sweeps import (
    driver_ended,
    driver_started,
    epoch_reported,
    journal_path,
    make_sweep,
    trial_ended,
    trial_started,
    whole_sweep,
    write_events,
)
from training.config.run import TrainConfig
from training.data.views import PixelScale
from training.inference.predictor import save_model
from training.models.registry import build_model

MODEL = "digits.resnet_cam.clean-val.clean-val.0b04361c"


CLASSES = ["zero", "one", "two"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an untrained model."""
    flat = {
        "data.image_size": 40,
        "model.backbone": "digits/resnet12",
        "model.weights": "none",
        "loop.recipe": "digits",
    }
    config = TrainConfig.from_flat(flat)
    network, _ = build_model(config.model, len(CLASSES), torch.device("cpu"))
    folder = tmp_path_factory.mktemp("model")
    state = {"model": network.state_dict(), "classes": CLASSES, "epoch": 1}
    save_model(folder, config, state, PixelScale(torch.zeros(3), torch.ones(3)), "a card")
    return folder


@pytest.fixture
def promotion(finished: str) -> PromotionOutcome:
    """Promote a sweep with two seeds, and return the outcome."""
    plan = make_sweep("digits-promote-00000002", kind="promote", parent=finished, num_trials=2)
    events: list[Event] = [driver_started(plan)]
    for run_number, score in enumerate((70.0, 68.0)):
        events += [
            trial_started(run_number, 1, **{"loop.seed": 1001 + run_number}),
            epoch_reported(run_number, 1, 2, score),
            trial_ended(run_number, 3),
        ]
    write_events(plan, [*events, driver_ended(4)])
    records = tuple(replay(journal_path(plan)).records.values())
    decision = Decision(Verdict.PROMOTE, "69.00 is higher than 65.00", ("label-draw seed is 7 and not 1200",))
    test = {0: {"test/mAP": 66.0}, 1: {"test/mAP": 64.0}}
    outcome = PromotionOutcome(plan, records, "FINISHED", 9.0, decision, test, MODEL, f"{MODEL}/3")
    return replace(outcome, champion=f"{MODEL}/3", config_file=Path("promoted", "a.yaml"))


@pytest.fixture
def promote(monkeypatch: pytest.MonkeyPatch, promotion: PromotionOutcome) -> Callable[..., list[dict[str, Any]]]:
    """Return a function that replaces the real promotion by one with changes, and returns its arguments."""

    def put(**changes: Any) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def promoted(sweep_id: str, options: DriveOptions, **how: Any) -> PromotionOutcome:
            calls.append({"id": sweep_id, **vars(options), **how})
            return replace(promotion, **changes)

        monkeypatch.setattr(promotion_module, "promote", promoted)
        monkeypatch.setattr(promotion_module, "promote_by_rule", promoted)
        monkeypatch.setattr(promotion_module, "resume_promotion", promoted)
        return calls

    return put


def test_promote_prints_runs_decision_and_what_to_do_with_the_model(
    capsys: pytest.CaptureFixture[str], promote: Callable[..., list[dict[str, Any]]], finished: str
) -> None:
    calls = promote()
    code, out, _ = run(capsys, "promote", "--seeds", "2")
    assert code == 0
    assert (calls[0]["id"], calls[0]["seeds"], calls[0]["workers"]) == (finished, 2, None)
    assert [line.split() for line in out.splitlines()[2:4]] == [
        ["0", "1001", "COMPLETE", "70.00", "1", "66.00"],
        ["1", "1002", "COMPLETE", "68.00", "1", "64.00"],
    ]
    assert "PROMOTE: 69.00 is higher than 65.00" in out
    assert "label-draw seed is 7 and not 1200" in out
    assert "test: 65.00 +- 1.41 test/mAP in percent over 2 seeds; opened after the decision" in out
    assert f"{MODEL}/3" in out
    for command in out.partition("next:\n")[2].splitlines():
        parse(command.partition("#")[0])
    printed = json.loads(run(capsys, "promote", "--json")[1])
    assert (printed["test"]["metric"], printed["test"]["mean"]) == ("test/mAP", 65.0)
    assert (printed["verdict"], printed["version"], printed["runs"][1]["test"]) == (
        "PROMOTE",
        f"{MODEL}/3",
        {"test/mAP": 64.0},
    )


def test_a_version_that_is_no_longer_champion_is_not_called_one(
    capsys: pytest.CaptureFixture[str], promote: Callable[..., list[dict[str, Any]]], finished: str
) -> None:
    promote(champion=f"{MODEL}/7")
    assert (
        f"registered: {MODEL}/3, the run of the first seed, champion until {MODEL}/7 took its place"
        in run(capsys, "promote")[1]
    )
    promote(champion=None)
    assert f"registered: {MODEL}/3, the run of the first seed, no longer champion" in run(capsys, "promote")[1]


@pytest.mark.parametrize(("verdict", "code"), [(Verdict.KEEP, 0), (Verdict.REFUSE, 1)])
def test_what_is_not_promoted_offers_no_model(
    capsys: pytest.CaptureFixture[str], promote: Callable[..., list[dict[str, Any]]], verdict: Verdict, code: int
) -> None:
    promote(decision=Decision(verdict, "69.00 is not higher than 70.00"), version=None)
    found, out, _ = run(capsys, "promote")
    assert found == code
    assert f"{verdict}: 69.00 is not higher than 70.00" in out
    assert "@champion" not in out


def test_promotion_is_resumed_by_its_id_and_exits_with_130_when_stopped(
    capsys: pytest.CaptureFixture[str], promote: Callable[..., list[dict[str, Any]]], promotion: PromotionOutcome
) -> None:
    calls = promote(state="INTERRUPTED", decision=None)
    code, out, err = run(capsys, "resume", promotion.plan.id)
    assert (code, out, calls[0]["id"]) == (130, "", promotion.plan.id)
    assert f"orchestrator resume {promotion.plan.id}" in err


def test_stopped_promotion_repeats_the_flag_that_its_plan_does_not_have(
    capsys: pytest.CaptureFixture[str], promote: Callable[..., list[dict[str, Any]]], finished: str
) -> None:
    promote(state="INTERRUPTED", decision=None, keep_weights=True)
    _, _, err = run(capsys, "promote", finished, "--keep-weights")
    assert f"orchestrator promote {finished} --rule best-score --seeds 2 --workers 1 --keep-weights" in err


def test_promotion_that_is_trained_but_not_decided_is_to_be_resumed(
    capsys: pytest.CaptureFixture[str], promotion: PromotionOutcome
) -> None:
    def status() -> str:
        return run(capsys, "status", promotion.plan.id)[1]

    opened = TestOpened({"0": {"test/mAP": 1.0}}, {"0": 1})
    for event in (None, PromotionDecided("PROMOTE", "higher", (), MODEL), opened):
        write_events(promotion.plan, [] if event is None else [event])
        assert ", NOT CONCLUDED" in status(), "what is left: the decision, the test split, or the registration"
        assert f"orchestrator resume {promotion.plan.id}" in status()
    write_events(promotion.plan, [ChampionSet(f"{MODEL}/1")])
    assert ", FINISHED" in status()
    assert "resume" not in status()


def test_decided_promotion_that_keeps_the_champion_is_finished(
    capsys: pytest.CaptureFixture[str], promotion: PromotionOutcome
) -> None:
    write_events(promotion.plan, [PromotionDecided("KEEP", "not higher", (), MODEL), TestOpened({}, {})])
    _, out, _ = run(capsys, "status", promotion.plan.id)
    assert "KEEP: not higher" in out
    assert "resume" not in out


def test_test_figures_and_the_version_are_shown_as_long_as_the_promotion_is_there(
    capsys: pytest.CaptureFixture[str], promotion: PromotionOutcome
) -> None:
    plan = promotion.plan
    figures = {"0": {"test/mAP": 66.0, "test/CF1": 60.5}, "1": {"test/mAP": 64.0, "test/CF1": 59.5}}
    decided = PromotionDecided("PROMOTE", "higher", ("label-draw seed is 7 and not 1200",), MODEL)
    write_events(plan, [decided, TestOpened(figures, {"0": 1, "1": 1}), ChampionSet(f"{MODEL}/3")])
    out = run(capsys, "status", plan.id)[1]
    assert "test    65.00 +- 1.41 test/mAP in percent over 2 seeds" in out
    assert f"registered as {MODEL}/3" in out
    found = json.loads(run(capsys, "status", plan.id, "--json")[1])
    assert (found["test"], found["decision"]["version"]) == (figures, f"{MODEL}/3")
    assert found["decision"]["marks"] == ["label-draw seed is 7 and not 1200"]
    out = run(capsys, "leaderboard", plan.id)[1]
    assert [line.split()[:6] for line in out.splitlines()[1:4]] == [
        ["#", "trial", "state", "score", "epoch", "test/mAP"],
        ["1", "0", "COMPLETE", "70.00", "1/1", "66.00"],
        ["2", "1", "COMPLETE", "68.00", "1/1", "64.00"],
    ]
    assert "test: 65.00 +- 1.41 test/mAP" in out
    board = json.loads(run(capsys, "leaderboard", plan.id, "--json")[1])
    assert (board["test"]["mean"], board["rows"][1]["test"]) == (65.0, figures["1"])
    rows = list(csv.DictReader(io.StringIO(run(capsys, "leaderboard", plan.id, "--csv")[1])))
    assert [(row["test/mAP"], row["test/CF1"]) for row in rows] == [("66.0", "60.5"), ("64.0", "59.5")]
    assert "test" not in rows[0]


def test_openings_of_the_test_set_stand_under_every_table(
    capsys: pytest.CaptureFixture[str],
    promotion: PromotionOutcome,
    promote: Callable[..., list[dict[str, Any]]],
    home: Path,
) -> None:
    plan = promotion.plan
    promote()
    for number in (1, 2):
        opening = open_set(number)
    figures = {"0": {"test/mAP": 66.0}}
    write_events(plan, [TestOpened(figures, {"0": 1}, opening=2, line_hash=opening.hash)])
    line = "openings of the test set: 2; this is number 2"
    for words in (("status", plan.id), ("leaderboard", plan.id), ("promote",)):
        assert line in run(capsys, *words)[1], words
        assert json.loads(run(capsys, *words, "--json")[1])["test_openings"] == 2
    earlier = make_sweep("old-promote-00000008", kind="promote", num_trials=4)
    write_events(earlier, [*whole_sweep(earlier), TestOpened(figures, {"0": 2})])
    assert "test set: 2, without this one, which is older than the test ledger" in run(capsys, "status", earlier.id)[1]
    search = make_sweep("search-00000009", num_trials=4)
    write_events(search, whole_sweep(search))
    assert "openings of the test set: 2\n" in run(capsys, "status", search.id)[1], "those of its data count"
    ledger = home / "sweeps" / LEDGER_FILE
    ledger.write_bytes(ledger.read_bytes().replace(b"config-1", b"config-9"))
    out = run(capsys, "leaderboard", plan.id)[1]
    assert f"openings of the test set: unknown. {ledger}:1: the test ledger is not as it was written" in out


def test_a_test_split_without_true_labels_or_images_says_so(
    capsys: pytest.CaptureFixture[str], promote: Callable[..., list[dict[str, Any]]]
) -> None:
    promote(test={0: {"test/observed_mAP": 50.0}, 1: {"test/observed_mAP": 52.0}})
    out = run(capsys, "promote")[1]
    assert "test/observed_mAP" in out.splitlines()[1]
    assert out.splitlines()[2].split()[-1] == "50.00"
    assert "51.00 +- 1.41 test/observed_mAP in percent over 2 seeds (test/mAP needs true labels, which" in out
    promote(test={0: {}, 1: {}})
    assert "test: not measured: the test split has no images" in run(capsys, "promote")[1]
    promote(test={})
    assert "test: not measured: no final run is complete" in run(capsys, "promote")[1]
