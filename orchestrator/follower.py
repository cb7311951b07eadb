"""Follow something in a background thread: act, wait, retry with growing pauses, and finish when stopped."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress

from orchestrator.redaction import describe_error

_LAST_TRY_S = 3.0


class Follower(ABC):
    """A thread that keeps something up to date alongside a sweep.

    The sweep never waits for it and never fails because of it.

    Args:
        name: Of the thread.
        poll_s: Pause between the starts of two rounds.
        retry_s, max_retry_s: Pause after a failure; it doubles with each further one up to the maximum.
        last_try_s: How long :meth:`stop` tries at least.

    Attributes:
        problem: Why it cannot act at the moment, or None.
    """

    gives_up_on: tuple[type[Exception], ...] = ()
    """Errors that no retry can fix: they end the thread."""

    def __init__(
        self, name: str, *, poll_s: float, retry_s: float, max_retry_s: float, last_try_s: float = _LAST_TRY_S
    ) -> None:
        self.problem: str | None = None
        self._poll_s, self._retry_s, self._max_retry_s, self._last_try_s = poll_s, retry_s, max_retry_s, last_try_s
        self._stopping, self._waking = threading.Event(), threading.Event()
        self._deadline = float("inf")
        self._away_since: float | None = None
        self._is_level = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; return at once."""
        self._thread.start()

    def stop(self, drain_s: float = 60.0) -> bool:
        """Do what is left to do, and end the thread.

        Args:
            drain_s: How long to keep trying.

        Returns:
            Whether all is done. If not, ``problem`` says why.
        """
        asked = time.monotonic()
        # After a long outage, it is not worth waiting that long again.
        away_since = asked if self._away_since is None else self._away_since
        self._deadline = max(asked + self._last_try_s, away_since + drain_s)
        self._stopping.set()
        self._waking.set()
        if self._thread.is_alive():
            # A call to a service may hang for longer than we are ready to wait.
            is_limited = self._deadline < float("inf")
            self._thread.join(self._deadline - asked + self._last_try_s if is_limited else None)
        return self._is_level

    def wake(self) -> None:
        """Act now instead of waiting for the current pause to end."""
        self._waking.set()

    @abstractmethod
    def _act(self) -> bool:
        """Do some of the remaining work; return whether nothing is left."""

    def _reset(self) -> None:  # noqa: B027
        """Discard whatever a failure may have broken, so that the next round starts from scratch."""

    def _close(self) -> None:  # noqa: B027
        """Release what the thread holds, at its end."""

    def _miss(self, error: BaseException) -> None:
        self.problem = describe_error(error)
        if self._away_since is None:
            self._away_since = time.monotonic()

    def _run(self) -> None:
        retry_s = self._retry_s
        while True:
            # Read before acting: whatever arrives during a round may be missed by it and needs another round.
            stopping, started = self._stopping.is_set(), time.monotonic()
            try:
                is_level = self._act()
            except self.gives_up_on as error:
                self._miss(error)
                return
            except Exception as error:  # libraries for storages and databases raise all kinds of errors
                self._miss(error)
                self._reset()
                wait_s, retry_s = retry_s, min(2 * retry_s, self._max_retry_s)
            else:
                self.problem = self._away_since = None
                self._is_level = stopping and is_level
                wait_s, retry_s = self._poll_s - (time.monotonic() - started) if is_level else 0.0, self._retry_s
            if self._is_level or (stopping and time.monotonic() > self._deadline):
                break
            self._pause(wait_s)
        with suppress(Exception):
            self._close()

    def _pause(self, wait_s: float) -> None:
        if wait_s <= 0:
            return
        if self._stopping.is_set():
            time.sleep(min(wait_s, self._poll_s))  # a few last tries, not thousands
        else:
            self._waking.wait(wait_s)
            self._waking.clear()
