"""Run a notebook's cells as plain Python: the tests need no Jupyter."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"


def read_cells(name: str) -> list[dict[str, Any]]:
    """Return the code cells of one of the shipped notebooks."""
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run_cells(name: str, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Run a notebook with other sizes than those of its first cell; return its variables."""
    first, *others = ["".join(cell["source"]) for cell in read_cells(name)]
    assert set(re.findall(r"\b[A-Z]+\b", first)) >= set(sizes)
    variables: dict[str, Any] = {"__name__": "__main__"}
    exec(first, variables)
    variables |= sizes
    for number, source in enumerate(others, start=2):
        exec(compile(source, f"{name}, code cell {number}", "exec"), variables)
    return variables


def check_outputs(name: str) -> None:
    """Check that a notebook was run from top to bottom, without an error, and shows something."""
    cells = read_cells(name)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output["output_type"] for cell in cells for output in cell["outputs"]]
    assert kinds
    assert "error" not in kinds
