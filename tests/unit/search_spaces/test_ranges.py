from __future__ import annotations

import pytest
from pydantic import ValidationError

from search_spaces.ranges import Range
from search_spaces.reader import Scalar


def test_whole_ends_are_within_and_beyond_is_not() -> None:
    found = Range(type="float", low=0, high=1)
    assert found.contains(0)
    assert found.contains(1.0)
    assert not found.contains(1.0001)
    assert not found.contains("0.5")
    assert not found.contains(True)
    assert not found.contains(None)


def test_integer_range_holds_integers_only() -> None:
    found = Range(type="int", low=2, high=8)
    assert found.contains(2)
    assert not found.contains(2.0)
    assert not found.contains(9)


def test_choices_are_told_apart_by_kind() -> None:
    found = Range(type="categorical", choices=[1, "1", None, True])
    assert all(found.contains(choice) for choice in (1, "1", None, True))
    assert not found.contains(1.0)
    assert not found.contains(False)


@pytest.mark.parametrize(
    ("found", "values"),
    [
        (Range(type="categorical", choices=["a", "b"]), ["a", "b"]),
        (Range(type="int", low=2, high=5), [2, 3, 4, 5]),
        (Range(type="int", low=1, high=100, num=3, log=True), [1, 10, 100]),
        (Range(type="int", low=1, high=2, num=5), [1, 2]),
        (Range(type="float", low=0, high=1, num=3), [0.0, 0.5, 1.0]),
        (Range(type="float", low=0.01, high=1, num=3, log=True), [0.01, 0.1, 1.0]),
    ],
)
def test_grid_takes_both_ends_and_no_value_twice(found: Range, values: list[Scalar]) -> None:
    assert found.grid() == pytest.approx(values) if found.type == "float" else found.grid() == values
    assert all(found.contains(value) for value in found.grid())


def test_float_in_a_grid_needs_num() -> None:
    with pytest.raises(ValueError, match="num must be given"):
        Range(type="float", low=0, high=1).grid()


def test_range_survives_its_own_dump() -> None:
    for found in (Range(type="float", low=1e-3, high=1, log=True), Range(type="categorical", choices=[None, 1, "a"])):
        assert Range.model_validate(found.model_dump(exclude_defaults=True)) == found


def test_range_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Range(type="int", low=1, high=2).low = 0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Range(type="float", low=0.01, high=1, log=True), "0.01 to 1, log"),
        (Range(type="int", low=2, high=8), "2 to 8, whole"),
        (Range(type="categorical", choices=[None, True, "a"]), 'one of null, true, "a"'),
    ],
)
def test_range_reads_like_a_sentence(found: Range, text: str) -> None:
    assert str(found) == text


def test_places_are_spread_over_the_values_as_draws_are_and_lead_back() -> None:
    ranges = [
        Range(type="float", low=0.3, high=0.9),
        Range(type="float", low=0.01, high=1.0, log=True),
        Range(type="int", low=2, high=8),
        Range(type="int", low=1, high=100, log=True),
        Range(type="categorical", choices=[16, 32, 64]),
    ]
    for found in ranges:
        values = [found.at(step / 1000) for step in range(1001)]
        assert all(found.contains(value) for value in values), found
        places = [found.place_of(value) for value in values]
        assert places == sorted(places)
        assert all(0 <= place <= 1 for place in places)
        assert [found.at(place) for place in places] == pytest.approx(values)
    assert [ranges[2].at(step / 7) for step in range(7)] == [2, 3, 4, 5, 6, 7, 8]
    assert ranges[1].at(0.5) == pytest.approx(0.1)
