"""The shape of a search space, and the loader that checks it.

A space says what is fixed, what is searched and how: a ``shared`` block and one block per method, a budget, a scheduler
and the protocol of selection. Here only its shape is checked; whether its keys are settings of a run is for
:mod:`orchestrator.planning.plan`, which uses the line numbers kept here.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from search_spaces.ranges import Range
from search_spaces.reader import Document, KeyPath, SpaceError, read_document, read_text
from search_spaces.section import ScalarValue, Section, check_section, did_you_mean, fault, listed, shown

_FOLDER = Path(__file__).parent
_SUFFIXES = (".yaml", ".yml")


def _none_as(empty: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: empty if value is None else value)  # ``ranges:`` with nothing under it


Flat = Annotated[dict[str, ScalarValue], _none_as({})]


class Block(Section):
    """Settings and ranges under dotted keys (``optim.lr``)."""

    fixed: Flat = Field(default_factory=dict)
    ranges: Annotated[dict[str, Range], _none_as({})] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _refuse_both(self) -> Self:
        for key in self.ranges:
            if key in self.fixed:
                raise fault("must be either fixed or searched, but is under both. Remove one of them", "ranges", key)
        return self


class MethodBlock(Block):
    """What one method adds to the shared block; where both name a key, this one wins.

    Attributes:
        name: The method, where the block's label is that of a variant; None is the label.
        start_from: Points tried first, over the ranges of this block and the shared one. What a point leaves out is
            drawn.
        published: How the method's authors train it on this dataset, for ``--recipe published``: beside what is fixed
            above, these settings, and none of the ranges above. Every key that is searched above must be here. Ranges
            of its own are the grid from which the authors chose on validation data; all of it is run. None: nothing is
            known.
        epoch_s: Measured seconds of an epoch with the space's own settings and one worker, for the estimate of
            ``plan``.
    """

    name: str | None = None
    start_from: Annotated[list[Flat], _none_as([])] = Field(default_factory=list)
    published: Block | None = None
    epoch_s: Annotated[float, Field(gt=0)] | None = None


class ProtocolBlock(Section):
    """What chooses the configuration, and what the epoch."""

    select_config_by: Literal["published", "clean-val", "observed-val"] = "clean-val"
    select_epoch_by: Literal["clean-val", "observed-val", "last"] = "clean-val"


class Budget(Section):
    """How much may be spent.

    Attributes:
        trials: Trials of a sweep.
        epochs: Full length of a trial.
        startup_trials: Trials, start points included, before TPE decides.
        time_limit_s: Seconds that a trial may take; a longer one fails with TIMEOUT. None is no limit.
        cap_gib: What the checkpoints of a sweep may take on disk.
    """

    trials: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]
    startup_trials: Annotated[int, Field(ge=0)] = 10
    time_limit_s: Annotated[float, Field(gt=0)] | None = None
    cap_gib: Annotated[float, Field(gt=0)] = 20.0


class Search(Section):
    """Who proposes the next point, and from which seed."""

    sampler: Literal["tpe", "random", "grid"] = "tpe"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class Scheduler(Section):
    """Who cuts trials short.

    Attributes:
        name: ``asha`` or ``none``.
        reduction_factor: One in so many trials goes on at each rung.
        grace_epochs: Epochs that every trial gets; None is the largest warm-up of the space + 2.
    """

    name: Literal["asha", "none"] = "asha"
    reduction_factor: Annotated[float, Field(gt=1)] = 3
    grace_epochs: Annotated[int, Field(ge=1)] | None = None


class ResourcesBlock(Section):
    """What one trial takes; trials of one worker may share a GPU (0.5)."""

    workers: Annotated[int, Field(ge=1)] = 1
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check_share(self) -> Self:
        if self.gpus_per_worker % 1:
            got = f"but got {self.gpus_per_worker:g}"
            if self.workers > 1:
                raise fault(
                    f"must be whole with more than one worker, which cannot share a GPU, {got}. Use 1",
                    "gpus_per_worker",
                )
            if self.gpus_per_worker > 1:
                raise fault(
                    f"must be a part of one GPU or whole ones, {got}. Use {math.ceil(self.gpus_per_worker)}",
                    "gpus_per_worker",
                )
        return self


class SearchSpace(Section):
    """A search space, as its file says it.

    Attributes:
        dataset: The dataset that is searched on; ``data.name`` of every run.
        default_method: The block searched unless another one is named; None is the first.
        methods: Label -> block.
    """

    dataset: str
    default_method: str | None = None
    protocol: ProtocolBlock = ProtocolBlock()
    budget: Budget
    search: Search = Search()
    scheduler: Scheduler = Scheduler()
    resources: ResourcesBlock = ResourcesBlock()
    shared: Block = Block()
    methods: Annotated[dict[str, MethodBlock], Field(min_length=1), _none_as({})]

    _name: str = PrivateAttr("")
    _reference: str = PrivateAttr("")
    _text: str = PrivateAttr("")
    _document: Document = PrivateAttr(default_factory=lambda: Document("space"))

    @model_validator(mode="after")
    def _check_default_method(self) -> Self:
        if self.default_method not in (None, *self.methods):
            hint = did_you_mean(str(self.default_method), self.methods)
            raise fault(
                f"must be one of {listed(self.methods)}, but got {shown(self.default_method)}. {hint}".rstrip(),
                "default_method",
            )
        return self

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self._name

    @property
    def text(self) -> str:
        """The file, as it is."""
        return self._text

    @property
    def header(self) -> str:
        """The comment at the top of the file: paper, cost, expected score, command."""
        lines = []
        for line in self._text.splitlines():
            if not line.startswith("#"):
                break
            lines.append(line.removeprefix("#").removeprefix(" "))
        return "\n".join(lines)

    @property
    def source(self) -> str:
        """The file, as messages call it."""
        return self._document.source

    @property
    def reference(self) -> str:
        """What it was loaded by: a shipped name or a file."""
        return self._reference

    @property
    def lines(self) -> dict[KeyPath, int]:
        """Path of a key (``("methods", "ignore", "ranges", "optim.lr", "low")``) -> its line, from 1."""
        return self._document.lines

    def error(self, key: KeyPath, message: str) -> SpaceError:
        """Return the error that says: this key of this file, on this line."""
        return self._document.error(key, message)


def shipped_spaces() -> list[str]:
    """List the names of the spaces that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_space(name_or_path: str | Path) -> SearchSpace:
    """Load a search space and check its shape.

    Args:
        name_or_path: A shipped name (``digits``) or a YAML file.

    Raises:
        SpaceError: There is no such space, or its file is at fault (file, line, key, nearest valid key).
    """
    path = _find(str(name_or_path))
    text = read_text(path, _source(path))
    document = read_document(text, _source(path))
    space = check_section(SearchSpace, document)
    space._name, space._reference, space._text, space._document = path.stem, str(name_or_path), text, document
    return space


def _find(name: str) -> Path:
    shipped = shipped_spaces()
    if name in shipped:
        return _FOLDER / f"{name}.yaml"
    if name.endswith(_SUFFIXES) or re.search(r"[/\\]", name):
        return Path(name).expanduser()
    hint = did_you_mean(name, shipped)
    raise SpaceError(
        f"space must be a shipped one ({listed(shipped)}) or a YAML file, but got space={shown(name)}. {hint}".rstrip()
    )


def _source(path: Path) -> str:
    return f"search_spaces/{path.name}" if path.parent == _FOLDER else str(path)
