from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from orchestrator.home import sweep_dir
from orchestrator.sweep_folder.events import Event
from orchestrator.sweep_folder.lease import Lease
from tests.kit.program import pretend_terminal, run
from tests.kit.sweeps import (
    driver_started,
    epoch_reported,
    make_sweep,
    trial_ended,
    trial_started,
    write_events,
)


def test_leaderboard_shows_scores_params_and_failures(capsys: pytest.CaptureFixture[str], finished: str) -> None:
    _, out, _ = run(capsys, "leaderboard", "digits")
    heading, header, *rows, spent = out.splitlines()
    assert spent.startswith("spent: ")
    assert (
        heading == f"{finished}: ignore on digits, recipe digits, val/mAP in percent, selected by clean-val x clean-val"
    )
    assert header.split() == ["#", "trial", "state", "score", "epoch", "cam_threshold", "time", "failure"]
    assert [row.split()[:5] for row in rows[:2]] == [
        ["1", "3", "COMPLETE", "80.00", "3/3"],
        ["2", "0", "COMPLETE", "70.00", "2/3"],
    ]
    assert rows[-1].endswith("NAN: loss must be finite")
    assert "\x1b" not in out


def test_leaderboard_on_a_terminal_of_80_columns_breaks_no_word_and_no_number(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_sweep(num_trials=2)
    keys = ("cam_threshold", "spbc_weight", "reg_weight", "gap_decay", "average_decay", "warmup_epochs", "lr")
    events: list[Event] = [driver_started(plan)]
    for trial in range(2):
        params: dict[str, Any] = {f"method.{key}": 0.123456 + number for number, key in enumerate(keys)}
        events += [trial_started(trial, 1, **params), epoch_reported(trial, 1, 2, 33.39), trial_ended(trial, 3)]
    write_events(plan, events)
    piped = run(capsys, "leaderboard")[1].splitlines()
    pretend_terminal(monkeypatch, 80)
    out = run(capsys, "leaderboard")[1]
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    for rank, number in (("1", "0"), ("2", "1")):
        assert any(line.split()[:5] == [rank, number, "COMPLETE", "33.39", "1/1"] for line in lines)
    assert all(value in out.split() for value in ("0.1235", "1.123", "4.123"))
    hint = f"\nNo room here for warmup_epochs, lr, time:\n  orchestrator leaderboard {plan.id} --csv\n"
    assert out.partition("spent: ")[0].endswith(hint)
    assert piped[1].split() == ["#", "trial", "state", "score", "epoch", *keys, "time"]


def test_leaderboard_as_json_and_csv_carries_the_protocol(capsys: pytest.CaptureFixture[str], finished: str) -> None:
    board = json.loads(run(capsys, "leaderboard", "--json")[1])
    assert (board["sweep"], board["metric"], board["select_config_by"]) == (finished, "val/mAP", "clean-val")
    assert [row["trial"] for row in board["rows"]] == [3, 0, 1, 2]
    rows = list(csv.DictReader(io.StringIO(run(capsys, "leaderboard", "--csv")[1])))
    assert [row["trial"] for row in rows] == ["3", "0", "1", "2"]
    assert {row["select_epoch_by"] for row in rows} == {"clean-val"}
    assert rows[1]["params.method.cam_threshold"] == "0.5"


def test_leaderboard_of_a_hundred_trials_is_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_sweep(num_trials=100)
    events: list[Event] = [driver_started(plan)]
    for trial in range(100):
        events += [
            trial_started(trial, trial),
            epoch_reported(trial, 1, trial, float(trial)),
            trial_ended(trial, trial),
        ]
    write_events(plan, events)
    _, out, _ = run(capsys, "leaderboard")
    assert len(out.splitlines()) == 103  # with a heading, the names of the columns, and what was spent


def test_a_running_trial_has_run_until_now(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_sweep("running-00000009")
    write_events(plan, [driver_started(plan), trial_started(0, 1)])
    with Lease(sweep_dir(plan.id)):
        board = json.loads(run(capsys, "leaderboard", plan.id, "--json")[1])
    assert board["rows"][0]["run_s"] > 3600, "the tests' sweeps started years ago"
    board = json.loads(run(capsys, "leaderboard", plan.id, "--json")[1])
    assert board["rows"][0]["run_s"] == 0, "a killed driver is known to have lived until its last event"
