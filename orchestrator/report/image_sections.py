"""Sections that need the data or the weights: positives per class (supplement, Fig. 1), and CAMs and masks over tau."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from numpy.typing import NDArray

from orchestrator.planning.data_fit import locate_data
from orchestrator.planning.sweep_plan import SweepPlan, trial_config
from orchestrator.report.document import Cell, Figure, Headers, Section, make_table
from orchestrator.report.svg import BLUE, GREEN, RED, new_figure
from orchestrator.report.view import SweepView
from orchestrator.sweep_folder.checkpoints import trial_uri
from training.config.methods import IgnoreConfig
from training.config.run import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

    from orchestrator.datasets.stats import LabelStats
    from training.data.split import SplitData

_TAUS = (0.3, 0.5, 0.7, 0.9)
_NUM_IMAGES = 4
_MOST_NAMED = 100
_WIDTH_CHARS = 18
_MOST_LINES = 3
Pixels = NDArray[np.uint8]


def make_image_sections(view: SweepView) -> list[Section]:
    """Return the sections for which data and weights are at hand; what is not there is left out."""
    from training.errors import ConfigError, DatasetError

    sections = []
    # A report is about the journal; data that has moved or been deleted must not keep anybody from it.
    for name, title, draw in (
        ("method", "The method at work", draw_masks),
        ("data", "The data", draw_classes),
    ):
        # RuntimeError and KeyError: weights that another version wrote.
        with suppress(ConfigError, DatasetError, OSError, RuntimeError, KeyError):
            figure = draw(view)
            if figure is not None:
                sections.append(Section(name, title, (), (figure,)))
    return sections


def _config(view: SweepView) -> TrainConfig | None:
    """Return the winner's settings with the present place of its data, or None without one or without data."""
    from training.preparation import is_prepared

    if view.winner is None:
        return None
    plan: SweepPlan = locate_data(view.plan)
    config = trial_config(plan, view.winner.params)
    return config if is_prepared(config.data) else None


def draw_classes(view: SweepView) -> Figure | None:
    """Show the positives per class of the train split, as Fig. 1 of the paper's supplement does for CUB."""
    config = _config(view)
    if config is None:
        return None
    from orchestrator.datasets.stats import count_labels, table_of_classes
    from training.data.registry import load_split

    stats = count_labels(view.plan.dataset, load_split(config.data, "train"), load_split(config.data, "val"), 0)
    headers, found = table_of_classes(stats)
    rows: list[tuple[Cell, ...]] = [
        tuple(cell if isinstance(cell, int) else str(cell) for cell in row) for row in found
    ]
    table = make_table("classes", "Positives per class", list(headers), rows)
    observed = stats.observed["train"]
    nothing = len(stats.unlearnable)
    description = (
        f"The paper's supplementary Fig. 1 for this data: {stats.images['train']:,} train images, "
        f"{len(stats.classes)} classes, most observed positives first. A class has {int(observed.min())} to "
        f"{int(observed.max()):,} observed positives, median {np.median(observed):g}"
        + (f"; {nothing} classes have none, so nothing can be learned about them" if nothing else "")
        + (f". Of the labels, {stats.known.describe()}" if stats.negative is not None else "")
        + ". Below, the true positives in the same order, where they are known."
    )
    return Figure("classes", "Positives per class", description, lambda: _plot_classes(stats), table)


