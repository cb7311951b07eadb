"""Test that a wheel, installed into another environment and used from an empty folder, is enough."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from orchestrator.provenance import read_build

ROOT = Path(__file__).parents[2]


def call(*command: str | Path, cwd: Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command that knows nothing of this checkout."""
    kept = {
        key: value for key, value in os.environ.items() if key not in ("ORCHESTRATOR_HOME", "VIRTUAL_ENV", "PYTHONPATH")
    }
    return subprocess.run(command, cwd=cwd, env=kept | environment, capture_output=True, text=True, check=check)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    call(
        sys.executable,
        "-m",
        "uv",
        "build",
        "--wheel",
        "--no-build-isolation",
        "--python",
        sys.executable,
        "-o",
        out,
        cwd=ROOT,
    )
    (built,) = out.glob("*.whl")
    return built


def test_wheel_holds_packages_and_yamls_but_neither_tests_nor_benchmarks(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"orchestrator", "training", "search_spaces"}
    shipped = {path.relative_to(ROOT).as_posix() for path in (ROOT / "search_spaces").rglob("*.yaml")}
    assert shipped == {name for name in names if name.endswith(".yaml")}


def test_wheel_works_from_an_empty_folder_in_another_environment(wheel: Path, tmp_path: Path) -> None:
    environment, empty = tmp_path / "venv", tmp_path / "empty"
    empty.mkdir()
    call(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    call(sys.executable, "-m", "uv", "pip", "install", "--python", python, "--no-deps", wheel, cwd=tmp_path)
    # The dependencies are those of this environment; its .pth files, and so this checkout, do not count through
    # PYTHONPATH.
    dependencies = sysconfig.get_path("purelib")
    asked = (
        "import json, orchestrator, orchestrator.provenance as p; print(json.dumps([orchestrator.__file__, "
        "p.read_build()]))"
    )
    where, build = json.loads(call(python, "-c", asked, cwd=empty, PYTHONPATH=dependencies).stdout)
    assert Path(where).is_relative_to(environment)
    assert build == read_build()
    program = environment / "bin" / "orchestrator"
    planned = call(program, "sweep", "digits", "--dry-run", cwd=empty, PYTHONPATH=dependencies)
    assert planned.stdout.startswith("sweep digits: ignore on digits")
    mistake = call(program, "plan", "digit", cwd=empty, check=False, PYTHONPATH=dependencies)
    assert (mistake.returncode, "Did you mean digits?" in mistake.stderr) == (2, True)
    assert list(empty.iterdir()) == []
