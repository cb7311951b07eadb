from __future__ import annotations

import csv
import io
import json
import math
import shutil
import sys
from pathlib import Path

import pytest

from orchestrator.cli import output as cli_output
from tests.kit.program import pretend_terminal


def test_json_has_null_where_a_number_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    cli_output.print_json({"a": math.nan, "b": [1.5, math.inf], "c": {"d": (-math.inf, 0.1)}, "e": Path("x")})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1.5, None], "c": {"d": [None, 0.1]}, "e": "x"}


def test_csv_takes_columns_from_all_rows_and_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"trial": 0, "params": {"optim.lr": 1e-3}},
        {"trial": 1, "params": {"optim.lr": 1e-2, "x": 'say "a, b"'}, "cause": None},
    ]
    cli_output.print_csv(rows)
    read = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert read == [
        {"trial": "0", "params.optim.lr": "0.001", "params.x": "", "cause": ""},
        {"trial": "1", "params.optim.lr": "0.01", "params.x": 'say "a, b"', "cause": ""},
    ]


def test_piped_table_is_plain_whole_and_unwrapped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    message = "loss must be finite, " + "but was [red]nan[/red] " * 30
    cli_output.print_table(["trial", "failure"], [(7, message), (11, None)], right=[0])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["trial  failure", f"    7  {message}".rstrip(), "   11"]


def test_columns_without_room_are_named_below_the_table_with_what_shows_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_terminal(monkeypatch, 60)
    row = ["COMPLETE", "33.39", "x" * 50, "1 s"]
    cli_output.print_table(
        ["state", "score", "notes", "time"], [row], drop=[3, 2], hint="orchestrator leaderboard --csv"
    )
    out = capsys.readouterr().out
    assert "COMPLETE  33.39" in out
    assert out.endswith("\nNo room here for notes, time:\n  orchestrator leaderboard --csv\n")
    assert max(map(len, out.splitlines())) <= 60


def test_sentences_are_broken_between_words_and_commands_never(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_terminal(monkeypatch, 60)
    cli_output.print_text("word " * 20)
    assert [len(line) for line in capsys.readouterr().out.splitlines()] == [59, 39]
    cli_output.print_next({"promote digits-0a1b2c3d": "train the winner at full length, once per seed"})
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  # train the winner at full length, once per seed",
        "  orchestrator promote digits-0a1b2c3d",
    ]


def test_commands_to_type_next_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    cli_output.print_next({"promote a-1": "train it again", "browse": "see it"})
    _, first, second = capsys.readouterr().out.splitlines()
    assert first.index("#") == second.index("#")
    cli_output.print_next({})
    assert capsys.readouterr().out == ""


def test_program_is_named_as_the_shell_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / ".venv" / "bin" / "orchestrator"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert cli_output.program() == str(Path(".venv", "bin", "orchestrator"))
    monkeypatch.setattr(sys, "argv", [".venv/bin/orchestrator"])
    assert cli_output.program() == ".venv/bin/orchestrator"
    monkeypatch.setattr(shutil, "which", lambda name: str(script))
    assert cli_output.program() == "orchestrator"


def test_program_is_named_plainly_when_called_as_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/lib/python3/pytest/__main__.py"])
    assert cli_output.program() == "orchestrator"


def test_commands_in_messages_of_other_layers_are_shown_as_the_user_types_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "orchestrator"
    script.touch()
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setattr(shutil, "which", lambda name: None)
    path = f"{tmp_path.name}/orchestrator"
    cli_output.print_note("No sweeps. Start one: orchestrator sweep digits, or see `orchestrator status --all`.")
    assert capsys.readouterr().err == f"No sweeps. Start one: {path} sweep digits, or see `{path} status --all`.\n"
    cli_output.print_line(f"the orchestrator is not a command: {path} jobs")
    assert capsys.readouterr().out == f"the orchestrator is not a command: {path} jobs\n"
