"""Implement IGNORE plainly: NumPy, double precision and loops, from the equations as released.

It shares no code with ``training``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
EPS = 1e-5


def sigmoid(logits: Array) -> Array:
    """Return 1 / (1 + e^-z)."""
    return 1 / (1 + np.exp(-logits))


def upsample(image: Array, height: int, width: int) -> Array:
    """Upsample (h, w) bilinearly with pixel centres at .5 (align_corners=False), edges repeated."""
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = (i + 0.5) * image.shape[0] / height - 0.5
            x = (j + 0.5) * image.shape[1] / width - 0.5
            for row in {floor(y), ceil(y)}:
                for column in {floor(x), ceil(x)}:
                    weight = (1 - abs(y - row)) * (1 - abs(x - column))
                    inside_row = min(max(row, 0), image.shape[0] - 1)
                    inside_column = min(max(column, 0), image.shape[1] - 1)
                    out[i, j] += weight * image[inside_row, inside_column]
    return out


def normalise(cams: Array, present: NDArray[np.bool_], how: str) -> Array:
    """Normalise (B, h, w) maps per image (paper) or across the batch per position (released code)."""
    out = np.zeros_like(cams)
    if how == "per_image":
        for image, cam in enumerate(cams):
            out[image] = (cam - cam.min()) / max(cam.max() - cam.min(), 1e-8)
        return out
    chosen = cams[present]
    for image in np.nonzero(present)[0].tolist():
        out[image] = (cams[image] - chosen.min(axis=0)) / chosen.max(axis=0)
    return out


def make_mask(cams: Array, observed: Array, threshold: float, how: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which pixels of each image are kept; an image without an observed positive is kept whole."""
    present = observed.sum(1) > 0
    mask = np.ones((len(cams), *size), bool)
    chosen = np.stack([cam[row.argmax()] for cam, row in zip(cams, observed, strict=True)])
    normalised = normalise(chosen, present, how)
    for image in np.nonzero(present)[0].tolist():
        mask[image] = upsample(normalised[image], *size) > threshold
    return mask


@dataclass
class PlainIgnore:
    """The state of IGNORE, and what a step does to it."""

    num_classes: int
    spbc_weight: float
    reg_weight: float
    warmup_epochs: int
    gap_decay: float
    average_decay: float
    correct_gap_bias: bool = False
    correct_average_bias: bool = False
    gap_threshold_scale: float = 1.0
    use_average_test: bool = True
    view: str = "strong"
    gap_threshold: float = 0.0
    gap_updates: int = 0
    average_updates: int = 0
    average_threshold: Array = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        self.average_threshold = np.zeros(self.num_classes)

    def thresholds(self) -> tuple[float, Array]:
        """Return the thresholds of gaps and logits."""
        gap, average = self.gap_threshold, self.average_threshold
        if self.correct_gap_bias and self.gap_updates:
            gap = gap / (1 - self.gap_decay**self.gap_updates)
        if self.correct_average_bias and self.average_updates:
            average = average / (1 - self.average_decay**self.average_updates)
        return gap * self.gap_threshold_scale, average

    def reject(self, logits: Array, gap: Array, observed: Array, epoch: int) -> NDArray[np.bool_]:
        """Update both thresholds with a batch, then return which entries its loss leaves out."""
        gaps = [gap[i, c] for i in range(len(gap)) for c in range(self.num_classes) if observed[i, c] == 1]
        if gaps:
            self.gap_threshold = self.gap_decay * self.gap_threshold + (1 - self.gap_decay) * sum(gaps) / len(gaps)
            self.gap_updates += 1
        for c in range(self.num_classes):
            mean = sum(logits[:, c]) / len(logits)
            self.average_threshold[c] = self.average_decay * self.average_threshold[c] + (1 - self.average_decay) * mean
        self.average_updates += 1
        rejected = np.zeros(logits.shape, bool)
        if epoch <= self.warmup_epochs:
            return rejected
        gap_threshold, average_threshold = self.thresholds()
        for i in range(len(logits)):
            for c in range(self.num_classes):
                candidate = gap[i, c] > gap_threshold and (
                    logits[i, c] > average_threshold[c] or not self.use_average_test
                )
                rejected[i, c] = candidate and observed[i, c] == 0
        return rejected

    def parts(self, logits: Array, strong: Array, observed: Array, rejected: NDArray[np.bool_]) -> dict[str, float]:
        """Return the three weighted terms of the loss."""
        spbc, kept, squares = [], [], []
        for i in range(len(logits)):
            for c in range(self.num_classes):
                if observed[i, c] == 1:
                    spbc.append(-np.log(sigmoid(logits[i, c]) + EPS))
                if not rejected[i, c]:
                    prob = sigmoid((strong if self.view == "strong" else logits)[i, c])
                    kept.append(-np.log((prob if observed[i, c] == 1 else 1 - prob) + EPS))
                squares.append((strong[i, c] - logits[i, c]) ** 2)
        return {
            "spbc": self.spbc_weight * (sum(spbc) / len(spbc) if spbc else 0.0),
            "ignore": sum(kept) / len(kept),
            "reg": self.reg_weight * sum(squares) / len(squares),
        }

    def gradients(
        self, logits: Array, strong: Array, observed: Array, rejected: NDArray[np.bool_]
    ) -> tuple[Array, Array]:
        """Return the derivative of the loss with respect to the weak logits and to the strong ones."""
        prob, viewed = sigmoid(logits), sigmoid(strong if self.view == "strong" else logits)
        pull = 2 * self.reg_weight * (logits - strong) / logits.size
        spbc = np.where(observed == 1, -prob * (1 - prob) / (prob + EPS), 0) * self.spbc_weight / max(observed.sum(), 1)
        slope = viewed * (1 - viewed)
        entry = np.where(observed == 1, -slope / (viewed + EPS), slope / (1 - viewed + EPS))
        by_view = np.where(rejected, 0, entry) / (~rejected).sum()
        return (spbc + pull, by_view - pull) if self.view == "strong" else (spbc + pull + by_view, -pull)
