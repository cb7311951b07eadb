"""The program as a user calls it, within the process of the test."""

from __future__ import annotations

import shlex
import sys

import pytest
import typer

from orchestrator.cli import app as cli


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Call the program and return its exit code, output and errors."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    captured = capsys.readouterr()
    code = stopped.value.code
    return (code if isinstance(code, int) else 0), captured.out, captured.err


def parse(command: str) -> str:
    """Parse a command line without running it; return its verb."""
    program, verb, *words = shlex.split(command)
    assert program.rpartition("/")[2] == "orchestrator"
    group = typer.main.get_command(cli.app)
    found = group.commands[verb]  # type: ignore[attr-defined]  # typer's group is its own class
    with found.make_context(verb, words) as context:
        assert context.params
    return verb


def pretend_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Make the program believe that its output goes to a terminal of this width; call it in the test itself."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "dumb")
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
