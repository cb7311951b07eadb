"""Settings that act only with some values of others: which of them a point needs, and which points a grid has.

Conditions are ``setting -> other setting -> its values with which the first acts``; all of them must hold. ``above 0``
among the values stands for every positive number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from search_spaces.reader import Scalar

ABOVE_ZERO = "above 0"
Conditions = Mapping[str, Mapping[str, Sequence[Scalar]]]


def holds(value: Scalar, acting: Sequence[Scalar]) -> bool:
    """Return whether a value is among those with which a setting acts."""
    is_positive = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    # By repr, because True == 1 and 1 == 1.0 while they are different settings.
    return repr(value) in map(repr, acting) or (ABOVE_ZERO in acting and is_positive)


def acts(key: str, params: Mapping[str, Scalar], conditions: Conditions) -> bool:
    """Return whether a setting acts, given the others; it does not if one on which it depends does not act itself."""
    found = conditions.get(key, {})
    return all(other in params and holds(params[other], acting) for other, acting in found.items())


def order_keys(keys: Iterable[str], conditions: Conditions) -> list[str]:
    """Return keys in their order, but each after those on which it depends."""
    wanted, ordered = list(keys), dict[str, None]()

    def place(key: str) -> None:
        for other in conditions.get(key, {}):
            if other not in ordered:
                place(other)
        ordered.setdefault(key)

    for key in wanted:
        place(key)
    return [key for key in ordered if key in wanted]


def drop_idle(params: Mapping[str, Scalar], conditions: Conditions) -> dict[str, Scalar]:
    """Return a point without the settings that do not act in it; what it leaves open may still let one act."""
    idle: set[str] = set()
    for key in order_keys(params, conditions):
        for other, acting in conditions.get(key, {}).items():
            if other in idle or (other in params and not holds(params[other], acting)):
                idle.add(key)
    return {key: value for key, value in params.items() if key not in idle}


def walk_grid(axes: Mapping[str, Sequence[Scalar]], conditions: Conditions) -> Iterator[dict[str, Scalar]]:
    """Yield every different point of a grid, the last axis changing fastest; none has a setting that does not act."""
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        kept = drop_idle(point, conditions) if conditions else point
        # Points that differ only in what does not act are one: that with the first value of it.
        if all(repr(point[key]) == repr(axes[key][0]) for key in point if key not in kept):
            yield kept


def count_grid(axes: Mapping[str, Sequence[Scalar]], conditions: Conditions) -> int:
    """Return how many points :func:`walk_grid` yields."""
    deciding = {other for found in conditions.values() for other in found}
    decided = {key: values for key, values in axes.items() if key in deciding}
    others = [key for key in axes if key not in deciding]
    among = {key: found for key, found in conditions.items() if key in deciding}
    return sum(
        math.prod(len(axes[key]) for key in others if acts(key, point, conditions))
        for point in walk_grid(decided, among)
    )
