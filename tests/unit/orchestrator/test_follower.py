"""Test that a follower does all there is to do, whatever fails in between, and says what stops it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from orchestrator.errors import UserError
from orchestrator.follower import Follower


class Counter(Follower):
    """Counts down what is left, one per round; fails as often as asked."""

    gives_up_on = (UserError,)

    def __init__(self, left: int = 0, failures: float = 0, error: Exception | None = None) -> None:
        super().__init__("counter", poll_s=0.01, retry_s=0.01, max_retry_s=0.02, last_try_s=0.1)
        self.left, self.failures = left, failures
        self.error = error or ConnectionError("https://me:secret@host is away\nand more")
        self.num_rounds = self.num_resets = self.num_closed = 0

    def _act(self) -> bool:
        self.num_rounds += 1
        if self.failures > 0:
            self.failures -= 1
            raise self.error
        self.left = max(0, self.left - 1)
        return self.left == 0

    def _reset(self) -> None:
        self.num_resets += 1

    def _close(self) -> None:
        self.num_closed += 1


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_is_left_is_done_before_it_ends() -> None:
    follower = Counter()
    follower.start()
    wait_until(lambda: follower.num_rounds > 2)
    follower.left = 100
    assert follower.stop()
    assert (follower.left, follower.problem, follower.num_closed) == (0, None, 1)


def test_a_service_that_comes_back_gets_all() -> None:
    follower = Counter(left=3, failures=4)
    follower.start()
    wait_until(lambda: follower.num_resets > 0)
    assert follower.stop(5)
    assert (follower.left, follower.problem, follower.num_resets) == (0, None, 4)


def test_a_service_that_stays_away_is_given_up_and_named_without_its_password() -> None:
    follower = Counter(failures=float("inf"))
    follower.start()
    assert not follower.stop(0.2)
    assert follower.problem == "ConnectionError: https://me:***@host is away"
    assert follower.num_closed == 1


def test_after_a_long_outage_it_does_not_wait_as_long_once_more() -> None:
    follower = Counter(failures=float("inf"))
    follower._away_since = time.monotonic() - 3600
    follower.start()
    assert not follower.stop(3600), "or the time limit of tests ends it"


def test_what_no_retry_can_cure_ends_it() -> None:
    follower = Counter(failures=1, error=UserError("another driver has taken it"))
    follower.start()
    wait_until(lambda: follower.problem is not None)
    assert not follower.stop()
    assert (follower.problem, follower.num_rounds, follower.num_closed) == ("another driver has taken it", 1, 0)


def test_waking_it_ends_the_pause() -> None:
    follower = Counter()
    follower._poll_s = 3600
    follower.start()
    wait_until(lambda: follower.num_rounds == 1)
    follower.wake()
    wait_until(lambda: follower.num_rounds == 2)
    assert follower.stop()


def test_a_call_that_hangs_is_not_waited_for_for_ever() -> None:
    over = threading.Event()

    class Hanging(Counter):
        def _act(self) -> bool:
            over.wait()
            return True

    follower = Hanging()
    follower.start()
    assert not follower.stop(0.1)
    over.set()
