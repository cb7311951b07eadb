"""Test that text of others cannot steer a terminal, wherever it is printed."""

from __future__ import annotations

import csv
import io

import pytest

from orchestrator.cli import output
from orchestrator.terminal_text import one_line, show_controls
from tests.kit.program import pretend_terminal, run

HOSTILE = "a\x1b[2J\x07\x9b31m\u202eb\rc"
HARMLESS = r"a\x1b[2J\x07\x9b31m\u202eb\rc".replace(r"\r", r"\x0d")


def test_control_characters_are_written_as_codes_and_all_else_stays() -> None:
    assert show_controls(HOSTILE) == HARMLESS
    for text in ("", "two\nlines\tand tabs", "Zürich, 東京, שלום, 🐈"):
        assert show_controls(text) == text
    assert one_line("two\nlines\tand \x1b[2J") == r"two\nlines\tand \x1b[2J"


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("is_terminal", [True, False])
def test_nothing_that_is_printed_has_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    if is_terminal:
        pretend_terminal(monkeypatch, 120)
    output.print_line(HOSTILE)
    output.print_note(HOSTILE)
    output.print_text(HOSTILE)
    output.print_table([HOSTILE, "trial"], [(HOSTILE, 1)])
    output.print_json({"name": HOSTILE})
    if is_terminal:
        output.print_csv([{"name": HOSTILE, HOSTILE: 1}])
    printed = capsys.readouterr()
    code, _, err = run(capsys, "status", f"x{HOSTILE}")
    assert code == 2
    for stream in (printed.out, printed.err, err):
        assert not set(stream) & {"\x07", "\x9b", "\u202e", "\r"}
        assert "\x1b[2J" not in stream


def test_a_cell_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(["class", "images"], [("cat\nerror: none", 1)])
    assert r"cat\nerror: none" in capsys.readouterr().out


def test_a_csv_for_a_program_has_the_names_as_they_are_but_for_formulas(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_csv([{"name": "\x1b[2J", "class": "=1+1", "score": -0.5, "=x": "-0.5"}])
    row = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert row == {"name": "\x1b[2J", "class": "'=1+1", "score": "-0.5", "'=x": "-0.5"}
