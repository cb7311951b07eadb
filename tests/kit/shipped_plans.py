"""What every shipped search space plans, as one JSON file: the reference for changes to the files.

Written by ``python -m tests.kit.shipped_plans``; write it again only where a shipped space is meant to change.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.sweep_plan import SweepPlan
from search_spaces.schema import SearchSpace, load_space, shipped_spaces

PATH = Path(__file__).parents[1] / "contract" / "shipped_plans.json"

Flat = dict[str, Any]
# What a space decides of a plan; ids, times and wording are free.
_FIELDS = (
    *(
        "kind",
        "dataset",
        "method",
        "start_from",
        "num_trials",
        "concurrency",
        "sampler",
        "search_seed",
        "startup_trials",
    ),
    *("scheduler", "grace_epochs", "reduction_factor", "keep", "cap_gib", "time_limit_s", "epoch_s", "variants"),
)


def plan_all() -> dict[str, dict[str, Flat]]:
    """Return space -> ``METHOD RECIPE`` -> everything that its plan says, under dotted keys."""
    return {name: _plan_space(name) for name in shipped_spaces()}


@cache
def load(space: str) -> SearchSpace:
    """Return a shipped space, read once."""
    return load_space(space)


@cache
def plan_sweep(space: str, method: str, recipe: str) -> SweepPlan:
    """Return the sweep of a shipped space, planned once."""
    return make_plan(PlanRequest(load(space), method=method, recipe=recipe, num_cpus=8, num_gpus=1))


def write(plans: dict[str, dict[str, Flat]]) -> str:
    """Return plans as text: what all plans of a space share once, other values once for all spaces that share them."""
    shared = {
        space: {key: value for key, value in rows["ignore common"].items() if _everywhere(key, value, rows)}
        for space, rows in plans.items()
    }
    groups: dict[str, dict[str, list[str]]] = {}
    for space, rows in plans.items():
        for row, flat in rows.items():
            rest = {key: value for key, value in flat.items() if not _is_whole(row) or key not in shared[space]}
            groups.setdefault(row, {}).setdefault(_text(rest), []).append(space)
    parts = [("* @ " + space, _text(flat)) for space, flat in shared.items()]
    parts += [(f"{row} @ " + ",".join(spaces), rest) for row in groups for rest, spaces in groups[row].items()]
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {flat}" for name, flat in parts) + "\n}\n"


@cache
def plan_training(space: str, method: str) -> SweepPlan:
    """Return the plan of one training on a shipped space, made once."""
    return make_plan(PlanRequest(load(space), kind="train", method=method))


def read(text: str) -> dict[str, dict[str, Flat]]:
    """Return the plans that :func:`write` wrote."""
    parts = {tuple(name.split(" @ ")): flat for name, flat in json.loads(text).items()}
    shared = {spaces: flat for (row, spaces), flat in parts.items() if row == "*"}
    plans: dict[str, dict[str, Flat]] = {space: {} for space in shared}
    for (row, spaces), flat in parts.items():
        for space in spaces.split(",") if row != "*" else ():
            plans[space][row] = {**shared[space], **flat} if _is_whole(row) else flat
    return plans


def differences(golden: dict[str, dict[str, Flat]], now: dict[str, dict[str, Flat]]) -> list[str]:
    """Return the differences, one per line."""
    found = []
    for space in sorted(golden.keys() | now.keys()):
        before, after = golden.get(space, {}), now.get(space, {})
        for row in sorted(before.keys() | after.keys()):
            old, new = before.get(row, {}), after.get(row, {})
            found += [
                f"{space}, {row}, {key}: was {old.get(key, 'absent')}, is {new.get(key, 'absent')}"
                for key in sorted(old.keys() | new.keys())
                if _text(old.get(key, "absent")) != _text(new.get(key, "absent"))
            ]
    return found


def _plan_space(name: str) -> dict[str, Flat]:
    rows, space = {}, load(name)
    for method, block in space.methods.items():
        rows[f"{method} common"] = _flatten(plan_sweep(name, method, "common"))
        rows[f"{method} train"] = _changes(rows[f"{method} common"], _flatten(plan_training(name, method)))
        if block.published is not None:
            published = _flatten(plan_sweep(name, method, "published"))
            rows[f"{method} published"] = _changes(rows[f"{method} common"], published)
        if any(label.startswith(f"{method}_without_") for label in space.methods):
            ablation = _flatten(make_plan(PlanRequest(space, kind="ablate", method=method, num_cpus=8, num_gpus=1)))
            rows[f"{method} ablate"] = _changes(rows[f"{method} common"], ablation)
    return rows


def _changes(plain: Flat, other: Flat) -> Flat:
    """Return where a plan differs from the method's common sweep."""
    keys = sorted(plain.keys() | other.keys())
    return {key: other.get(key, "absent") for key in keys if _text(plain.get(key)) != _text(other.get(key))}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)  # 1, 1.0 and true are three values, and the order of keys says nothing


def _everywhere(key: str, value: Any, rows: dict[str, Flat]) -> bool:
    whole = [flat for row, flat in rows.items() if _is_whole(row)]
    return all(key in flat and _text(flat[key]) == _text(value) for flat in whole)


def _is_whole(row: str) -> bool:
    return row.endswith(" common")


def _flatten(plan: SweepPlan) -> Flat:
    flat: Flat = {}
    for name, value in json.loads(plan.to_json()).items():
        if name in ("base", "ranges", "protocol", "resources"):
            flat |= {f"{name}.{key}": single for key, single in value.items()}
        elif name in _FIELDS:
            flat[name] = value
    flat["order of ranges"] = list(plan.ranges)  # in which Optuna draws
    flat["num_notes"] = len(plan.notes)
    return flat


if __name__ == "__main__":
    PATH.write_text(write(plan_all()), encoding="utf-8")
