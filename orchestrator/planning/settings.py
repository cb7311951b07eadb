"""Merge a search space and the flags of a command into the settings of its trials, and check every value.

The later one wins: the top of the space, the shared block, the method block, its published settings if requested,
``--set``. Errors name the file and line, or the flag.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.errors import UserError
from orchestrator.planning.inactive import describe_idle, find_inactive
from orchestrator.planning.layers import (
    FileOrigin,
    FlagOrigin,
    Layer,
    Origin,
    Searched,
    Setting,
    layer_settings,
    make_layer,
)
from orchestrator.planning.recipe import COMMON, CUSTOM, PUBLISHED, RECIPE_KEY, name_recipe
from orchestrator.planning.run_config import Flat, complete_settings, read_overrides
from orchestrator.planning.space_keys import check_override_keys, check_space_keys
from search_spaces.blocks import Block
from search_spaces.conditions import drop_idle
from search_spaces.ranges import Range
from search_spaces.schema import SearchSpace, load_space, shipped_spaces
from training.config.fit import DIGITS, DIGITS_BACKBONE, DIGITS_IMAGE_SIZE, PRETEXT
from training.config.run import Scalar, TrainConfig
from training.config.spelling import did_you_mean, listed, suggest
from training.config.strict import shown
from training.errors import ConfigError
from training.selection import Protocol, SelectBy


@dataclass(frozen=True)
class Settings:
    """The settings of one method that result from a space and the flags.

    Attributes:
        method: The label of the method block.
        base: The complete settings under dotted keys, before a trial's params.
        ranges: Searched key -> range.
        start_from: Points tried first, over some or all of the ranges.
        protocol: The protocol of selection; its epoch half is ``loop.select_epoch_by`` of the base.
        overridden: The keys that ``--set`` named.
        published: Whether they are the published ones, even if ``--set`` changed some of them; their ranges are a grid.
        origins: Where each setting of the base comes from; settings that are not listed have their defaults.
        inactive: Keys with a range that are not searched, as they would have no effect -> the setting that is why.
        sometimes_inactive: Searched keys that have no effect in some trials -> in which.
        acts_when: For these keys: searched key -> another one -> the values of that one with which the first acts.
        idle_in_start: Start point of the space, from 0 -> keys that it gives and that have no effect in it.
    """

    method: str
    base: Flat
    ranges: dict[str, Range]
    start_from: tuple[Flat, ...]
    protocol: Protocol
    overridden: frozenset[str]
    published: bool = False
    origins: Mapping[str, Origin] = field(default_factory=dict, repr=False)
    inactive: Mapping[str, str] = field(default_factory=dict)
    sometimes_inactive: Mapping[str, str] = field(default_factory=dict)
    acts_when: dict[str, dict[str, list[Scalar]]] = field(default_factory=dict)
    idle_in_start: Mapping[int, list[str]] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """Full length of a trial."""
        epochs = self.base["loop.epochs"]
        assert isinstance(epochs, int)
        return epochs

    def largest_warmup(self) -> int:
        """Return the most epochs before the first rejection or pseudo-label; 0 for a method without either."""
        rejects_nothing = self.base.get("method.rejection") == "none" and "method.rejection" not in self.ranges
        if rejects_nothing or "method.warmup_epochs" not in self.base:
            return 0
        searched = self.ranges.get("method.warmup_epochs")
        epochs = searched.bounds() if searched else [self.base["method.warmup_epochs"]]
        return max(found for found in epochs if isinstance(found, int))

    def at_first_point(self) -> Settings:
        """Return the settings with the first start point in the base and nothing left to search.

        Raises:
            UserError: They are published settings with something left to search.
        """
        if self.published and self.ranges:
            raise UserError(
                f"--recipe {PUBLISHED} of {self.method} must be swept: its authors chose {listed(self.ranges)} on "
                "validation data. Use orchestrator sweep, or fix them with --set, which makes it another recipe."
            )
        first = self.start_from[0] if self.start_from else {}
        return replace(self, base={**self.base, **first}, ranges={}, acts_when={}, start_from=({},))


def merge_settings(
    space: SearchSpace,
    method: str | None = None,
    epochs: int | None = None,
    overrides: Mapping[str, Scalar] | None = None,
    recipe: str | None = None,
) -> Settings:
    """Merge a space and the flags of a command, and check every value, range end and start point.

    Args:
        space: The search space.
        method: Label of a method block; None means the space's default.
        epochs: ``--epochs``; None means the space's budget.
        overrides: ``--set``: dotted key -> value; text is read as in a YAML file. A searched key is fixed by it.
        recipe: ``common`` (or None): the space's set-up, the same for all its methods; ``published``: that of the
            method's authors.

    Raises:
        SpaceError: The file is at fault.
        UserError: A flag is at fault.
    """
    label = _choose_label(space, method)
    published = _choose_published(space, label, recipe)
    flags = read_overrides(overrides or {}, epochs)
    # Check keys before values: a misspelt key is the more likely cause of any later error.
    check_space_keys(space, label)
    check_override_keys(space, space.methods[label].name or label, flags)
    files = [_top_layer(space, label), *_block_layers(space, label, published)]
    below = _lay_checked(files)
    _check_base(space, label, below, published)
    if published is not None:
        # Below the flags, so that a flag that changes a published setting also changes the recipe's name.
        below = layer_settings(below, Layer({RECIPE_KEY: Setting(PUBLISHED, FlagOrigin(f"--recipe {PUBLISHED}"))}))
    # The settings without the flags, to tell whether the flags change the recipe.
    before = _complete(space, below, flags) if published is not None else {}
    merged = layer_settings(below, _flag_layer(below, flags))
    base = _complete(space, merged, flags)
    if published is not None:
        # The grid is published; a single point of it that the user chose is not.
        chosen = flags.keys() & published.ranges.keys()
        base[RECIPE_KEY] = CUSTOM if chosen else name_recipe(before, base)
    inactive, acts_when = find_inactive(space, label, base, merged.ranges)
    is_grid = space.search.sampler == "grid" or published is not None
    for key, found in merged.ranges.items():
        _check_range(base, key, found, grid=is_grid and key not in inactive)
    settings = Settings(
        method=label,
        base=base,
        ranges={key: found.range for key, found in merged.ranges.items() if key not in inactive},
        start_from=(),
        protocol=_make_protocol(space, base),
        overridden=frozenset(flags),
        published=published is not None,
        origins={key: setting.origin for key, setting in merged.fixed.items()},
        inactive=inactive,
        sometimes_inactive={key: describe_idle(found, merged.ranges) for key, found in acts_when.items()},
        acts_when=acts_when,
    )
    return _start_published(settings) if published is not None else _start_common(settings, space)


def _choose_label(space: SearchSpace, method: str | None) -> str:
    if method is None:
        return space.default_method or next(iter(space.methods))
    if method not in space.methods:
        having = [
            name
            for name in shipped_spaces()
            if (other := load_space(name)).dataset == space.dataset and method in other.methods
        ]
        if having:
            raise UserError(f"--method={method} is not in {space.source}, but in {listed(having)}. Use that space.")
        raise UserError(
            f"--method={method} is not in {space.source}. {suggest(method, space.methods)} "
            f"To see them all: orchestrator spaces {shlex.quote(str(space.reference))}"
        )
    return method


def _choose_published(space: SearchSpace, label: str, recipe: str | None) -> Block | None:
    if recipe in (None, COMMON):
        return None
    if recipe != PUBLISHED:
        hint = did_you_mean(recipe or "", [COMMON, PUBLISHED])
        raise UserError(f"--recipe must be {COMMON} or {PUBLISHED}, but got --recipe={recipe}. {hint}".rstrip())
    published = space.methods[label].published
    if published is None:
        having = listed(name for name, block in space.methods.items() if block.published is not None)
        if not having:
            raise UserError(f"{space.source} has no published settings. Use --recipe {COMMON}.")
        raise UserError(
            f"{space.source} has no published settings for {label}, only for {having}. Use --recipe {COMMON}."
        )
    return published


def _top_layer(space: SearchSpace, label: str) -> Layer:
    """Return the settings that have their own place in the file."""
    root = FileOrigin(space, ())
    return Layer(
        _implied_settings(space, label)
        | {
            "data.name": Setting(space.dataset, root.under("dataset")),
            "method.name": Setting(space.methods[label].name or label, root.under("methods", label, "name")),
            "loop.epochs": Setting(space.budget.epochs, root.under("budget", "epochs")),
            "loop.select_epoch_by": Setting(space.protocol.select_epoch_by, root.under("protocol", "select_epoch_by")),
            RECIPE_KEY: Setting(COMMON, root),
        }
    )


def _implied_settings(space: SearchSpace, label: str) -> dict[str, Setting]:
    """Return what the dataset decides, so that a short space need not say it: digit scenes have one size, one trunk."""
    if space.dataset != DIGITS:
        return {}
    implied: dict[str, Scalar] = {"data.image_size": DIGITS_IMAGE_SIZE}
    # Another trunk keeps the default weights: those of the pretext task fit only this one.
    backbone = (space.shared.fixed | space.methods[label].fixed).get("model.backbone", DIGITS_BACKBONE)
    if backbone == DIGITS_BACKBONE:
        implied |= {"model.backbone": DIGITS_BACKBONE, "model.weights": PRETEXT}
    origin = FileOrigin(space, ("dataset",))
    return {key: Setting(value, origin) for key, value in implied.items()}


def _block_layers(space: SearchSpace, label: str, published: Block | None) -> list[Layer]:
    root = FileOrigin(space, ())
    own = root.under("methods", label)
    layers = [make_layer(space.shared, root.under("shared")), make_layer(space.methods[label], own)]
    if published is None:
        return layers
    # A published set-up searches nothing that the common one searches.
    return [*(Layer(layer.fixed) for layer in layers), make_layer(published, own.under("published"))]


def _flag_layer(below: Layer, flags: Flat) -> Layer:
    """Return the settings from the flags, each checked as a change to the layers below."""
    layer = Layer({key: Setting(value, FlagOrigin(f"--set {key}={shown(value)}")) for key, value in flags.items()})
    given = below.values
    # One by one, so that the message blames the right flag.
    for key, setting in layer.fixed.items():
        _check(given, {key: setting}, setting.origin)
        given[key] = setting.value
    return layer


def _lay_checked(layers: list[Layer]) -> Layer:
    """Merge the layers of a file and check the values of each, including those that a later layer replaces."""
    merged = Layer()
    for layer in layers:
        merged = layer_settings(merged, layer)
        _check({}, merged.fixed)
    return merged


def _check(base: Flat, given: Mapping[str, Setting], origin: Origin | None = None) -> None:
    """Check settings on top of others.

    Args:
        base: Values that are known to be valid.
        given: The settings to check.
        origin: What to blame; None blames the setting at fault.

    Raises:
        ValueError: A value is wrong (the class depends on the origin).
    """
    try:
        TrainConfig.from_flat({**base, **{key: setting.value for key, setting in given.items()}})
    except ConfigError as error:
        named = given.get(error.key or "", next(iter(given.values())))
        raise (origin or named.origin).error(str(error)) from None


def _check_base(space: SearchSpace, label: str, below: Layer, published: Block | None) -> None:
    recipe, dataset = below.fixed[RECIPE_KEY], below.fixed["data.name"]
    if recipe.value == PUBLISHED:
        raise recipe.origin.error(
            f"{RECIPE_KEY} cannot be {PUBLISHED} here. Published settings belong under methods.{label}.published."
        )
    if dataset.value != space.dataset:
        raise dataset.origin.error(
            f"data.name must be that of dataset: {space.dataset}, but got {shown(dataset.value)}. Change one of them."
        )
    if published is not None:
        block = space.methods[label]
        for key in {**space.shared.ranges, **block.ranges}:
            if key not in block.fixed and key not in published.fixed and key not in published.ranges:
                origin = FileOrigin(space, ("methods", label, "published"))
                raise origin.error(f"published must give {key}, which the common recipe searches.")


def _complete(space: SearchSpace, merged: Layer, flags: Flat) -> Flat:
    """Return all settings of the run, checked against each other; each value is known to be valid on its own."""
    try:
        return complete_settings(merged.values)
    except ConfigError as error:
        # If --set gives the backbone, it is to blame when the file's weights do not fit.
        if flags.keys() & {error.key, "model.backbone"}:
            raise UserError(f"--set: {error}") from None
        setting = merged.fixed.get(error.key or "")
        if setting is not None:
            raise setting.origin.error(str(error)) from None
        # The file does not have the setting, so blame what its default does not fit.
        cause = merged.fixed.get("model.backbone")
        origin = cause.origin if cause and error.key == "model.weights" else FileOrigin(space, ("dataset",))
        raise origin.error(f"{error}, the default. Give {error.key} under shared.fixed.") from None


def _check_range(base: Flat, key: str, found: Searched, *, grid: bool) -> None:
    ends: list[tuple[FileOrigin, Scalar]]
    if found.range.type == "categorical":
        ends = [(found.origin.under("choices", index), value) for index, value in enumerate(found.range.bounds())]
    else:
        # As floats, so that whole-number ends do not hide that 2.37 epochs would be drawn.
        convert = float if found.range.type == "float" else int
        low, high = found.range.ends
        ends = [(found.origin.under("low"), convert(low)), (found.origin.under("high"), convert(high))]
    for origin, value in ends:
        _check(base, {key: Setting(value, origin)}, origin)
    if grid:
        try:
            found.range.grid()
        except ValueError as error:
            raise found.origin.error(f"{key}: {error}") from None


def _make_protocol(space: SearchSpace, base: Flat) -> Protocol:
    try:
        return Protocol(SelectBy(space.protocol.select_config_by), SelectBy(str(base["loop.select_epoch_by"])))
    except ValueError as error:  # only --set gets here: the file's names are checked with its shape
        raise UserError(f"--set loop.select_epoch_by: {error}") from None


def _start_published(settings: Settings) -> Settings:
    """Return published settings with the start points of their runs: each point of their grid, or the only point."""
    if settings.ranges:
        return settings
    is_published = settings.base[RECIPE_KEY] == PUBLISHED
    protocol = replace(settings.protocol, select_config_by=SelectBy.PUBLISHED) if is_published else settings.protocol
    return replace(settings, start_from=({},), protocol=protocol)  # there is nothing to choose


def _start_common(settings: Settings, space: SearchSpace) -> Settings:
    points: list[Flat] = []
    left_out: dict[int, list[str]] = {}
    for index, point in enumerate(space.methods[settings.method].start_from):
        origin = FileOrigin(space, ("methods", settings.method, "start_from", index))
        kept = {key: value for key, value in point.items() if _is_searched(settings, key, value, origin.under(key))}
        acting = drop_idle(kept, settings.acts_when)
        if idle := [key for key in kept if key not in acting]:
            left_out[index] = idle
        if acting not in points:  # --set may have made points equal
            points.append(acting)
    return replace(settings, start_from=tuple(points), idle_in_start=left_out)


def _is_searched(settings: Settings, key: str, value: Scalar, origin: FileOrigin) -> bool:
    """Return whether a key of a start point is searched; a fixed key may only repeat its value."""
    if key in settings.inactive:
        return False
    if key in settings.ranges:
        found = settings.ranges[key]
        _check(settings.base, {key: Setting(value, origin)}, origin)
        if not found.contains(value):
            raise origin.error(
                f"{key} of a start point must be within its range ({found}), but got {shown(value)}. "
                f"Change the point, or widen the range."
            )
        return True
    if key not in settings.overridden and settings.base[key] != value:
        raise origin.error(
            f"{key} is fixed at {shown(settings.base[key])}, so a start point cannot change it. Give it a range; "
            f"these keys have one: {listed(settings.ranges)}."
        )
    return False
