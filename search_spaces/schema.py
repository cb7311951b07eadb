"""Load a search space: read its file, check its shape, and merge in the shipped methods that it uses.

A space says what is fixed, what is searched and how: a ``shared`` block and one block per method, a budget, a scheduler
and the protocol of selection. Only the shape is checked here; whether its keys are settings of a run is checked by
:mod:`orchestrator.planning.settings`, which uses the places kept here.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, PrivateAttr, model_validator

from search_spaces.blocks import (
    Block,
    Budget,
    MethodBlock,
    ProtocolBlock,
    ResourcesBlock,
    Scheduler,
    Search,
    WrittenBlock,
    WrittenShared,
    none_as,
)
from search_spaces.compose import Composer, Origin, find_origin
from search_spaces.reader import (
    Document,
    KeyPath,
    Scalar,
    SpaceError,
    UnknownSpaceError,
    describe_unknown,
    find_file,
    read_document,
    read_text,
)
from search_spaces.render import render_space
from search_spaces.section import Section, check_section, fault
from training.config.spelling import suggest
from training.config.strict import PathName, shown

_FOLDER = Path(__file__).parent


class _Top(Section):
    """What a space's file and the space itself have in common.

    Attributes:
        dataset: The dataset that is searched on; ``data.name`` of every run.
        default_method: The method block that is searched unless another one is named; None means the first.
    """

    dataset: PathName
    default_method: str | None = None
    protocol: ProtocolBlock = ProtocolBlock()
    budget: Budget
    search: Search = Search()
    scheduler: Scheduler = Scheduler()
    resources: ResourcesBlock = ResourcesBlock()


class SpaceFile(_Top):
    """A search space as written in its file.

    Attributes:
        use_methods: Shipped methods that the space takes over (:mod:`search_spaces.compose` has the rule).
        use_published: For which dataset and network it takes over their published settings.
        methods: Label -> a block of its own, or what it changes in a shipped one.
    """

    shared: WrittenShared = WrittenShared()
    use_methods: list[str] = Field(default_factory=list)
    use_published: str | None = None
    methods: Annotated[dict[str, WrittenBlock], none_as({})] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_methods(self) -> Self:
        # Not required as fields, because either of the two is enough.
        labels = dict.fromkeys([*self.use_methods, *self.methods])
        if not labels:
            raise fault("must be given (or use_methods: a list of shipped methods)", "methods")
        if self.default_method not in (None, *labels):
            raise fault(
                f"must be the label of a method block, but got {shown(self.default_method)}. "
                f"{suggest(str(self.default_method), labels)}",
                "default_method",
            )
        return self

    @property
    def is_complete(self) -> bool:
        """Whether the file says everything by itself."""
        builds_on = any(block.like or block.start for block in self.methods.values())
        return not (self.use_methods or builds_on or self.shared.start)


class SearchSpace(_Top):
    """A search space, complete.

    Attributes:
        methods: Label -> block.
    """

    shared: Block = Block()
    methods: dict[str, MethodBlock]

    # Where the space comes from is not part of its content.
    _name: str = PrivateAttr("")
    _reference: str = PrivateAttr("")
    _text: str = PrivateAttr("")
    _document: Document = PrivateAttr(default_factory=lambda: Document("space"))
    _origins: dict[KeyPath, Origin] = PrivateAttr(default_factory=dict)

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self._name

    @property
    def text(self) -> str:
        """The whole space as YAML: the file as it is if it is complete, else with everything merged in."""
        return self._text

    @property
    def file_text(self) -> str:
        """The file as it is."""
        return self._document.text

    @property
    def header(self) -> str:
        """The comment at the top of the file: paper, cost, expected score, command."""
        lines = []
        for line in self.file_text.splitlines():
            if not line.startswith("#"):
                break
            lines.append(line.removeprefix("#").removeprefix(" "))
        return "\n".join(lines)

    @property
    def source(self) -> str:
        """The file's name in messages."""
        return self._document.source

    @property
    def reference(self) -> str:
        """What the space was loaded by: a shipped name or a file."""
        return self._reference

    def changed(self, changes: Mapping[KeyPath, Scalar]) -> SearchSpace:
        """Return a space with other values at some keys, written out in full.

        Args:
            changes: Path of a key that the space has -> its new value.
        """
        values = self.model_dump(exclude_defaults=True)
        for key, value in changes.items():
            section: Any = values
            for part in key[:-1]:
                section = section[part]
            section[key[-1]] = value
        space = SearchSpace.model_validate(values)
        space._name, space._reference, space._document = self._name, self._reference, self._document
        space._origins = self._origins
        space._text = render_space(space, self._document, self._origins)
        return space

    def place(self, key: KeyPath) -> str:
        """Return ``FILE:LINE`` of a key (``("methods", "ignore", "ranges", "optim.lr", "low")``)."""
        document, path = find_origin(self._origins, self._document, key)
        return f"{document.source}:{document.line(path)}"

    def error(self, key: KeyPath, message: str) -> SpaceError:
        """Return the error that blames a key, at the file and line where it is really defined."""
        return SpaceError(f"{self.place(key)}: {message}", key)


def shipped_spaces() -> list[str]:
    """List the names of the spaces that come with the package; published.yaml beside them holds scores."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml") if path.name != "published.yaml")


def load_space(name_or_path: str | Path) -> SearchSpace:
    """Load a search space and check its shape.

    Args:
        name_or_path: A shipped name (``digits``) or a YAML file.

    Raises:
        SpaceError: The space does not exist, or its file is at fault (file, line, key, nearest valid key).
    """
    name, shipped = str(name_or_path), shipped_spaces()
    path = find_file(name, _FOLDER, shipped, "space")
    if path is None:
        raise UnknownSpaceError(name, describe_unknown(name, shipped, "search space"))
    text = read_text(path, _source(path))
    document = read_document(text, _source(path))
    _refuse_settings(document)
    written = check_section(SpaceFile, document)
    composer = Composer(document, written.methods, written.use_methods, written.use_published)
    methods, origins = composer.compose(written.shared)
    top = {name: getattr(written, name) for name in _Top.model_fields}
    shared = Block(fixed=written.shared.fixed, ranges=written.shared.ranges)
    space = SearchSpace(**top, shared=shared, methods=methods)
    space._name, space._reference, space._document, space._origins = path.stem, name, document, origins
    # A complete file keeps its own order and comments.
    space._text = text if written.is_complete else render_space(space, document, origins)
    return space


def _refuse_settings(document: Document) -> None:
    """Refuse a file of settings, such as `promote` writes: they are of one run, and have dotted keys."""
    keys = document.data if isinstance(document.data, dict) else {}
    if "dataset" not in keys and any("." in str(key) for key in keys):
        raise SpaceError(
            f"{document.source}:1: these are the settings of one run, not a search space. Train them: orchestrator "
            f"train --from {shlex.quote(document.source)}"
        )


def _source(path: Path) -> str:
    return f"search_spaces/{path.name}" if path.parent == _FOLDER else str(path)
