"""Draw figures as SVG that fits into a page: no styles of its own, colours that follow the page, equal bytes.

A page whose security policy allows only its own style sheet shows no ``style=`` attributes, so they become attributes
of their own; ids get the figure's name in front, because a page holds many figures.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

# Okabe and Ito's colours, in which every pair can be told apart by the colour-blind. Those too light for a white page
# (orange, sky blue) stand in for the darker ones on a dark page; report.css does that.
INK, MUTED, GRID, PAPER = "#000000", "#6b6f76", "#d9dce0", "#fffffe"
BLUE, RED, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#b5588a"
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D")
_NAMES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "paper",
    BLUE: "blue",
    RED: "red",
    GREEN: "green",
    PURPLE: "purple",
}
WIDTH_IN = 7.2
_RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "spml",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.parse_math": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "hatch.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in the style of a report."""
    with rc_context(_RC):  # type: ignore[arg-type]  # its stubs list the keys, which a dict does not
        yield


def new_figure(height_in: float, width_in: float = WIDTH_IN) -> Figure:
    """Return an empty figure on a transparent ground."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasSVG(figure)  # not pyplot, which keeps figures alive and may look for a display
    figure.patch.set_visible(False)
    return figure


def count_along(axes: Axes, *, y: bool = False) -> None:
    """Give an axis that counts something ticks at whole numbers only."""
    (axes.yaxis if y else axes.xaxis).set_major_locator(MaxNLocator(integer=True, nbins="auto"))


def make_logarithmic(axes: Axes) -> None:
    """Make the x axis of a panel that is drawn logarithmic, with plain numbers in place of formulas."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    # Within two decades, powers of ten alone would be too few.
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,), numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def write_svg(figure: Figure) -> str:
    """Return a figure as a file of its own; equal figures give equal texts."""
    file = io.BytesIO()
    with drawing():
        for place in figure.axes:
            place.patch.set_visible(False)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return file.getvalue().decode()


def inline_svg(text: str, name: str, title: str, description: str) -> str:
    """Return an SVG of :func:`write_svg` as an element for a page.

    Args:
        text: The SVG.
        name: Goes in front of its ids.
        title, description: What a screen reader says.
    """
    _, _, body = text.partition("<svg ")
    head, _, body = body.partition(">")
    box = re.search(r'viewBox="([^"]*)"', head)
    assert box is not None
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = _TAG.sub(lambda tag: _convert(tag[0], name), body)
    # Ids of groups are for editors, and those of equal pictures are equal; only what is referred to needs one.
    known = set(re.findall(r"#([\w.-]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in known else "", body)
    body = re.sub(r"<defs>\s*</defs>", "", body)
    body = re.sub(r">\s+<", "><", body)
    return (
        f'<svg class="plot" role="img" viewBox="{box[1]}" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{html.escape(title)}</title><desc id="{name}-d">{html.escape(description)}</desc>{body}'
    )


_TAG = re.compile(r"<[a-zA-Z][^<>]*>", re.DOTALL)
_STYLE = re.compile(r' style="([^"]*)"')
_FILL = re.compile(r' fill="(#[0-9a-f]{6})"')  # of a hatch's ground, which matplotlib writes in its own way
_LONG = re.compile(r"-?\d+\.\d{2,}")
_COORDINATES = re.compile(r' (d|x|y|width|height|points|transform)="([^"]*)"')


def _convert(tag: str, name: str) -> str:
    tag = _FILL.sub(lambda found: f' fill="{_colour(found[1])}"', tag)
    tag = _STYLE.sub(lambda found: _attributes(found[1]), tag)
    tag = _COORDINATES.sub(lambda found: _shorten(found[1], found[2]), tag)
    tag = tag.replace("xlink:href=", "href=")
    return re.sub(r'(id="|href="#|url\(#)(?=[\w.-])', rf"\g<1>{name}-", tag)


def _attributes(style: str) -> str:
    pairs = [pair.partition(":") for pair in style.split(";") if ":" in pair]
    return "".join(
        f' {key.strip()}="{_colour(value.strip())}"' for key, _, value in pairs if key.strip() != "font-family"
    )


def _colour(value: str) -> str:
    # The page's own colour, which it changes in the dark; the number is for a page without our style sheet.
    return f"var(--{_NAMES[value]},{value})" if value in _NAMES else value


def _shorten(key: str, value: str) -> str:
    if key == "transform":
        if value.startswith("rotate(-0 "):
            return ""
        if not value.startswith("rotate("):  # a scale needs its decimals
            return f' {key}="{value}"'
    # A hundredth of a point cannot be seen, and six decimals are half of the file.
    short = _LONG.sub(lambda number: f"{float(number[0]):.1f}".replace("-0.0", "0.0").removesuffix(".0"), value)
    return f' {key}="{" ".join(short.split())}"'
