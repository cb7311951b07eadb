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
from orchestrator.cli.app import main
from orchestrator.program import program
from orchestrator.results import bundle as bundle_module
from orchestrator.sweep.options import DriveOptions
from orchestrator.sweep_folder.events import Event
from tests.kit.program import pretend_terminal
from tests.kit.sweeps import driver_started, epoch_reported, make_sweep, trial_ended, trial_started, write_events


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
    assert program() == str(Path(".venv", "bin", "orchestrator"))
    monkeypatch.setattr(sys, "argv", [".venv/bin/orchestrator"])
    assert program() == ".venv/bin/orchestrator"
    monkeypatch.setattr(shutil, "which", lambda name: str(script))
    assert program() == "orchestrator"


def test_program_is_named_plainly_when_called_as_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/lib/python3/pytest/__main__.py"])
    assert program() == "orchestrator"


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
    cli_output.print_note("Make one: orchestrator sweep digits, then orchestrator promote (or orchestrator train)")
    assert capsys.readouterr().err == f"Make one: {path} sweep digits, then {path} promote (or {path} train)\n"
    cli_output.print_file("# (after: orchestrator data prepare)")
    assert capsys.readouterr().out == "# (after: orchestrator data prepare)\n"
    cli_output.print_line(f"the orchestrator is not a command: {path} jobs")
    assert capsys.readouterr().out == f"the orchestrator is not a command: {path} jobs\n"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
@pytest.mark.parametrize(
    "words",
    [
        ("status", "digits-00000001"),
        ("leaderboard",),
        ("leaderboard", "--csv"),
        ("leaderboard", "--json"),
        ("status", "--all"),
        ("status", "\u732b"),
        ("plan", "\u732b.yaml"),
        ("data", "show", "caf\udce9"),
    ],
)
def test_any_character_can_be_printed_in_any_encoding(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], encoding: str
) -> None:
    plan = make_sweep()
    started: list[Event] = [driver_started(plan)]
    for trial, place in enumerate(("/caf\xe9/w.pt", "/\u732b/w.pt")):
        started += [trial_started(trial, 1, 1, **{"model.weights": place}), epoch_reported(trial, 1, 2)]
    write_events(plan, [*started, trial_ended(0, 3, "FAILED", "ERROR", "\u732b \U0001f600")])
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert ended.value.code in (None, 0, 2)
    printed, said = (stream.buffer.getvalue().decode(encoding) for stream in (out, err))
    assert "UnicodeEncodeError" not in said
    shown = "\u732b" if encoding == "utf-8" else "\\u732b"
    if words[0] == "leaderboard" and "--json" not in words:
        assert f"/{shown}/w.pt" in printed
        assert (f"the encoding {encoding} lacks some characters" in said) == (encoding != "utf-8")
    if words == ("status", "\u732b"):
        assert f"No sweep '{shown}'" in said


def test_commands_and_paths_with_spaces_can_be_copied(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "my photos"
    folder.mkdir()
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(folder))
    plan = make_sweep()
    failed = trial_ended(0, 2, "FAILED", "ERROR", "x")
    write_events(plan, [driver_started(plan), trial_started(0, 1), failed])
    with pytest.raises(SystemExit):
        main(["leaderboard"])
    assert f"'{folder}/sweeps/{plan.id}/errors'" in capsys.readouterr().err
    options = DriveOptions("auto", backup=f"{folder}/backup")
    assert options.repeated_flags() == f" --address auto --backup '{folder}/backup'"
    monkeypatch.setattr(sys, "argv", [str(folder / "orchestrator")])
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert program() == f"'{folder}/orchestrator'"
    monkeypatch.setattr(bundle_module, "write_bundle", lambda sweep, out, say: out.write_bytes(b"1234") * 0)
    with pytest.raises(SystemExit):
        main(["bundle"])
    out = capsys.readouterr().out
    file = f"'{folder}/{plan.id}.bundle.zip'"
    assert f"{file}: 0 pictures and tables, 4 bytes" in out
    assert f"browse {file}  # open it" in out
