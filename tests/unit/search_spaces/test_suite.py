"""Test the reader of suites: the shipped ones, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from search_spaces.reader import SpaceError
from search_spaces.suite import load_suite, shipped_suites

GOOD = """\
spaces: [digits]
methods: [ignore, em]
budget: {amount: 16, of: ignore}
contrasts:
  - {method: ignore, against: em}
"""


def test_shipped_suites_are_read_and_register_few_contrasts() -> None:
    assert shipped_suites() == ["clip", "digits", "digits-full", "paper", "photos", "spml"]
    for name in shipped_suites():
        suite = load_suite(name)
        assert suite.document.text.startswith("#"), "says what it is, what it costs and how to run it"
        assert f"orchestrator benchmark {name}" in suite.document.text
        assert suite.file.budget.by == "images"
        assert suite.file.seeds >= 5
        assert 1 <= len(suite.file.contrasts) <= 5


def test_faults_are_named_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    faults = {
        ("methods: [ignore, em]", "method: [ignore]"): r"mine.yaml:2: method is not a valid key. Did you mean methods?",
        ("amount: 16", "amount: 0"): r"mine.yaml:3: budget.amount must be greater than 0",
        ("of: ignore", "of: ignor"): r"mine.yaml:3: budget.of must be a method .* Did you mean ignore?",
        ("amount: 16, of", "by: trials, amount: 16, of"): r"mine.yaml:3: budget.of belongs to a budget by images",
        ("{amount: 16, of: ignore}", "{by: trials, amount: 1.5}"): r"whole number of trials",
        ("by_: x", ""): None,
        ("against: em", "against: emm"): r"mine.yaml:5: contrasts.0.against must be one of the methods.*mean em?",
        ("against: em", "against: ignore"): r"mine.yaml:5: contrasts.0.against must be another method",
        ("[ignore, em]", "[ignore, em, em]"): r"mine.yaml:2: methods must differ .* em is given twice",
        ("contrasts:", "seeds: 1\ncontrasts:"): r"mine.yaml:4: seeds must be at least 2",
    }
    for (old, new), message in faults.items():
        path.write_text(GOOD.replace(old, new))
        if message is None:
            load_suite(path)
            continue
        with pytest.raises(SpaceError, match=message):
            load_suite(path)


def test_more_than_five_contrasts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD + "  - {method: ignore, against: em}\n" * 5)
    with pytest.raises(SpaceError, match=r"mine.yaml:4: contrasts must be at most 5, but got 6"):
        load_suite(path)


def test_a_name_that_does_not_exist_gets_a_hint(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"no suite called digts. Did you mean digits\?"):
        load_suite("digts")
    with pytest.raises(SpaceError, match="called digits, without .yaml"):
        load_suite("elsewhere/digits.yaml")
