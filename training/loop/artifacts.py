"""Write the files that a run produces in addition to its metrics: average precision per class, and pictures of CAMs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from training.data.split import SplitData
from training.data.views import PixelScale
from training.fonts import find_fonts
from training.loop.localisation import mask_settings
from training.methods.base import Method
from training.metrics import average_precision
from training.models.cam import cam_mask, normalise_cam, observed_cam

NUM_PICTURES = 8
_TITLE_WIDTH = 26


def write_per_class_ap(
    path: Path, classes: Sequence[str], logits: Tensor, true: Tensor | None, observed: Tensor
) -> None:
    """Write a Parquet file with one row per class: ``class``, ``ap`` and ``observed_ap``, in percent.

    ``ap`` is null where true labels are not available. Class names are values, not columns, so that none can collide
    with a column of ours.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    ap = None if true is None else (100 * average_precision(logits, true)).tolist()
    columns = {
        "class": pa.array(list(classes), pa.string()),
        "ap": pa.array([None] * len(classes) if ap is None else ap, pa.float64()),
        "observed_ap": pa.array((100 * average_precision(logits, observed)).tolist(), pa.float64()),
    }
    pq.write_table(pa.table(columns), path)


@dataclass(frozen=True)
class _Captions:
    heading: str
    columns: Sequence[str]
    classes: Sequence[str]
    threshold: float


@torch.no_grad()
def write_cam_sheet(
    folder: Path,
    model: nn.Module,
    method: Method,
    config: object,
    data: SplitData,
    scale: PixelScale,
    device: torch.device,
    heading: str,
) -> None:
    """Draw a few validation images with the CAM of their observed class and what the mask at tau keeps of them.

    The images are the first with an observed positive. Titles name observed, true and rejected labels; rejection is
    what the method's thresholds say now, for gap and logits from the model in eval mode.

    Args:
        folder: Where to write ``cam.png``; nothing is written if no image has an observed positive.
        model: In eval mode.
        method: Its ``thresholds()``, if it has any, decide which labels are shown as rejected.
        config: The method's settings; see :func:`training.loop.localisation.mask_settings`.
        data: The split that the images come from.
        scale: Normalisation.
        device: Where the model is.
        heading: Identifies the run: sweep, trial, epoch.
    """
    rows = data.observed.any(1).nonzero()[:NUM_PICTURES, 0]
    if len(rows) == 0:
        return
    fonts = find_fonts([heading, *data.classes])
    data = replace(data, classes=tuple(fonts.label(data.classes)))
    pixels = data.images.read(rows.tolist())
    images, observed = scale.normalise(pixels.to(device)), data.observed[rows].float().to(device)
    output = model(images)
    present = observed.sum(1) > 0
    threshold, how = mask_settings(config)
    normalised = normalise_cam(observed_cam(output.cams.float(), observed), present, how)
    size = (images.shape[-2], images.shape[-1])
    mask = cam_mask(normalised, present, threshold, size)
    rejected = _rejected(method, output.logits, model(images * mask[:, None]).logits, observed)
    # The map as IGNORE upsamples it before it compares it with tau.
    heat = torch.nn.functional.interpolate(normalised[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    titles = [_title(data, int(row), None if rejected is None else rejected[place]) for place, row in enumerate(rows)]
    classes = [data.classes[int(labels.nonzero()[0, 0])] for labels in data.observed[rows]]
    parts = [
        fonts.replace(heading),
        f"{data.name} images",
        f"threshold {threshold:g} of the CAM, normalised {how.replace('_', ' ')}",
    ]
    if (thresholds := method.thresholds()) is not None:
        # The average-logit threshold is one number per class: too many for a heading.
        parts.append(f"rejected: gap over {float(thresholds[0]):.3g}, logit over its class's threshold")
    captions = _Captions(" | ".join(parts), titles, classes, threshold)
    with fonts.drawing():
        _draw(folder / "cam.png", pixels, heat.cpu(), mask.cpu(), captions)


def _rejected(method: Method, logits: Tensor, masked_logits: Tensor, observed: Tensor) -> Tensor | None:
    thresholds = method.thresholds()
    if thresholds is None:
        return None
    gap_threshold, average_threshold = thresholds
    return ((logits - masked_logits).abs() > gap_threshold) & (logits > average_threshold) & (observed == 0)


def _title(data: SplitData, row: int, rejected: Tensor | None) -> str:
    def names(labels: Tensor) -> str:
        return ", ".join(data.classes[int(label)] for label in labels.nonzero()[:, 0]) or "none"

    lines = [f"observed {names(data.observed[row])}"]
    if data.true is not None:
        lines.append(f"true {names(data.true[row])}")
    if rejected is not None:
        lines.append(f"rejected {names(rejected.cpu())}")
    # Wrapped, because a list of long class names would run into the next picture's title.
    return "\n".join(textwrap.fill(line, _TITLE_WIDTH) for line in lines)


def _draw(path: Path, images: Tensor, heat: Tensor, mask: Tensor, captions: _Captions) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # At least as wide as five images, to leave room for the heading.
    figure = Figure(figsize=(1.6 * max(5, len(captions.columns)) + 0.4, 6.4), layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot, whose global figures would outlive this run in a reused process
    figure.suptitle(textwrap.fill(captions.heading, 22 * max(5, len(captions.columns))), fontsize=9)
    axes = figure.subplots(3, len(captions.columns), squeeze=False)
    pixels = images.permute(0, 2, 3, 1).numpy()
    for row, label in enumerate(
        ("image", "CAM of the\nobserved class", f"kept where the\nCAM is over {captions.threshold:g}")
    ):
        axes[row, 0].set_ylabel(label, fontsize=8)
    for column, title in enumerate(captions.columns):
        kept = np.where(mask[column].numpy()[..., None], pixels[column], 0)
        for row, picture in enumerate((pixels[column], pixels[column], kept)):
            axes[row, column].imshow(picture)
            axes[row, column].set(xticks=[], yticks=[])
            axes[row, column].spines[:].set_visible(False)
        axes[1, column].imshow(heat[column].numpy(), cmap="inferno", alpha=0.5, vmin=0, vmax=1)
        axes[0, column].set_title(title, fontsize=8)
        axes[1, column].set_title(f"CAM of {captions.classes[column]}", fontsize=8)
        axes[2, column].set_title(f"{mask[column].float().mean():.0%} kept", fontsize=8)
    figure.savefig(path, dpi=100)
