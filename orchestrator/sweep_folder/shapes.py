"""Say which values a field of an event may hold, by its annotation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, get_args, get_origin

_MAX_WHOLE = 253_402_300_799_000  # the last time, in ms, that a calendar has; far above any count


@dataclass(frozen=True)
class Shape:
    """What a field may hold. Journals are long, so this takes a set operation per field and not a library's validator.

    Attributes:
        types: The types of the value, exactly: True is not a number.
        inner: The shape of a mapping's or a tuple's values; None if they may be anything.
        always: Those of the types of which any value fits.
    """

    types: frozenset[type]
    inner: Shape | None = None
    always: frozenset[type] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "always", frozenset(self.types - {int, *((dict, tuple) if self.inner else ())}))

    @classmethod
    def of(cls, hint: Any) -> Shape:
        """Return the shape of an annotation."""
        if hint is Any:
            return cls(frozenset())
        if get_origin(hint) in (Mapping, tuple):
            inner = cls.of(get_args(hint)[-1 if get_origin(hint) is Mapping else 0])
            return cls(frozenset({dict if get_origin(hint) is Mapping else tuple}), inner if inner.types else None)
        alternatives = [found for found in get_args(hint) if found is not NoneType]
        if len(alternatives) == 1:  # X | None
            shape = cls.of(alternatives[0])
            return cls(shape.types | {NoneType}, shape.inner)
        types = {NoneType if found is None else found for found in get_args(hint) or (hint,)}
        return cls(frozenset(types | ({int} if float in types else set())))

    def fits(self, value: Any) -> bool:
        """Return whether a value has this shape; whole numbers must be ones that a sweep can reach."""
        kind = type(value)
        if kind not in self.types:
            return False
        if kind is int:
            # One that no float can hold would raise in whatever computes with it.
            return bool(abs(value) < 2**64 if float in self.types else 0 <= value <= _MAX_WHOLE)
        if value is None or self.inner is None:
            return True
        return self.inner.fits_all(value.values() if kind is dict else value)

    def fits_all(self, values: Iterable[Any]) -> bool:
        """Return whether all values have this shape."""
        if self.inner is not None:
            return all(map(self.fits, values))
        kinds = set(map(type, values))
        return kinds <= self.types and (int not in kinds or all(map(self.fits, values)))
