from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from orchestrator.home import sweep_dir
from orchestrator.planning.estimate import Timing, estimate_cost
from orchestrator.report.findings import describe_cost
from orchestrator.report.view import SweepView
from orchestrator.sweep_folder.events import LimitReached, SearchOver, TrialSetAside
from orchestrator.sweep_folder.lease import Lease
from orchestrator.sweep_folder.waiting import WAITING_FILE, Waiting, write_waiting
from orchestrator.tracking import lookup
from orchestrator.tracking.reading import read_sweep
from orchestrator.tracking.sweep_notes import describe_sweep, rank
from tests.kit.program import run
from tests.kit.sweeps import (
    PROVENANCE,
    at,
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


def test_status_of_a_finished_sweep(capsys: pytest.CaptureFixture[str], finished: str) -> None:
    code, out, _ = run(capsys, "status")
    assert code == 0
    assert f"{finished}: sweep of ignore on digits, FINISHED" in out
    assert "4/4 ended (2 complete, 1 pruned, 1 failed)" in out
    assert "80.00 val/mAP in percent: trial 3 at epoch 3" in out
    assert f"orchestrator leaderboard {finished}" in out
    assert f"orchestrator promote {finished}" in out


def test_status_of_a_killed_sweep_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_sweep()
    write_events(
        plan, [driver_started(plan), trial_started(0, 1), epoch_reported(0, 1, 2, 41.0), epoch_reported(0, 2, 4, 43.5)]
    )
    _, out, _ = run(capsys, "status")
    assert "INTERRUPTED" in out
    assert re.search(r"0 +INTERRUPTED +2/3 +43\.50", out)
    assert f"orchestrator resume {plan.id}" in out
    found = json.loads(run(capsys, "status", "--json")[1])
    assert (found["state"], found["trials"]["INTERRUPTED"], found["run_s"]) == ("INTERRUPTED", 1, 4.0)
    assert found["best"] is None


def test_status_and_leaderboard_say_what_is_set_aside(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_sweep(scheduler="screen", grace_epochs=2, keep=1)
    epochs = [epoch_reported(0, 1, 2, 41.0), epoch_reported(0, 2, 4, 43.5)]
    write_events(plan, [driver_started(plan), trial_started(0, 1), *epochs, TrialSetAside(0, time_ms=at(4.1))])
    _, out, _ = run(capsys, "status")
    assert "0/3 ended (1 set aside)" in out
    assert re.search(r"0 +SET ASIDE +2/3 +43\.50", out)
    assert json.loads(run(capsys, "status", "--json")[1])["trials"]["SET ASIDE"] == 1
    assert "SET ASIDE" in run(capsys, "leaderboard")[1]


def test_status_of_a_sweep_that_never_started(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_sweep()
    _, out, _ = run(capsys, "status")
    assert "NOT STARTED" in out
    assert "0/3 ended\n" in out
    assert f"orchestrator resume {plan.id}" in out


@pytest.mark.parametrize(
    ("last", "state"),
    [(None, "STARTING"), ("INTERRUPTED", "STARTING"), ("FAILED", "STARTING"), ("FINISHED", "CONCLUDING")],
)
def test_what_a_living_driver_has_not_begun_or_not_let_go_is_not_to_be_resumed(
    capsys: pytest.CaptureFixture[str], last: str | None, state: str
) -> None:
    plan = make_sweep("digits-promote-00000003", kind="promote")
    if last is not None:
        write_events(plan, [driver_started(plan), driver_ended(1, last)])
    with Lease(sweep_dir(plan.id)):
        _, out, _ = run(capsys, "status")
        listed = run(capsys, "status", "--all")[1]
    assert f"on digits, {state}\n" in out
    assert f" {state} " in listed
    assert "resume" not in out
    assert "0/3 ended" in out
    assert "orchestrator resume" in run(capsys, "status")[1]


def test_final_runs_are_called_runs(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_sweep("digits-promote-00000003", kind="promote")
    write_events(
        plan,
        [
            driver_started(plan),
            trial_started(0, 1),
            epoch_reported(0, 1, 2, 41.0),
            trial_ended(0, 3),
            trial_started(1, 3),
        ],
    )
    out = run(capsys, "status")[1]
    assert "  runs    1/3 ended" in out
    assert "run 0 at epoch 1" in out
    assert "trial" not in out
    assert "orchestrator promote" not in out


def test_status_all_lists_the_latest_first(capsys: pytest.CaptureFixture[str], finished: str) -> None:
    assert run(capsys, "status", "--all")[0] == 0
    later = make_sweep("em-00000002", created=1_800_000_000, method="em", kind="train")
    _, out, _ = run(capsys, "status", "--all")
    assert [line.split()[0] for line in out.splitlines()[1:]] == [later.id, finished]
    assert [found["sweep"] for found in json.loads(run(capsys, "status", "--all", "--json")[1])] == [later.id, finished]


@pytest.mark.parametrize("line", [b'{"event": "epo\n', b"[1]\n", b'{"event": "trial_started"}\n'])
def test_status_all_shows_the_rest_beside_a_broken_journal(
    capsys: pytest.CaptureFixture[str], finished: str, line: bytes
) -> None:
    broken = make_sweep("digits-00000009")
    write_events(broken, whole_sweep(broken))
    lines = journal_path(broken).read_bytes().splitlines(keepends=True)
    journal_path(broken).write_bytes(b"".join([*lines[:3], line, *lines[3:]]))
    code, out, err = run(capsys, "status", "--all")
    assert code == 1
    assert finished in out
    assert [row.split()[-2] for row in out.splitlines() if broken.id in row] == ["BROKEN"]
    assert f"{broken.id}: {journal_path(broken)}:4: a broken line in a journal" in err
    code, out, _ = run(capsys, "status", "--all", "--json")
    assert {found["sweep"]: "error" in found for found in json.loads(out)} == {finished: False, broken.id: True}
    code, _, err = run(capsys, "status", broken.id)
    assert (code, "a broken line in a journal" in err) == (1, True)


def test_status_counts_no_time_between_a_kill_and_the_resume(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_sweep()
    write_events(plan, [event for event in whole_sweep(plan) if getattr(event, "state", None) != "INTERRUPTED"])
    assert json.loads(run(capsys, "status", "--json")[1])["run_s"] == 7 + 5


def test_status_all_of_an_empty_home(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "status", "--all")
    assert (code, out) == (0, "")
    assert "orchestrator sweep digits" in err
    assert json.loads(run(capsys, "status", "--all", "--json")[1]) == []


@pytest.mark.parametrize("verb", ["status", "leaderboard"])
def test_scores_without_true_labels_say_what_is_not_measured(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    for number, known in enumerate(("available", "not available")):
        plan = make_sweep(f"mugs-0000000{number}")
        write_events(plan, [driver_started(plan, provenance={**PROVENANCE, "true_labels": known}), trial_started(0, 1)])
        assert ("True labels are not available" in run(capsys, verb, plan.id)[1]) == (known == "not available")
        assert json.loads(run(capsys, verb, plan.id, "--json")[1])["true_labels"] == known


def test_status_as_json_has_the_keys_that_scripts_read(capsys: pytest.CaptureFixture[str], finished: str) -> None:
    heading = ["sweep", "dataset", "method", "recipe", "metric", "select_config_by", "select_epoch_by", "marks"]
    found = json.loads(run(capsys, "status", "--json")[1])
    assert list(found) == [
        *heading,
        *("name", "kind", "state", "created", "run_s", "num_trials", "epochs", "trials", "best"),
        *("true_labels", "open", "decision", "test", "spending", "waiting", "over", "test_openings"),
    ]
    assert list(found["best"]) == ["trial", "state", "last_epoch", "epoch", "value", "params"]
    assert (found["open"], found["decision"]) == ([], None)
    board = json.loads(run(capsys, "leaderboard", "--json")[1])
    assert list(board) == [*heading, "true_labels", "over", "rows", "spending"]
    assert board["spending"] == found["spending"]


def test_status_says_what_trials_wait_for_and_since_when(
    capsys: pytest.CaptureFixture[str], finished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sweep_dir(finished)
    write_waiting(folder, Waiting(2, at(60), "1 worker x 1 CPU each; 0 of 8 CPUs of the cluster are free"))
    assert "waits" not in run(capsys, "status")[1], "no driver runs: a killed one has left the file"
    with Lease(folder):
        out = run(capsys, "status")[1]
        assert "  waits   2 trials, since 2023-11-" in out
        assert "for 1 worker x 1 CPU each; 0 of 8 CPUs of the cluster are free\n" in out
        assert json.loads(run(capsys, "status", "--json")[1])["waiting"]["num_trials"] == 2
        for text in ("", "[]", "{}", '{"num_trials": null, "since_ms": 1, "what": "x"}'):
            (folder / WAITING_FILE).write_text(text)
            assert "waits" not in run(capsys, "status")[1]
    write_waiting(folder, None)
    assert not (folder / WAITING_FILE).exists()


def test_a_misspelt_sweep_is_found_on_the_disk_and_mlflow_is_not_asked(
    capsys: pytest.CaptureFixture[str], finished: str, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    asked: list[str] = []
    monkeypatch.setattr(lookup, "recall_sweep", asked.append)
    for verb in ("status", "leaderboard"):
        code, _, err = run(capsys, verb, "digts")
        assert (code, "Did you mean digits" in err) == (2, True)
        run(capsys, verb, "something-else")
    assert asked == [], "there is no database of MLflow"
    (home / "mlflow.db").touch()
    run(capsys, "status", "digts")
    assert asked == []
    run(capsys, "status", "something-else")
    assert asked == ["something-else"], "whose folder may have been deleted"


def test_status_and_leaderboard_say_what_was_spent_and_what_came_to_nothing(
    capsys: pytest.CaptureFixture[str], finished: str
) -> None:
    # Attempts of 5.1 s (0.25 s of them without a process), 3.1, 1.3, 1.3 and 3.1 s, in 25 s of two places.
    shares = "12 % in stopped trials, 5 % in failed trials, 5 % in attempts that were cut short, 44 % idle"
    assert f"  spent   0.0038 CPU-hours; {shares}\n" in run(capsys, "status")[1]
    assert run(capsys, "leaderboard")[1].endswith(f"\nspent: 0.0038 CPU-hours; {shares}\n")


def test_status_leaderboard_report_and_mlflow_say_that_a_search_was_over(capsys: pytest.CaptureFixture[str]) -> None:
    plan, message = make_sweep(num_trials=3), "after 1 of 3 trials, the other 2 were expected to gain too little"
    events = [driver_started(plan), trial_started(0, 0), epoch_reported(0, 3, 5400), trial_ended(0, 5400)]
    write_events(plan, [*events, SearchOver(1, 3, 0.1, 0.5, message, time_ms=at(5400)), driver_ended(5400)])
    out = run(capsys, "status", plan.id)[1]
    assert "trials  1/1 ended (1 complete)" in out
    assert f"  over    {message}\n" in out
    assert f"ended early: {message}" in run(capsys, "leaderboard", plan.id)[1]
    for verb in ("status", "leaderboard"):
        assert json.loads(run(capsys, verb, plan.id, "--json")[1])["over"] == message
    plan, state = read_sweep(plan.id)
    assert f"It ended early: {message}." in describe_cost(SweepView(plan, state))
    assert f"It ended early: {message}." in describe_sweep(plan, state, rank(plan, state), lambda trial: None)


def test_status_and_leaderboard_say_that_the_limit_has_ended_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    cost = estimate_cost(make_sweep("digits-00000007"), Timing(1800.0, 0.0, 1, "measured"), 2, price_per_hour=3.0)
    plan = make_sweep(num_trials=3, max_gpu_hours=20.0, cost=cost)
    message = "the limit of 20 CPU-hours does not allow another trial: 1.5 are spent, and a promotion may take 17"
    events = [driver_started(plan), trial_started(0, 0), epoch_reported(0, 3, 5400), trial_ended(0, 5400)]
    write_events(plan, [*events, LimitReached(20, 1.5, 16.5, message, time_ms=at(5400)), driver_ended(5400)])
    out = run(capsys, "status", plan.id)[1]
    assert "trials  1/3 ended (1 complete)" in out
    assert "FINISHED" in out
    assert "spent   1.5 CPU-hours, planned 3.4 (p50) to 4.5 (p90), limit 20 with the promotion, 4.50 at 3 each" in out
    assert f"  limit   {message}\n" in out
    assert f"ended early: {message}" in run(capsys, "leaderboard", plan.id)[1]
    assert "is not finished" not in run(capsys, "promote", plan.id, "--seeds", "0")[2]
    assert f"It ended early: {message}." in describe_cost(SweepView(*read_sweep(plan.id)))
