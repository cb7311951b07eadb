"""Every command of a benchmark that is written down somewhere starts something."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_command_that_is_written_down_exists() -> None:
    places = [
        ROOT / "Makefile",
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "benchmarks").rglob("*.py"),
    ]
    named = {name for place in places for name in re.findall(r"-m (benchmarks\.[\w.]*\w)", place.read_text())}
    # CHANGELOG tells of commands as they were called at the time.
    assert named >= {"benchmarks.faults", "benchmarks.digits", "benchmarks.step", "benchmarks.pipeline"}
    missing = []
    for name in named:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
        missing += [] if spec is not None else [name]
    assert missing == []
