"""Guess what a misspelt word was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_LISTED = 16
"""Nobody reads a longer list of words, and what follows it is lost."""

# Short names from papers and other code, for settings that have longer names here.
SYNONYMS = {
    "tau": "method.cam_threshold",
    "spbc": "method.spbc_weight",
    "reg": "method.reg_weight",
    "lr": "optim.lr",
    "learning_rate": "optim.lr",
    "wd": "optim.weight_decay",
    "bs": "optim.batch_size",
    "bsize": "optim.batch_size",
    "batch": "optim.batch_size",
    "epoch": "loop.epochs",
    "warmup": "method.warmup_epochs",
    "warm_up": "method.warmup_epochs",
    "seed": "loop.seed",
}


def nearest_word(word: str, valid: Iterable[str]) -> str | None:
    """Return the valid word closest to a misspelt one, or None. Capitals do not count."""
    words = {known.casefold(): known for known in valid}
    return next((words[close] for close in difflib.get_close_matches(word.casefold(), words, n=1)), None)


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """Return ``Did you mean ...?`` with the nearest valid word, or nothing."""
    nearest = nearest_word(word, valid)
    return f"Did you mean {nearest}?" if nearest else ""


def suggest(word: str, valid: Iterable[str]) -> str:
    """Return what to write instead of a misspelt word: the nearest valid one, if any is near, and those there are."""
    valid = list(valid)
    return f"{did_you_mean(word, valid)} Valid: {listed(valid)}.".lstrip()


def listed(words: Iterable[str]) -> str:
    """Return words separated by commas; of a long list, the first ones and the number of the others."""
    words = list(words)
    more = f", and {len(words) - MAX_LISTED} more" if len(words) > MAX_LISTED else ""
    return ", ".join(words[:MAX_LISTED]) + more


def nearest_key(key: str, valid: Iterable[str]) -> str | None:
    """Return the valid dotted key closest to a misspelt one, or None.

    Synonyms (``tau``) are understood with or without their section (``method.tau``).
    """
    valid = list(valid)
    leaf = key.rsplit(".", 1)[-1]
    if SYNONYMS.get(leaf) in valid:
        return SYNONYMS[leaf]
    # The last part matters most; the section only decides between keys that share it (model.name, data.name).
    close = nearest_word(leaf, [known.rsplit(".", 1)[-1] for known in valid])
    same = [known for known in valid if known.rsplit(".", 1)[-1] == close]
    return max(same, key=lambda known: difflib.SequenceMatcher(None, key, known).ratio(), default=None)
