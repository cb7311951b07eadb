"""Split the training images and draw single positives exactly as the SPML literature does.

Both come from the preprocessing that Cole et al. (CVPR 2021) released and that the later papers share. NumPy's legacy
``RandomState`` stream is stable across versions, so the same seeds give the same labels everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def split_train_val(
    num_images: int, seed: int = 1200, val_frac: float = 0.2
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split the official training images into train and validation.

    Args:
        num_images: Number of official training images.
        seed: Seed of the permutation; 1200 in the literature.
        val_frac: Fraction of validation images.

    Returns:
        Sorted indices of train and of val.
    """
    # np.round as in the released code: it rounds halves to even, and one image more would change every later index.
    num_val = int(np.round(val_frac * num_images))
    order = np.random.RandomState(seed).permutation(num_images)
    cut = num_images - num_val
    return np.sort(order[:cut]).astype(np.int64), np.sort(order[cut:]).astype(np.int64)


def draw_single_positives(true: NDArray[np.bool_], seed: int = 1200) -> NDArray[np.bool_]:
    """Draw one observed positive for each image that has any.

    Each official phase gets a fresh generator. Each row's negatives are shuffled too, although none is kept: that
    shuffle consumes random numbers, and without it the labels would not be the literature's.

    Args:
        true: (N, C), all true labels of one official phase (before the train / val split).
        seed: Seed of the draw; 1200 in the literature.

    Returns:
        (N, C), at most one True per row.
    """
    stream = np.random.RandomState(seed)
    observed = np.zeros_like(true)
    for row, labels in enumerate(true):
        positives = np.nonzero(labels)[0]
        stream.shuffle(positives)
        observed[row, positives[:1]] = True
        stream.shuffle(np.nonzero(~labels)[0])  # the result is not used, see above
    return observed
