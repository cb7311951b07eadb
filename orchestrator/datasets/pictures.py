"""Draw a dataset as PNG, PDF or SVG: positives per class, and sheets of images with their labels."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from numpy.typing import NDArray

from orchestrator.datasets.sheet import Picture
from orchestrator.datasets.stats import Counts, LabelStats
from training.counts import counted
from training.fonts import Fonts, find_fonts

FORMATS = (".png", ".pdf", ".svg")

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
_LONGEST_NAME = 28
_FEW = 20
"""Up to this many images, the colours of counts are spread evenly rather than logarithmically."""
# Without dates and versions, so that the same data give the same file.
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Producer": None},
    ".svg": {"Date": None},
}


def draw_sheet(path: Path, heading: str, pictures: Sequence[Picture], classes: Sequence[str]) -> str | None:
    """Draw images with their labels below, and with their boxes or parts if known.

    Args:
        path: The file; its suffix is one of ``FORMATS``.
        heading: The title of the sheet.
        pictures: What to draw.
        classes: All classes, which number those that cannot be written.

    Returns:
        What to tell the user about names that no installed font can write; None if there are none.
    """
    fonts = find_fonts([heading, *classes, *(picture.title for picture in pictures)])
    labels = dict(zip(classes, fonts.label(classes), strict=True))
    pictures = [_write_readably(picture, fonts, labels) for picture in pictures]
    num_columns = min(_COLUMNS, len(pictures))
    num_rows = -(-len(pictures) // num_columns)
    # The longest text decides the height, so that all images of a sheet have the same size.
    below_pt = max(
        sum(_LINE_PT * len(textwrap.wrap(text, _WIDTH_CHARS)) + _GAP_PT for text, _ in _lines(each))
        for each in pictures
    )
    with fonts.drawing():
        figure = Figure(
            figsize=(_SIDE_IN * max(num_columns, 2), (_SIDE_IN + 0.4 + below_pt / 72) * num_rows + 0.8),
            layout="constrained",
        )
        figure.suptitle(fonts.replace(heading), fontsize=12)
        grid = figure.subplots(num_rows, num_columns, squeeze=False)
        for place in grid.flat:
            place.axis("off")
        for place, picture in zip(grid.flat, pictures, strict=False):
            _draw_picture(place, picture)
        figure.supxlabel(_legend(pictures), fontsize=9, color=_GREY)
        _save(figure, path)
    return fonts.describe(classes)


def draw_stats(path: Path, stats: LabelStats) -> str | None:
    """Draw positives per class in train (supplement, Fig. 1), observed and true, and which classes occur together.

    Returns:
        As :func:`draw_sheet`.
    """
    fonts, num_classes = find_fonts([stats.name, *stats.classes]), len(stats.classes)
    labels = [_shorten(label) for label in fonts.label(stats.classes)]
    # One order in all panels: most observed positives first.
    order = np.argsort(-stats.observed["train"], kind="stable")
    labels = [labels[at] for at in order]
    panels = 1 + (stats.true["train"] is not None) + (stats.together is not None)
    # Names of up to 40 classes need less room than those of 100.
    square = 7.0 if num_classes <= 40 else 11.0
    heights = [3.2] * min(panels, 2) + [square] * (panels - min(panels, 2))
    with fonts.drawing():
        figure = Figure(figsize=(13, sum(heights) + 0.5), layout="constrained")
        places = figure.subplots(panels, 1, squeeze=False, height_ratios=heights)[:, 0]
        heading = f"{stats.name}: {counted(stats.images['train'], 'train image')}, {counted(num_classes, 'class')}"
        figure.suptitle(fonts.replace(heading), fontsize=12)
        _draw_observed(places[0], stats, order, labels)
        true = stats.true["train"]
        if true is not None:
            _draw_bars(places[1], true[order], _BLUE, labels)
            places[1].set_title(
                f"true positives per class in train: {int(true.sum()):,}, classes in the same order", fontsize=10
            )
        if stats.together is not None:
            _draw_together(figure, places[-1], stats.together[np.ix_(order, order)], labels)
        _save(figure, path)
    return fonts.describe(stats.classes)


def _write_readably(picture: Picture, fonts: Fonts, labels: dict[str, str]) -> Picture:
    return replace(
        picture,
        title=fonts.replace(picture.title),
        observed=tuple(labels[name] for name in picture.observed),
        hidden=None if picture.hidden is None else tuple(labels[name] for name in picture.hidden),
        negative=tuple(labels[name] for name in picture.negative),
        boxes=tuple((labels[name], left, top, right, bottom) for name, left, top, right, bottom in picture.boxes),
    )


def _shorten(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _draw_observed(place: Axes, stats: LabelStats, order: NDArray[np.int64], labels: Sequence[str]) -> None:
    counts = stats.observed["train"][order]
    _draw_bars(place, counts, OBSERVED_COLOUR, labels)
    title = (
        f"observed positives per class in train: {int(counts.sum()):,} over {len(counts)} classes, median "
        f"{np.median(counts):g}"
    )
    if num := int((counts == 0).sum()):
        unlearnable = np.flatnonzero(counts == 0)
        place.plot(unlearnable, np.zeros(num), "v", color="#cf222e", markersize=6, clip_on=False, zorder=3)
        title += f"; {num} with no learnable positive (red)"
    place.set_title(title, fontsize=10)


def _draw_bars(place: Axes, counts: Counts, colour: str, labels: Sequence[str]) -> None:
    place.bar(np.arange(len(counts)), counts, width=0.9 if len(counts) <= _MOST_NAMED else 1.0, color=colour)
    place.set_xlim(-1, len(counts))
    place.set_ylim(bottom=0)
    place.yaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10)))
    place.set_ylabel("images")
    place.spines[["top", "right"]].set_visible(False)
    _name_classes(place, labels)


def _draw_together(figure: Figure, place: Axes, together: Counts, labels: Sequence[str]) -> None:
    counts = together.astype(float)
    np.fill_diagonal(counts, 0)  # a class paired with itself would outshine every real pair
    most = max(counts.max(), 2)
    is_wide = most > _FEW
    shown = place.imshow(
        np.ma.masked_equal(counts, 0),
        norm=LogNorm(1, most) if is_wide else Normalize(1, most),
        cmap="viridis",
        interpolation="nearest",
    )
    for at in range(len(labels)):
        place.add_patch(Rectangle((at - 0.5, at - 0.5), 1, 1, facecolor="#d0d7de", linewidth=0))
    place.set_title(
        "true labels that occur together in train: number of images with both (white: none; grey: the class itself)",
        fontsize=10,
    )
    _name_classes(place, labels)
    if len(labels) <= _MOST_NAMED:
        place.set_yticks(range(len(labels)), labels, fontsize=_font_size(len(labels)))
    # Inside the axes' own frame, so that it stays next to the square.
    bar = figure.colorbar(
        shown,
        cax=place.inset_axes((1.02, 0, 0.025, 1)),
        label="images",
        ticks=LogLocator(subs=(1, 2, 5)) if is_wide else MaxNLocator(integer=True, steps=(1, 2, 5, 10)),
        format=FuncFormatter(lambda value, _: f"{value:,.0f}"),
    )
    bar.minorticks_off()


def _name_classes(place: Axes, labels: Sequence[str]) -> None:
    if len(labels) <= _MOST_NAMED:
        place.set_xticks(range(len(labels)), labels, rotation=90, fontsize=_font_size(len(labels)))
    else:
        place.set_xlabel("class, most observed positives first")


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
        text = place.text(
            left,
            top,
            name,
            fontsize=6.5,
            color="white",
            va="top",
            ha="left",
            bbox={"facecolor": colour, "pad": 0.8, "lw": 0},
        )
        _keep_inside(text, place, picture, left)
    _draw_points(place, picture)
    _write_below(place, _lines(picture))


def _lines(picture: Picture) -> list[tuple[str, str]]:
    """Return the texts below an image, each with its colour."""
    lines = [("observed: " + _listed(picture.observed), OBSERVED_COLOUR)]
    if picture.hidden:
        lines.append((f"true, not observed ({len(picture.hidden)}): " + _listed(picture.hidden), HIDDEN_COLOUR))
    if picture.negative:
        lines.append((f"known negative ({len(picture.negative)}): " + _listed(picture.negative), _GREY))
    if picture.hidden is None:
        negative = "true labels not available"
    else:
        negative = f"{picture.num_unknown - len(picture.hidden)} of them truly negative"
    lines.append((f"{picture.num_unknown} unknown to training, {negative}", _GREY))
    return lines


def _keep_inside(text: Text, place: Axes, picture: Picture, left_px: float) -> None:
    """Keep a label within its image: one that is longer than the rest of the image would shrink the whole panel."""
    text.set_in_layout(False)
    text.set_clip_on(True)
    if left_px > 0.7 * picture.pixels.shape[1]:
        text.set_horizontalalignment("right")


def _draw_points(place: Axes, picture: Picture) -> None:
    colours = colormaps["tab20"]
    for number, (name, x, y) in enumerate(picture.points):
        place.plot(x, y, "o", color=colours(number % 20), markersize=4, markeredgecolor="white", markeredgewidth=0.6)
        text = place.annotate(
            name,
            (x, y),
            (3 if x <= 0.7 * picture.pixels.shape[1] else -3, 3),
            textcoords="offset points",
            fontsize=5.5,
            color="white",
            bbox={"facecolor": "black", "alpha": 0.5, "pad": 0.4, "lw": 0},
        )
        _keep_inside(text, place, picture, x)


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
    # 42: in a PDF, text stays text.
    with rc_context({"svg.hashsalt": "spml", "pdf.fonttype": 42}):
        figure.savefig(path, dpi=110, metadata=_METADATA[path.suffix.lower()])
