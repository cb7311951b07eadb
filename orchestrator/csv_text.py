"""Write rows as CSV that is safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from training.csv_cells import guard_cell


def write_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV with a header; rows may lack some of the columns, as a trial that failed early does."""
    guarded = [{guard_cell(name): _guard(value) for name, value in row.items()} for row in rows]
    names = list(dict.fromkeys(name for row in guarded for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(guarded)
    return text.getvalue()


def _guard(value: Any) -> Any:
    return guard_cell(value) if isinstance(value, str) else value
