"""Test what the shell completes, as bash asks for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.results.suite_record import register
from tests.kit.suites import make_suite_record
from tests.kit.sweeps import make_sweep

PATH = str(Path(__file__).parents[4])


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return the program as it lies in a virtual environment."""
    path = tmp_path / "bin" / "orchestrator"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\nfrom orchestrator.__main__ import main\nmain()\n")
    path.chmod(0o755)
    return path


def complete(program: Path, line: str) -> list[str]:
    """Return the completions of the last word, as the script that `--show-completion` prints asks for them."""
    asked = {
        "_ORCHESTRATOR_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
        "PYTHONPATH": PATH,
    }
    folder = program.parents[1]
    done = subprocess.run([program], env=os.environ | asked, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.slow
def test_verbs_options_spaces_sweeps_and_methods_are_completed(program: Path, tmp_path: Path) -> None:
    sweep = make_sweep("mine-0a1b2c3d", name="mine")
    suite = register(make_suite_record())
    (tmp_path / "digits-own.yaml").touch()
    expected = {
        "orchestrator sw": ["sweep"],
        "orchestrator sweep --tri": ["--trials"],
        "orchestrator sweep digits_": ["digits_fig2", "digits_q2l"],
        "orchestrator plan digits-": ["digits-own.yaml"],
        "orchestrator benchmark digits-": ["digits-full", "digits-own.yaml"],
        "orchestrator leaderboard m": ["mine", sweep.id, suite.id],
        "orchestrator sweep digits --method ignore_without_r": ["ignore_without_rejection", "ignore_without_reg"],
        "orchestrator data pre": ["prepare"],
    }
    assert {line: complete(program, line) for line in expected} == expected


def test_the_script_is_made_for_the_name_and_not_for_a_path(program: Path, tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    # Not as the last command, which bash would become: the shell is found among the parents, as for a user.
    command = [bash, "-c", "bin/orchestrator --show-completion; true"]
    variables = os.environ | {"PYTHONPATH": PATH}
    script = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "_ORCHESTRATOR_COMPLETE=complete_bash $1" in script
    assert script.rstrip().endswith("complete -o default -F _orchestrator_completion orchestrator")
