"""Verify a dataset: compare its figures with the paper's Table 1, and its single positives with the authors'."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from training.counts import counted
from training.data.protocol import draw_single_positives
from training.data.sources.annotations import Annotations, Fault, Phase, describe_faults
from training.data.table1 import PAPER, Line, compare, compute_counts, name_class_differences

if TYPE_CHECKING:
    from training.data.store.reader import Store  # loads torch, which label files do not need

SEED = 1200
"""Seed of split and draw in the literature."""
AUTHORS_DRAWS = {"voc": {"train": "6c3763a26035abe6", "test": "d8036dc7413eda64"}}
"""Dataset -> official phase -> digest of the draw of the authors' own script with seed 1200."""
OFFICIAL_LABELS = {"voc": {"train": "cf9dde0cad39d6c7", "test": "b736870cf33c038a"}}
"""Dataset -> official phase -> digest of the labels in the dataset's own files, where we had them.

The digest detects every wrong label. The counts miss wrong labels in val and test, and the draw misses most of them.
"""
_DIGITS = 16
_TICK = "✓"
_CROSS = "✗"
_OFFICIAL = {"train": "official train", "val": "val", "test": "official test"}


@dataclass(frozen=True)
class Digest:
    """The hash of a label matrix of one official phase, before the split.

    Attributes:
        of: ``labels``, the true labels, or ``draw``, the single positives.
        phase: ``train``, ``test``, or ``val`` if the source gives one.
        images, classes: Shape of the matrix.
        sha256: First 16 hex digits, of the matrix as int8 in C order.
        known: The right digest; None if it is not known.
    """

    of: Literal["labels", "draw"]
    phase: str
    images: int
    classes: int
    sha256: str
    known: str | None

    @property
    def is_known(self) -> bool | None:
        """Whether the digest is correct; None if the correct one is not known."""
        return None if self.known is None else self.sha256 == self.known


