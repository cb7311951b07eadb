"""Decide whether a search is over: the trials that it has left are expected to gain too little together.

Pure functions of what the journal says, so every driver decides alike.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection

LEAST_COMPLETE = 8
"""With fewer complete trials nothing is said: the best third of them would be a guess."""
_TOP_FRAC = 1 / 3


def expected_gain(scores: Collection[float], num_started: int, num_trials: int) -> float | None:
    """Return by how many points further trials are expected to raise the best score; None if too few are complete.

    The best scores are taken to have an exponential tail. Its mean excess ``a`` is that of the best third over the next
    best. The best of n draws from such a tail lies ``a (1 + 1/2 + ... + 1/n)`` above its beginning (Renyi 1953), so
    going on from n to N trials adds ``a ln(N / n)``. Bad and pruned trials change nothing. It says rather too much than
    too little: real scores have an upper end, and what is noise in them counts as if it could be gained.

    Args:
        scores: Of complete trials, in percent.
        num_started: n, all trials that have been started.
        num_trials: N, all trials of the sweep.
    """
    if len(scores) < LEAST_COMPLETE:
        return None
    num_top = math.ceil(_TOP_FRAC * len(scores))
    *top, threshold = heapq.nlargest(num_top + 1, scores)
    return (math.fsum(top) / num_top - threshold) * math.log(num_trials / num_started)
