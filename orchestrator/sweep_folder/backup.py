"""Copy a sweep's journal to a place from which another machine can continue: any folder or ``pyarrow.fs`` URI.

::

    <URI>/<sweep id>/{plan.json, space.yaml, driver.json, segment-000001.<bytes>.<sha256>.jsonl, ...}

The segments in order are the journal. Each is written once, completely or not at all, and its name says what it
contains. ``driver.json`` is a copy of the lease, renewed every 10 s: it is the only place where drivers on two machines
without a common file system see each other.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import time
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType

from orchestrator.background import in_background
from orchestrator.errors import OrchestratorError, UserError
from orchestrator.follower import Follower
from orchestrator.home import PLAN_FILE
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.holder import EXPIRES_S, Holder, encode, read_holder, read_number
from orchestrator.sweep_folder.journal import Journal
from orchestrator.sweep_folder.lease import RENEW_S, Claim, Lease, TakenError
from orchestrator.uris import join_uri
from training.data.store.storage import Storage

SPACE_FILE = "space.yaml"
HOLDER_FILE = "driver.json"
CONNECT_S = 10.0
"""How long a driver waits for the backup when it starts; it never waits for it later."""

# Events of about this long are lost if the machine is lost, too.
_POLL_S = 0.2
_RETRY_S = 1.0
_MAX_RETRY_S = 30.0
# Small enough to upload again after a failure, large enough for few objects per sweep.
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
        """Name of its file."""
        return f"segment-{self.number:06d}.{self.size}.{self.digest}.jsonl"


def list_segments(storage: Storage) -> list[Segment]:
    """Return the segments of a backup, in order, without those that are incomplete.

    Raises:
        OrchestratorError: One is missing, or two have the same number.
        OSError: The storage cannot be listed.
    """
    found = [
        (Segment(int(match[1]), int(match[2]), match[3]), size)
        for name, size in storage.sizes().items()
        if (match := _SEGMENT.fullmatch(name))
    ]
    # Some storages leave part of an object behind when an upload fails; its size shows that.
    whole = sorted(segment for segment, size in found if size == segment.size)
    if [segment.number for segment in whole] != list(range(1, len(whole) + 1)):
        numbers = ", ".join(str(segment.number) for segment in whole[:20])
        raise OrchestratorError(
            f"The backup {storage.uri} should have each segment of the journal exactly once, but has {numbers} "
            f"({len(whole)} in all). Either two drivers have written it, or a file was deleted. Continue from the "
            "sweep's own folder, or delete the segments that do not belong to it."
        )
    return whole


class JournalBackup(Follower):
    """Keeps the backup up to date with the journal. The sweep continues while the backup is out of reach.

    Args:
        plan: The sweep.
        journal: Open for writing.
        lease: The sweep's lease; lost when another driver continues from the backup.
        uri: The folder or URI that holds the backup's folder.
        steal: Take the backup from a driver on another host that may still be alive.
    """

    gives_up_on = (UserError, OrchestratorError)

    def __init__(self, plan: SweepPlan, journal: Journal, lease: Lease, uri: str, *, steal: bool = False) -> None:
        super().__init__("backup", poll_s=_POLL_S, retry_s=_RETRY_S, max_retry_s=_MAX_RETRY_S)
        self._plan, self._journal, self._lease, self._steal = plan, journal, lease, steal
        self._uri = join_uri(uri, plan.id)
        self._storage: Storage | None = None
        self._claim: Claim | None = None
        self._copied, self._number = 0, 0
        self._connecting: Future[Storage] | None = None

    def start(self) -> None:
        """Connect to the backup and start the thread; if the backup does not answer soon, the thread waits for it.

        Raises:
            UserError: Another driver writes the backup, or it contains events that this journal lacks.
        """
        # In the background, because opening an object storage that is down may hang for minutes.
        self._connecting = in_background(self._connect)
        if not wait([self._connecting], timeout=CONNECT_S).done:
            self._miss(OrchestratorError(f"{self._uri} did not answer within {CONNECT_S:.0f} s"))
        elif (error := self._connecting.exception()) is not None:
            if isinstance(error, UserError):
                raise error
            self._miss(error)
        super().start()

    def __enter__(self) -> JournalBackup:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _act(self) -> bool:
        if self._connecting is not None:
            self._connecting.exception()  # it may still be waiting for an answer: only one thread may connect at a time
            self._connecting = None
        storage = self._storage or self._connect()
        self._hold()
        return not self._copy(storage)

    def _reset(self) -> None:
        self._storage = None

    def _close(self) -> None:
        """Release the backup, if it is still ours."""
        if self._storage is not None and self._claim is not None:
            self._claim.release()

    def _connect(self) -> Storage:
        """Find out how much of the journal the backup has, and become its writer."""
        storage = Storage(self._uri)
        record = _BackupRecord(storage)
        claim = self._claim or Claim(record)
        claim.record = record  # storage that was unreachable is opened again
        if claim.is_held:
            self._renew(claim)
        else:
            claim.check(self._refuse)
        segments = list_segments(storage)
        self._copied, self._number = self._compare(segments), len(segments)
        for name, text in ((PLAN_FILE, self._plan.to_json()), (SPACE_FILE, self._plan.space_text)):
            if not segments:  # before the first segment, so that a backup with segments always has a plan
                storage.put(name, text.encode())
        if not claim.is_held:
            # Only now: a backup that has more than this journal belongs to the driver that wrote it.
            claim.take(self._refuse)
        self._storage, self._claim = storage, claim
        return storage

    def _refuse(self, found: Holder) -> None:
        if not found.is_this_process and not self._steal:
            raise UserError(held(self._plan.id, found))

    def _compare(self, segments: list[Segment]) -> int:
        """Return how many bytes of the journal the backup has.

        Raises:
            UserError: It has something that the journal does not.
        """
        # Compare by content, because the number of segments does not show whether another driver wrote some of them.
        offset = 0
        with self._journal.path.open("rb") as file:
            for segment in segments:
                if Segment.of(segment.number, file.read(segment.size)) != segment:
                    raise UserError(
                        f"Another driver has continued {self._plan.id} from its backup, {self._uri}. To continue from "
                        f"there, move the sweep's folder away, then: "
                        f"`orchestrator resume --from {shlex.quote(self._uri)}`"
                    )
                offset += segment.size
        return offset

    def _hold(self) -> None:
        assert self._claim is not None
        if self._claim.age_s >= RENEW_S:
            self._renew(self._claim)

    def _renew(self, claim: Claim) -> None:
        try:
            claim.renew()
        except TakenError as error:
            self._lose(error.holder)

    def _lose(self, found: Holder | None) -> None:
        taker = (
            f"process {found.pid} on {found.host}, started from the backup,"
            if found
            else "a driver started from the backup"
        )
        self._lease.lose(taker)
        raise OrchestratorError(f"The backup {self._uri} is lost: {taker} writes it now.")

    def _copy(self, storage: Storage) -> bool:
        content = self._read_next()
        if not content:
            return False
        segment = Segment.of(self._number + 1, content)
        storage.put(segment.name, content)
        # Increased only now: after a failure the same number is written again, so that no gap can arise.
        self._copied, self._number = self._copied + segment.size, segment.number
        return True

    def _read_next(self) -> bytes:
        """Return what the backup lacks: complete lines, at most a few megabytes unless a single line is longer."""
        with self._journal.path.open("rb") as file:
            file.seek(self._copied)
            # Not to the end of the file: a line that is being written may still be undone.
            content = file.read(self._journal.size - self._copied)
        if len(content) <= _MAX_BYTES:
            return content
        # At the end of a line, so that a backup that stops here still ends with a complete event.
        end = content.rfind(b"\n", 0, _MAX_BYTES) + 1 or content.find(b"\n", _MAX_BYTES) + 1
        return content[:end]


class _BackupRecord:
    """The record of who writes a backup; storage has no locks, so two drivers may start at the same moment."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def read(self) -> Holder | None:
        return _read_holder(self._storage)

    def write(self, holder: Holder) -> None:
        self._storage.put(HOLDER_FILE, encode(holder))

    def read_number(self) -> int:
        try:
            return read_number(self._storage.read(HOLDER_FILE))
        except FileNotFoundError:
            return 0

    def clear(self, number: int) -> None:
        self._storage.put(HOLDER_FILE, encode(number))

    def locked(self) -> AbstractContextManager[object]:
        return nullcontext()


def find_backup_holder(storage: Storage) -> Holder | None:
    """Return the driver that is writing a backup, or None.

    Raises:
        OSError: The storage cannot be read.
    """
    found = _read_holder(storage)
    return found if found is not None and found.is_alive(time.time()) else None


def held(sweep_id: str, holder: Holder) -> str:
    """Return the message for a backup whose driver is alive."""
    return (
        f"The backup of {sweep_id} is being written by process {holder.pid} on {holder.host}. Stop that process, or "
        f"wait until it has been dead for {EXPIRES_S:.0f} s. If you know that it is gone, use --steal-lease."
    )


def _read_holder(storage: Storage) -> Holder | None:
    try:
        return read_holder(storage.read(HOLDER_FILE))
    except FileNotFoundError:
        return None
