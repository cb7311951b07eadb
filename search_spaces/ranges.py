"""Describe the values among which a setting is searched."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from search_spaces.reader import Scalar
from search_spaces.section import Number, ScalarValue, Section, fault
from training.config.strict import shown


class Range(Section):
    """The values among which one setting is searched.

    Attributes:
        type: ``float``, ``int`` or ``categorical``.
        low, high: Both ends, included (``float`` and ``int``).
        log: Draw evenly on a logarithmic scale.
        choices: The values of a ``categorical``.
        num: Points of a grid from low to high; required for a ``float`` in a grid.
    """

    type: Literal["float", "int", "categorical"]
    low: Number | None = None
    high: Number | None = None
    log: bool = False
    choices: list[ScalarValue] | None = None
    num: Annotated[int, Field(ge=2)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.type == "categorical":
            self._check_choices()
        else:
            self._check_ends()
        return self

    def _check_choices(self) -> None:
        for name in ("low", "high", "num", "log"):
            given = getattr(self, name)
            if given is not None and given is not False:
                raise fault("must not be given for type categorical. Give choices, or use type: float or int", name)
        if not self.choices or len(self.choices) < 2:
            raise fault(
                f"must be at least two values, but got choices={shown(self.choices)}. Put a single value under fixed",
                "choices",
            )
        # By repr, because True == 1 and 1 == 1.0 while they are different settings.
        if len({repr(choice) for choice in self.choices}) < len(self.choices):
            raise fault(f"must differ from one another, but got choices={shown(self.choices)}", "choices")

    def _check_ends(self) -> None:
        if self.choices is not None:
            raise fault(
                f"must not be given for type {self.type}. Give low and high, or use type: categorical", "choices"
            )
        for name in ("low", "high"):
            end = getattr(self, name)
            if end is None:
                raise fault(f"must be given for type {self.type}", name)
            if self.type == "int" and not isinstance(end, int):
                raise fault(
                    f"must be a whole number for type int, but got {name}={end}. Use whole ends, or type: float", name
                )
        low, high = self.ends
        if low >= high:
            raise fault(f"must be below high, but got low={low}, high={high}. Put a single value under fixed", "low")
        if self.log and low <= 0:
            raise fault(f"must be above 0 where log is true, but got low={low}", "low")

    @property
    def ends(self) -> tuple[float | int, float | int]:
        """Low and high of a ``float`` or ``int`` range."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    def contains(self, value: Scalar) -> bool:
        """Return whether a value can be drawn from here."""
        if self.type == "categorical":
            return repr(value) in {repr(choice) for choice in self.choices or ()}
        # In Python, a bool is an int too.
        if isinstance(value, bool) or not isinstance(value, int if self.type == "int" else int | float):
            return False
        low, high = self.ends
        return low <= value <= high

    def bounds(self) -> list[Scalar]:
        """Return both ends, or each choice: if these are valid, every drawn value is."""
        return list(self.choices or ()) if self.type == "categorical" else list(self.ends)

    def at(self, place: float) -> Scalar:
        """Return the value at a place of the range, from 0 to 1; each choice and each whole number has an equal share.

        Evenly spread places give values as evenly spread as a draw's: on a logarithmic scale where ``log`` is true.
        """
        if self.type == "categorical":
            choices = self.choices or []
            return choices[min(int(place * len(choices)), len(choices) - 1)]
        low, high = self.ends
        if self.type == "float":
            found = low * (high / low) ** place if self.log else low + place * (high - low)
            return min(max(float(found), float(low)), float(high))  # rounding may leave the range
        if self.log:
            # Half a step beyond both ends, as Optuna draws them, so that the ends have their share too.
            first, last = math.log(low - 0.5), math.log(high + 0.5)
            return min(max(round(math.exp(first + place * (last - first))), int(low)), int(high))
        return min(int(low) + int(place * (int(high) - int(low) + 1)), int(high))

    def place_of(self, value: Scalar) -> float:
        """Return where in the range a value is, from 0 to 1: the middle of its share for a choice or a whole number."""
        if self.type == "categorical":
            choices = [repr(choice) for choice in self.choices or []]
            return (choices.index(repr(value)) + 0.5) / len(choices)
        assert isinstance(value, int | float)
        low, high = self.ends
        if self.type == "float":
            if self.log:
                return math.log(value / low) / math.log(high / low)
            return (value - low) / (high - low)
        if self.log:
            first, last = math.log(low - 0.5), math.log(high + 0.5)
            return (math.log(value) - first) / (last - first)
        return (value - low + 0.5) / (high - low + 1)

    def grid(self) -> list[Scalar]:
        """Return the values that a grid takes: each choice, ``num`` points from low to high, or each integer.

        Raises:
            ValueError: A float range without ``num``.
        """
        if self.type == "categorical":
            return list(self.choices or ())
        low, high = self.ends
        if self.num is not None:
            # Rounding may make two points of a short whole-number range equal.
            points = _spaced(low, high, self.num, log=self.log)
            return list(dict.fromkeys(round(point) for point in points)) if self.type == "int" else list(points)
        if self.type == "int":
            return list(range(int(low), int(high) + 1))
        raise ValueError(
            f"num must be given for a float range in a grid, but got low={low}, high={high} without it. Add num: 5"
        )

    def __str__(self) -> str:
        if self.type == "categorical":
            return "one of " + ", ".join(shown(choice) for choice in self.choices or ())
        low, high = self.ends
        return f"{low:g} to {high:g}" + (", log" if self.log else "") + (", whole" if self.type == "int" else "")


def _spaced(low: float, high: float, num: int, *, log: bool) -> list[float]:
    """Return ``num`` evenly spaced points from low to high, on a logarithmic scale or not; both ends are exact."""
    scale, back = (math.log, math.exp) if log else (float, float)
    # The ends are taken as they are: exp(log(low)) may lie just outside of the range, which would then refuse it.
    step = (scale(high) - scale(low)) / (num - 1)
    return [float(low), *(back(scale(low) + step * index) for index in range(1, num - 1)), float(high)]
