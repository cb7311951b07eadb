"""Keep the text of a CSV from being run as a formula by the spreadsheet that opens it.

Names of classes, files and trials come from others. A spreadsheet takes a cell that begins with ``=``, ``+``, ``-`` or
``@`` for a formula, which can send the sheet elsewhere. A leading ``'`` marks the cell as text, and spreadsheets hide
it. Imports only the standard library.
"""

from __future__ import annotations

import re
from contextlib import suppress

# A tab or a line break in front of them does not keep a spreadsheet from it. Quotes: so that it can be undone.
_FORMULA = re.compile(r"'*[\t\r\n]*[=+\-@]")
_GUARDED = re.compile(r"'+[\t\r\n]*[=+\-@]")


def guard_cell(text: str) -> str:
    """Return a text for a cell of a CSV; numbers stay as they are."""
    if not _FORMULA.match(text):
        return text
    with suppress(ValueError):
        float(text)
        return text
    return f"'{text}"


def unguard_cell(cell: str) -> str:
    """Return the text that :func:`guard_cell` made a cell of."""
    return cell[1:] if _GUARDED.match(cell) else cell
