from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from orchestrator.cluster import job_package as jobs
from orchestrator.cluster.job_package import packed, render_entrypoint
from orchestrator.errors import UserError


def test_code_is_sent_and_nothing_else(home: Path) -> None:
    (home / "mlflow.db").write_text("")
    with packed(["sweep", "digits"]) as package:
        names = set(package.files)
        assert {
            "orchestrator/cli/app.py",
            "orchestrator/__main__.py",
            "training/loop/run.py",
            "search_spaces/digits.yaml",
            "search_spaces/methods/ignore.yaml",
        } <= names
        assert {name.split("/")[0] for name in names} == {"orchestrator", "training", "search_spaces"}
        assert {Path(name).suffix for name in names} <= {".py", ".yaml", ".json"}
        build = json.loads((package.folder / "orchestrator" / "_build.json").read_text(encoding="utf-8"))
        assert {"commit", "changes", "lock_hash"} <= set(build)
        assert package.num_bytes == sum((package.folder / name).stat().st_size for name in names) < 3 * 2**20
        folder = package.folder
    assert not folder.exists()


def test_yaml_files_that_the_verb_names_are_sent_along(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.yaml").write_text(f"# {folder}\n")
    words = [
        "train",
        f"--from={tmp_path}/a/mine.yaml",
        str(tmp_path / "b" / "mine.yaml"),
        "--set",
        "model.weights=x.yaml",
        "gone.yaml",
    ]
    with packed(words) as package:
        assert package.words == (
            "train",
            "--from=given/mine.yaml",
            "given/2-mine.yaml",
            "--set",
            "model.weights=x.yaml",
            "gone.yaml",
        )
        assert (package.folder / "given" / "mine.yaml").read_text() == "# a\n"
        assert (package.folder / "given" / "2-mine.yaml").read_text() == "# b\n"


def test_what_is_too_large_to_be_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = tmp_path / "huge.yaml"
    huge.write_text("#" * 5000)
    monkeypatch.setattr(jobs, "MAX_PACKAGE_BYTES", 4000)
    with pytest.raises(UserError, match="the largest file is"), packed(["sweep", str(huge)]):
        pass


def test_credentials_never_leave_in_an_entry_point() -> None:
    with (
        pytest.raises(UserError, match="must hold no credentials") as refused,
        packed(["sweep", "--storage", "s3://key:hunter2@bucket/x"]),
    ):
        pass
    assert "hunter2" not in str(refused.value)


def test_credentials_never_leave_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("dataset: voc\nshared: {fixed: {data.store: s3://key:hunter2@bucket/voc}}\n")
    with (
        pytest.raises(UserError, match=r"mine.yaml:2: this line contains credentials, which Ray would show") as refused,
        packed(["sweep", str(path)]),
    ):
        pass
    assert "hunter2" not in str(refused.value)


def test_entry_point_quotes_its_words_and_has_a_home_that_outlives_the_job() -> None:
    entry = render_entrypoint(["sweep", "digits", "--name", "a b; rm -rf /", "--address", "auto"])
    home, _, command = entry.partition("; exec ")
    assert home == 'export ORCHESTRATOR_HOME="${ORCHESTRATOR_HOME:-$HOME/orchestrator}"'
    assert shlex.split(command) == [
        "python",
        "-m",
        "orchestrator",
        "sweep",
        "digits",
        "--name",
        "a b; rm -rf /",
        "--address",
        "auto",
    ]
