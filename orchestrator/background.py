"""Run work in background threads."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_NAME = "background"
_SWITCH_INTERVAL_S = 0.0005  # Python's own is ten times that


def in_background(function: Callable[[], T]) -> Future[T]:
    """Run a function in a daemon thread, for which the process does not wait when it exits."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        # Whatever it is, even SystemExit: without a result, callers would wait for the future forever.
        except BaseException as error:
            future.set_exception(error)

    # Not a ThreadPoolExecutor, whose threads are joined when the process exits: a call that hangs would keep it alive.
    threading.Thread(target=work, name=_NAME, daemon=True).start()
    return future


def is_busy() -> bool:
    """Return whether a function still runs in the background."""
    return any(thread.name == _NAME for thread in threading.enumerate())


@contextmanager
def quick_handover() -> Iterator[None]:
    """Switch between threads more often than Python does by default.

    After every call that waits, Tune's loop would otherwise be held up by the tracker's Python for a whole interval.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
