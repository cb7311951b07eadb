from __future__ import annotations

import codecs
import contextlib
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.sweep_folder.chain import Chain
from orchestrator.sweep_folder.events import (
    DriverEnded,
    DriverStarted,
    EpochReported,
    Event,
    PromotionDecided,
    SweepExtended,
    TestOpened,
    TrialEnded,
    TrialStarted,
    to_line,
)
from orchestrator.sweep_folder.journal import Journal, JournalError, follow, replay
from orchestrator.sweep_folder.lease import Lease
from orchestrator.sweep_folder.records import Cause, TrialState
from orchestrator.sweep_folder.state import SweepState

DRIVER = DriverStarted("digits-1", "h", 1, num_trials=3, provenance={"commit": "c"})


def started(trial: int, attempt: int = 1) -> TrialStarted:
    return TrialStarted(trial, attempt, {"optim.lr": 1e-3}, "tpe", "h", 1)


def reported(trial: int, epoch: int, value: float = 50.0) -> EpochReported:
    return EpochReported(trial, epoch, {"epoch": epoch, "val/mAP": value})


def ended(
    trial: int, state: TrialState = TrialState.COMPLETE, cause: Cause | None = None, message: str | None = None
) -> TrialEnded:
    return TrialEnded(trial, state, cause, message)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def write(path: Path, *events: Event) -> None:
    with Journal.open(path) as journal:
        for event in events:
            journal.append(event)


def test_every_event_is_one_whole_line_with_its_time(path: Path) -> None:
    write(path, DRIVER, started(0))
    lines = path.read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["driver_started", "trial_started"]
    assert all(json.loads(line)["time_ms"] > 1_700_000_000_000 for line in lines)


def test_the_writer_and_a_reader_come_to_the_same_state(path: Path) -> None:
    with Journal.open(path) as journal, Lease(path.parent):
        for event in (DRIVER, started(0), reported(0, 1), ended(0), started(1), reported(1, 1, 20.5)):
            journal.append(event)
        assert replay(path) == journal.state
        assert journal.state.records[1].metrics == {1: {"epoch": 1, "val/mAP": 20.5}}
        assert journal.state.num_trials == 3


def test_a_known_epoch_and_a_second_end_are_dropped(path: Path) -> None:
    with Journal.open(path) as journal:
        for event in (DRIVER, started(0), reported(0, 1, 50.0)):
            assert journal.append(event)
        size = path.stat().st_size
        assert not journal.append(reported(0, 1, 60.0))
        assert path.stat().st_size == size
        assert journal.append(ended(0))
        assert not journal.append(ended(0, TrialState.PRUNED))
        assert not journal.append(reported(0, 2))
        assert journal.state.records[0].state is TrialState.COMPLETE
    assert replay(path).records[0].metrics[1]["val/mAP"] == 50.0


@pytest.mark.parametrize(
    "torn", [b'{"event": "epoch_rep', b'{"event": "driver_ended", "state": "FINISHED"}', b"\x00\x00\n", b"\n"]
)
def test_a_last_line_cut_short_is_dropped_and_taken_away(path: Path, torn: bytes) -> None:
    write(path, DRIVER, started(0))
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert list(replay(path).records) == [0]
    assert follow(path)[1] == len(whole)
    write(path, reported(0, 1))
    assert path.read_bytes().startswith(whole + b'{"event":"epoch_reported"')


@pytest.mark.parametrize("damage", [b"}", b'"', b"x"])
def test_a_damaged_last_line_is_refused_and_kept(path: Path, damage: bytes) -> None:
    write(path, DRIVER, started(0), reported(0, 1))
    damaged = path.read_bytes()[:-2] + damage * 2 + b"\n"
    path.write_bytes(damaged)
    for read in (replay, Journal.open, follow):
        with pytest.raises(OrchestratorError, match=r"journal\.jsonl:3: a broken line in a journal"):
            read(path)
    assert path.read_bytes() == damaged


def test_a_broken_line_elsewhere_is_an_error_with_its_number(path: Path) -> None:
    write(path, DRIVER, started(0), reported(0, 1))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"event": "tri\n' + b"".join(lines[2:]))
    for read in (replay, Journal.open, follow):
        with pytest.raises(OrchestratorError, match=r"journal\.jsonl:2: a broken line in a journal"):
            read(path)


def test_follow_reads_only_whole_lines_and_goes_on_where_it_stopped(path: Path) -> None:
    assert follow(path) == ([], 0)
    write(path, DRIVER)
    events, offset = follow(path)
    assert [type(event) for event in events] == [DriverStarted]
    with path.open("ab") as file:
        file.write(b'{"event": "driver_en')
        file.flush()
        assert follow(path, offset) == ([], offset)
        file.write(b'ded", "time_ms": 1, "state": "FINISHED"}\n')
    assert [type(event) for event in follow(path, offset)[0]] == [DriverEnded]


