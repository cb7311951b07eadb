"""Draw a dataset as PNG: positives per class, and sheets of images with their labels."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from orchestrator.datasets.sheet import Picture
from orchestrator.datasets.stats import Counts, LabelStats

OBSERVED_COLOUR = "#1a7f37"
HIDDEN_COLOUR = "#bc4c00"
_GREY = "#57606a"
_BLUE = "#0969da"
_MOST_NAMED = 100
"""Maximum number of classes that an axis names."""
_COLUMNS = 4
_SIDE_IN = 3.6
_LINE_PT = 11.5
_GAP_PT = 4.0
_WIDTH_CHARS = 40
_MOST_LISTED = 7


def draw_sheet(path: Path, heading: str, pictures: Sequence[Picture]) -> None:
    """Draw images with their labels below, and with their boxes or parts if known."""
    num_columns = min(_COLUMNS, len(pictures))
    num_rows = -(-len(pictures) // num_columns)
    # The longest text decides the height, so that all images of a sheet have the same size.
    below_pt = max(
        sum(_LINE_PT * len(textwrap.wrap(text, _WIDTH_CHARS)) + _GAP_PT for text, _ in _lines(each))
        for each in pictures
    )
    figure = Figure(
        figsize=(_SIDE_IN * max(num_columns, 2), (_SIDE_IN + 0.4 + below_pt / 72) * num_rows + 0.8),
        layout="constrained",
    )
    figure.suptitle(heading, fontsize=12)
    grid = figure.subplots(num_rows, num_columns, squeeze=False)
    for place in grid.flat:
        place.axis("off")
    for place, picture in zip(grid.flat, pictures, strict=False):
        _draw_picture(place, picture)
    figure.supxlabel(_legend(pictures), fontsize=9, color=_GREY)
    _save(figure, path)


def draw_stats(path: Path, stats: LabelStats) -> None:
    """Draw positives per class in train (supplement, Fig. 1), observed and true, and which classes occur together."""
    num_classes = len(stats.classes)
    panels = 1 + (stats.true["train"] is not None) + (stats.together is not None)
    # Names of up to 40 classes need less room than those of 100.
    square = 7.0 if num_classes <= 40 else 11.0
    heights = [3.2] * min(panels, 2) + [square] * (panels - min(panels, 2))
    figure = Figure(figsize=(13, sum(heights) + 0.5), layout="constrained")
    places = figure.subplots(panels, 1, squeeze=False, height_ratios=heights)[:, 0]
    figure.suptitle(f"{stats.name}: {stats.images['train']:,} train images, {num_classes} classes", fontsize=12)
    _draw_observed(places[0], stats)
    true = stats.true["train"]
    if true is not None:
        _draw_bars(places[1], true, _BLUE, stats.classes)
        places[1].set_title(f"true positives per class in train: {int(true.sum()):,}", fontsize=10)
    if stats.together is not None:
        _draw_together(figure, places[-1], stats)
    _save(figure, path)


def _draw_observed(place: Axes, stats: LabelStats) -> None:
    counts, unlearnable = stats.observed["train"], stats.unlearnable
    _draw_bars(place, counts, OBSERVED_COLOUR, stats.classes)
    title = (
        f"observed positives per class in train: {int(counts.sum()):,} over {len(counts)} classes, median "
        f"{np.median(counts):g}"
    )
    if unlearnable:
        place.plot(unlearnable, np.zeros(len(unlearnable)), "v", color="#cf222e", markersize=6, clip_on=False, zorder=3)
        title += f"; {len(unlearnable)} with no learnable positive (red)"
    place.set_title(title, fontsize=10)


def _draw_bars(place: Axes, counts: Counts, colour: str, classes: Sequence[str]) -> None:
    place.bar(np.arange(len(counts)), counts, width=0.9 if len(counts) <= _MOST_NAMED else 1.0, color=colour)
    place.set_xlim(-1, len(counts))
    place.set_ylim(bottom=0)
    place.set_ylabel("images")
    place.spines[["top", "right"]].set_visible(False)
    _name_classes(place, classes)


def _draw_together(figure: Figure, place: Axes, stats: LabelStats) -> None:
    assert stats.together is not None
    counts = stats.together.astype(float)
    np.fill_diagonal(counts, 0)  # a class paired with itself would outshine every real pair
    most = max(counts.max(), 1)
    shown = place.imshow(
        np.ma.masked_equal(counts, 0), norm=LogNorm(1, max(most, 2)), cmap="viridis", interpolation="nearest"
    )
    place.set_title("true labels that occur together in train: number of images with both (white: none)", fontsize=10)
    _name_classes(place, stats.classes)
    if len(stats.classes) <= _MOST_NAMED:
        place.set_yticks(range(len(stats.classes)), stats.classes, fontsize=_font_size(len(stats.classes)))
    # Inside the axes' own frame, so that it stays next to the square.
    figure.colorbar(shown, cax=place.inset_axes((1.02, 0, 0.025, 1)), label="images")


def _name_classes(place: Axes, classes: Sequence[str]) -> None:
    if len(classes) <= _MOST_NAMED:
        place.set_xticks(range(len(classes)), classes, rotation=90, fontsize=_font_size(len(classes)))
    else:
        place.set_xlabel("class, in the order of the label columns")


def _font_size(num_classes: int) -> float:
    return 8 if num_classes <= 40 else 6


def _draw_picture(place: Axes, picture: Picture) -> None:
    place.imshow(picture.pixels, interpolation="nearest")
    place.set_title(picture.title, fontsize=9)
    for name, left, top, right, bottom in picture.boxes:
        colour = OBSERVED_COLOUR if name in picture.observed else HIDDEN_COLOUR
        # imshow puts the centre of pixel 0 at 0, boxes its left edge.
        place.add_patch(
            Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, linewidth=1.8, edgecolor=colour)
        )
        place.text(
            left,
            top,
            name,
            fontsize=6.5,
            color="white",
            va="top",
            ha="left",
            bbox={"facecolor": colour, "pad": 0.8, "lw": 0},
        )
    _draw_points(place, picture)
    _write_below(place, _lines(picture))


def _lines(picture: Picture) -> list[tuple[str, str]]:
    """Return the texts below an image, each with its colour."""
    lines = [("observed: " + _listed(picture.observed), OBSERVED_COLOUR)]
    if picture.hidden:
        lines.append((f"true, not observed ({len(picture.hidden)}): " + _listed(picture.hidden), HIDDEN_COLOUR))
    unknown = picture.num_unknown - len(picture.hidden or ())
    what = (
        "unknown to training, true labels not available"
        if picture.hidden is None
        else "unknown to training, truly negative"
    )
    lines.append((f"{unknown} {what}", _GREY))
    return lines


def _draw_points(place: Axes, picture: Picture) -> None:
    colours = colormaps["tab20"]
    for number, (name, x, y) in enumerate(picture.points):
        place.plot(x, y, "o", color=colours(number % 20), markersize=4, markeredgecolor="white", markeredgewidth=0.6)
        place.annotate(
            name,
            (x, y),
            (3, 3),
            textcoords="offset points",
            fontsize=5.5,
            color="white",
            bbox={"facecolor": "black", "alpha": 0.5, "pad": 0.4, "lw": 0},
        )


def _write_below(place: Axes, lines: Sequence[tuple[str, str]]) -> None:
    below: float = _GAP_PT
    for text, colour in lines:
        wrapped = textwrap.wrap(text, _WIDTH_CHARS)
        place.annotate(
            "\n".join(wrapped),
            (0, 0),
            (0, -below),
            "axes fraction",
            "offset points",
            fontsize=8,
            color=colour,
            va="top",
            linespacing=1.2,
        )
        below += _LINE_PT * len(wrapped) + _GAP_PT


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_LISTED
    return (", ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")) or "none"


def _legend(pictures: Sequence[Picture]) -> str:
    if any(picture.boxes for picture in pictures):
        return "boxes: green for an observed class, orange for a true class that is not observed"
    return "dots: visible parts" if any(picture.points for picture in pictures) else ""


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)  # not pyplot, which keeps figures alive and may look for a display
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
