"""Count labels: positives per class, classes without any observed positive, labels that occur together."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.datasets.known_counts import KnownCounts, count_known
from orchestrator.terminal_text import one_line
from training.data.split import SplitData

Counts = NDArray[np.int64]
LEARNING = ("train", "val")


@dataclass(frozen=True)
class LabelStats:
    """Label counts of a dataset.

    Attributes:
        name: Name of the dataset.
        classes: C names.
        images: Split -> number of images.
        observed: Split -> observed positives per class, (C,).
        true: Split -> true positives per class, (C,), or None if only observed labels exist. Test is not opened.
        negative: Known negatives of train per class, (C,), or None if none is known.
        known: What is known of the labels of train.
        together: (C, C), train images in which both classes are truly present (on the diagonal: the class), or None.
    """

    name: str
    classes: tuple[str, ...]
    images: dict[str, int]
    observed: dict[str, Counts]
    true: dict[str, Counts | None]
    together: Counts | None
    negative: Counts | None
    known: KnownCounts

    @property
    def unlearnable(self) -> list[int]:
        """Classes without an observed positive in train."""
        return [int(index) for index in np.nonzero(self.observed["train"] == 0)[0]]

    def to_json(self, num_pairs: int) -> dict[str, Any]:
        """Return the counts as plain values."""
        per_class = {
            label: {
                **{f"{split}_observed": int(self.observed[split][at]) for split in LEARNING},
                **{
                    f"{split}_true": None if (true := self.true[split]) is None else int(true[at]) for split in LEARNING
                },
                **({} if self.negative is None else {"train_negative": int(self.negative[at])}),
            }
            for at, label in enumerate(self.classes)
        }
        return {
            "dataset": self.name,
            "images": self.images,
            "train_labels": asdict(self.known),
            "classes": per_class,
            "no_learnable_positive": [self.classes[at] for at in self.unlearnable],
            "together": [
                {"classes": [self.classes[first], self.classes[second]], "images": num}
                for first, second, num in self.pairs(num_pairs)
            ],
        }

    def pairs(self, num: int) -> list[tuple[int, int, int]]:
        """Return (class, class, images) of the pairs that occur together most often; each pair once."""
        if self.together is None:
            return []
        # Above the diagonal: each pair once, and no class with itself.
        first, second = np.triu_indices(len(self.classes), k=1)
        counts = self.together[first, second]
        order = np.argsort(-counts, kind="stable")[:num]
        return [(int(first[at]), int(second[at]), int(counts[at])) for at in order if counts[at]]


def count_labels(name: str, train: SplitData, val: SplitData, num_test: int) -> LabelStats:
    """Count the labels of train and val.

    Args:
        name: Name of the dataset.
        train, val: Its splits.
        num_test: Number of test images; their labels are not opened.
    """
    splits = {"train": train, "val": val}
    true = {split: None if data.true is None else data.true.numpy().astype(bool) for split, data in splits.items()}
    negative = None if train.negative is None else train.negative.numpy()
    present = true["train"]
    return LabelStats(
        name=name,
        classes=train.classes,
        images={split: len(data) for split, data in splits.items()} | {"test": num_test},
        observed={split: data.observed.numpy().astype(bool).sum(0) for split, data in splits.items()},
        true={split: None if labels is None else labels.sum(0) for split, labels in true.items()},
        together=None if present is None else _count_together(present),
        negative=None if negative is None else negative.sum(0),
        known=count_known(train.observed.numpy(), negative),
    )


def table_of_classes(stats: LabelStats) -> tuple[list[str], list[list[object]]]:
    """Return the headers and rows of a table with one line per class."""
    columns = {f"{split} observed": stats.observed[split] for split in LEARNING}
    if stats.negative is not None:
        columns["train negative"] = stats.negative
    columns |= {f"{split} true": counts for split in LEARNING if (counts := stats.true[split]) is not None}
    rows: list[list[object]] = [
        [label, *(int(counts[at]) for counts in columns.values())] for at, label in enumerate(stats.classes)
    ]
    return ["class", *columns], rows


def render_stats(stats: LabelStats, num_pairs: int) -> list[str]:
    """Return the lines below the table: images per split, classes without positives, pairs that occur together."""
    lines = ["images: " + ", ".join(f"{count:,} {split}" for split, count in stats.images.items())]
    lines.append(f"labels of train: {stats.known.describe()}")
    missing = [split for split in LEARNING if stats.true[split] is None]
    if missing:
        lines.append(f"true labels of {' and '.join(missing)}: not available")
    unlearnable = stats.unlearnable
    listed = f": {', '.join(one_line(stats.classes[at]) for at in unlearnable)}" if unlearnable else ""
    lines.append(f"classes with no learnable positive in train: {len(unlearnable)} of {len(stats.classes)}{listed}")
    pairs = stats.pairs(num_pairs)
    if pairs:
        lines.append(
            "most often together in train: "
            + ", ".join(f"{_pair(stats, first, second)} {num:,}" for first, second, num in pairs)
        )
    return lines


def _pair(stats: LabelStats, first: int, second: int) -> str:
    return f"{one_line(stats.classes[first])} + {one_line(stats.classes[second])}"


def _count_together(labels: NDArray[np.bool_]) -> Counts:
    # Matrix products are fast in floats, and exact up to 16 million images.
    floats = labels.astype(np.float32)
    return np.asarray((floats.T @ floats).round(), dtype=np.int64)
