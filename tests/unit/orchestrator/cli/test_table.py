from __future__ import annotations

import io

import pytest
from rich.console import Console

from orchestrator.cli.table import Column, fit_columns, render_plain, render_table

COLUMNS = [
    Column("state", ("COMPLETE", "PRUNED")),
    Column("score", ("33.39", "1.00"), right=True),
    Column("cam_threshold", ("0.5548", "0.549"), right=True),
    Column("time", ("5 s", "2 min 05 s")),
]


def rendered(columns: list[Column], width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(render_table(columns))
    return console.export_text().splitlines()


def test_what_fits_is_left_as_it_is() -> None:
    assert fit_columns(COLUMNS, [3], 80) == COLUMNS


def test_headers_are_broken_before_a_column_goes() -> None:
    shown = fit_columns(COLUMNS, [3], 40)
    assert [column.name for column in shown] == ["state", "score", "cam_threshold", "time"]
    assert shown[2].header == "cam_\nthreshold"


def test_columns_go_in_the_order_asked_for() -> None:
    assert [column.name for column in fit_columns(COLUMNS, [3, 2], 34)] == ["state", "score", "cam_threshold"]
    assert [column.name for column in fit_columns(COLUMNS, [3, 2], 20)] == ["state", "score"]


@pytest.mark.parametrize("width", range(15, 60))
def test_no_cell_is_ever_broken(width: int) -> None:
    shown = fit_columns(COLUMNS, [3, 2], width)
    lines = rendered(shown, width)
    assert max(map(len, lines)) <= width
    for column in shown:
        assert all(any(cell in line for line in lines) for cell in column.cells), column.name


def test_sentences_take_the_lines_they_need() -> None:
    failure = Column("failure", ("NAN: loss must be finite, but was nan at step 3",), wrapped=True)
    shown = fit_columns([Column("state", ("FAILED",)), failure, Column("time", ("1 s",))], [2], 36)
    assert [column.name for column in shown] == ["state", "failure"]
    assert " ".join(line[8:].strip() for line in rendered(shown, 36)[2:]).split() == failure.cells[0].split()


def test_in_a_pipe_every_row_is_whole_and_without_blanks_at_its_end() -> None:
    columns = [Column("trial", ("7", "11"), right=True), Column("failure", ("a long sentence", ""))]
    assert render_plain(columns) == ["trial  failure", "    7  a long sentence", "   11"]
    assert render_plain([Column("a", ())]) == ["a"]
