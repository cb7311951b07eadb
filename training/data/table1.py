"""Compute a dataset's figures in Table 1 of the IGNORE supplement (ECCV 2024), and compare them with the paper's."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from training.data.protocol import split_train_val
from training.data.sources.annotations import Annotations, join_negatives

NUM_NAMED = 3


@dataclass(frozen=True)
class Counts:
    """The figures of one dataset in Table 1; those that need true labels are None if only observed ones exist.

    Attributes:
        classes: C.
        positives_per_image: Mean number of true labels of a training image.
        train: Training images, after the split.
        val: Validation images.
        test: Test images.
        single_positives: Training images with an observed positive.
        false_negatives: True labels of training images that are not observed.
        true_negatives: Assumed negatives that are truly negative.
        assumed_negatives: Labels of which nothing is known: ``train * classes - single_positives``, and without those
            that are known to be negative.
        known_negatives: Labels that are known to be negative; the paper's datasets have none.
    """

    classes: int
    positives_per_image: float | None
    train: int
    val: int
    test: int
    single_positives: int
    false_negatives: int | None
    true_negatives: int | None
    assumed_negatives: int
    known_negatives: int = 0


FIGURES = {
    "classes": "classes",
    "positives_per_image": "positives per train image",
    "train": "training images",
    "val": "validation images",
    "test": "test images",
    "single_positives": "single positives",
    "false_negatives": "false negatives",
    "true_negatives": "true negatives",
    "assumed_negatives": "assumed negatives",
    "known_negatives": "known negatives",
}
"""Field of ``Counts`` -> its name in the table."""

PAPER = {
    "voc": Counts(20, 1.46, 4574, 1143, 5823, 4574, 2091, 84815, 86906),
    "coco": Counts(80, 2.94, 65665, 16416, 40137, 65665, 127413, 5060122, 5187535),
    "nuswide": Counts(81, 1.89, 120000, 30000, 60260, 93156, 133677, 9493167, 9626844),
    "cub": Counts(312, 31.4, 4795, 1199, 5794, 4795, 145756, 1345489, 1491245),
}
"""Table 1 as printed."""

# fmt: off
OWN_POSITIVES = {
    "voc": {
        "train": (327, 268, 395, 260, 365, 213, 590, 539, 566, 151, 269, 632, 237, 265, 1994, 269, 171, 257, 273, 290),
        "test": (343, 284, 370, 248, 341, 208, 571, 541, 553, 152, 269, 654, 245, 261, 2093, 258, 154, 250, 271, 285),
    },
}
# fmt: on
"""Dataset -> official phase -> positive images of each class in the dataset's own lists, where we had them.

Table 1 does not notice a wrong label of val or test; these counts do, and they name its class.
"""


@dataclass(frozen=True)
class Line:
    """One figure and the paper's.

    Attributes:
        key: Field of ``Counts``.
        figure: Its name in words.
        computed: The figure of this dataset, as text; "not available" if it needs true labels and there are none.
        paper: The figure as printed in the paper, or None for a dataset that is not in it.
        equal: Whether they agree; None if there is nothing to compare with.
        difference: Computed minus paper, with its sign; empty if they agree or one is missing.
    """

    key: str
    figure: str
    computed: str
    paper: str | None
    equal: bool | None
    difference: str


def compute_counts(annotations: Annotations, split_seed: int = 1200) -> Counts:
    """Return a dataset's figures in Table 1.

    No count depends on the draw of single positives: each image that has a positive keeps exactly one.

    Args:
        annotations: The dataset; a phase that could not be read counts as empty.
        split_seed: Seed of the split of the official training set, if the source gives no ``val``.
    """
    phases, classes = annotations.phases, len(annotations.classes)
    num = {name: len(phases[name]) if name in phases else 0 for name in ("train", "val", "test")}
    train, val = split_train_val(num["train"], split_seed)
    # A val of the source's own leaves train as it is.
    if "val" not in phases:
        num["train"], num["val"] = len(train), len(val)
    source, rows = phases.get("train"), slice(None) if "val" in phases else train
    true = None if source is None or source.true is None else source.true[rows]
    seen = true if source is None or source.observed is None else source.observed[rows]
    # Each image with a positive keeps exactly one, so no draw is needed to count them.
    single = 0 if seen is None else int(seen.any(1).sum())
    negative = None if source is None else join_negatives(source.negatives)
    known = 0 if negative is None else int(negative[rows].sum())
    assumed = num["train"] * classes - single - known
    if true is None:
        return Counts(classes, None, num["train"], num["val"], num["test"], single, None, None, assumed, known)
    positives = int(true.sum())
    missed, mean = positives - single, positives / max(num["train"], 1)
    return Counts(
        classes, mean, num["train"], num["val"], num["test"], single, missed, assumed - missed, assumed, known
    )


def compare(counts: Counts, paper: Counts | None) -> list[Line]:
    """Return the lines of the table; positives per image are compared to the decimals that the paper prints."""
    expected = asdict(paper) if paper else {}
    shown = {key: value for key, value in asdict(counts).items() if key != "known_negatives" or value}
    return [_line(key, computed, expected.get(key)) for key, computed in shown.items()]


def name_class_differences(annotations: Annotations) -> list[str]:
    """Return in words the classes with more or fewer positive images than in the dataset's own lists, if known."""
    found = []
    for phase, own in OWN_POSITIVES.get(annotations.name, {}).items():
        true = annotations.phases[phase].true if phase in annotations.phases else None
        if true is None or true.shape[1] != len(own):
            continue
        counts = true.sum(0).tolist()
        differ = [
            f"{name} {ours:,} instead of {theirs:,}"
            for name, ours, theirs in zip(annotations.classes, counts, own, strict=True)
            if ours != theirs
        ]
        more = f"; and {len(differ) - NUM_NAMED} more classes" if len(differ) > NUM_NAMED else ""
        if differ:
            found.append(f"positive images of official {phase}: {'; '.join(differ[:NUM_NAMED])}{more}")
    return found


def _line(key: str, computed: float | None, paper: float | None) -> Line:
    # The paper prints 31.4 with one decimal and 1.46 with two.
    decimals = 0 if key != "positives_per_image" else len(str(paper).partition(".")[2]) if paper is not None else 2
    ours, theirs = (None if value is None else f"{value:,.{decimals}f}" for value in (computed, paper))
    equal = None if theirs is None else ours == theirs
    difference = "" if computed is None or paper is None or equal else f"{computed - paper:+,.{decimals}f}"
    return Line(key, FIGURES[key], ours or "not available", theirs, equal, difference)
