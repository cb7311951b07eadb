"""Store a run's checkpoints through ``pyarrow.fs``: the full states of two epochs, and the best epoch's weights.

A checkpoint ``last-0007.pt`` is complete once ``last-0007.pt.done`` exists, which is written after it and holds its
size and sha256. On a local disk each file is also written under another name, flushed and renamed into place. A file is
deleted only once its successor is complete, so the process may die at any moment. If the storage truncates the last
state anyway, the previous one is still there.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any, Literal

import torch
from pyarrow import fs

from training.files import open_location, open_whole

Kind = Literal["last", "best"]
State = dict[str, Any]
_NAME = re.compile(r"(last|best)-(\d+)\.pt(\.done)?")


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        uri: A folder, or any URI of ``pyarrow.fs`` (``s3://bucket/path``); created if it does not exist.

    Attributes:
        passed_over: Names of the incomplete states that were newer than the one :meth:`load_last` returned, or all if
            it returned None.
    """

    def __init__(self, uri: str | Path) -> None:
        self._fs, self._root = open_location(str(uri))
        self._local = isinstance(self._fs, fs.LocalFileSystem)
        self.passed_over: tuple[str, ...] = ()

    def save(self, state: State, epoch: int, best: State | None = None) -> None:
        """Write the state after ``epoch``, and ``best`` if given; then delete what they replace.

        Args:
            state: What :meth:`load_last` will return: tensors, numbers, strings, and lists and dicts of them.
            epoch: Counted from 1.
            best: What :meth:`load_best` will return, if this epoch is the best so far.

        Raises:
            OSError: The storage cannot be written.
        """
        self._fs.create_dir(self._root, recursive=True)
        # The best weights first: a complete last state must never name a best epoch whose weights do not exist.
        if best is not None:
            self._write("best", epoch, best)
        self._write("last", epoch, state)
        # One older state stays: the storage may turn out to have cut the new one short.
        self._prune("last", epoch, num_before=1)
        if best is not None:
            self._prune("best", epoch)

    def load_last(self) -> State | None:
        """Return the newest complete state, or None; a truncated one is passed over for the one before it."""
        state, self.passed_over = self._load("last")
        return state

    def load_best(self, epoch: int | None = None) -> State | None:
        """Return the complete best weights of ``epoch``, by default the newest, or None.

        Pass the epoch if you know it: after a kill between the two files of an epoch, the newest best weights may
        belong to an epoch that the run then repeats with another outcome.
        """
        return self._load("best", epoch)[0]

    def num_bytes(self) -> int:
        """Return the size of the run's checkpoints."""
        return sum(info.size or 0 for info in self._files())

    def drop(self, kind: Kind) -> None:
        """Delete the run's ``last`` (once the run has ended) or its ``best``."""
        for info in self._files():
            if info.base_name.startswith(kind):
                self._fs.delete_file(info.path)

    def delete(self) -> None:
        """Delete all of the run's checkpoints."""
        if self._fs.get_file_info(self._root).type != fs.FileType.NotFound:
            self._fs.delete_dir(self._root)

    def _write(self, kind: Kind, epoch: int, state: State) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        payload = buffer.getvalue()
        done = json.dumps({"size": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}).encode()
        path = f"{self._root}/{kind}-{epoch:04d}.pt"
        self._put(path, payload)
        self._put(f"{path}.done", done)

    def _put(self, path: str, payload: bytes) -> None:
        if not self._local:
            # An object storage shows an object only once all of it has arrived, so it needs no other name in the
            # meantime.
            with self._fs.open_output_stream(path) as stream:
                stream.write(payload)
            return
        with open_whole(Path(path)) as file:  # pyarrow's local stream has no fsync
            file.write(payload)

    def _load(self, kind: Kind, epoch: int | None = None) -> tuple[State | None, tuple[str, ...]]:
        """Return the newest complete checkpoint of a kind, and the names of the incomplete ones newer than it."""
        done = [info for info in self._files() if re.fullmatch(rf"{kind}-\d+\.pt\.done", info.base_name)]
        done = [info for info in done if epoch is None or _epoch_of(info.base_name) == epoch]
        passed_over: list[str] = []
        for info in sorted(done, key=lambda info: _epoch_of(info.base_name), reverse=True):
            payload = self._read_whole(info.path)
            if payload is None:
                passed_over.append(info.base_name.removesuffix(".done"))
            else:
                # To the CPU, because a run may resume on another device; weights_only, so that a file cannot run code.
                state: State = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
                return state, tuple(passed_over)
        return None, tuple(passed_over)

    def _read_whole(self, done_path: str) -> bytes | None:
        try:
            with self._fs.open_input_stream(done_path) as stream:
                expected = json.loads(stream.read())
            with self._fs.open_input_stream(done_path.removesuffix(".done")) as stream:
                payload: bytes = stream.read()
        except (OSError, ValueError, RecursionError):  # ValueError: the ``.done`` file itself is truncated
            return None
        whole = {"size": len(payload), "sha256": hashlib.sha256(payload).hexdigest()} == expected
        return payload if whole else None

    def _prune(self, kind: Kind, epoch: int, num_before: int = 0) -> None:
        """Delete the checkpoints of a kind except this epoch's and ``num_before`` complete ones before it."""
        found = [info for info in self._files() if info.base_name.startswith(kind)]
        whole = [_epoch_of(info.base_name) for info in found if info.base_name.endswith(".done")]
        before = sorted(number for number in whole if number < epoch)
        kept = {epoch, *before[len(before) - num_before :]}
        old = [info for info in found if _epoch_of(info.base_name) not in kept]
        # ``.done`` files first, so that an interrupted deletion leaves nothing that looks complete.
        for info in sorted(old, key=lambda info: not info.base_name.endswith(".done")):
            self._fs.delete_file(info.path)

    def _files(self) -> list[Any]:
        found = self._fs.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
        return [info for info in found if _NAME.match(info.base_name)]


def _epoch_of(name: str) -> int:
    match = _NAME.match(name)
    assert match is not None
    return int(match[2])
