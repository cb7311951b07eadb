from __future__ import annotations

import pytest

from search_spaces.conditions import ABOVE_ZERO, Conditions, acts, count_grid, drop_idle, holds, order_keys, walk_grid
from search_spaces.reader import Scalar

WHEN: Conditions = {"decay": {"test": [True]}, "test": {"reject": ["gap"]}, "queue": {"weight": [ABOVE_ZERO]}}


def test_a_condition_holds_for_equal_values_of_the_same_type() -> None:
    assert holds("gap", ["gap", "oracle"])
    assert not holds("none", ["gap"])
    assert not holds(1, [True])
    assert not holds(1.0, [1])
    assert [holds(value, [ABOVE_ZERO]) for value in (0.1, 3, 0, 0.0, -1.0, True, "a", None)] == [True] * 2 + [False] * 6


def test_a_setting_acts_only_if_what_it_depends_on_acts() -> None:
    assert order_keys(["decay", "x", "test", "reject"], WHEN) == ["reject", "test", "decay", "x"]
    assert acts("x", {}, WHEN)
    assert acts("test", {"reject": "gap"}, WHEN)
    assert not acts("decay", {"reject": "none"}, WHEN)
    point: dict[str, Scalar] = {"decay": 0.9, "test": True, "reject": "none", "x": 1}
    assert drop_idle(point, WHEN) == {"reject": "none", "x": 1}
    assert drop_idle(point | {"reject": "gap"}, WHEN) == point | {"reject": "gap"}
    assert drop_idle({"decay": 0.9}, WHEN) == {"decay": 0.9}, "it may still act"
    assert drop_idle({"queue": 8, "weight": 0.0}, WHEN) == {"weight": 0.0}


@pytest.mark.parametrize("conditions", [{}, WHEN])
def test_a_grid_is_counted_without_walking_it(conditions: Conditions) -> None:
    axes: dict[str, list[Scalar]] = {
        "decay": [0.9, 0.99],
        "test": [True, False],
        "reject": ["gap", "none"],
        "weight": [0.0, 1.0, 2.0],
        "queue": [8, 16],
    }
    points = list(walk_grid(axes, conditions))
    # With rejection: test and decay, or no test; without: one. With a weight: 2 queues each, else none.
    assert len(points) == count_grid(axes, conditions) == ((3 + 1) * 5 if conditions else 48)
    assert len({repr(sorted(point.items())) for point in points}) == len(points)
