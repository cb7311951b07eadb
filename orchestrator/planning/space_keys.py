"""Check which settings a search space and the flags may name, and where."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.errors import UserError
from orchestrator.planning.layers import FileOrigin, list_keys, make_layer
from orchestrator.planning.recipe import PUBLISHED, RECIPE_KEY
from orchestrator.planning.run_config import Flat
from search_spaces.blocks import ResourcesBlock
from search_spaces.reader import parse_scalar
from search_spaces.schema import SearchSpace
from search_spaces.section import Changed, change_section
from training.config.methods import METHOD_CONFIGS
from training.config.run import Scalar, check_keys
from training.config.spelling import suggest
from training.config.strict import shown
from training.errors import ConfigError

# What a space says besides settings.
_SECTIONS = ("protocol", "budget", "search", "scheduler", "resources")

# Settings that have their own place in the file.
_PLACES = {
    "method.name": "the label of the block, or name: under it",
    "loop.epochs": "budget.epochs",
    "loop.select_epoch_by": "protocol.select_epoch_by",
}


def change_sections(space: SearchSpace, overrides: Mapping[str, Scalar]) -> tuple[SearchSpace, dict[str, Scalar]]:
    """Apply what ``--set`` changes in the space itself, such as ``resources.gpus_per_worker`` or ``budget.cap_gib``.

    Returns:
        The changed space, and the overrides that are left: those of settings.

    Raises:
        UserError: A key does not exist, or a value is wrong.
    """
    changes, left = _split(overrides)
    sections = {name: _change(name, getattr(space, name), values) for name, values in changes.items()}
    return space.model_copy(update=sections), left


def change_resources(resources: ResourcesBlock, overrides: Mapping[str, Scalar]) -> tuple[ResourcesBlock, Flat]:
    """As :func:`change_sections`, where there is no space: only the resources can be changed.

    Raises:
        UserError: A key does not exist, or a value is wrong.
    """
    changes, left = _split(overrides)
    for name in changes:
        if name != "resources":
            raise UserError(f"--set {name}.{next(iter(changes[name]))} needs a space: there is nothing to search here.")
    return _change("resources", resources, changes.get("resources", {})), left


def _split(overrides: Mapping[str, Scalar]) -> tuple[dict[str, dict[str, Scalar]], Flat]:
    changes: dict[str, dict[str, Scalar]] = {}
    left = {}
    for key, value in overrides.items():
        section, _, name = key.partition(".")
        if section in _SECTIONS:
            changes.setdefault(section, {})[name] = parse_scalar(value) if isinstance(value, str) else value
        else:
            left[key] = value
    return changes, left


def _change(name: str, section: Changed, values: Mapping[str, Scalar]) -> Changed:
    if "" in values:
        keys = ", ".join(f"{name}.{key}" for key in type(section).model_fields)
        raise UserError(f"--set {name} is a whole section. Name one of its keys: {keys}.")
    try:
        return change_section(section, values)
    except ValueError as error:
        raise UserError(f"--set {name}.{error}") from None


def check_space_keys(space: SearchSpace, label: str) -> None:
    """Check the keys that apply to one method: those of the shared block, its own block and its start points.

    Raises:
        SpaceError: A key does not exist, or is in the wrong place.
    """
    block, root = space.methods[label], FileOrigin(space, ())
    method, own = block.name or label, root.under("methods", label)
    _check_method(method, label, own)
    for key, origin in list_keys(make_layer(space.shared, root.under("shared"))):
        if key.startswith("method."):
            raise origin.error(f"{key} cannot be shared: not every method has it. Put it under methods.{label}.")
        _check_key(key, method, origin)
    for key, origin in list_keys(make_layer(block, own)):
        _check_key(key, method, origin)
    if block.published is not None:
        for key, origin in list_keys(make_layer(block.published, own.under("published"))):
            _check_key(key, method, origin, published=True)
    for index, point in enumerate(block.start_from):
        for key in point:
            _check_key(key, method, own.under("start_from", index, key))


def check_override_keys(space: SearchSpace, method: str, overrides: Mapping[str, Scalar]) -> None:
    """Check the keys that ``--set`` names.

    Raises:
        UserError: A key does not exist, or must be changed in another way.
    """
    try:
        check_keys(overrides, method)
    except ConfigError as error:
        raise UserError(f"--set: {error}") from None
    if overrides.get("method.name", method) != method:
        raise UserError("--set cannot change method.name: its ranges would not fit. Use --method.")
    if RECIPE_KEY in overrides:
        raise UserError(f"--set cannot change {RECIPE_KEY}: every result says how it was trained. Use --recipe.")
    if overrides.get("data.name", space.dataset) != space.dataset:
        raise UserError(f"--set cannot change data.name: {space.source} is for {space.dataset}. Use another space.")


def _check_method(method: str, label: str, origin: FileOrigin) -> None:
    if method in METHOD_CONFIGS:
        return
    if method == label:
        what = "the label of a method block without name:"
    else:
        origin, what = origin.under("name"), "name"
    raise origin.error(f"{what} must be a method, but got {shown(method)}. {suggest(method, METHOD_CONFIGS)}")


def _check_key(key: str, method: str, origin: FileOrigin, *, published: bool = False) -> None:
    try:
        check_keys({key: None}, method)
    except ConfigError as error:
        raise origin.error(str(error)) from None
    # A published block has no budget, so its epochs are given as a setting.
    if key in _PLACES and not (published and key == "loop.epochs"):
        raise origin.error(f"{key} does not belong here. Its place is {_PLACES[key]}.")
    if published and key == RECIPE_KEY:
        raise origin.error(f"{key} does not belong here: these settings are the {PUBLISHED} recipe.")
    if "ranges" in origin.key and key.startswith(("data.", "loop.")):
        raise origin.error(f"{key} cannot be searched: trials with different values cannot be compared. Fix it.")
