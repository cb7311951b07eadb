"""Read the published scores of all methods (``published.yaml``), and say what sets them apart from a run of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, PlainValidator, model_validator

from search_spaces.blocks import Flat
from search_spaces.compose import shipped_methods
from search_spaces.reader import Document, Scalar, read_document, read_text
from search_spaces.section import Section, check_section, fault
from training.config.spelling import suggest

PUBLISHED_FILE = Path(__file__).parent / "published.yaml"
MAIN_METRIC = "mAP"
METRICS = (MAIN_METRIC, "CP", "CR", "CF1", "OP", "OR", "OF1")
DATASETS = ("voc", "coco", "nuswide", "cub")


@dataclass(frozen=True)
class Score:
    """A score in percent, and its deviation over runs if it is known."""

    value: float
    deviation: float | None = None


def _read_scores(written: Any) -> dict[str, Score]:
    """Return metric -> score of a number, a pair or a mapping."""
    if isinstance(written, dict):
        for name in written:
            if name not in METRICS:
                raise fault(f"is not a metric. {suggest(name, METRICS)}", name)
        return {name: Score(_percent(value, name)) for name, value in written.items()}
    if isinstance(written, list):
        if len(written) != 2:
            raise fault(f"must be [mean, deviation], but has {len(written)} numbers")
        return {MAIN_METRIC: Score(_percent(written[0]), _percent(written[1]))}
    return {MAIN_METRIC: Score(_percent(written))}


def _percent(value: Any, *key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise fault(f"must be a score in percent, 0 to 100, but got {value!r}", *key)
    return float(value)


Scores = Annotated[dict[str, Score], PlainValidator(_read_scores)]


class Source(Section):
    """A table of a paper or of its repository.

    Attributes:
        reference: The paper.
        where: Which table.
        runs: Runs behind each score; None if it is not stated.
        settings: What is known of the set-up, as settings of a run.
        differs: What sets its scores apart from ours whatever the settings.
        rows: Method -> dataset -> scores.
    """

    reference: str
    where: str
    runs: Annotated[int, Field(ge=1)] | None = None
    settings: Flat
    differs: list[str]
    rows: dict[str, dict[str, Scores]]

    @model_validator(mode="after")
    def _check_datasets(self) -> Self:
        for method, row in self.rows.items():
            for dataset in row:
                if dataset not in DATASETS:
                    raise fault(
                        f"must be a dataset with published scores. {suggest(dataset, DATASETS)}",
                        *("rows", method, dataset),
                    )
        return self


class PublishedFile(Section):
    """The whole file.

    Attributes:
        others: Methods that this program does not have -> what they are.
        sources: Name -> table.
    """

    others: dict[str, str]
    sources: dict[str, Source]


@dataclass(frozen=True)
class PublishedScore:
    """A published score with its source."""

    method: str
    dataset: str
    metric: str
    score: Score
    source: Source


@cache
def load_published() -> PublishedFile:
    """Return the published scores that come with the package."""
    source = f"search_spaces/{PUBLISHED_FILE.name}"
    return check_published(read_document(read_text(PUBLISHED_FILE, source), source))


def check_published(document: Document) -> PublishedFile:
    """Return a document's content.

    Raises:
        SpaceError: Its shape is wrong, or a row is no method (file, line, nearest word).
    """
    found = check_section(PublishedFile, document)
    known = [*shipped_methods(), *found.others]
    for name, source in found.sources.items():
        for method in source.rows:
            if method not in known:
                raise document.error(
                    ("sources", name, "rows", method),
                    f"{method} must be a shipped method or one of others. {suggest(method, known)}",
                )
    return found


def find_published(method: str, dataset: str, model: str | None = None) -> list[PublishedScore]:
    """Return what was published about a method on a dataset, in the order of the file.

    Args:
        method: Label of the method's block, or one of the file's ``others``.
        dataset: Name of the dataset.
        model: ``model.name`` of the network; None means any.
    """
    return [
        PublishedScore(method, dataset, metric, score, source)
        for source in load_published().sources.values()
        if model in (None, source.settings.get("model.name"))
        for metric, score in source.rows.get(method, {}).get(dataset, {}).items()
    ]


def explain_differences(source: Source, settings: Mapping[str, Scalar]) -> list[str]:
    """Say what keeps a run from being comparable with a source: settings that differ, and what the source is known for.

    Args:
        source: The source.
        settings: All settings of the run, under dotted keys.
    """
    differing = [
        f"{key} {theirs} there, {settings[key]} here"
        for key, theirs in source.settings.items()
        if key in settings and settings[key] != theirs
    ]
    return [*differing, *source.differs]
