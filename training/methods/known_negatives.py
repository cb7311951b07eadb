"""What a label that is known to be negative (``data.negatives``) costs, and what may not happen to it.

Single-positive methods doubt every label that is not observed. Where a negative is known there is nothing to doubt, so
it costs ``-log(1 - p + 1e-5)``, as in the benchmark of L48 (arXiv 2511.00252), unless the method's loss of assumed
negatives is one that is used with all labels too (AN, AN-LS, focal, ASL, SPLC), which it then keeps. It is never
rejected, ignored or taken for a positive.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.data.batches import Batch
from training.losses import negative_log


def charge_negatives(entries: Tensor, probs: Tensor, batch: Batch) -> Tensor:
    """Return a method's loss per entry (B, C), with ``-log(1 - p)`` where the label is known to be negative."""
    return entries if batch.negative is None else torch.where(batch.negative, negative_log(1 - probs), entries)


def may_be_positive(batch: Batch) -> Tensor:
    """Return the entries (B, C) of which nothing is known, as bool: those that a method may doubt."""
    unobserved = batch.observed <= 0
    return unobserved if batch.negative is None else unobserved & ~batch.negative
