"""Write a search space out in full, as YAML that loads to the same space."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from search_spaces.compose import Origin, find_origin
from search_spaces.reader import Document, KeyPath, Scalar, parse_scalar

if TYPE_CHECKING:
    from search_spaces.blocks import Block, MethodBlock
    from search_spaces.schema import SearchSpace

# What YAML reads as text without quotes, wherever it occurs.
_PLAIN = re.compile(r"[A-Za-z_][\w./-]*")


def render_space(space: SearchSpace, document: Document, origins: Mapping[KeyPath, Origin]) -> str:
    """Return a space as YAML, with the comments that are next to its keys in their files."""
    return "\n".join(_Writer(document, origins).space(space)).rstrip() + "\n"


class _Writer:
    def __init__(self, document: Document, origins: Mapping[KeyPath, Origin]) -> None:
        self.document, self.origins = document, origins
        self.told: set[tuple[str, int]] = set()

    def space(self, space: SearchSpace) -> Iterator[str]:
        yield from (f"# {line}".rstrip() for line in space.header.splitlines())
        yield ""
        yield from self._key(("dataset",), _scalar(space.dataset))
        if space.default_method is not None:
            yield from self._key(("default_method",), _scalar(space.default_method))
        for name in ("protocol", "budget", "search", "scheduler", "resources"):
            yield from self._key((name,), _flow(getattr(space, name).model_dump()))
        yield ""
        yield from self._key(("shared",))
        yield from self._block(("shared",), space.shared)
        yield ""
        yield from self._key(("methods",))
        for label, block in space.methods.items():
            yield from self._method(("methods", label), block)
            yield ""

    def _method(self, path: KeyPath, block: MethodBlock) -> Iterator[str]:
        yield from self._key(path)
        for name in ("name", "epoch_s"):
            if (value := getattr(block, name)) is not None:
                yield from self._key((*path, name), _scalar(value))
        yield from self._block(path, block)
        if block.acts_when:
            yield from self._key((*path, "acts_when"))
        for key, condition in block.acts_when.items():
            yield from self._key((*path, "acts_when", key), _flow(condition))
        if block.start_from:
            # The files mostly give start, from which the points are completed; its comments belong to them.
            above, beside = self._comments((*path, "start"))
            yield from (f"    {line}" for line in above)
            yield f"    start_from:{beside}"
        for index, point in enumerate(block.start_from):
            yield from self._point((*path, "start_from", index), point)
        if block.published is not None:
            yield from self._key((*path, "published"))
            yield from self._block((*path, "published"), block.published)

    def _block(self, path: KeyPath, block: Block) -> Iterator[str]:
        if block.fixed:
            yield from self._key((*path, "fixed"))
        for key, value in block.fixed.items():
            yield from self._key((*path, "fixed", key), _scalar(value))
        if block.ranges:
            yield from self._key((*path, "ranges"))
        for key, found in block.ranges.items():
            yield from self._key((*path, "ranges", key), _flow(found.model_dump(exclude_defaults=True)))

    def _point(self, path: KeyPath, point: Mapping[str, Scalar]) -> Iterator[str]:
        indent = "  " * (len(path) - 1)
        if not point:
            yield f"{indent}- {{}}"
        for number, (key, value) in enumerate(point.items()):
            above, beside = self._comments((*path, key))
            yield from (f"{indent}{line}" for line in above)
            yield f"{indent}{'- ' if number == 0 else '  '}{key}: {_scalar(value)}{beside}"

    def _key(self, path: KeyPath, value: str = "") -> Iterator[str]:
        above, beside = self._comments(path)
        indent = "  " * (len(path) - 1)
        yield from (f"{indent}{line}" for line in above)
        yield f"{indent}{path[-1]}: {value}".rstrip() + beside

    def _comments(self, path: KeyPath) -> tuple[list[str], str]:
        """Return the comment lines above a key and the comment next to it; no comment is repeated."""
        document, key = find_origin(self.origins, self.document, path)
        number = document.lines.get(key)
        # Variants share the lines of the block that they are like.
        if number is None or (document.source, number) in self.told:
            return [], ""
        self.told.add((document.source, number))
        lines = document.text.splitlines()
        first = number - 1
        while first > 0 and lines[first - 1].lstrip().startswith("#"):
            first -= 1
        if first == 0 and document is self.document:  # the header, which is there already
            first = number - 1
        # A # within quotes would be found too; at worst, there is one comment too many.
        found = re.search(r"\s(#\s.*)$", lines[number - 1])
        return [line.strip() for line in lines[first : number - 1]], f"  {found[1]}" if found else ""


def _flow(values: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {_scalar(value)}" for key, value in values.items()) + "}"


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_scalar(item) for item in value) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and parse_scalar(value) == value:
        return value
    return json.dumps(value)  # JSON's scalars are YAML's
