"""What a sweep leaves beside its journal shows that the journal has lost something."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.home import sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.checkpoints import trial_uri
from orchestrator.sweep_folder.journal import JournalError, replay
from orchestrator.sweep_folder.lease import Lease
from orchestrator.sweep_folder.traces import find_traces, require_no_gap
from tests.kit.sweeps import (
    driver_started,
    epoch_reported,
    journal_path,
    make_sweep,
    trial_ended,
    trial_started,
    write_events,
)


def put_checkpoint(plan: SweepPlan, trial: int, epoch: int) -> None:
    """Make the files of a checkpoint, as far as names go."""
    path = Path(trial_uri(plan, trial)) / f"last-{epoch:04d}.pt.done"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_a_sweep_that_never_began_has_left_nothing() -> None:
    assert find_traces(make_sweep()) == []
    assert find_traces(make_sweep("away-00000002", storage="nowhere://x", backup="/nowhere/at/all")) == []


def test_each_kind_of_trace_is_named(tmp_path: Path) -> None:
    plan = make_sweep(backup=str(tmp_path / "backup"))
    put_checkpoint(plan, 0, 1)
    for name in ("errors/t0001.txt", "spool/t0000/cam.png"):
        path = sweep_dir(plan.id) / name
        path.parent.mkdir(parents=True)
        path.write_text("x")
    (tmp_path / "backup" / plan.id).mkdir(parents=True)
    (tmp_path / "backup" / plan.id / "segment-000001.3.0123456789abcdef.jsonl").write_text("abc")
    assert find_traces(plan) == ["checkpoints of 1 trial", "tracebacks", "pictures of trials", "a backup"]


@pytest.mark.parametrize("storage", [None, "/elsewhere"])
def test_a_checkpoint_may_be_one_epoch_ahead_of_the_journal_and_no_more(storage: str | None, tmp_path: Path) -> None:
    plan = make_sweep(storage=None if storage is None else f"{tmp_path}{storage}")
    events = [driver_started(plan)]
    write_events(plan, [*events, trial_started(0, 1), epoch_reported(0, 1, 2), trial_started(1, 1), trial_ended(1, 3)])
    state = replay(journal_path(plan))
    put_checkpoint(plan, 0, 2)
    put_checkpoint(plan, 1, 3)  # of a trial that has ended: left by a cleaner that was killed
    require_no_gap(plan, state, "orchestrator resume")
    put_checkpoint(plan, 0, 3)
    with pytest.raises(JournalError, match="of epoch 3, but in the journal the trial ends with epoch 1"):
        require_no_gap(plan, state, "orchestrator resume")
    # A driver that is running goes on while we look.
    with Lease(sweep_dir(plan.id)):
        require_no_gap(plan, state, "orchestrator resume")


def test_a_checkpoint_of_an_unknown_trial_is_a_gap() -> None:
    plan = make_sweep()
    write_events(plan, [driver_started(plan)])
    put_checkpoint(plan, 0, 1)
    with pytest.raises(JournalError, match="Or continue without the figures .*`the command`"):
        require_no_gap(plan, replay(journal_path(plan)), "the command")


def test_a_storage_that_cannot_be_read_shows_no_gap(tmp_path: Path) -> None:
    plan = make_sweep(storage=str(tmp_path / "storage"))
    write_events(plan, [driver_started(plan), trial_started(0, 1), epoch_reported(0, 1, 2)])
    checkpoints = Path(trial_uri(plan, 0)).parent
    checkpoints.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write_text("a file where a folder should be")
    require_no_gap(plan, replay(journal_path(plan)), "orchestrator resume")
