from __future__ import annotations

from training.counts import counted, plural, singular


def test_a_count_fits_its_noun() -> None:
    for number, noun, expected in (
        (0, "line", "0 lines"),
        (1, "line of the test ledger", "1 line of the test ledger"),
        (2345, "line of the test ledger", "2,345 lines of the test ledger"),
        (2, "hash of data and weights", "2 hashes of data and weights"),
        (2, "class", "2 classes"),
        (3, "final run", "3 final runs"),
        (2, "epoch", "2 epochs"),
        (2, "batch", "2 batches"),
        (2, "condition that cells share", "2 conditions that cells share"),
        (2, "run in MLflow", "2 runs in MLflow"),
    ):
        assert counted(number, noun) == expected
    assert plural("choice by the rule") == "choices by the rule"
    for nouns, noun in (("hashes of data", "hash of data"), ("final runs", "final run"), ("classes", "class")):
        assert singular(nouns) == noun
