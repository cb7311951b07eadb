"""Openings of a test set that nobody has, for tests of the ledger and of what prints it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrator.sweep_folder.ledger import Opening, TestSet, register_opening
from tests.kit.sweeps import PROVENANCE

SET = TestSet(
    dataset="digits",
    data_hash=PROVENANCE["data_hash"],
    split_hash="5b117",
    method="ignore",
    recipe="digits",
    protocol="clean-val x clean-val",
    config_hash="c0nf16",
    seeds=(1001, 1002, 1003),
    draws=(1200,),
    commit="c0ffee",
    changes="none",
)


def open_set(number: int = 0, **changes: Any) -> Opening:
    """Open a set; each number is another configuration."""
    return register_opening(replace(SET, config_hash=f"config-{number}", **changes), f"promote {number}", "false")
