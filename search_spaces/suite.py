"""Load a suite: which methods are compared on which datasets, with what budget, and by which contrasts.

A suite is a YAML file, shipped in ``search_spaces/suites/`` or a user's own. It names search spaces, one per dataset,
and the methods to search in each. Only its shape is checked here; whether a space has its methods is checked when the
cells are planned.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from search_spaces.blocks import Flat, SchedulerName
from search_spaces.reader import (
    Document,
    KeyPath,
    SpaceError,
    describe_unknown,
    find_file,
    read_document,
    read_text,
)
from search_spaces.section import Number, Section, check_section, fault
from training.config.spelling import suggest
from training.config.strict import PathName, shown

MAX_CONTRASTS = 5
"""With more, and few seeds, hardly any difference could be significant (Holm's correction)."""
BudgetBy = Literal["images", "trials", "gpu-hours"]

_FOLDER = Path(__file__).parent / "suites"


class SuiteBudget(Section):
    """What the search of each cell may cost.

    Attributes:
        by: ``images`` passed forward and backward, the same on every machine; or, marked in every table, ``trials`` or
            ``gpu-hours``, which are CPU-hours where a trial has no GPU.
        amount: How many; with ``of``, in trials of full length.
        of: A method: the budget is as many images as ``amount`` of its trials pass.
    """

    by: BudgetBy = "images"
    amount: Number
    of: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.amount <= 0:
            raise fault(f"must be greater than 0, but got {self.amount}", "amount")
        if self.by == "trials" and self.amount % 1:
            raise fault(f"must be a whole number of trials, but got {self.amount}", "amount")
        if self.of is not None and self.by != "images":
            raise fault(f"belongs to a budget by images, but this one is by {self.by}. Remove it", "of")
        return self


class Contrast(Section):
    """A comparison of two methods that is registered before anything runs.

    Attributes:
        method, against: The difference is the first minus the second.
        dataset: Where; may be left out in a suite of one dataset.
    """

    method: str
    against: str
    dataset: PathName | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.method == self.against:
            raise fault(f"must be another method than {self.method}", "against")
        return self


class SuiteFile(Section):
    """A suite as written in its file.

    Attributes:
        spaces: Shipped names or files of search spaces, one per dataset.
        methods: Labels of method blocks, which are compared with each other.
        bounds: Labels of methods that know more than the others, such as all labels; shown, but in no comparison.
        budget: Of each cell's search.
        seeds: Fresh training seeds that are reported, the same for all methods.
        race_frac: Share of the search's cost that the race of its best trials may take.
        recipe: As ``--recipe``.
        scheduler: ``none`` trains every trial to its end; ``asha`` and ``screen`` stop some early, and spend what that
            saves on further trials. None is that of each space.
        fixed: Settings of every run, as with ``--set``.
        contrasts: Registered comparisons; all others are shown as ties.
    """

    spaces: Annotated[list[str], Field(min_length=1)]
    methods: Annotated[list[str], Field(min_length=1)]
    bounds: list[str] = Field(default_factory=list)
    budget: SuiteBudget
    seeds: Annotated[int, Field(ge=2, le=100)] = 5
    race_frac: Annotated[float, Field(ge=0, le=1)] = 0.5
    recipe: Literal["common", "published"] | None = None
    scheduler: SchedulerName | None = None
    fixed: Flat = Field(default_factory=dict)
    contrasts: list[Contrast] = Field(default_factory=list)

    @model_validator(mode="after")
    def _check(self) -> Self:
        labels = [*self.methods, *self.bounds]
        for name, words in (("spaces", self.spaces), ("methods", labels)):
            twice = [word for word in dict.fromkeys(words) if words.count(word) > 1]
            if twice:
                raise fault(f"must differ from one another, but {', '.join(twice)} is given twice", name)
        if self.budget.of is not None and self.budget.of not in labels:
            raise fault(
                f"must be a method of the suite, but got {shown(self.budget.of)}. {suggest(self.budget.of, labels)}",
                *("budget", "of"),
            )
        if len(self.contrasts) > MAX_CONTRASTS:
            raise fault(
                f"must be at most {MAX_CONTRASTS}, but got {len(self.contrasts)}: with more, and few seeds, hardly any "
                f"difference could be significant. All other comparisons are shown as ties",
                "contrasts",
            )
        return self


@dataclass(frozen=True)
class Suite:
    """A suite and its file.

    Attributes:
        name: The file's name without its suffix.
        reference: What it was loaded by: a shipped name or a file.
    """

    name: str
    reference: str
    file: SuiteFile
    document: Document

    def error(self, key: KeyPath, message: str) -> SpaceError:
        """Return the error that blames a key, with file and line."""
        return self.document.error(key, message)


def shipped_suites() -> list[str]:
    """List the names of the suites that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_suite(name_or_path: str | Path) -> Suite:
    """Load a suite and check its shape.

    Args:
        name_or_path: A shipped name (``digits``) or a YAML file.

    Raises:
        SpaceError: It does not exist, or its file is at fault (file, line, key, nearest valid key).
    """
    name, shipped = str(name_or_path), shipped_suites()
    path = find_file(name, _FOLDER, shipped, "suite")
    if path is None:
        raise SpaceError(describe_unknown(name, shipped, "suite"))
    source = f"search_spaces/suites/{path.name}" if path.parent == _FOLDER else str(path)
    return read_suite(read_text(path, source), source, path.stem, name)


def read_suite(text: str, source: str, name: str, reference: str) -> Suite:
    """Return the suite that a text describes.

    Args:
        text: YAML.
        source: The file's name in messages.
        name, reference: As in :class:`Suite`.

    Raises:
        SpaceError: As :func:`load_suite`.
    """
    document = read_document(text, source)
    suite = Suite(name, reference, check_section(SuiteFile, document), document)
    for number, contrast in enumerate(suite.file.contrasts):
        for part, label in (("method", contrast.method), ("against", contrast.against)):
            if label not in suite.file.methods:
                raise suite.error(
                    ("contrasts", number, part),
                    f"contrasts.{number}.{part} must be one of the methods, but got {shown(label)}. "
                    f"{suggest(label, suite.file.methods)}",
                )
    return suite