def _plot_classes(stats: LabelStats) -> Drawing:
    from training.fonts import find_fonts

    observed, true = stats.observed["train"], stats.true["train"]
    order = np.argsort(-observed, kind="stable")
    names = find_fonts(stats.classes).label(stats.classes)
    panels = [(observed, GREEN, "observed")] + ([(true, BLUE, "true")] if true is not None else [])
    figure = new_figure(1.5 * len(panels) + (0.9 if len(order) <= _MOST_NAMED else 0.3))
    grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (counts, colour, what) in zip(grid, panels, strict=True):
        # Steps and not bars: 312 bars would be a third of the page.
        axes.stairs(counts[order], np.arange(len(order) + 1) - 0.5, fill=True, color=colour)
        axes.set(ylabel=f"{what} positives", xlim=(-0.5, len(order) - 0.5), ylim=(0, None))
        missing = np.flatnonzero(counts[order] == 0)
        if len(missing):
            axes.plot(missing, np.zeros(len(missing)), "v", color=RED, clip_on=False)
        axes.grid(False, axis="x")
    if len(order) <= _MOST_NAMED:
        shown = [names[at] if len(names[at]) <= _WIDTH_CHARS else f"{names[at][: _WIDTH_CHARS - 1]}…" for at in order]
        grid[-1].set_xticks(range(len(order)), shown, rotation=90, fontsize=8 if len(order) <= 40 else 5)
    else:
        grid[-1].set_xlabel("class, most observed positives first")
    return figure


@dataclass(frozen=True)
class _Look:
    """One image with its CAM and what masks at several taus make of it.

    Attributes:
        pixels: (H, W, 3).
        heat: (H, W), the CAM of the observed class in 0..1.
        masks: One (H, W) per tau.
        rejected: Names of the labels rejected, per tau; None if the method has no thresholds.
    """

    row: int
    observed: str
    true: str | None
    pixels: Pixels
    heat: NDArray[np.float32]
    masks: Sequence[NDArray[np.bool_]]
    rejected: Sequence[str] | None


def draw_masks(view: SweepView) -> Figure | None:
    """Show the winner's CAMs and masks of the first validation images over tau, with the labels rejected at each."""
    config = _config(view)
    # A bucket may not answer for minutes, and the pictures of every trial are in MLflow anyway.
    if config is None or not isinstance(config.method, IgnoreConfig) or "://" in (view.plan.storage or ""):
        return None
    looks, taus = _look(view, config), _choose_taus(config.method)
    if not looks:
        return None
    rows: list[tuple[Cell, ...]] = [
        (
            look.row,
            look.observed,
            look.true,
            tau,
            100 * float(mask.mean()),
            None if look.rejected is None else look.rejected[place],
        )
        for look in looks
        for place, (tau, mask) in enumerate(zip(taus, look.masks, strict=True))
    ]
    columns: Headers = ["image", "observed", "true", "tau", "pixels kept (%)", "rejected"]
    table = make_table("masks", "Masks and rejected labels over tau", columns, rows)
    assert view.winner is not None
    description = (
        f"Trial {view.winner.trial} at epoch {view.winner.chosen_epoch(view.plan.protocol)}, trained at tau "
        f"{config.method.cam_threshold:.2g}: the first validation images, the CAM of the observed class (inferno: dark "
        f"is low, yellow is high), and what the mask keeps at each tau. Below each mask are the labels that would be "
        f"rejected there, by the thresholds that the run learned: right if the label is among the true ones."
    )
    return Figure(
        "masks", "CAM, mask and rejected labels over tau", description, lambda: _plot_looks(looks, taus), table
    )


def _choose_taus(method: IgnoreConfig) -> list[float]:
    """Return a few taus, the one that the run was trained with in place of the nearest."""
    own = method.cam_threshold
    nearest = min(_TAUS, key=lambda tau: abs(tau - own))
    return [own if tau == nearest else tau for tau in _TAUS]


def _look(view: SweepView, config: TrainConfig) -> list[_Look]:
    """Load the winner's best weights, and look at a few images through them."""
    import torch

    from training.data.registry import dataset_info, load_split
    from training.inference.evaluation import restore_model
    from training.loop.checkpoint import CheckpointStore

    assert view.winner is not None
    state = CheckpointStore(trial_uri(view.plan, view.winner.trial)).load_best(
        view.winner.chosen_epoch(view.plan.protocol)
    )
    if state is None:
        return []
    data = load_split(config.data, "val")
    rows = data.observed.any(1).nonzero()[:_NUM_IMAGES, 0]
    if len(rows) == 0:
        return []
    model = restore_model(config, state, torch.device("cpu"))
    with torch.no_grad():
        return _apply(model, config, state, data, rows, dataset_info(config.data).scale)


