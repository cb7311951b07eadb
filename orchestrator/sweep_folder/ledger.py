"""Keep the test ledger: one line for every opening of a test set, each tied to the line before it.

An opening is one set that was fixed before it was scored: a configuration, a protocol, a list of seeds, and the code.
The same set again, after a kill say, is the same opening; another configuration or one more seed is another one. The
line is on disk before the first image is scored.

``<home>/sweeps/test-ledger.jsonl`` has a JSON object per line, whose ``previous`` is the sha256 of the line before.
``test-ledger.head`` next to it has the number of lines and the sha256 of the last one, which shows when the last line
was changed or removed. A kill may leave a last line that is cut short, or a head that is one line behind: nothing has
been scored then, and the next opening repairs it. Whoever rewrites both files as a whole is not stopped: the ledger
detects, it cannot prevent. The journal of a promotion and MLflow have the hash of its line too, which the audit
compares.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.errors import OrchestratorError
from orchestrator.home import sweeps_dir
from orchestrator.sweep_folder.lines import append_line
from training.files import sync_folder, write_whole

LEDGER_FILE = "test-ledger.jsonl"
HEAD_FILE = "test-ledger.head"
_LOCK_FILE = ".test-ledger.lock"
_LOCK_WAIT_S = 60.0
COMPARISON = "the champion, to compare with"
"""End of the purpose of an opening that scores a champion again, next to a challenger: a look that chooses nothing."""
NO_LINE = "0" * 64
"""``previous`` of the first line."""


class LedgerError(OrchestratorError):
    """A ledger that is not as it was written; the message names the line."""


@dataclass(frozen=True)
class TestSet:
    """What is opened: equal ones are one opening.

    Attributes:
        data_hash: Of the whole dataset.
        split_hash: Of the names and labels of the test images alone.
        method: The label of the method block.
        config_hash: All settings without seeds and places, see :func:`orchestrator.planning.config_hash.hash_config`.
        seeds, draws: Training seeds and label draws, ascending.
        commit, changes: The code that scores; other code may give other scores, so it opens the set again.
    """

    __test__ = False  # not a test class, despite its name

    dataset: str
    data_hash: str
    split_hash: str
    method: str
    recipe: str
    protocol: str
    config_hash: str
    seeds: tuple[int, ...]
    draws: tuple[int, ...]
    commit: str
    changes: str


@dataclass(frozen=True)
class Opening(TestSet):
    """One line of the ledger.

    Attributes:
        n: Its number, from 1.
        utc: When it was opened.
        purpose: What for, such as ``promote digits-promote-0a1b2c3d``.
        dirty: Whether the code had changes that are not committed: ``true``, ``false`` or ``unknown``.
        previous: sha256 of the line before; zeros for the first.
    """

    n: int
    utc: str
    purpose: str
    dirty: str
    previous: str

    @property
    def line(self) -> bytes:
        """The line as it is in the file, without the line break."""
        return json.dumps({name: getattr(self, name) for name in _ORDER}, separators=(",", ":")).encode()

    @property
    def hash(self) -> str:
        """The sha256 of the line, which the next one has as ``previous``."""
        return hashlib.sha256(self.line).hexdigest()


_ORDER = (
    *(
        "n",
        "utc",
        "dataset",
        "data_hash",
        "split_hash",
        "method",
        "recipe",
        "protocol",
        "config_hash",
        "seeds",
        "draws",
    ),
    *("purpose", "commit", "dirty", "changes", "previous"),
)
_LISTS = ("seeds", "draws")


def ledger_file(folder: Path | None = None) -> Path:
    """Return the ledger in a folder, by default next to the sweeps of this home."""
    return (folder or sweeps_dir()) / LEDGER_FILE


def register_opening(wanted: TestSet, purpose: str, dirty: str, folder: Path | None = None) -> Opening:
    """Write an opening to the ledger, unless it is there; return it when it is on disk.

    Args:
        wanted: What is about to be scored.
        purpose: What for.
        dirty: See :class:`Opening`.
        folder: Where the ledger is, see :func:`ledger_file`.

    Raises:
        LedgerError: The ledger is not as it was written.
        OrchestratorError: It cannot be written, or another process does not release it.
    """
    path = ledger_file(folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(_LOCK_FILE), timeout=_LOCK_WAIT_S):
            openings, size = _read(path)
            known = [opening for opening in openings if _set_of(opening) == wanted]
            opening = known[0] if known else _append(path, size, openings, wanted, purpose, dirty)
            # Last, and also if nothing was added: a kill may have left it one line behind.
            _write_head(path, openings if known else [*openings, opening])
            return opening
    except Timeout:
        raise OrchestratorError(
            f"Another process has held {path.with_name(_LOCK_FILE)} for {_LOCK_WAIT_S:.0f} s, so the test set was not "
            f"opened. Try again; if no process of yours is running, delete that file."
        ) from None
    except OSError as error:
        raise OrchestratorError(
            f"Cannot write to the test ledger, {path} ({error.strerror or error}), so the test set was not opened. "
            f"Make room or give access, then repeat the command."
        ) from error


def read_ledger(folder: Path | None = None) -> list[Opening]:
    """Return all openings, the first one first; none if there is no ledger.

    Raises:
        LedgerError: A line was edited, removed, moved or cut short; the message names it.
    """
    return _read(ledger_file(folder))[0]


def count_openings(openings: Sequence[Opening], data_hash: str) -> int:
    """Count the openings of the test set of some data.

    Data with another hash may have the same test images, such as the same scenes with fewer for training, or images of
    another size: their openings count too.
    """
    splits = {opening.split_hash for opening in openings if opening.data_hash == data_hash}
    return sum(opening.split_hash in splits for opening in openings)


def _set_of(opening: Opening) -> TestSet:
    return TestSet(**{field.name: getattr(opening, field.name) for field in fields(TestSet)})


def _append(path: Path, size: int, openings: Sequence[Opening], wanted: TestSet, purpose: str, dirty: str) -> Opening:
    opening = Opening(
        **asdict(wanted),
        n=len(openings) + 1,
        utc=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        purpose=purpose,
        dirty=dirty,
        previous=openings[-1].hash if openings else NO_LINE,
    )
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.ftruncate(descriptor, size)  # without a last line that a kill cut short
        append_line(descriptor, opening.line + b"\n")
    finally:
        os.close(descriptor)
    sync_folder(path.parent)
    return opening


def _write_head(path: Path, openings: Sequence[Opening]) -> None:
    head, text = path.with_name(HEAD_FILE), f"{len(openings)} {openings[-1].hash}\n"
    if not head.exists() or head.read_text(encoding="utf-8") != text:
        write_whole(head, text)


def _read(path: Path) -> tuple[list[Opening], int]:
    """Return the openings, and the size of the file without a last line that was cut short."""
    (num, last), data = _read_files(path)
    openings: list[Opening] = []
    *lines, rest = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        openings.append(_read_line(path, number, line, openings))
    _check_head(path, openings, num, last, cut_short=bool(rest))
    return openings, len(data) - len(rest)


def _read_files(path: Path) -> tuple[tuple[int, str], bytes]:
    """Return the head and the content of the ledger as they were at one time."""
    head = _read_head(path.with_name(HEAD_FILE))
    while True:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = b""
        except OSError as error:
            raise LedgerError(f"{path}: the test ledger cannot be read: {error.strerror}.") from None
        # Without the lock, which a reader of a home that it cannot write could not take, a writer may come in between.
        before, head = head, _read_head(path.with_name(HEAD_FILE))
        if head == before:
            return head, data


def _read_line(path: Path, number: int, line: bytes, before: Sequence[Opening]) -> Opening:
    try:
        plain = json.loads(line.decode())
        opening = Opening(**plain | {name: tuple(plain[name]) for name in _LISTS})
        changed = opening.line != line
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _broken(path, number, "it is not an opening as this program writes it, so it was edited") from None
    if changed:
        raise _broken(path, number, "it is not written as this program writes it, so it was edited")
    if opening.n != number:
        raise _broken(
            path, number, f"it has the number {opening.n}: lines before it were removed, moved, repeated or added"
        )
    if opening.previous != (before[-1].hash if before else NO_LINE):
        raise _broken(
            path, max(1, number - 1), f"line {number} does not fit it, so one of the two was edited or exchanged"
        )
    return opening


def _read_head(path: Path) -> tuple[int, str]:
    try:
        num, last = path.read_text(encoding="utf-8").split()
        return int(num), last
    except FileNotFoundError:
        return 0, NO_LINE
    except (OSError, ValueError):
        raise LedgerError(
            f"{path} cannot be read: it should have the number and the hash of the last opening. {_advise(path)}"
        ) from None


def _check_head(path: Path, openings: Sequence[Opening], num: int, last: str, *, cut_short: bool) -> None:
    """Compare the ledger with its head, which a kill, or a writer at this moment, leaves at most one line behind."""
    there = len(openings)
    if num > there:
        gone = f"line {num} is" if num == there + 1 else f"lines {there + 1} to {num} are"
        raise _broken(path, there + 1, f"{gone} missing or cut short, but {path.with_name(HEAD_FILE).name} knows {num}")
    if there > num + 1 or (there > num and cut_short):
        raise _broken(
            path, num + 1, f"{path.with_name(HEAD_FILE).name} knows only {num} lines, so it or the ledger was changed"
        )
    if num and openings[num - 1].hash != last:
        raise _broken(path, num, "it is not the line that was written, so it was edited")


def _broken(path: Path, number: int, problem: str) -> LedgerError:
    return LedgerError(f"{path}:{number}: the test ledger is not as it was written: {problem}. {_advise(path)}")


def _advise(path: Path) -> str:
    return (
        f"Restore {LEDGER_FILE} and {HEAD_FILE} from a copy: bundles have both, and so has MLflow. If there is none, "
        f"move both away to start a new ledger; the audit then reports what the old one knew."
    )
