"""Test both ways to format a duration: exactly, and roughly."""

from __future__ import annotations

import pytest

from orchestrator.durations import format_estimate, format_seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3600, "1 h 00 min"),
        (11220, "3 h 07 min"),
    ],
)
def test_to_the_second(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "1 min"), (89, "1 min"), (91, "2 min"), (3599, "1 h 00 min"), (11220, "3 h 07 min")]
)
def test_to_the_minute(seconds: float, text: str) -> None:
    assert format_estimate(seconds) == text
