"""Handles Ctrl-C and SIGTERM: a driver records them, and while trials run they raise an exception."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The user asked to stop. Raised inside a call of Ray, it comes out as a plain KeyboardInterrupt."""


class StopSignals:
    """Context that notes the first signal in ``received``, and lets a second one interrupt anything.

    The first one interrupts only inside :meth:`interrupting`.
    """

    def __init__(self) -> None:
        self.received = False
        self._interrupts = False
        self._before: dict[signal.Signals, Any] = {}

    def arm(self) -> None:
        """Install the handlers; call it again if a library may have replaced them.

        Does nothing outside the main thread.
        """
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # Again, because Ray installs handlers of its own when it starts.
                before = signal.signal(number, self._receive)
                # Remember only the first one: after a second arm(), `before` would be a library's handler.
                self._before.setdefault(number, before)

    def send(self) -> None:
        """Do what a first Ctrl-C does; call it from another thread."""
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def send_first(self) -> None:
        """Do the same, unless a signal has come already."""
        if not self.received:
            self.send()

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let the first signal raise Interrupted inside; one that came earlier raises it at once.

        It is raised immediately rather than after the current call: a signal to the whole process group ends Ray's
        processes too, and a call to them would then hang for a minute.
        """
        self._interrupts = True
        try:
            # The signal may have come while Ray was starting, when nothing could be interrupted.
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
        # The second Ctrl-C means "now", wherever the program is.
        if self.received:
            raise KeyboardInterrupt
        self.received = True
        if self._interrupts:
            raise Interrupted


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does.

    Use it for work whose steps are in the journal as soon as they are done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Schedulers such as Slurm send SIGTERM before they kill.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
