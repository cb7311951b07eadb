"""Test that no text of a CSV is a formula, and that every text can be read back."""

from __future__ import annotations

import random

from training.csv_cells import guard_cell, unguard_cell


def test_formulas_are_marked_as_text_and_read_back_unchanged() -> None:
    for text in ("=1+1", "+cmd", "-x", "@sum", "\t=1", "\r\n@x", "'=1", "''=1", "-"):
        assert guard_cell(text) == f"'{text}"
    for text in ("", "cat", "-0.5", "+3", "1e-3", "-inf", "a=b", "'quoted'", "x@y"):
        assert guard_cell(text) == text
    dice = random.Random(16)
    for _ in range(2000):
        text = "".join(dice.choices("'=+-@\t\r\na1", k=dice.randrange(6)))
        guarded = guard_cell(text)
        assert unguard_cell(guarded) == text or guarded == text
        assert guarded.startswith("'") or guarded == text
