"""Test the test ledger: what counts as one opening, and that no line changes unnoticed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from orchestrator.errors import OrchestratorError
from orchestrator.sweep_folder import ledger
from orchestrator.sweep_folder.ledger import (
    HEAD_FILE,
    LEDGER_FILE,
    NO_LINE,
    LedgerError,
    Opening,
    count_openings,
    read_ledger,
    register_opening,
)
from tests.kit.openings import SET, open_set


@pytest.fixture
def folder(home: Path) -> Path:
    """Return the folder of a ledger of four openings."""
    for number in range(4):
        open_set(number)
    return home / "sweeps"


def test_the_same_set_is_one_opening_and_any_other_is_one_more() -> None:
    first = open_set()
    assert (first.n, first.previous, first.dirty, first.purpose) == (1, NO_LINE, "false", "promote 0")
    assert register_opening(replace(SET, config_hash="config-0"), "after a kill", "true") == first
    others: list[dict[str, Any]] = [
        {"config_hash": "another"},
        {"seeds": (1001, 1002, 1003, 1004)},
        {"draws": (1200, 1201)},
        {"protocol": "observed-val x last"},
        {"commit": "decaf"},
        {"changes": "ed17"},
        {"split_hash": "0ther"},
    ]
    for number, other in enumerate(others, start=2):
        opened = register_opening(replace(SET, **{"config_hash": "config-0"} | other), "once more", "false")
        assert opened.n == number
        assert opened == read_ledger()[-1]
    assert [opening.previous for opening in read_ledger()[1:]] == [opening.hash for opening in read_ledger()[:-1]]


def test_openings_of_the_same_test_images_count_whatever_the_rest_of_the_data_is() -> None:
    open_set(1)
    open_set(1, data_hash="with fewer training images")
    open_set(1, data_hash="0ther", split_hash="other images")
    openings = read_ledger()
    assert [count_openings(openings, found) for found in ("da7a", "0ther", "never opened")] == [2, 1, 0]


def _edit(lines: list[bytes], number: int, old: bytes, new: bytes) -> list[bytes]:
    assert old in lines[number]
    return [line.replace(old, new) if at == number else line for at, line in enumerate(lines)]


@pytest.mark.parametrize(
    ("change", "number"),
    [
        (lambda lines: lines[1:], 1),
        (lambda lines: lines[:1] + lines[2:], 2),
        (lambda lines: lines[:-1], 4),
        (lambda lines: lines[:1], 2),
        (lambda lines: [], 1),
        (lambda lines: [lines[1], lines[0], *lines[2:]], 1),
        (lambda lines: [*lines[:2], lines[3], lines[2]], 3),
        (lambda lines: [*lines, lines[-1]], 5),
        (lambda lines: [*lines[:2], b"", *lines[2:]], 3),
        (lambda lines: _edit(lines, 0, b"1003", b"1004"), 1),
        (lambda lines: _edit(lines, 1, b"config-1", b"config-9"), 2),
        (lambda lines: _edit(lines, 3, b"config-3", b"config-9"), 4),
        (lambda lines: _edit(lines, 2, b'"n":3', b'"n":4'), 3),
        (lambda lines: _edit(lines, 2, b'"n":3', b'"n": 3'), 3),
        (lambda lines: _edit(lines, 2, b'"purpose"', b'"reason"'), 3),
        (lambda lines: _edit(lines, 1, b"}", b""), 2),
    ],
)
def test_a_changed_line_is_named(change: Callable[[list[bytes]], list[bytes]], number: int, folder: Path) -> None:
    path = folder / LEDGER_FILE
    changed = change(path.read_bytes().split(b"\n")[:-1])
    path.write_bytes(b"".join(line + b"\n" for line in changed))
    for use in (read_ledger, lambda: open_set(9)):
        with pytest.raises(LedgerError, match=f"{LEDGER_FILE}:{number}: .* not as it was written: .*Restore"):
            use()
    assert path.read_bytes() == b"".join(line + b"\n" for line in changed), "evidence stays as it is"


def test_a_last_line_that_was_complete_once_cannot_pass_for_one_that_a_kill_cut_short(folder: Path) -> None:
    path = folder / LEDGER_FILE
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LedgerError, match=f"{LEDGER_FILE}:4: .*line 4 is missing or cut short"):
        read_ledger()


@pytest.mark.parametrize("content", [None, "1 abc\n", "many\n", ""])
def test_a_head_that_was_removed_or_changed_is_noticed(content: str | None, folder: Path) -> None:
    head = folder / HEAD_FILE
    if content is None:
        head.unlink()
    else:
        head.write_text(content)
    with pytest.raises(LedgerError, match="ledger"):
        read_ledger()


@pytest.mark.parametrize("part", [0, 1, 40, -1])
def test_a_line_cut_short_by_a_kill_is_dropped_by_the_next_opening(part: int, folder: Path) -> None:
    path = folder / LEDGER_FILE
    whole = path.read_bytes()
    half = Opening(**vars(SET), n=5, utc="now", purpose="killed", dirty="false", previous=read_ledger()[-1].hash).line
    path.write_bytes(whole + half[: part or None])
    assert [opening.n for opening in read_ledger()] == [1, 2, 3, 4]
    assert open_set(9).n == 5
    assert path.read_bytes().startswith(whole)
    assert len(read_ledger()) == 5


KILLED = """
import os, sys
from orchestrator.sweep_folder import ledger
from tests.kit.openings import open_set
setattr(ledger, sys.argv[1], lambda *args: os._exit(9))
open_set(9)
"""


@pytest.mark.parametrize("at", ["append_line", "sync_folder", "_write_head", "write_whole"])
def test_a_driver_that_dies_at_any_step_of_an_opening_opens_the_same_one_again(at: str, folder: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, at], check=False).returncode == 9
    before = len(read_ledger())
    opened = open_set(9)
    assert opened.n == 5
    assert before == (4 if at == "append_line" else 5)
    assert len(read_ledger()) == 5
    assert open_set(10).n == 6


RACE = """
import sys
from tests.kit.openings import open_set
for number in range(int(sys.argv[1]), 40, 2):
    open_set(number)
    open_set(number // 2)
"""


def test_two_drivers_at_once_write_every_opening_once(home: Path) -> None:
    drivers = [subprocess.Popen([sys.executable, "-c", RACE, str(number)]) for number in (0, 1)]
    read: list[Sequence[Opening]] = []
    while any(driver.poll() is None for driver in drivers):
        read.append(read_ledger())  # a reader never sees half of a change
    assert [driver.returncode for driver in drivers] == [0, 0]
    openings = read_ledger()
    assert sorted(opening.config_hash for opening in openings) == sorted(f"config-{number}" for number in range(40))
    assert all(list(openings[: len(earlier)]) == list(earlier) for earlier in read)


def test_a_ledger_that_cannot_be_written_says_that_nothing_was_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int, line: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "append_line", fail)
        with pytest.raises(OrchestratorError, match="No space left on device.*the test set was not opened"):
            open_set(9)
    monkeypatch.setattr(ledger, "_LOCK_WAIT_S", 0.1)
    with FileLock(folder / ".test-ledger.lock"), pytest.raises(OrchestratorError, match="was not opened"):
        open_set(9)

    assert len(read_ledger()) == 4
