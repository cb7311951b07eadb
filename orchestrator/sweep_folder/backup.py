"""A sweep's journal, copied to where another machine can go on from it: any folder or URI of ``pyarrow.fs``.

::

    <URI>/<sweep id>/{plan.json, space.yaml, driver.json, segment-000001.<bytes>.<sha256>.jsonl, ...}

The segments, one behind the other, are the journal. Each is written once, whole or not at all, and its name says what
must be in it. ``driver.json`` is the copy of the lease, renewed every 10 s: two drivers on two machines see each other
there alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import TracebackType

from orchestrator.background import in_background
from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import PLAN_FILE
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.redaction import describe_error
from orchestrator.sweep_folder.journal import Journal
from orchestrator.sweep_folder.lease import EXPIRES_S, RENEW_S, Holder, Lease, read_holder, this_process
from orchestrator.uris import join_uri
from training.data.store.storage import Storage

SPACE_FILE = "space.yaml"
HOLDER_FILE = "driver.json"
CONNECT_S = 10.0
"""How long the start of a driver waits for the backup; from then on the sweep waits for it no more."""

_POLL_S = 0.2
_DRAIN_S = 60.0
_RETRY_S = 1.0
_MAX_RETRY_S = 30.0
_LAST_TRY_S = 3.0
_MAX_BYTES = 4 << 20
_SEGMENT = re.compile(r"segment-(\d{6,})\.(\d+)\.([0-9a-f]{16})\.jsonl")


@dataclass(frozen=True, order=True)
class Segment:
    """A piece of a journal.

    Attributes:
        number: From 1.
        size: In bytes.
        digest: The first 16 hex digits of its sha256.
    """

    number: int
    size: int
    digest: str

    @classmethod
    def of(cls, number: int, content: bytes) -> Segment:
        """Return the segment with this content."""
        return cls(number, len(content), hashlib.sha256(content).hexdigest()[:16])

    @property
    def name(self) -> str:
        """Of its file."""
        return f"segment-{self.number:06d}.{self.size}.{self.digest}.jsonl"


def list_segments(storage: Storage) -> list[Segment]:
    """Return the segments that a backup holds, in order; one that was cut short, where a storage can leave such, is not
    there.

    Raises:
        OrchestratorError: One is missing, or there are two of a number.
        OSError: The storage cannot be listed.
    """
    found = [
        (Segment(int(match[1]), int(match[2]), match[3]), size)
        for name, size in storage.sizes().items()
        if (match := _SEGMENT.fullmatch(name))
    ]
    whole = sorted(segment for segment, size in found if size == segment.size)
    if [segment.number for segment in whole] != list(range(1, len(whole) + 1)):
        numbers = ", ".join(str(segment.number) for segment in whole[:20])
        raise OrchestratorError(
            f"backup must have each segment of its journal once, but got backup={storage.uri} with the numbers "
            f"{numbers} of {len(whole)}. "
            f"Two drivers have written it, or somebody took a file away: go on from the sweep's own folder, or take "
            f"out what is too much."
        )
    return whole


class JournalBackup:
    """The thread that keeps the backup level with the journal. The sweep never waits for it and never fails because the
    backup is away.

    Args:
        plan: The sweep.
        journal: Open for writing.
        lease: Of the sweep; lost when another driver goes on from the backup.
        uri: Under which the backup's folder lies.
        steal: Take the backup from a driver on another host that may still live.

    Attributes:
        problem: Why the backup cannot be written at the moment, or None.
    """

    def __init__(self, plan: SweepPlan, journal: Journal, lease: Lease, uri: str, *, steal: bool = False) -> None:
        self.problem: str | None = None
        self._plan, self._journal, self._lease, self._steal = plan, journal, lease, steal
        self._uri = join_uri(uri, plan.id)
        self._storage: Storage | None = None
        self._holder: Holder | None = None
        self._copied, self._number = 0, 0
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self._away_since: float | None = None
        self._first: Future[Storage] | None = None
        self._thread = threading.Thread(target=self._run, name="backup", daemon=True)

    def start(self) -> None:
        """Look at the backup, and start following the journal; a backup that is away is waited for by the thread.

        Raises:
            UserError: Another driver goes on from it, or it holds what this journal lacks.
        """
        self._first = connected = in_background(self._connect)
        # Not `result(timeout=...)`: it would take a storage's own time-out, or a late answer, for silence.
        if not wait([connected], timeout=CONNECT_S).done:
            self._miss(OrchestratorError(f"{self._uri} did not answer within {CONNECT_S:.0f} s"))
        else:
            try:
                connected.result()
            except UserError:
                raise
            except Exception as error:  # whatever a storage says
                self._miss(error)
        self._thread.start()

    def stop(self, drain_s: float = _DRAIN_S) -> bool:
        """Copy what is left, and end; return whether the backup now has all.

        Args:
            drain_s: How long the backup may be away before it is given up.
        """
        asked = time.monotonic()
        # A backup that has been away for long is not worth as much waiting again.
        self._deadline = max(asked + _LAST_TRY_S, (self._away_since or asked) + drain_s)
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(self._deadline - asked + _LAST_TRY_S)
        return self._level and self.problem is None

    def __enter__(self) -> JournalBackup:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _level(self) -> bool:
        return self._copied == self._journal.size

    def _run(self) -> None:
        retry_s = _RETRY_S
        if self._first is not None:
            self._first.exception()  # one at a time: it may still be waiting for an answer
        while not (self._stopping.is_set() and (self._level or time.monotonic() > self._deadline)):
            try:
                storage = self._storage or self._connect()
                self._hold(storage)
                copied = self._copy(storage)
            except (UserError, OrchestratorError) as error:  # no waiting mends it
                self._miss(error)
                return
            except Exception as error:
                self._miss(error)
                self._storage = None
                self._pause(retry_s)
                retry_s = min(2 * retry_s, _MAX_RETRY_S)
            else:
                self.problem, self._away_since, retry_s = None, None, _RETRY_S
                if not copied:
                    self._stopping.wait(_POLL_S)
        with suppress(Exception):
            self._give_back()

    def _pause(self, wait_s: float) -> None:
        if self._stopping.wait(wait_s):
            time.sleep(_POLL_S)  # a last try or two, not a thousand

    def _miss(self, error: BaseException) -> None:
        self.problem = str(error) if isinstance(error, UserError | OrchestratorError) else describe_error(error)
        self._away_since = self._away_since or time.monotonic()

    def _connect(self) -> Storage:
        """Find out what the backup has of the journal, and take it."""
        storage = Storage(self._uri)
        self._require_free(storage)
        segments = list_segments(storage)
        self._copied, self._number = self._compare(segments), len(segments)
        for name, text in ((PLAN_FILE, self._plan.to_json()), (SPACE_FILE, self._plan.space_text)):
            if not segments:  # before the first segment: whoever sees one has a plan for it
                storage.put(name, text.encode())
        self._take(storage)
        self._storage = storage
        return storage

    def _require_free(self, storage: Storage) -> None:
        found = _read_holder(storage)
        if self._holder is not None:
            if not self._holder.is_same(found):
                self._lose(found)
        elif found is not None and found.is_alive(time.time()) and not self._is_ours(found) and not self._steal:
            raise UserError(held(self._plan.id, found))

    def _is_ours(self, found: Holder) -> bool:
        return this_process(0.0).is_same(found)

    def _compare(self, segments: list[Segment]) -> int:
        """Return how many bytes of the journal the backup has.

        Raises:
            UserError: It has others.
        """
        offset = 0
        with self._journal.path.open("rb") as file:
            for segment in segments:
                if Segment.of(segment.number, file.read(segment.size)) != segment:
                    raise UserError(
                        f"backup must hold what the sweep's own journal holds, but got {self._uri}, with which another "
                        f"driver went on. "
                        f"To go on from there, move the folder of {self._plan.id} away, then: orchestrator resume "
                        f"--from {self._uri}"
                    )
                offset += segment.size
        return offset

    def _hold(self, storage: Storage) -> None:
        assert self._holder is not None
        if time.time() - self._holder.renewed >= RENEW_S:
            self._require_free(storage)
            self._take(storage)

    def _take(self, storage: Storage) -> None:
        holder = this_process(time.time())
        storage.put(HOLDER_FILE, json.dumps(asdict(holder)).encode())
        self._holder = holder

    def _lose(self, found: Holder | None) -> None:
        taker = (
            f"process {found.pid} on {found.host}, which went on from the backup,"
            if found
            else "a driver that went on from the backup"
        )
        self._lease.lose(taker)
        raise OrchestratorError(f"backup must be written by one driver, but {taker} has taken {self._uri}.")

    def _copy(self, storage: Storage) -> bool:
        content = self._read_next()
        if not content:
            return False
        segment = Segment.of(self._number + 1, content)
        storage.put(segment.name, content)
        self._copied, self._number = self._copied + segment.size, segment.number
        return True

    def _read_next(self) -> bytes:
        """Return what the backup lacks: whole lines, some megabytes at most unless one line is longer."""
        with self._journal.path.open("rb") as file:
            file.seek(self._copied)
            content = file.read(self._journal.size - self._copied)
        if len(content) <= _MAX_BYTES:
            return content
        end = content.rfind(b"\n", 0, _MAX_BYTES) + 1 or content.find(b"\n", _MAX_BYTES) + 1
        return content[:end]

    def _give_back(self) -> None:
        if self._storage is not None and self._holder is not None and self._holder.is_same(_read_holder(self._storage)):
            self._storage.put(HOLDER_FILE, b"")


def find_backup_holder(storage: Storage) -> Holder | None:
    """Return the living driver that writes a backup, or None.

    Raises:
        OSError: The storage cannot be read.
    """
    found = _read_holder(storage)
    return found if found is not None and found.is_alive(time.time()) else None


def held(sweep_id: str, holder: Holder) -> str:
    """Return what to say of a backup whose driver lives."""
    return (
        f"sweep must have one driver, but got sweep={sweep_id}, whose backup process {holder.pid} on {holder.host} "
        f"writes. "
        f"Stop that process, or wait: {EXPIRES_S:.0f} s after its death the backup is free. If it is gone for good: "
        f"--steal-lease"
    )


def _read_holder(storage: Storage) -> Holder | None:
    try:
        return read_holder(storage.read(HOLDER_FILE))
    except FileNotFoundError:
        return None