def _apply(
    model: Any, config: TrainConfig, state: dict[str, Any], data: SplitData, rows: Tensor, scale: Any
) -> list[_Look]:
    from torch.nn.functional import interpolate

    from training.fonts import find_fonts
    from training.models.cam import cam_mask, normalise_cam, observed_cam

    assert isinstance(config.method, IgnoreConfig)
    pixels = data.images.read(rows.tolist())
    images, observed = scale.normalise(pixels), data.observed[rows].float()
    output, present, size = model(images), observed.sum(1) > 0, (pixels.shape[-2], pixels.shape[-1])
    cams = normalise_cam(observed_cam(output.cams.float(), observed), present, config.method.cam_normalisation)
    heat = interpolate(cams[:, None], size=size, mode="bilinear", align_corners=False)[:, 0].clamp(0, 1)
    thresholds = _thresholds(config, state, data, model)
    masks, rejected = [], []
    for tau in _choose_taus(config.method):
        masks.append(cam_mask(cams, present, tau, size))
        if thresholds is not None:
            gap = (output.logits - model(images * masks[-1][:, None]).logits).abs()
            rejected.append((gap > thresholds[0]) & (output.logits > thresholds[1]) & (observed == 0))
    names = find_fonts(data.classes).label(data.classes)
    return [
        _Look(
            row=int(row),
            observed=_names(names, data.observed[row]),
            true=None if data.true is None else _names(names, data.true[row]),
            pixels=pixels[place].permute(1, 2, 0).numpy(),
            heat=heat[place].numpy(),
            masks=[mask[place].numpy() for mask in masks],
            rejected=[_names(names, each[place]) for each in rejected] if rejected else None,
        )
        for place, row in enumerate(rows)
    ]


def _thresholds(
    config: TrainConfig, state: dict[str, Any], data: SplitData, model: Any
) -> tuple[Tensor, Tensor] | None:
    from training.methods.base import Sizes
    from training.methods.registry import build_method

    sizes = Sizes(len(data.classes), 0, config.loop.epochs, getattr(model, "embedding_dim", None))
    method = build_method(config.method, sizes)
    method.load_state_dict(state["method"])
    return method.thresholds()


def _names(names: Sequence[str], labels: Tensor) -> str:
    return ", ".join(names[int(label)] for label in labels.nonzero()[:, 0]) or "none"


def _plot_looks(looks: Sequence[_Look], taus: Sequence[float]) -> Drawing:
    figure = new_figure(0.3 + 1.75 * len(looks))
    grid = figure.subplots(len(looks), 2 + len(taus), squeeze=False)
    for row, look in zip(grid, looks, strict=True):
        _show(row[0], look.pixels, f"observed {look.observed}" + (f"\ntrue {look.true}" if look.true else ""))
        _show(row[1], look.pixels, "")
        row[1].imshow(look.heat, cmap="inferno", alpha=0.55, vmin=0, vmax=1)
        for place, (axes, mask) in enumerate(zip(row[2:], look.masks, strict=True)):
            below = f"rejects {look.rejected[place]}" if look.rejected else ""
            _show(axes, np.where(mask[..., None], look.pixels, 0).astype(np.uint8), below)
    for axes, title in zip(grid[0], ["image", "CAM", *(f"tau {tau:.2g}" for tau in taus)], strict=True):
        axes.set_title(title, loc="center")
    return figure


def _show(axes: Axes, pixels: Pixels, below: str) -> None:
    axes.imshow(pixels, interpolation="nearest" if pixels.shape[0] < 100 else None)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.grid(False)
    # A little wider than the image; a long list of names is cut, the table has all.
    lines = [line for text in below.split("\n") for line in textwrap.wrap(text, _WIDTH_CHARS + 6)]
    cut = lines if len(lines) <= _MOST_LINES else [*lines[: _MOST_LINES - 1], f"{lines[_MOST_LINES - 1][:-1]}…"]
    axes.set_xlabel("\n".join(cut), fontsize=6)