@dataclass(frozen=True)
class Verification:
    """The result of a verification.

    Attributes:
        dataset: Name of the dataset.
        layout: The layout that was found, in words.
        root: The folder that was read.
        figures: The lines of Table 1.
        digests: Of the labels and the draw of each official phase.
        faults: Faults of the files.
        notes: Oddities that are not faults.
    """

    dataset: str
    layout: str
    root: str
    figures: tuple[Line, ...]
    digests: tuple[Digest, ...]
    faults: tuple[Fault, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_equal(self) -> bool:
        """Whether the files have no faults and everything agrees with paper, official labels and authors' draw."""
        return not self.faults and self.num_different == 0

    @property
    def num_different(self) -> int:
        """The number of figures and hashes that differ."""
        return sum(line.equal is False for line in self.figures) + sum(
            digest.is_known is False for digest in self.digests
        )

    def to_json(self) -> dict[str, Any]:
        """Return the verification as plain values."""
        faults = [str(fault) for fault in self.faults]
        return {**asdict(self), "faults": faults, "seed": SEED, "equal": self.is_equal}


def verify_labels(annotations: Annotations, where: str | None = None) -> Verification:
    """Compare a dataset with the paper, and its single positives with the authors' draw.

    Args:
        annotations: Its labels.
        where: Where they were read, if not from their root folder.
    """
    counts = compute_counts(annotations, SEED)
    return Verification(
        annotations.name,
        annotations.layout,
        str(annotations.root) if where is None else where,
        tuple(compare(counts, PAPER.get(annotations.name))),
        tuple(digest for name in annotations.phases for digest in make_digests(annotations, name)),
        annotations.faults,
        (*annotations.notes, *_unlabelled(annotations), *name_class_differences(annotations)),
    )


def _unlabelled(annotations: Annotations) -> list[str]:
    return [
        f"left out of {_OFFICIAL[phase]}, as in the protocol: {counted(count, 'image')} without any label"
        for phase, count in annotations.num_unlabelled.items()
        if count
    ]


def read_prepared(store: Store) -> Annotations:
    """Return the labels of a store as its source gave them, including images that were left out."""
    manifest = store.manifest
    tables = {name: store.labels(name) for name in manifest.counts}
    return Annotations(
        name=manifest.name,
        layout=f"{manifest.layout}, as prepared",
        root=Path(store.uri),
        classes=manifest.classes,
        phases={
            name: Phase(table.ids, table.files, table.true, table.observed, negatives=table.negatives)
            for name, table in tables.items()
        },
        label_files=manifest.label_files,
        faults=manifest.left_out,
        num_unlabelled=manifest.num_unlabelled,
    )


def make_digests(annotations: Annotations, phase: str) -> list[Digest]:
    """Hash the true labels of an official phase, if any, and its single positives, drawn or given by the source."""
    true, observed = annotations.phases[phase].true, annotations.phases[phase].observed
    digests = []
    if true is not None:
        digests.append(_digest("labels", phase, true, OFFICIAL_LABELS.get(annotations.name)))
    if observed is None:
        assert true is not None, "a phase has true labels, observed ones or both"
        observed = draw_single_positives(true, SEED)
    return [*digests, _digest("draw", phase, observed, AUTHORS_DRAWS.get(annotations.name))]


def _digest(
    of: Literal["labels", "draw"], phase: str, matrix: NDArray[np.bool_], known: Mapping[str, str] | None
) -> Digest:
    # As int8 in C order, like the authors' own arrays, from which the known digests were computed.
    sha256 = hashlib.sha256(np.ascontiguousarray(matrix, dtype=np.int8).tobytes()).hexdigest()
    return Digest(of, phase, len(matrix), matrix.shape[1], sha256[:_DIGITS], (known or {}).get(phase))


def render_verification(verification: Verification) -> list[str]:
    """Return the verification as lines, one per figure."""
    has_paper = any(line.paper is not None for line in verification.figures)
    lines = [f"{verification.dataset}: {verification.layout}, in {verification.root}", ""]
    lines.append(f"  {'Table 1':26}{'here':>14}" + (f"{'paper':>14}" if has_paper else ""))
    lines += [_figure_line(line) for line in verification.figures]
    lines += ["", *(_digest_line(digest) for digest in verification.digests)]
    lines += [f"note: {note}" for note in verification.notes]
    if verification.faults:
        lines += [
            "",
            f"{counted(len(verification.faults), 'fault')} in the files:",
            *(f"  {line}" for line in describe_faults(verification.faults)),
        ]
    return [*lines, "", _verdict(verification, has_paper)]


def _figure_line(line: Line) -> str:
    text = f"  {line.figure:26}{line.computed:>14}"
    if line.paper is None:
        return text
    sign = _TICK if line.equal else f"{_CROSS} {line.difference}".rstrip()
    return f"{text}{line.paper:>14}  {sign}"


def _digest_line(digest: Digest) -> str:
    what = "all labels" if digest.of == "labels" else f"draw, seed {SEED}"
    whose = "the dataset's own" if digest.of == "labels" else "the authors' own"
    verdict = {True: f"  {_TICK} {whose}", False: f"  {_CROSS} {whose} is {digest.known}", None: ""}[digest.is_known]
    return f"  {what:16}  {_OFFICIAL[digest.phase]:14}  sha256 {digest.sha256}{verdict}"


def _verdict(verification: Verification, has_paper: bool) -> str:
    if verification.is_equal:
        found = (
            "all figures agree with the paper" if has_paper else "no faults; the paper has no figures for this dataset"
        )
        own = (
            ", and the draw with the authors' own"
            if any(digest.of == "draw" and digest.is_known for digest in verification.digests)
            else ""
        )
        return f"{verification.dataset}: {found}{own}."
    faults = counted(len(verification.faults), "fault") if verification.faults else ""
    compared = sum(line.equal is not None for line in verification.figures) + sum(
        digest.is_known is not None for digest in verification.digests
    )
    differ = f"{verification.num_different} of {compared} differ" if verification.num_different else ""
    return f"{verification.dataset}: {' and '.join(filter(None, (differ, faults)))}."
