"""Ctrl-C and SIGTERM: noted, and where trials run an exception."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The user asked for an end. Raised within a call of Ray, it comes out of there as a plain KeyboardInterrupt."""


class StopSignals:
    """While entered, the first signal is noted in ``received`` and interrupts where that is allowed; a second one
    forces its way.
    """

    def __init__(self) -> None:
        self.received = False
        self._interrupts = False
        self._before: dict[signal.Signals, Any] = {}

    def arm(self) -> None:
        """Take the signals, again if a library took them in between; elsewhere than in the main thread nothing can."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                before = signal.signal(number, self._receive)
                self._before.setdefault(number, before)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let the first signal, or one that came before, raise Interrupted in here.

        On the spot, as Ctrl-C does in any Python: whoever sends a signal to a whole group ends Ray's processes too, and
        the next call to them would not come back for a minute.
        """
        self._interrupts = True
        try:
            if self.received:
                raise Interrupted
            yield
        finally:
            self._interrupts = False

    def __enter__(self) -> StopSignals:
        self.arm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = True
        if self._interrupts:
            raise Interrupted


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end what is done here as Ctrl-C does: where each step is in the journal once it is taken."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
