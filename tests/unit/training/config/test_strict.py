"""Test that messages about wrong values use pydantic's fields, never its sentences."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError, field_validator

from training.config.strict import StrictModel, explain
from training.selection import SelectBy


class Inner(StrictModel):
    x: int = 0


class Model(StrictModel):
    whole: int = Field(1, ge=1)
    part: float = Field(0.5, gt=0, lt=1)
    yes: bool = False
    word: str = Field("ab", pattern="^a")
    choice: Literal["adam", "sgd"] = "adam"
    by: SelectBy = Field(SelectBy.LAST, strict=False)
    four: int = Field(4, multiple_of=4)
    many: list[int] = Field([1], min_length=1)
    inner: Inner = Inner()
    own: int = 1

    @field_validator("own")
    @classmethod
    def _check(cls, own: int) -> int:
        if own == 2:
            raise ValueError("an odd number")
        return own


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("whole", 2.0, "must be an integer, but got 2.0"),
        ("whole", "2", 'must be an integer, but got "2"'),
        ("whole", True, "must be an integer, but got true"),
        ("whole", None, "must be an integer, but got null"),
        ("whole", 0, "must be at least 1, but got 0"),
        ("part", "0.5", 'must be a number, but got "0.5"'),
        ("part", float("nan"), "must be finite, but got NaN"),
        ("part", 0.0, "must be greater than 0, but got 0.0"),
        ("part", 1, "must be less than 1, but got 1"),
        ("yes", 1, "must be true or false, but got 1"),
        ("word", 1, "must be text, but got 1"),
        ("word", "b", 'must be text that matches ^a, but got "b"'),
        ("choice", "adm", 'must be one of adam, sgd, but got "adm". Did you mean adam?'),
        ("choice", "x", 'must be one of adam, sgd, but got "x"'),
        (
            "by",
            "lst",
            "must be one of published, clean-val, observed-val, covering-rate, unbiased-risk, last, but got "
            '"lst". Did you mean last?',
        ),
        ("four", 6, "must be a multiple of 4, but got 6"),
        ("many", [], "must be one entry or more, but got []"),
        ("many", 1, "must be a list ([a, b] or lines that start with -), but got 1"),
        ("inner", 1, "must be a mapping (key: value), but got 1"),
        ("own", 2, "must be an odd number, but got 2"),
    ],
)
def test_fault_says_what_a_value_must_be(key: str, value: Any, told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Model.model_validate({key: value})
    assert explain(caught.value.errors()[0]) == told


def test_key_is_shown_where_it_is_given() -> None:
    with pytest.raises(ValidationError) as caught:
        Model(whole=0)
    assert explain(caught.value.errors()[0], "a.whole").endswith("but got a.whole=0")


def test_whole_numbers_are_numbers_and_words_are_choices() -> None:
    assert Model.model_validate({"part": 0.25, "by": "clean-val"}).by is SelectBy.CLEAN_VAL
