"""Fit the best settings of earlier sweeps into the ranges of a new one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestrator.errors import UserError
from orchestrator.planning.settings import Settings
from orchestrator.planning.sweep_plan import Params
from search_spaces.blocks import Sampler
from search_spaces.conditions import drop_idle
from search_spaces.ranges import Range
from training.config.run import Scalar


def fit_points(points: Iterable[Mapping[str, Scalar]], settings: Settings, sampler: Sampler) -> tuple[Params, ...]:
    """Return what of each point is searched now, without repetitions; what it lacks will be drawn.

    A number outside of its range is moved to the nearest end: where the range ends is a decision about this dataset. A
    choice that does not exist here is left out. A method's own settings are taken from the same method only, because
    another method may use the name for something else.

    Raises:
        UserError: There are points, but nothing of them is searched, or the sampler tries every point anyway.
    """
    points = list(points)
    if points and sampler == "grid":
        raise UserError("--learn-from goes with a search; a grid runs every point anyway. Leave it out.")
    fitted: list[Params] = []
    for point in points:
        kept = drop_idle(_fit_point(point, settings), settings.acts_when)
        if kept and kept not in (*settings.start_from, *fitted):
            fitted.append(kept)
    if points and not fitted:
        searched = ", ".join(settings.ranges) or "nothing"
        raise UserError(
            f"--learn-from names sweeps from which nothing new can be learned: this one searches {searched}. Leave "
            "it out, or name a sweep of the same method."
        )
    return tuple(fitted)


def _fit_point(point: Mapping[str, Scalar], settings: Settings) -> Params:
    same_method = point.get("method.name") == settings.base["method.name"]
    taken = {key: found for key, found in settings.ranges.items() if same_method or not key.startswith("method.")}
    fitted = {key: _fit_value(found, point[key]) for key, found in taken.items() if key in point}
    return {key: value for key, value in fitted.items() if value is not None}


def _fit_value(found: Range, value: Scalar) -> Scalar:
    """Return the nearest value of a range, or None if there is none."""
    if found.contains(value):
        return value
    if found.type == "categorical" or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    low, high = found.ends
    nearest = min(max(value, low), high)
    return round(nearest) if found.type == "int" else float(nearest)
