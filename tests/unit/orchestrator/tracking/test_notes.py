"""Test the names and descriptions of runs: they say what matters, and nothing of others can break out of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.home import sweep_dir
from orchestrator.sweep_folder.records import Cause, TrialRecord, TrialState
from orchestrator.sweep_folder.spool import write_error
from orchestrator.tracking.markdown import block, code, escape
from orchestrator.tracking.reading import read_sweep
from orchestrator.tracking.sweep_notes import describe_sweep, rank, tabulate_leaderboard
from orchestrator.tracking.trial_notes import MAX_NOTE, describe_trial, name_run
from search_spaces.ranges import Range
from tests.kit import sweeps
from tests.kit.synthetic_journal import write_journal
from training.config.run import Scalar

pytestmark = pytest.mark.usefixtures("home")
UNIT = Range(type="float", low=0, high=1)


def _failed(message: str = "loss must be finite") -> TrialRecord:
    return TrialRecord(
        7, {}, "tpe", 0, TrialState.FAILED, Cause.NAN, message, {1: {"val/mAP": 31.25}}, spans=((0, 65_000),)
    )


def test_a_runs_name_begins_with_its_number_and_has_what_was_searched() -> None:
    keys = ("optim.batch_size", "method.reg_weight", "method.cam_threshold", "optim.lr", "method.spbc_weight")
    plan = sweeps.make_sweep(ranges=dict.fromkeys(keys, UNIT))
    params: dict[str, Scalar] = {
        "method.cam_threshold": 0.3249,
        "optim.lr": 0.003601,
        "optim.batch_size": 32,
        "loop.recipe": "digits",
    }
    assert name_run(plan, TrialRecord(6, params, "tpe", 0)) == "t0006 lr 0.0036 tau 0.325 batch_size 32"
    # Of many, the first few.
    assert name_run(plan, TrialRecord(6, dict.fromkeys(keys, 0.5), "tpe", 0)) == "t0006 lr 0.5 tau 0.5 spbc 0.5 reg 0.5"
    assert name_run(sweeps.make_sweep("digits-00000002"), TrialRecord(0, {}, "tpe", 0)) == "t0000"


def test_an_ablations_run_has_the_name_of_its_variant() -> None:
    plan = sweeps.make_sweep(kind="ablate", variants=("ignore", "without_reg"), num_trials=4)
    names = [name_run(plan, TrialRecord(trial, {"loop.seed": trial % 2}, "", 0)) for trial in range(4)]
    assert names == [
        "t0000 ignore seed 0",
        "t0001 ignore seed 1",
        "t0002 without_reg seed 0",
        "t0003 without_reg seed 1",
    ]


def test_a_failed_trial_says_why_with_the_end_of_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = sweeps.make_sweep()
    monkeypatch.setenv("MY_TOKEN", "hunter2hunter2")
    frames = [f'  File "x.py", line {line}, in step{line}' for line in range(40)]
    end = ["```", "ValueError: \x1b[31mat s3://me:p@ss@host/x with hunter2hunter2\x1b[0m"]
    path = sweep_dir(plan.id) / "errors" / "t0007.txt"
    path.parent.mkdir()
    path.write_text("\n".join([*frames, *end]))  # as an earlier version may have written it
    note = describe_trial(plan, _failed("loss <b>must</b> be *finite*"))
    assert note.startswith("FAILED (NAN) after 1 of 3 epochs in 1 min 05 s: val/mAP 31.25 at epoch 1.")
    assert r"loss &lt;b&gt;must&lt;/b&gt; be \*finite\*" in note
    assert "step39" in note
    assert "step20" not in note
    assert "\\x1b[31mat s3://me:***@host/x with ***" in note
    assert note.count("```") == 2


def test_a_long_traceback_keeps_its_last_line() -> None:
    plan = sweeps.make_sweep()
    write_error(plan.id, 7, "\n".join(["x" * 2000] * 5 + ["ValueError: here"]))
    note = describe_trial(plan, _failed("y" * 9000))
    assert len(note) <= MAX_NOTE
    assert note.endswith("ValueError: here\n```")
    write_error(plan.id, 7, "z" * 9000)
    assert len(describe_trial(plan, _failed())) <= MAX_NOTE


def test_a_trial_without_a_traceback_is_described_without_one() -> None:
    plan = sweeps.make_sweep()
    assert describe_trial(plan, _failed()).endswith("loss must be finite")


def test_what_others_wrote_stays_text() -> None:
    assert escape("<script>a|b\n[x](y)</script>") == r"&lt;script&gt;a\|b \[x\]\(y\)&lt;/script&gt;"
    assert code("a`<b>\x1b") == "`a'<b>\\x1b`"
    assert block(["```", "x"]) == "```\n'''\nx\n```"


def test_a_description_of_thousands_of_trials_is_as_short_as_mlflow_takes(home: Path) -> None:
    plan = write_journal("big-00000001", 1500)
    state = read_sweep(plan.id)[1]
    rows = rank(plan, state)
    note = describe_sweep(
        plan, state, rows, lambda trial: f"#/experiments/1/runs/{trial:032x}", ["p" * 3000, "q" * 2900]
    )
    assert len(note) <= MAX_NOTE
    assert "1,500 of 1,500 trials have ended" in note
    assert "`report.html` among the artifacts says it in its first lines." in note
    assert len(tabulate_leaderboard(plan, rows)) < 300_000
