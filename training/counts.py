"""Say how many of something there are."""

from __future__ import annotations

import re

_HEAD = re.compile(r"(?P<head>\S+(?: \S+)*?)(?P<rest>(?: (?:of|in|by|that|with) .*)?)")
_LONG = ("s", "sh", "tch", "x")
"""Endings after which a plural takes -es."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 image``, ``1,200 images``, ``2 classes``, ``2 lines of the ledger``.

    Args:
        number: How many.
        noun: In the singular, perhaps with more behind it: ``line of the ledger``.
    """
    return f"{number:,} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """Return the plural of a noun, perhaps with more behind it."""
    found = _HEAD.fullmatch(noun)
    assert found is not None
    head, rest = found["head"], found["rest"]
    return f"{head}{'es' if head.endswith(_LONG) else 's'}{rest}"


def singular(nouns: str) -> str:
    """Return the singular of a noun in the plural: of the first word that ends in s; others may stand around it."""
    words = nouns.split(" ")
    place = next(place for place, word in enumerate(words) if word.endswith("s"))
    word = words[place]
    words[place] = word[:-2] if word.endswith("es") and word[:-2].endswith(_LONG) else word[:-1]
    return " ".join(words)