def test_what_no_driver_is_at_work_on_is_interrupted(path: Path) -> None:
    write(path, DRIVER, started(0), ended(0), started(1))
    with Lease(path.parent):
        state = replay(path)
        assert (state.driver_state, state.records[1].state) == ("RUNNING", TrialState.RUNNING)
    state = replay(path)
    assert (state.driver_state, state.records[1].state) == ("INTERRUPTED", TrialState.INTERRUPTED)
    assert state.records[0].state is TrialState.COMPLETE
    assert [record.trial for record in state.open_trials()] == [1]


def test_attempts_spans_and_failures_are_kept(path: Path) -> None:
    first = replace(started(0), time_ms=1000)
    report = replace(reported(0, 1), time_ms=3000, queue_s=0.5, start_s=1.0)
    again = replace(started(0, attempt=2), time_ms=10_000)
    end = replace(ended(0, TrialState.FAILED, Cause.NAN, "loss must be finite"), time_ms=14_000)
    write(path, DRIVER, first, report, again, end)
    record = replay(path).records[0]
    assert record.spans == ((1000, 3000), (10_000, 14_000))
    assert (record.run_s, record.queue_s, record.start_s, record.attempts) == (6.0, 0.5, 1.0, 2)
    assert (record.started_ms, record.ended_ms) == (1000, 14_000)
    assert (record.state, record.cause, record.message) == (TrialState.FAILED, Cause.NAN, "loss must be finite")


def test_extending_and_ending_are_events(path: Path) -> None:
    write(path, DRIVER, DriverEnded("FINISHED"), SweepExtended(8))
    state = replay(path)
    assert (state.num_trials, state.driver_state, state.provenance) == (8, "INTERRUPTED", {"commit": "c"})


def test_promotion_events_are_kept_and_unknown_ones_passed_over(path: Path) -> None:
    write(path, DRIVER, PromotionDecided("KEEP", "not higher", (), "m"), TestOpened({}, {}))
    with path.open("ab") as file:
        file.write(b'{"event": "of_a_later_version", "time_ms": 1}\n')
    state = replay(path)
    assert state.promotion is not None
    assert state.promotion.verdict == "KEEP"
    assert state.test is not None


def test_a_full_disk_is_named_and_leaves_no_half_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, DRIVER)
    size = path.stat().st_size
    real_write = os.write
    with Journal.open(path) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda descriptor, data: real_write(descriptor, data[:10]))
            with pytest.raises(OrchestratorError, match="Cannot write to the journal"):
                journal.append(started(0))
        assert path.stat().st_size == size
        assert 0 not in journal.state.records
        assert journal.append(started(0))


