"""Test that a journal read in batches is what its lines are one by one, and that nothing hides between two lines."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from orchestrator.sweep_folder import journal as journal_module
from orchestrator.sweep_folder.chain import reseal
from orchestrator.sweep_folder.events import from_line, parse_lines
from orchestrator.sweep_folder.journal import JOURNAL_FILE, JournalError, follow, replay
from tests.kit.synthetic_journal import write_journal


@pytest.fixture
def path(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(journal_module, "_BATCH_LINES", 7)
    write_journal("batch-00000001", 12, num_open=1)
    return home / "sweeps" / "batch-00000001" / JOURNAL_FILE


def test_batches_say_what_the_lines_say(path: Path) -> None:
    lines = path.read_bytes().splitlines()
    assert len(lines) % 7, "the last batch is not full"
    events, offset = follow(path)
    assert (events, offset) == ([from_line(line) for line in lines], path.stat().st_size)
    middle = len(b"\n".join(lines[:10])) + 1
    assert follow(path, middle)[0] == events[10:]
    path.write_bytes(path.read_bytes()[:-5])  # a kill cut the last line short
    assert follow(path)[0] == events[:-1]
    assert gc.isenabled(), "the collector works again"


def test_lines_without_a_checksum_are_read_one_by_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = follow(path)[0]
    bare = [line.partition(b',"crc"')[0] + b"}" for line in path.read_bytes().splitlines()]
    path.write_bytes(b"".join(line + b"\n" for line in bare))
    monkeypatch.setattr(journal_module, "parse_lines", lambda lines: pytest.fail("nothing would protect them"))
    assert follow(path)[0] == events


def test_two_broken_lines_that_are_whole_together_are_found(path: Path) -> None:
    lines = path.read_bytes().splitlines()
    inner = b'{"event":"trial_lost","trial":0,"cause":"LOST","message":"x","time_ms":1}'
    # One line with two objects, and one object over two lines: as many as before.
    lines[9:12] = [lines[9] + b"," + inner, lines[10][:-1], lines[11]]
    assert parse_lines([inner + b"," + inner, b'{"a":[{"b":1}', b'{"c":2}]}']) is not None, "together they look whole"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    with pytest.raises(JournalError, match=r"journal\.jsonl:10: a broken line"):
        replay(path)


def test_a_changed_line_is_named_wherever_it_is_in_its_batch(path: Path) -> None:
    whole = path.read_bytes()
    for number in (0, 6, 7, 20):
        lines = whole.splitlines()
        lines[number] = lines[number].replace(b'"time_ms":1', b'"time_ms":2', 1)
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        with pytest.raises(JournalError, match=rf"journal\.jsonl:{number + 1}: a broken line .* checksum"):
            replay(path)
    path.write_bytes(b"".join(line + b"\n" for line in reseal(whole.splitlines())))
    assert len(replay(path).records) == 12
