"""Find the ranges of a space that have no effect, in any trial or in some."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

from orchestrator.planning.layers import FileOrigin, Searched
from orchestrator.planning.run_config import Flat
from search_spaces.conditions import holds, order_keys
from search_spaces.schema import SearchSpace
from training.config.run import Scalar
from training.config.spelling import suggest
from training.config.strict import shown


def find_inactive(
    space: SearchSpace, label: str, base: Flat, ranges: Mapping[str, Searched]
) -> tuple[dict[str, str], dict[str, dict[str, list[Scalar]]]]:
    """Return the keys with a range that act in no trial, with what is why, and when those act that act in some.

    Raises:
        SpaceError: ``acts_when`` names a setting that the method does not have, or settings that wait for each other.
    """
    never: dict[str, str] = {}
    sometimes: dict[str, dict[str, list[Scalar]]] = {}
    conditions = space.methods[label].acts_when
    _check_conditions(space, label, base)
    for key in order_keys(conditions, conditions):
        if key not in ranges:
            continue
        for other, values in conditions[key].items():
            if other in never or (other not in ranges and not holds(base[other], values)):
                never[key] = other
            elif other in ranges and not all(holds(value, values) for value in ranges[other].range.bounds()):
                sometimes.setdefault(key, {})[other] = list(values)
    return never, {key: found for key, found in sometimes.items() if key not in never}


def _check_conditions(space: SearchSpace, label: str, base: Flat) -> None:
    conditions = space.methods[label].acts_when
    for key, found in conditions.items():
        for named in (key, *found):
            if named not in base:
                raise FileOrigin(space, ("methods", label, "acts_when", key)).error(
                    f"acts_when must name settings of {label}, but got {named}. {suggest(named, base)}"
                )
    try:
        TopologicalSorter(conditions).prepare()
    except CycleError as error:
        circle = error.args[1]
        raise FileOrigin(space, ("methods", label, "acts_when", circle[0])).error(
            f"acts_when lets settings wait for each other: {' for '.join(circle)}. Remove one of the conditions."
        ) from None


def describe_idle(conditions: Mapping[str, list[Scalar]], ranges: Mapping[str, Searched]) -> str:
    """Say in which trials a setting has no effect."""
    idle = {
        other: [value for value in ranges[other].range.bounds() if not holds(value, values)]
        for other, values in conditions.items()
    }
    return " or ".join(f"with {other}={' or '.join(map(_written, values))}" for other, values in idle.items())


def _written(value: Scalar) -> str:
    return value if isinstance(value, str) else shown(value)
