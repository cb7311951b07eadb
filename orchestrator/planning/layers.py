"""Layer settings over one another, and record where each comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from orchestrator.errors import UserError
from search_spaces.blocks import Block
from search_spaces.ranges import Range
from search_spaces.reader import KeyPath
from search_spaces.schema import SearchSpace
from training.config.run import Scalar


@dataclass(frozen=True)
class FileOrigin:
    """A key of a search space; as text ``FILE:LINE``."""

    space: SearchSpace = field(repr=False)
    key: KeyPath

    def error(self, message: str) -> ValueError:
        """Return the error that blames this key."""
        return self.space.error(self.key, message)

    def under(self, *key: str | int) -> FileOrigin:
        """Return a key below this one."""
        return FileOrigin(self.space, (*self.key, *key))

    def __str__(self) -> str:
        return self.space.place(self.key)


@dataclass(frozen=True)
class FlagOrigin:
    """A flag of the command, with its value (``--set optim.lr=1e-3``)."""

    flag: str

    def error(self, message: str) -> ValueError:
        """Return the error that blames this flag."""
        # Without its value, which the message already gives.
        return UserError(f"{self.flag.partition(' ')[0]}: {message}")

    def __str__(self) -> str:
        return self.flag


Origin = FileOrigin | FlagOrigin


@dataclass(frozen=True)
class Setting:
    """A value, and where it comes from."""

    value: Scalar
    origin: Origin


@dataclass(frozen=True)
class Searched:
    """A range, and where it is defined."""

    range: Range
    origin: FileOrigin


@dataclass(frozen=True)
class Layer:
    """Settings and ranges under dotted keys."""

    fixed: Mapping[str, Setting] = field(default_factory=dict)
    ranges: Mapping[str, Searched] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Scalar]:
        """The settings without their origins."""
        return {key: setting.value for key, setting in self.fixed.items()}


def layer_settings(*layers: Layer) -> Layer:
    """Lay each layer over the ones before it: the later one wins, and a key that it fixes is no longer searched."""
    fixed: dict[str, Setting] = {}
    ranges: dict[str, Searched] = {}
    for layer in layers:
        fixed |= layer.fixed
        # In order of first mention, because Optuna draws in this order.
        ranges = {key: found for key, found in ranges.items() if key not in layer.fixed} | dict(layer.ranges)
    return Layer(fixed, ranges)


def make_layer(block: Block, origin: FileOrigin) -> Layer:
    """Return what a block of a search space fixes and searches."""
    return Layer(
        {key: Setting(value, origin.under("fixed", key)) for key, value in block.fixed.items()},
        {key: Searched(found, origin.under("ranges", key)) for key, found in block.ranges.items()},
    )


def list_keys(layer: Layer) -> Iterator[tuple[str, FileOrigin]]:
    """Yield the keys that a layer of a file names, and their locations."""
    entries: list[tuple[str, Setting | Searched]] = [*layer.fixed.items(), *layer.ranges.items()]
    for key, entry in entries:
        assert isinstance(entry.origin, FileOrigin)
        yield key, entry.origin
