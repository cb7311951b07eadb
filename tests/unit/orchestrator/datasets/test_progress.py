"""Test that rate and time left come from this run alone, once there is enough to go by."""

from __future__ import annotations

from orchestrator.datasets.progress import Pace


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rate_and_time_left_are_those_of_this_run_and_not_of_what_was_there() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.measure(9_000, 10_000) == ("", "")
    clock.now += 10
    assert pace.measure(9_200, 10_000) == ("20 images/s", "40 s left")


def test_nothing_is_guessed_in_the_first_seconds_or_before_an_image_is_done() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.measure(0, 100)
    clock.now += 0.5
    assert pace.measure(32, 100) == ("", "")
    clock.now += 60
    assert Pace(clock).measure(50, 100) == ("", "")
    assert pace.measure(0, 100) == ("", "")


def test_a_slow_run_is_told_in_hours() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.measure(0, 122_000)
    clock.now += 100
    assert pace.measure(2_000, 122_000) == ("20 images/s", "1 h 40 min left")
