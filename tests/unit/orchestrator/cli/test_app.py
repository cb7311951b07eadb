from __future__ import annotations

import subprocess
import sys

import pytest

from orchestrator.cli import app as cli
from orchestrator.errors import OrchestratorError, UserError
from orchestrator.results import summary
from search_spaces.reader import SpaceError
from tests.kit.program import parse, run
from tests.kit.sweeps import make_sweep
from training.errors import ConfigError, DatasetError

HEAVY = ("torch", "ray", "mlflow", "optuna", "numpy", "pydantic", "rich", "pyarrow", "psutil")


def test_help_imports_nothing_heavy() -> None:
    # Seconds depend on the machine; what is imported does not. It was 0.14 s with typer alone.
    code = f"""
import sys
from orchestrator.cli import app as cli
try:
    cli.main(["--help"])
except SystemExit:
    print("heavy:", sorted(set({HEAVY}) & set(sys.modules)))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "heavy: []" in out


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_every_verb_has_an_example_and_the_exit_codes(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert f"Example: orchestrator {verb}" in out
    assert cli.EXIT_CODES in out


@pytest.mark.parametrize("verb", cli.VERBS)
def test_example_of_every_verb_is_understood(verb: str) -> None:
    assert parse(cli.VERBS[verb][1].partition(" >")[0]) == verb


@pytest.mark.parametrize(
    "verb", [verb for verb in cli.VERBS if verb not in ("predict", "browse", "bundle", "logs", "cancel")]
)
def test_verbs_that_print_a_table_print_json_too(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert "--json" in run(capsys, verb, "--help")[1]


def test_no_verb_shows_the_help_and_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys)
    assert code == 2
    assert "Commands:" in out + err


def test_misspelt_verb_and_option_name_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "swep", "digits")
    assert (code, "'sweep'" in err) == (2, True)
    code, _, err = run(capsys, "sweep", "digits", "--trails", "4")
    assert (code, "--trials" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["swep", "digits"], "No such command 'swep'. Did you mean 'sweep'? See: orchestrator --help"),
        (["sweep"], "Missing argument 'SPACE'. See: orchestrator sweep --help"),
        (["sweep", "digits", "--trials"], "Option '--trials' requires an argument. See: orchestrator --help"),
        (
            ["sweep", "digits", "--trials", "x"],
            '--trials must be an integer, but got "x". See: orchestrator sweep --help',
        ),
        (
            ["evaluate", "digits", "--split", "foo"],
            "--split: 'foo' is not one of 'train', 'val', 'test'. See: orchestrator evaluate --help",
        ),
        (["status", "a", "b"], "Got unexpected extra argument(s) (b). See: orchestrator status --help"),
    ],
)
def test_words_that_are_no_command_are_told_as_every_other_mistake(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(capsys, *words) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("name must be free"), 2),
        (ConfigError("tau must be less than 1"), 2),
        (SpaceError("voc.yaml:3: trials must be given"), 2),
        (OrchestratorError("journal must be whole"), 1),
        (DatasetError("voc is not prepared"), 1),
    ],
)
def test_our_errors_are_their_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def fail(sweep_id: str) -> None:
        raise error

    monkeypatch.setattr(summary, "summarise", fail)
    make_sweep()
    assert run(capsys, "status") == (code, "", f"error: {error}\n")


@pytest.mark.parametrize(
    "words",
    [
        ["sweep", "no_such_space.yaml"],
        ["sweep", "voc", "--set", "data.store=/nonexistent"],
        ["sweep", "digits", "--set", "model.weights=/nonexistent/trunk.pt"],
        ["train", "--from", "nonexistent.yaml"],
        ["train", "--from", "nonexistent-00000001/0"],
        ["max-batch", "voc", "--device", "cpu", "--limit-gib", "1", "--set", "data.store=/nonexistent"],
        ["resume", "nonexistent"],
        ["resume", "--from", "/nonexistent"],
        ["promote", "nonexistent"],
        ["leaderboard", "nonexistent"],
        ["evaluate", "nonexistent"],
        ["predict", "nonexistent", "/nonexistent"],
        ["browse", "/nonexistent.bundle.zip"],
        ["data", "prepare", "voc", "--source", "/nonexistent"],
        ["data", "show", "nonexistent"],
        ["cluster", "up", "--config", "/nonexistent.yaml"],
        ["logs", "nonexistent"],
    ],
    ids=" ".join,
)
def test_what_does_not_exist_is_the_users_mistake(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    code, _, err = run(capsys, *words)
    assert (code, err.startswith("error: "), "Traceback" in err) == (2, True, False), err


@pytest.mark.parametrize("verb", ["status", "leaderboard", "browse", "promote", "evaluate"])
def test_an_mlflow_that_does_not_answer_is_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    words = ["evaluate", "nonexistent@champion"] if verb == "evaluate" else [verb, "nonexistent"]
    code, _, err = run(capsys, *words)
    expected = 2 if verb in ("browse", "promote") else 1  # these two look in this home only
    assert (code, "Traceback" in err) == (expected, False), err


def test_other_errors_say_how_to_learn_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary, "summarise", lambda sweep_id: 1 / 0)
    make_sweep()
    code, _, err = run(capsys, "status")
    assert code == 1
    assert "ZeroDivisionError: division by zero" in err
    assert "--debug" in err
    assert "Traceback" not in err
    for words in (["--debug", "status"], ["status", "--debug"]):
        with pytest.raises(ZeroDivisionError):
            cli.main(words)


@pytest.mark.parametrize("query", ["sig=hunter2a", "X-Amz-Signature=hunter2a", "account_key=hunter2a"])
def test_a_refused_uri_does_not_show_its_secret(capsys: pytest.CaptureFixture[str], query: str) -> None:
    uri = f"abfs://box/x?v=1&{query}"
    for words in (
        ["plan", "digits", "--storage", uri],
        ["plan", "voc", "--set", f"data.store={uri}"],
        ["plan", uri],
        ["plan", "digits", "--trials", uri],
        ["resume", "--from", uri],
        [uri],
    ):
        code, out, err = run(capsys, *words)
        assert code == 2, err
        assert "hunter2a" not in out + err


def test_interrupt_is_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(sweep_id: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(summary, "summarise", interrupt)
    make_sweep()
    assert run(capsys, "status")[0] == 130


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["plan", "digit"], "Did you mean digits?"),
        (["plan", "digits", "--set", "method.tau=.5"], "Did you mean method.cam_threshold?"),
        (["plan", "digits", "--set", "method.cam_threshold=2"], "method.cam_threshold must be less than 1"),
        (["plan", "digits", "--set", "method.cam_threshold"], "must be key=value"),
        (["plan", "digits", "--trials", "0"], "--trials must be at least 1"),
        (["plan", "digits", "--method", "ignroe"], "Did you mean ignore?"),
        (["train"], "SPACE or --from, but got neither"),
        (["train", "digits", "--from", "digits-0/1"], "SPACE or --from, but got both"),
        (["train", "--from", "digits-0/1", "--method", "em"], "--method goes with SPACE"),
        (["evaluate", "digits", "--split", "test"], "orchestrator promote"),
        (["predict", "digits", ".", "--out", "scores.xlsx"], "must end in .parquet or .csv"),
        (["leaderboard", "--json", "--csv"], "prints JSON or CSV, not both"),
        (["status"], "orchestrator sweep digits"),
    ],
)
def test_mistakes_are_told_with_the_way_out(capsys: pytest.CaptureFixture[str], words: list[str], hint: str) -> None:
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert hint in err
    assert "Traceback" not in err


@pytest.mark.parametrize("increase", ["12.5", "-3", "0", "+", "twelve"])
def test_extend_wants_a_number_to_add(capsys: pytest.CaptureFixture[str], finished: str, increase: str) -> None:
    code, _, err = run(capsys, "extend", finished, f"--trials={increase}")
    assert code == 2
    assert "--trials +12" in err


def test_unknown_sweep_names_the_nearest(capsys: pytest.CaptureFixture[str], finished: str) -> None:
    for verb in ("status", "leaderboard", "resume", "promote", "browse"):
        code, _, err = run(capsys, verb, "digist")
        assert code == 2, verb
        assert "Did you mean digits?" in err, verb
        assert "orchestrator status --all" in err, verb
