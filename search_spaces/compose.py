"""Merge the method blocks of a space with the shipped methods that it builds on.

There is one rule: blocks are merged key by key, and the later one wins. First comes the block named by ``like``,
then the shipped method (``use_methods``), then the block in the space itself. A fixed key is no longer searched, a key
with a range is no longer fixed, and a range of null removes the range. A range, a list of points and published settings
are replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from search_spaces.blocks import Block, MethodBlock, ShippedBlock, WrittenBlock, WrittenShared
from search_spaces.ranges import Range
from search_spaces.reader import Document, KeyPath, Scalar, read_document, read_text
from search_spaces.section import check_section
from training.config.spelling import suggest
from training.config.strict import shown

METHODS_FOLDER = Path(__file__).parent / "methods"

Origin = tuple[Document, KeyPath]
"""Where something is defined: the file, and the path of the key in it."""


@dataclass(frozen=True)
class Layer:
    """A method block of one file.

    Attributes:
        block: What the file says.
        origin: Where it says so.
        published: The published settings that apply here, and where they are defined.
    """

    block: WrittenBlock
    origin: Origin
    published: tuple[Block, Origin] | None


@dataclass
class Merged:
    """A method block while its layers are being merged.

    Attributes:
        origins: Path of a key within the block -> where it is really defined.
        layers: Where the layers are defined, starting with the one that the others change.
    """

    name: str
    fixed: dict[str, Scalar] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)
    acts_when: dict[str, dict[str, list[Scalar]]] = field(default_factory=dict)
    start: dict[str, Scalar] = field(default_factory=dict)
    start_from: list[dict[str, Scalar]] = field(default_factory=list)
    published: Block | None = None
    epoch_s: float | None = None
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    layers: list[Origin] = field(default_factory=list)

    def lay(self, layer: Layer) -> None:
        """Lay a block over this one."""
        block, (document, path) = layer.block, layer.origin
        self.name = block.name or self.name
        # First remove what this layer takes away, then add what it gives: a key may be fixed below and searched here.
        for key in (*block.fixed, *(key for key, found in block.ranges.items() if found is None)):
            self._unsearch(key)
        for key in block.ranges:
            self.fixed.pop(key, None)
        self.fixed |= block.fixed
        self.ranges |= {key: found for key, found in block.ranges.items() if found is not None}
        self.acts_when |= block.acts_when
        self.start |= block.start
        self.start_from = block.start_from or self.start_from
        self.epoch_s = block.epoch_s or self.epoch_s
        self.layers.append(layer.origin)
        # Kept for each key, so that a message blames the line that the user has to change, in whatever file it is.
        keys: list[KeyPath] = [(part,) for part in block.model_fields_set]
        keys += [(part, key) for part in ("fixed", "ranges", "start", "acts_when") for key in getattr(block, part)]
        self.origins |= {key: (document, path + key) for key in keys}
        if layer.published is not None:
            self.published, self.origins[("published",)] = layer.published

    def _unsearch(self, key: str) -> None:
        # A start point must not give a key that is not searched.
        self.ranges.pop(key, None)
        self.start.pop(key, None)
        self.start_from = [{name: value for name, value in point.items() if name != key} for point in self.start_from]

    def finish(
        self, label: str, shared: WrittenShared, document: Document
    ) -> tuple[MethodBlock, dict[KeyPath, Origin]]:
        """Return the block with its start points completed, and where its keys are defined."""
        # The shared start holds for all methods, so also for one that fixes some of its keys.
        start = {key: value for key, value in shared.start.items() if key not in self.fixed} | self.start
        points = self.start_from or ([{}] if start else [])
        completed: dict[KeyPath, Origin] = {
            ("start_from", index, key): self.origins.get(("start", key), (document, ("shared", "start", key)))
            for index, point in enumerate(points)
            for key in start
            if key not in point
        }
        block = MethodBlock(
            name=None if self.name == label else self.name,
            fixed=self.fixed,
            ranges=self.ranges,
            acts_when=self.acts_when,
            start_from=[{**start, **point} for point in points],
            published=self.published,
            epoch_s=self.epoch_s,
        )
        return block, self.origins | completed


class Composer:
    """Composes the method blocks of one space.

    Args:
        document: The file of the space.
        methods: Its own method blocks.
        use_methods: The shipped methods that it takes.
        use_published: For which dataset and network it takes their published settings.
    """

    def __init__(
        self, document: Document, methods: Mapping[str, WrittenBlock], use_methods: list[str], use_published: str | None
    ) -> None:
        self.document, self.methods = document, methods
        self.use_methods, self.use_published = use_methods, use_published
        self.merged: dict[str, Merged] = {}
        self._check_uses()

    def compose(self, shared: WrittenShared) -> tuple[dict[str, MethodBlock], dict[KeyPath, Origin]]:
        """Return all method blocks, those of ``use_methods`` first, and where their keys are really defined."""
        blocks: dict[str, MethodBlock] = {}
        origins: dict[KeyPath, Origin] = {}
        # In order and without repetition: the space may change a method that it uses.
        for label in dict.fromkeys([*self.use_methods, *self.methods]):
            merged = self._merge(label, ())
            blocks[label], own = merged.finish(label, shared, self.document)
            origins |= {("methods", label, *key): origin for key, origin in own.items()}
            # Where the method is defined, not where the space changes it.
            origins[("methods", label)] = merged.layers[0]
        return blocks, origins

    def _check_uses(self) -> None:
        for index, label in enumerate(self.use_methods):
            if label not in shipped_methods():
                raise self.document.error(
                    ("use_methods", index),
                    f"use_methods must name shipped methods, but got {shown(label)}. "
                    f"{suggest(label, shipped_methods())}",
                )
        known = sorted({key for block, _ in shipped_methods().values() for key in block.published_on})
        if self.use_published not in (None, *known):
            raise self.document.error(
                ("use_published",),
                f"use_published must name a dataset and network with published settings, but got "
                f"{shown(self.use_published)}. {suggest(str(self.use_published), known)}",
            )

    def _merge(self, label: str, within: tuple[str, ...]) -> Merged:
        # Merged once, because several variants may be like the same block.
        if label in self.merged:
            return self.merged[label]
        layers = list(self._layers(label))
        merged = Merged(label)
        for layer in layers:
            if layer.block.like is not None:
                merged = self._copy(layer, (*within, label))
        for layer in layers:
            merged.lay(layer)
        self.merged[label] = merged
        return merged

    def _copy(self, layer: Layer, within: tuple[str, ...]) -> Merged:
        """Return a copy of the block that another one is like."""
        label, (document, path) = str(layer.block.like), layer.origin
        known = [*self.methods, *(name for name in shipped_methods() if name not in self.methods)]
        if label in within or label not in known:
            problem = "must not lead back to itself" if label in within else "must be the label of a method block"
            raise document.error((*path, "like"), f"like {problem}, but got {shown(label)}. {suggest(label, known)}")
        like = self._merge(label, within)
        # Without the published settings: the authors published the method, not its variant.
        return Merged(
            like.name, {**like.fixed}, {**like.ranges}, {**like.acts_when}, {**like.start},
            [{**point} for point in like.start_from], epoch_s=like.epoch_s, origins={**like.origins},
        )  # fmt: skip

    def _layers(self, label: str) -> Iterator[Layer]:
        # `like` may name a shipped method that the space does not use.
        if label in self.use_methods or label not in self.methods:
            block, document = shipped_methods()[label]
            on = self.use_published or ""
            yield _make_layer(block, block.published_on.get(on), (document, (label,)), ("published_on", on))
        if label in self.methods:
            own = self.methods[label]
            yield _make_layer(own, own.published, (self.document, ("methods", label)), ("published",))


def _make_layer(block: WrittenBlock, published: Block | None, origin: Origin, key: KeyPath) -> Layer:
    """Return a layer; ``key`` leads from its block to the published settings."""
    document, path = origin
    return Layer(block, origin, None if published is None else (published, (document, path + key)))


@cache
def shipped_methods() -> dict[str, tuple[ShippedBlock, Document]]:
    """Return the blocks of ``search_spaces/methods/`` by label, each with its file."""
    found: dict[str, tuple[ShippedBlock, Document]] = {}
    # All files, because one may define several labels and a misspelt label needs the nearest of all.
    for path in sorted(METHODS_FOLDER.glob("*.yaml")):
        source = f"search_spaces/methods/{path.name}"
        document = read_document(read_text(path, source), source)
        for label, block in check_section(dict[str, ShippedBlock], document).items():
            if label in found:
                raise document.error((label,), f"{label} must be defined once, but is in {found[label][1].source} too.")
            found[label] = (block, document)
    return found


def find_origin(origins: Mapping[KeyPath, Origin], document: Document, key: KeyPath) -> Origin:
    """Return where a key of a space is really defined: in the file of the space unless ``origins`` says otherwise."""
    # The longest path that is known: the origin of a range is also that of its ends.
    for end in range(len(key), 0, -1):
        if key[:end] in origins:
            found, path = origins[key[:end]]
            return found, path + key[end:]
    return document, key
