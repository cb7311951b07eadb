"""Write rows as CSV that is safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from training.csv_cells import guard_cell


def write_rows(rows: Iterable[Mapping[str, Any]], columns: Iterable[str] = ()) -> str:
    """Return rows as CSV with a header.

    Args:
        rows: They may lack some of the columns, as a trial that failed early does.
        columns: The first columns, for a header even without rows; others follow in the order in which they occur.
    """
    guarded = [{guard_cell(name): _guard(value) for name, value in row.items()} for row in rows]
    names = list(dict.fromkeys([*map(guard_cell, columns), *(name for row in guarded for name in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(guarded)
    return text.getvalue()


def _guard(value: Any) -> Any:
    return guard_cell(value) if isinstance(value, str) else value
