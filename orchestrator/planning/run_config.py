"""Read the settings of one run from flags and files, check them strictly, and write them to a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from orchestrator.errors import UserError
from orchestrator.planning.recipe import RECIPE_KEY, name_recipe
from search_spaces.reader import KeyPath, parse_scalar, read_document, read_text
from training.config.fit import check_fit
from training.config.run import Scalar, TrainConfig
from training.config.strict import shown
from training.errors import ConfigError

Flat = dict[str, Scalar]


def complete_settings(flat: Mapping[str, Scalar]) -> Flat:
    """Return all settings of the run that dotted keys describe, checked individually and against each other.

    Raises:
        ConfigError: A key is unknown, a value has the wrong type or is out of range, or settings contradict each other.
    """
    config = TrainConfig.from_flat(flat)
    check_fit(config)
    return config.flatten()


def read_overrides(overrides: Mapping[str, Scalar], epochs: int | None) -> Flat:
    """Return ``--set`` and ``--epochs`` as one mapping; text is read as in a YAML file.

    Raises:
        UserError: They disagree, or ``--epochs`` is below 1.
    """
    read = {key: parse_scalar(value) if isinstance(value, str) else value for key, value in overrides.items()}
    if epochs is not None:
        if read.setdefault("loop.epochs", epochs) != epochs:
            raise UserError(
                f"--epochs is {epochs}, but --set loop.epochs is {shown(read['loop.epochs'])}. Leave one out."
            )
        if epochs < 1:
            raise UserError(f"--epochs must be at least 1, but got --epochs={epochs}.")
    return read


def change_config(config: Mapping[str, Scalar], overrides: Mapping[str, Scalar], epochs: int | None = None) -> Flat:
    """Return the complete settings of a run after the changes of ``--epochs`` and ``--set``.

    Raises:
        UserError: A flag is at fault.
    """
    changed = read_overrides(overrides, epochs)
    if RECIPE_KEY in changed:
        raise UserError(
            f"--set cannot change {RECIPE_KEY}: every result says how it was trained. Train a space with --recipe."
        )
    if changed.get("method.name", config.get("method.name")) != config.get("method.name"):
        raise UserError(
            "--set cannot change method.name: the other settings would not fit. Train a space instead, with --method."
        )
    try:
        after = complete_settings({**config, **changed})
    except ConfigError as error:
        raise UserError(f"--set: {error}") from None
    # Both complete: a setting that is merely spelt out with its default does not change the recipe.
    return after | {RECIPE_KEY: name_recipe(complete_settings(config), after)}


def read_config(path: str | Path) -> Flat:
    """Return the complete settings of a run from a YAML file, under dotted keys or in sections.

    Raises:
        SpaceError: The file is at fault.
    """
    document = read_document(read_text(Path(path).expanduser(), str(path)), str(path))
    if not isinstance(document.data, dict):
        raise document.error((), "the file must be a mapping (key: value) with one setting per line.")
    if "methods" in document.data:
        raise document.error(
            ("methods",), f"this is a search space, not the settings of one run. Use it without --from: train {path}"
        )
    places: dict[str, KeyPath] = {}
    flat: Flat = {}
    for key, value in document.data.items():
        for leaf, single in value.items() if isinstance(value, dict) else [("", value)]:
            # Both forms are read: optim.lr: 1e-3, and optim: {lr: 1e-3}.
            dotted = f"{key}.{leaf}".rstrip(".")
            places[dotted] = (key, leaf) if leaf else (key,)
            if isinstance(single, dict | list):
                raise document.error(places[dotted], f"{dotted} must be a single value, but got {shown(single)}.")
            flat[dotted] = single
    if not isinstance(flat.get("method.name", ""), str):
        raise document.error(places["method.name"], f"method.name must be text, but got {shown(flat['method.name'])}.")
    try:
        return complete_settings(flat)
    except ConfigError as error:
        raise document.error(places.get(error.key or "", ()), str(error)) from None


def render_config(config: Mapping[str, Scalar], comment: str = "") -> str:
    """Return the settings of a run as YAML that :func:`read_config` reads, under a comment."""
    header = [f"# {line}".rstrip() for line in comment.splitlines()]
    # JSON's scalars are YAML's.
    return "\n".join([*header, *(f"{key}: {json.dumps(value)}" for key, value in config.items())]) + "\n"
