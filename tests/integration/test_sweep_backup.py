"""A driver's machine is lost, and another one, with an empty home, continues from the backup."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.cluster.processes import end_orphans
from orchestrator.home import sweep_dir
from orchestrator.sweep.driver import FINISHED, resume
from orchestrator.sweep.options import DriveOptions
from orchestrator.sweep_folder.events import DriverStarted, EpochReported
from orchestrator.sweep_folder.journal import JOURNAL_FILE, follow
from orchestrator.sweep_folder.records import TrialState
from orchestrator.sweep_folder.restore import restore_sweep
from tests.kit.trivial_run import TrivialRuns
from tests.kit.trivial_sweep import trivial_hooks

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long]

ROOT = Path(__file__).parents[2]
ID = "trivial-00000001"


def count_epochs(sweep_id: str = ID) -> int:
    return sum(isinstance(event, EpochReported) for event in follow(sweep_dir(sweep_id) / JOURNAL_FILE)[0])


def test_an_empty_head_goes_on_from_the_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backup, storage = tmp_path / "backup", tmp_path / "checkpoints"
    command = [sys.executable, "-m", "tests.kit.trivial_sweep", ID, "--no-tracking", "--trials", "5", "--epochs", "8"]
    driver = subprocess.Popen(
        [*command, "--backup", str(backup), "--storage", str(storage)], cwd=ROOT, start_new_session=True
    )
    lost_home = sweep_dir(ID)
    try:
        deadline = time.monotonic() + 240
        while count_epochs() < 12:
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    finally:
        end_orphans(lost_home)
    before = follow(lost_home / JOURNAL_FILE)[0]

    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "elsewhere"))
    said: list[str] = []
    assert restore_sweep(str(backup), say=said.append) == (ID, str(backup))
    copied = follow(sweep_dir(ID) / JOURNAL_FILE)[0]
    assert copied == before[: len(copied)]
    assert said == []
    outcome = resume(
        ID,
        DriveOptions(
            allow_changed=True, progress=False, hooks=trivial_hooks(TrivialRuns(epoch_s=0.05), tracking=False)
        ),
    )
    assert outcome.state == FINISHED
    assert outcome.backup_problem is None
    events = follow(sweep_dir(ID) / JOURNAL_FILE)[0]
    epochs = Counter((event.trial, event.epoch) for event in events if isinstance(event, EpochReported))
    assert max(epochs.values()) == 1
    for record in outcome.records:
        assert record.ended
        assert (record.state is TrialState.COMPLETE) == (record.last_epoch == 8)
    # The backup went on with it: a third machine finds it finished.
    assert [event for event in events if isinstance(event, DriverStarted)][-1].backup == str(backup)
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "third"))
    restore_sweep(str(backup))
    assert follow(sweep_dir(ID) / JOURNAL_FILE)[0] == events
