"""From a search space and the flags of a command to the settings of its trials: merged, and every value checked.

What is said later wins: shared block, method block, its published settings where they are asked for, ``--set``. Whoever
is at fault is named, with file and line or with the flag.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from orchestrator.errors import UserError
from orchestrator.planning.recipe import COMMON, CUSTOM, PUBLISHED, RECIPE_KEY, name_recipe
from orchestrator.planning.run_config import Flat, check_settings, complete_settings, read_overrides
from search_spaces.ranges import Range
from search_spaces.reader import KeyPath
from search_spaces.schema import Block, MethodBlock, SearchSpace, load_space, shipped_spaces
from search_spaces.section import did_you_mean, listed, shown
from training.config.methods import METHOD_CONFIGS
from training.config.run import Scalar, check_keys
from training.errors import ConfigError
from training.selection import Protocol, SelectBy

# Settings that have a place of their own in the file.
_PLACES = {
    "method.name": "the label of the block, or name: under it",
    "loop.epochs": "budget.epochs",
    "loop.select_epoch_by": "protocol.select_epoch_by",
}


@dataclass(frozen=True)
class Settings:
    """What a space and the flags come to for one method.

    Attributes:
        method: The label of the method block.
        base: The complete settings under dotted keys, before a trial's params.
        ranges: Searched key -> range.
        start_from: Points tried first, over some or all of the ranges.
        protocol: The protocol of selection; its epoch half is ``loop.select_epoch_by`` of the base.
        overridden: The keys that ``--set`` named.
        published: Whether they are the published ones, whatever ``--set`` changed of them; their ranges are a grid.
    """

    method: str
    base: Flat
    ranges: dict[str, Range]
    start_from: tuple[Flat, ...]
    protocol: Protocol
    overridden: frozenset[str]
    published: bool = False

    @property
    def epochs(self) -> int:
        """Full length of a trial."""
        epochs = self.base["loop.epochs"]
        assert isinstance(epochs, int)
        return epochs

    def largest_warmup(self) -> int:
        """Return the most epochs before the first rejection or pseudo-label; 0 for a method that
        knows no such thing.
        """
        rejects_nothing = self.base.get("method.rejection") == "none" and "method.rejection" not in self.ranges
        if rejects_nothing or "method.warmup_epochs" not in self.base:
            return 0
        searched = self.ranges.get("method.warmup_epochs")
        epochs = searched.bounds() if searched else [self.base["method.warmup_epochs"]]
        return max(found for found in epochs if isinstance(found, int))

    def at_first_point(self) -> Settings:
        """Return the settings with the first start point in the base and nothing left to search.

        Raises:
            UserError: They are published ones that leave something to a search.
        """
        if self.published and self.ranges:
            raise UserError(
                f"--recipe {PUBLISHED} of {self.method} must be swept: its authors chose {listed(self.ranges)} on "
                f"validation data. "
                "Use orchestrator sweep, or fix them with --set, which makes another recipe of it."
            )
        first = self.start_from[0] if self.start_from else {}
        return replace(self, base={**self.base, **first}, ranges={}, start_from=({},))


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
        method: Label of a method block; None is the space's default.
        epochs: ``--epochs``; None is the space's budget.
        overrides: ``--set``: dotted key -> value; text is read as YAML reads it. A searched key is fixed by it.
        recipe: ``common`` (or None): the space's set-up, the same for all its methods; ``published``: the method's own.

    Raises:
        SpaceError: The file is at fault.
        UserError: A flag is at fault.
    """
    label = _choose_label(space, method)
    published = _choose_published(space, label, recipe)
    return _Merger(space, label, read_overrides(overrides or {}, epochs), published).merge()


def _choose_label(space: SearchSpace, method: str | None) -> str:
    if method is None:
        return space.default_method or next(iter(space.methods))
    if method not in space.methods:
        having = [
            name
            for name in shipped_spaces()
            if (other := load_space(name)).dataset == space.dataset and method in other.methods
        ]
        hint = f"{method} is in {listed(having)}." if having else did_you_mean(method, space.methods)
        raise UserError(
            f"--method must be one of {listed(space.methods)} in {space.source}, "
            f"but got --method={method}. {hint}".rstrip()
        )
    return method


def _choose_published(space: SearchSpace, label: str, recipe: str | None) -> Block | None:
    if recipe in (None, COMMON):
        return None
    if recipe != PUBLISHED:
        raise UserError(f"--recipe must be {COMMON} or {PUBLISHED}, but got --recipe={recipe}.")
    published = space.methods[label].published
    if published is None:
        having = listed(name for name, block in space.methods.items() if block.published is not None) or "no method"
        raise UserError(
            f"--recipe must be {COMMON} for {label}, of which {space.source} has no published settings, but got "
            f"--recipe={recipe}. "
            f"It has them of {having}."
        )
    return published


