from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.sweep_folder.events import Event, PromotionDecided, TestOpened
from orchestrator.sweep_folder.ledger import TestSet, register_opening
from tests.kit.program import run
from tests.kit.sweeps import (
    PROVENANCE,
    driver_ended,
    driver_started,
    epoch_reported,
    make_sweep,
    trial_ended,
    trial_started,
    write_events,
)
from tests.kit.sweeps import at as at_s


def make_test_set(config_hash: str) -> TestSet:
    """Return the test set of the tests' data, as another configuration opens it."""
    known = {"dataset": "digits", "data_hash": PROVENANCE["data_hash"], "split_hash": "5911", "method": "ignore"}
    known |= {"recipe": "digits", "protocol": "clean-val x clean-val", "commit": "c0ffee", "changes": ""}
    return TestSet(**known, config_hash=config_hash, seeds=(1, 2), draws=(1200,))


@pytest.fixture
def promoted(finished: str) -> str:
    """Leave a promotion of the finished sweep in the home; return its id."""
    seeds = tuple({"loop.seed": seed} for seed in (11, 12, 13))
    plan = make_sweep("digits-promote-00000002", kind="promote", parent=finished, start_from=seeds)
    events: list[Event] = [driver_started(plan)]
    for trial, score in enumerate((78.0, 79.0, 78.6)):
        events += [trial_started(trial, trial + 1), epoch_reported(trial, 1, trial + 2, score), trial_ended(trial, 9)]
    decided = PromotionDecided("PROMOTE", "the first result", (), model="m", time_ms=at_s(11))
    figures = {str(trial): {"test/mAP": 75.0 + trial} for trial in range(3)}
    opened = TestOpened(figures, {"0": 1, "1": 1, "2": 1}, time_ms=at_s(12))
    write_events(plan, [*events, driver_ended(10), decided, opened])
    return plan.id


def test_report_of_a_sweep_lies_in_the_home_and_knows_its_promotions(
    capsys: pytest.CaptureFixture[str], home: Path, finished: str, promoted: str
) -> None:
    for config in ("a", "b"):
        register_opening(make_test_set(config), "another promotion", "false")
    code, out, err = run(capsys, "report", finished, "--format", "csv,tex")
    assert code == 0, err
    folder = home / "reports" / finished
    assert f"report: {folder}\n" in out
    assert (folder / "tables" / "leaderboard.csv").read_text(encoding="utf-8").startswith("rank,trial,state,")
    assert "Trial 3 won with 80.00 % val/mAP at epoch 3 of 3" in out
    assert f"by the 3 final runs of {promoted}" in out
    assert "By the ledger of this home, the test split of this data was opened 2 times in all." in out
    assert f"It was opened once for this sweep. {promoted}: 76.00 +- 1.00 test/mAP in percent over 3 seeds." in out
    assert not (folder / "report.html").exists()


def test_report_of_a_promotion_says_what_was_decided_and_reported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, promoted: str
) -> None:
    code, out, _ = run(capsys, "report", promoted, "--out", str(tmp_path), "--format", "csv", "--json")
    assert code == 0
    made = json.loads(out)
    text = "\n".join(made["findings"])
    assert made["findings"][0] == "PROMOTE: the first result."
    assert "mean of 78.53 (95 % interval over seeds 77.28 to 79.78) % val/mAP" in text
    assert "opened after the decision: 76.00 +- 1.00 test/mAP in percent over 3 seeds; 95 % interval" in text
    assert "The best score of the sweep was 80.00; the final runs' mean is 1.47 points below that" in text
    assert {Path(file).stem for file in made["files"]} >= {"final_runs", "steps", "seeds"}
    rows = (tmp_path / "tables" / "steps.csv").read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [
        "best score in the sweep",
        "mean of the final runs",
        "mean on the test split",
    ]


def test_report_refuses_what_it_cannot_write(capsys: pytest.CaptureFixture[str], tmp_path: Path, finished: str) -> None:
    code, _, err = run(capsys, "report", finished, "--format", "htlm,csv")
    assert code == 2
    assert "--format must be some of html, md, tex, csv, parquet, but got --format=htlm,csv. Did you mean html?" in err
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    code, _, err = run(capsys, "report", finished, "--format", "csv", "--out", str(file))
    assert code == 2
    assert f"Cannot write to {file}" in err
    assert "--out" in err
    assert run(capsys, "report", "nonexistent")[0] == 2
