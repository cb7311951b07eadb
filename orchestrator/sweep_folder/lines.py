"""Append whole lines to a file of JSON lines, as the journal of a sweep and the test ledger do."""

from __future__ import annotations

import os
from contextlib import suppress


def append_line(descriptor: int, line: bytes) -> int:
    """Append a line and wait until it is on disk; return the size of the file then.

    Args:
        descriptor: Opened with ``O_APPEND``, so that a write can only ever land at the end.
        line: With its line break.

    Raises:
        OSError: It cannot be written; the file is then as it was.
    """
    size = os.fstat(descriptor).st_size
    try:
        # In one call: a signal handler that also writes cannot get between two halves of a line.
        written = os.write(descriptor, line)
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes were written")
        os.fsync(descriptor)
    except OSError:
        # Half a line in the middle would make the whole file unreadable.
        with suppress(OSError):  # a dead disk refuses this too; the first error is the one to report
            os.ftruncate(descriptor, size)
        raise
    return size + written