class _Merger:
    """One merge; it remembers where each setting comes from, to blame the right line."""

    def __init__(self, space: SearchSpace, label: str, overrides: Flat, published: Block | None) -> None:
        self.space, self.label, self.overrides, self.published = space, label, overrides, published
        self.block: MethodBlock = space.methods[label]
        self.layers: list[tuple[KeyPath, Block]] = [(("shared",), space.shared), (("methods", label), self.block)]
        self.method = self.block.name or label
        self.places: dict[str, KeyPath] = {
            "data.name": ("dataset",),
            "loop.epochs": ("budget", "epochs"),
            "loop.select_epoch_by": ("protocol", "select_epoch_by"),
        }

    def merge(self) -> Settings:
        self._check_method()
        for place, key in self._keys_of_file():
            self._check_key(place, key)
        self._check_override_keys()
        base = self._base()
        ranges = self._ranges()
        for key, found in ranges.items():
            self._check_range(base, key, found)
        if self.published is not None:
            return self._merge_published(base, ranges)
        points = [self._point(base, ranges, index) for index in range(len(self.block.start_from))]
        return Settings(
            method=self.label,
            base=base,
            ranges=ranges,
            # --set may have made points alike.
            start_from=tuple(point for index, point in enumerate(points) if point not in points[:index]),
            protocol=self._protocol(base),
            overridden=frozenset(self.overrides),
        )

    def _merge_published(self, base: Flat, ranges: dict[str, Range]) -> Settings:
        protocol = self._protocol(base)
        if base[RECIPE_KEY] == PUBLISHED and not ranges:
            protocol = replace(protocol, select_config_by=SelectBy.PUBLISHED)  # there is nothing to choose
        points: tuple[Flat, ...] = () if ranges else ({},)
        return Settings(self.label, base, ranges, points, protocol, frozenset(self.overrides), published=True)

    def _check_method(self) -> None:
        if self.method not in METHOD_CONFIGS:
            place = ("methods", self.label, "name") if self.block.name else ("methods", self.label)
            hint = did_you_mean(self.method, METHOD_CONFIGS)
            known = listed(METHOD_CONFIGS)
            what = "name" if self.block.name else "a method block without name: must be labelled with a method, and it"
            raise self.space.error(
                place, f"{what} must be one of {known}, but got {shown(self.method)}. {hint}".rstrip()
            )

    def _keys_of_file(self) -> Iterator[tuple[KeyPath, str]]:
        blocks = list(self.layers)
        if self.block.published is not None:
            blocks.append((self._published_place, self.block.published))
        for part, block in blocks:
            for key in block.fixed:
                yield (*part, "fixed", key), key
            for key in block.ranges:
                yield (*part, "ranges", key), key
        for index, point in enumerate(self.block.start_from):
            for key in point:
                yield ("methods", self.label, "start_from", index, key), key

    def _check_key(self, place: KeyPath, key: str) -> None:
        if place[0] == "shared" and key.startswith("method."):
            raise self.space.error(
                place, f"{key} must not be shared: not every method has it. Put it under methods.{self.label}."
            )
        try:
            check_keys({key: None}, self.method)
        except ConfigError as error:
            raise self.space.error(place, str(error)) from None
        if key in _PLACES and (key, place[2]) != ("loop.epochs", "published"):
            raise self.space.error(place, f"{key} must not be given here. Its place is {_PLACES[key]}.")
        if key == RECIPE_KEY and place[2] == "published":
            raise self.space.error(place, f"{key} must not be given here: what is here is the recipe {PUBLISHED}.")
        if "ranges" in place and key.startswith(("data.", "loop.")):
            raise self.space.error(
                place, f"{key} must be fixed: trials that differ in it cannot be compared. Put it under fixed."
            )

    def _check_override_keys(self) -> None:
        try:
            check_keys(self.overrides, self.method)
        except ConfigError as error:
            raise UserError(f"--set {error.key}: {error}") from None
        if self.overrides.get("method.name", self.method) != self.method:
            raise UserError("--set must not change method.name: its ranges would not fit. Use --method.")
        if RECIPE_KEY in self.overrides:
            raise UserError(
                f"--set must not change {RECIPE_KEY}: every result carries how it was trained. Use --recipe."
            )
        if self.overrides.get("data.name", self.space.dataset) != self.space.dataset:
            raise UserError(
                f"--set must not change data.name: {self.space.source} is for {self.space.dataset}. Use another space."
            )

    def _base(self) -> Flat:
        given: Flat = {
            "data.name": self.space.dataset,
            "method.name": self.method,
            "loop.epochs": self.space.budget.epochs,
            "loop.select_epoch_by": self.space.protocol.select_epoch_by,
            RECIPE_KEY: COMMON,
        }
        for part, block in self.layers:
            self._fix(given, part, block)
        if given[RECIPE_KEY] == PUBLISHED:
            place = f"methods.{self.label}.published"
            raise self.space.error(
                self.places[RECIPE_KEY],
                f"{RECIPE_KEY} must not be {PUBLISHED} here. The place of that recipe is {place}.",
            )
        if self.published is not None:
            self._check_published(self.published)
            self._fix(given, self._published_place, self.published)
            given[RECIPE_KEY] = PUBLISHED
        if given["data.name"] != self.space.dataset:
            raise self.space.error(
                self.places["data.name"],
                f"data.name must be that of dataset: {self.space.dataset}, but got {shown(given['data.name'])}. Change "
                f"one of them.",
            )
        before = self._complete(given) if self.published is not None else {}
        for key, value in self.overrides.items():
            self._check(given, key, value, flag=True)
            given[key] = value
        base = self._complete(given)
        if self.published is not None:
            chosen = self.overrides.keys() & self.published.ranges.keys()
            base[RECIPE_KEY] = CUSTOM if chosen else name_recipe(before, base)
        return base

    @property
    def _published_place(self) -> KeyPath:
        return ("methods", self.label, "published")

    def _check_published(self, published: Block) -> None:
        searched = (key for _, block in self.layers for key in block.ranges if key not in self.block.fixed)
        for key in searched:
            if key not in published.fixed and key not in published.ranges:
                raise self.space.error(
                    self._published_place, f"published must give {key}, which is searched otherwise."
                )

    def _fix(self, given: Flat, part: KeyPath, block: Block) -> None:
        for key, value in block.fixed.items():
            self.places[key] = (*part, "fixed", key)
            self._check(given, key, value)
            given[key] = value

    def _complete(self, given: Flat) -> Flat:
        try:
            return complete_settings(given)
        except ConfigError as error:  # each value is fine by itself
            if self.overrides.keys() & {error.key, "model.backbone"}:
                raise UserError(f"--set: {error}") from None
            raise self.space.error(self.places.get(error.key or "", ("dataset",)), str(error)) from None

    def _ranges(self) -> dict[str, Range]:
        ranges: dict[str, Range] = {}
        layers = self.layers if self.published is None else [(self._published_place, self.published)]
        fixed = self.block.fixed if self.published is None else {}
        for part, block in layers:
            for key, found in block.ranges.items():
                self.places[key] = (*part, "ranges", key)
                ranges[key] = found
        return {key: found for key, found in ranges.items() if key not in fixed and key not in self.overrides}

    def _check_range(self, base: Flat, key: str, found: Range) -> None:
        place = self.places[key]
        if found.type == "categorical":
            named: list[tuple[KeyPath, Scalar]] = [
                ((*place, "choices", index), value) for index, value in enumerate(found.bounds())
            ]
        else:
            # As floats, so that whole ends do not hide that 2.37 epochs will be drawn.
            convert = float if found.type == "float" else int
            named = [((*place, name), convert(end)) for name, end in zip(("low", "high"), found.ends, strict=True)]
        for end_place, value in named:
            self._check(base, key, value, place=end_place)
        if self.space.search.sampler == "grid" or self.published is not None:
            try:
                found.grid()
            except ValueError as error:
                raise self.space.error(place, f"{key}: {error}") from None

    def _protocol(self, base: Flat) -> Protocol:
        try:
            return Protocol(SelectBy(self.space.protocol.select_config_by), SelectBy(str(base["loop.select_epoch_by"])))
        except ValueError as error:  # only --set gets here: the file's words are checked with its shape
            raise UserError(f"--set loop.select_epoch_by: {error}") from None

    def _point(self, base: Flat, ranges: Mapping[str, Range], index: int) -> Flat:
        point: Flat = {}
        for key, value in self.block.start_from[index].items():
            place = ("methods", self.label, "start_from", index, key)
            if key in ranges:
                self._check(base, key, value, place=place)
                if not ranges[key].contains(value):
                    raise self.space.error(
                        place,
                        f"{key} must be within its range ({ranges[key]}), but got {shown(value)}. Widen the range.",
                    )
                point[key] = value
            elif key not in self.overrides and base[key] != value:
                raise self.space.error(
                    place,
                    f"{key} must be one of the searched keys ({listed(ranges)}), but is fixed at {shown(base[key])}. "
                    f"Give it a range.",
                )
        return point

    def _check(self, base: Flat, key: str, value: Scalar, place: KeyPath | None = None, *, flag: bool = False) -> None:
        try:
            check_settings({**base, key: value})
        except ConfigError as error:
            if flag:
                raise UserError(f"--set {key}={shown(value)}: {error}") from None
            raise self.space.error(place or self.places[error.key or key], str(error)) from None
