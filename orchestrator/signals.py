"""Handles Ctrl-C and SIGTERM, from a program's first line to its last.

:func:`run_program` turns both into KeyboardInterrupt and exit code 130. A driver records them instead
(:class:`StopSignals`), and while trials run they raise an exception. Two things make this hard:

- Python's import system keeps its locks when an exception interrupts it, and every other thread that imports the same
  module then waits for ever. So no handler raises inside an import; it is called again after it.
- Handlers run in the main thread, which may be inside a call that never returns. So a thread ends the process if a
  signal has had no effect for a while.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, NoReturn

EXIT_INTERRUPTED = 130
GRACE_S = 5.0
"""How long a signal may have no effect. Short, because nothing is lost if a process ends at any moment."""
_AGAIN_S = 0.05
_TOLERANCE_S = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def say_interrupted() -> None:
    """Tell the user, but not by print: the main thread may hang while it holds the lock of stderr."""
    with suppress(OSError):
        os.write(2, b"interrupted\n")


class _Watch:
    """A thread that learns of every signal, and ends the process if the main thread does not react.

    Attributes:
        last_act: Called before the process is ended that way.
        was_told: Whether a signal has come.
        interrupted: Whether one has raised KeyboardInterrupt in a program that does not handle it otherwise.
    """

    def __init__(self) -> None:
        self.last_act: Callable[[], None] = say_interrupted
        self.was_told = self.interrupted = False
        self._deferred, self._reacted = False, -math.inf
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)
        # Python writes to it in the handler that is written in C, whatever the main thread is doing.
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._keep_watching, name="signals", daemon=True).start()

    def react(self) -> None:
        """Record that the signals so far have had their effect."""
        self.was_told, self._reacted = True, time.monotonic()

    def defer(self) -> None:
        """Ask for the handler to be called again soon."""
        self._deferred, self._reacted = True, -math.inf

    def _keep_watching(self) -> None:
        while True:
            number, told = os.read(self._reader, 64)[-1], time.monotonic()
            self.was_told = True
            # The handler may have run before this thread did.
            while _is_ours(signal.getsignal(number)) and self._reacted < told - _TOLERANCE_S:
                if time.monotonic() > told + GRACE_S:
                    self._end_process()
                time.sleep(_AGAIN_S)
                if self._deferred:
                    self._deferred = False
                    signal.pthread_kill(threading.main_thread().ident or 0, number)
            # Signals that were sent again are in the pipe as well, and have had their effect.
            os.set_blocking(self._reader, False)
            with suppress(BlockingIOError):
                os.read(self._reader, 64)
            os.set_blocking(self._reader, True)

    def _end_process(self) -> None:
        with suppress(Exception):
            self.last_act()
        os._exit(EXIT_INTERRUPTED)


_watch: _Watch | None = None


def run_program(main: Callable[[], object]) -> NoReturn:
    """Run a program's main function, and exit with the code that it returns or exits with.

    SIGINT and SIGTERM end it with exit code 130. Call it before anything slow is imported, in the main thread.
    """
    global _watch
    _watch = _Watch()
    os.register_at_fork(after_in_child=_leave_to_parent)
    try:
        _exit(_call(main))
    except KeyboardInterrupt:  # it came between two lines of ours
        _exit(EXIT_INTERRUPTED)


def was_interrupted() -> bool:
    """Whether KeyboardInterrupt has been raised, which a library may have turned into an error of its own."""
    return _watch is not None and _watch.interrupted


def _call(main: Callable[[], object]) -> Any:
    try:
        for number in _SIGNALS:
            signal.signal(number, _interrupt)
        return main()
    except SystemExit as ending:
        return ending.code
    except Exception:
        if was_interrupted():
            return EXIT_INTERRUPTED
        raise
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _exit(code: Any) -> NoReturn:
    from orchestrator.background import is_busy  # not at the top, because it takes time

    number = code if isinstance(code, int) else 0 if code is None else 1

    def end(*_: object) -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # nobody reads it any more
                stream.flush()
        os._exit(number)

    # The result is decided: a signal from here on only ends the process sooner.
    for signal_number in _SIGNALS:
        signal.signal(signal_number, end)
    # Python's own exit waits for threads and libraries, which an interruption may have left in any state.
    # And it takes the interpreter away from work in the background, which aborts the process if that is inside torch.
    if (_watch is not None and _watch.was_told) or is_busy():
        end()
    sys.exit(code)


def _leave_to_parent() -> None:
    """Give a forked process Python's own handlers; it shares the pipe with its parent."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _must_wait(frame):
        return
    _react()
    if _watch is not None:
        _watch.interrupted = True
    say_interrupted()
    raise KeyboardInterrupt


def _react() -> None:
    if _watch is not None:
        _watch.react()


def _must_wait(frame: FrameType | None) -> bool:
    """Return whether the main thread is inside an import; the signal is then sent again."""
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    # Outside of a program of ours nobody would send it again.
    if frame is None or _watch is None:
        return False
    _watch.defer()
    return True


def _is_ours(handler: Any) -> bool:
    return handler is _interrupt or isinstance(getattr(handler, "__self__", None), StopSignals)


class StopSignals:
    """Context that notes the first signal in ``received``, and lets a second one interrupt anything.

    The first one interrupts only inside :meth:`interrupting`. If it comes before, :meth:`check` must be called soon.

    Args:
        last_act: Called if the process must be ended because nothing calls :meth:`check`.
    """

    def __init__(self, last_act: Callable[[], None] = say_interrupted) -> None:
        self.received = False
        self._last_act = last_act
        self._is_starting, self._interrupts = True, False
        self._is_repeated = False  # the first signal came inside an import, and the watch sends it again
        self._before: dict[signal.Signals, Any] = {}

    def send(self) -> None:
        """Do what a first Ctrl-C does; call it from another thread."""
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def send_first(self) -> None:
        """Do the same, unless a signal has come already."""
        if not self.received:
            self.send()

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has come."""
        if self.received:
            _react()
            raise KeyboardInterrupt

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let the first signal raise KeyboardInterrupt inside; one that came earlier raises it at once.

        It is raised immediately rather than after the current call: a signal to the whole process group ends Ray's
        processes too, and a call to them would then hang for a minute.
        """
        self._interrupts = True
        try:
            # The signal may have come while Ray was starting, when nothing could be interrupted.
            self.check()
            yield
        finally:
            # What follows ends by itself, so from here on a signal need not have an effect.
            self._interrupts = self._is_starting = False

    def __enter__(self) -> StopSignals:
        if _watch is not None:
            _watch.last_act = self._last_act
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        if _watch is not None:
            _watch.last_act = say_interrupted
        # A signal that was noted, and then found nothing more to stop, has had its effect.
        if self.received:
            _react()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        is_first = not self.received or self._is_repeated
        self.received, self._is_repeated = True, False
        if is_first and not self._interrupts:
            if not self._is_starting:
                _react()
            return
        if _must_wait(frame):
            self._is_repeated = is_first
            return
        _react()
        # The second Ctrl-C means "now", wherever the program is.
        if not is_first:
            say_interrupted()
        raise KeyboardInterrupt