def test_an_interruption_at_any_step_of_a_line_leaves_a_journal_that_can_be_continued(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt  # as the handler of Ctrl-C does

    for owner, step in ((os, "write"), (os, "fsync"), (Chain, "add"), (SweepState, "apply")):
        for event in (reported(0, 1), ended(0)):
            path.unlink(missing_ok=True)
            with Journal.open(path) as journal, Lease(path.parent):
                journal.append(DRIVER)
                journal.append(started(0))
                with monkeypatch.context() as patch:
                    patch.setattr(owner, step, interrupt)
                    with pytest.raises(KeyboardInterrupt):
                        journal.append(event)
                is_written = step != "write"
                assert journal.append(event) is not is_written
                assert journal.append(DriverEnded("INTERRUPTED"))
                assert replay(path) == journal.state, f"{step}, {event}"
                assert len(follow(path)[0]) == 4


def test_a_line_is_there_for_others_as_soon_as_append_returns(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from orchestrator.sweep_folder.journal import replay; "
        "print(len(replay(Path(sys.argv[1])).records))"
    )
    with Journal.open(path) as journal:
        journal.append(DRIVER)
        journal.append(started(0))
        seen = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "1"


def test_a_message_is_written_without_its_passwords(path: Path) -> None:
    write(path, started(0), ended(0, TrialState.FAILED, Cause.ERROR, "no answer from s3://key:hunter2@bucket/x"))
    assert replay(path).records[0].message == "no answer from s3://key:***@bucket/x"
    assert "hunter2" not in path.read_text()


def test_a_backup_is_read_under_its_former_name(path: Path) -> None:
    line = to_line(replace(DRIVER, time_ms=1, backup="s3://bucket/sweeps"))
    path.write_bytes(line.replace(b'"backup"', b'"mirror"'))
    assert replay(path).backup == "s3://bucket/sweeps"
    write(path, replace(DRIVER, backup="s3://other/sweeps"))
    assert replay(path).backup == "s3://other/sweeps"


def sealed_lines(path: Path) -> list[bytes]:
    """Write a short journal and return its lines."""
    write(path, DRIVER, started(0), reported(0, 1, 33.98), started(1), reported(1, 1, 20.5), reported(0, 2), ended(0))
    return path.read_bytes().splitlines(keepends=True)


def test_any_change_of_a_line_in_the_middle_is_noticed_and_named(path: Path) -> None:
    lines = sealed_lines(path)
    changes = {
        3: [*lines[:2], lines[2].replace(b"33.98", b"93.98"), *lines[3:]],  # a flipped digit
        4: [*lines[:3], lines[4], lines[3], *lines[5:]],  # swapped
        5: [*lines[:4], *lines[5:]],  # missing
        6: [*lines[:5], lines[4], *lines[5:]],  # repeated
        2: [lines[0], lines[1].replace(b'"trial":0', b'"trial": 0'), *lines[2:]],  # formatted by an editor
        1: lines[1:],  # the first is missing
        7: [*lines[:5], lines[5].split(b',"crc"')[0] + b"}\n", lines[6]],  # without its checksum
    }
    for number, changed in changes.items():
        path.write_bytes(b"".join(changed))
        for read in (replay, Journal.open, follow):
            with pytest.raises(JournalError, match=rf"journal\.jsonl:{number}: .* does not match its checksum"):
                read(path)


def test_every_flipped_bit_is_noticed_or_changes_nothing(path: Path) -> None:
    dice, whole = random.Random(0), b"".join(sealed_lines(path))
    events = follow(path)[0]
    for position in dice.sample(range(whole.rindex(b"\n", 0, -1)), 300):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << dice.randrange(8)
        path.write_bytes(flipped)
        with contextlib.suppress(JournalError):
            assert follow(path)[0] == events


def test_lines_of_an_earlier_version_are_read_and_protected_once_this_one_has_written(path: Path) -> None:
    old = b"".join(to_line(replace(event, time_ms=1)) for event in (DRIVER, started(0), reported(0, 1, 33.98)))
    path.write_bytes(old)
    assert replay(path).records[0].metrics[1]["val/mAP"] == 33.98
    write(path, reported(0, 2), reported(0, 3))
    assert path.read_bytes().startswith(old)
    assert [*replay(path).records[0].metrics] == [1, 2, 3]
    # From any offset, before, at and after the change of version.
    whole = path.read_bytes()
    ends = [index + 1 for index in range(len(whole)) if whole[index : index + 1] == b"\n"]
    for end, left in zip([0, *ends], range(5, -1, -1), strict=True):
        assert len(follow(path, end)[0]) == left
    path.write_bytes(whole.replace(b"33.98", b"93.98"))
    with pytest.raises(JournalError, match=r"journal\.jsonl:4: .* lines before it were changed"):
        replay(path)
    # An earlier version may go on with it: it ignores the checksum and writes none.
    path.write_bytes(whole + to_line(replace(ended(0), time_ms=1)))
    assert replay(path).records[0].ended
    write(path, started(1))
    assert list(replay(path).records) == [0, 1]


def test_a_torn_last_line_does_not_count_towards_the_checksums(path: Path) -> None:
    sealed_lines(path)
    with path.open("ab") as file:
        file.write(b'{"event": "epoch_rep')
    write(path, started(2))
    assert list(replay(path).records) == [0, 1, 2]


def test_what_an_editor_adds_is_ignored(path: Path) -> None:
    whole = b"".join(sealed_lines(path))
    events = follow(path)[0]
    path.write_bytes(codecs.BOM_UTF8 + whole.replace(b"\n", b"\r\n"))
    assert follow(path)[0] == events
    write(path, started(2))
    assert list(replay(path).records) == [0, 1, 2]


def test_the_way_out_names_the_backup_if_there_is_one(path: Path) -> None:
    write(path, replace(DRIVER, backup="/mnt/my backups"), started(0), reported(0, 1), ended(0))
    path.write_bytes(path.read_bytes().replace(b"50.0", b"60.0"))
    with pytest.raises(JournalError, match=rf"`orchestrator resume {path.parent.name} --from '/mnt/my backups'`"):
        replay(path)
    sealed_lines(path.with_name("other.jsonl"))
    other = path.with_name("other.jsonl")
    other.write_bytes(other.read_bytes().replace(b"33.98", b"93.98"))
    with pytest.raises(JournalError, match=rf"`orchestrator resume {path.parent.name} --from mlflow`"):
        replay(other)
    (path.parent / "plan.json").write_text('{"kind": "promote", "parent": "digits-00000001"}')
    with pytest.raises(JournalError, match="promote again: `orchestrator promote digits-00000001`"):
        replay(other)


def test_a_folder_in_its_place_is_named(path: Path) -> None:
    path.mkdir()
    for read in (replay, Journal.open, follow):
        with pytest.raises(JournalError, match=r"journal\.jsonl: the journal cannot be read: Is a directory"):
            read(path)
