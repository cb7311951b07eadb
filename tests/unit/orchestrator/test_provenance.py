"""Test provenance: whose commit it is, what is guarded, and what is built into a wheel."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hatch_build import BuildFacts
from orchestrator import provenance

ROOT = Path(provenance.__file__).parents[1]


def _commit(root: Path) -> str:
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "-A"], [*author, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(root), *arguments], check=True)
    return subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    for folder in ("orchestrator", "requirements"):
        (root / folder).mkdir(parents=True)
    (root / "orchestrator" / "provenance.py").write_text(Path(provenance.__file__).read_text())
    (root / provenance.LOCK_FILE).write_text("torch==1\n")
    return root


def test_commit_is_that_of_the_packages_checkout_not_of_the_current_folder(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit = _commit(checkout)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    _commit(tmp_path / "other")
    monkeypatch.chdir(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    build = provenance.read_build(checkout / "orchestrator")
    assert (build["commit"], build["dirty"]) == (commit, "false")


def test_dirty_means_that_something_that_runs_differs(checkout: Path) -> None:
    _commit(checkout)
    (checkout / "notes.txt").write_text("not code")
    assert provenance.describe_checkout(checkout)["dirty"] == "false"
    (checkout / "orchestrator" / "new.py").write_text("x = 1")
    assert provenance.describe_checkout(checkout)["dirty"] == "true"


def test_every_uncommitted_state_is_told_from_every_other(checkout: Path) -> None:
    _commit(checkout)
    source, new = checkout / "orchestrator" / "provenance.py", checkout / "orchestrator" / "new.py"
    states = [provenance.describe_checkout(checkout)]
    for path, text in ((source, "x = 1"), (source, "x = 2"), (new, "y = 1"), (new, "y = 2")):
        path.write_text(text)
        states.append(provenance.describe_checkout(checkout))
    (checkout / "notes.txt").write_text("not code")
    assert provenance.describe_checkout(checkout) == states[-1]
    assert len({state["changes"] for state in states}) == 5
    assert states[0]["changes"] == provenance.CLEAN
    assert [state["dirty"] for state in states] == ["false", *["true"] * 4]
    # What a resume is refused for: not only another commit, but other changes to the same.
    assert provenance.differences(states[1], states[2]) == {"changes": (states[1]["changes"], states[2]["changes"])}
    assert provenance.differences(states[0], states[1])
    assert not provenance.differences({"commit": states[0]["commit"]}, states[1]), (
        "journals of before have no such hash"
    )


def test_lock_hash_follows_the_lock(checkout: Path) -> None:
    _commit(checkout)
    before = provenance.describe_checkout(checkout)["lock_hash"]
    (checkout / provenance.LOCK_FILE).write_text("torch==2\n")
    after = provenance.describe_checkout(checkout)["lock_hash"]
    assert len(before) == 12
    assert before != after


def test_installed_without_checkout_or_build_file_is_unknown(tmp_path: Path) -> None:
    # A checkout further up (a virtual environment inside somebody's repository) is not ours.
    package = tmp_path / "lib" / "site-packages" / "orchestrator"
    package.mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    _commit(tmp_path)
    assert set(provenance.read_build(package).values()) == {provenance.UNKNOWN}


def test_build_file_of_a_wheel_is_read(tmp_path: Path) -> None:
    package = tmp_path / "orchestrator"
    package.mkdir()
    (package / provenance.BUILD_FILE).write_text(
        json.dumps({"commit": "abc", "dirty": "false", "changes": "none", "lock_hash": "123"})
    )
    assert provenance.read_build(package) == {"commit": "abc", "dirty": "false", "changes": "none", "lock_hash": "123"}


@pytest.mark.parametrize("version", ["standard", "editable"])
def test_build_hook_writes_the_file_into_wheels_only(checkout: Path, version: str) -> None:
    commit = _commit(checkout)
    config: Any = None
    hook = BuildFacts(str(checkout), {}, config, config, str(checkout / "dist"), "wheel")
    build_data: dict[str, Any] = {"force_include": {}}
    hook.initialize(version, build_data)
    included = {target: json.loads(Path(source).read_text()) for source, target in build_data["force_include"].items()}
    hook.finalize(version, build_data, "")
    expected = (
        {f"orchestrator/{provenance.BUILD_FILE}": provenance.read_build(checkout / "orchestrator")}
        if version == "standard"
        else {}
    )
    assert included == expected
    assert all(build["commit"] == commit for build in included.values())
    assert not any(Path(source).exists() for source in build_data["force_include"])


def test_differences_name_what_changed_and_forgive_what_is_unknown() -> None:
    recorded = {"commit": "a", "lock_hash": "1", "data_hash": provenance.UNKNOWN, "host": "x"}
    current = {"commit": "b", "lock_hash": "1", "data_hash": "d", "host": "y"}
    assert provenance.differences(recorded, current) == {"commit": ("a", "b")}


def test_versions_are_those_installed() -> None:
    versions = provenance.library_versions()
    assert versions["mlflow"].startswith("3.17.")
    assert versions["python"].startswith("3.")


def test_differences_are_told_in_words() -> None:
    told = provenance.describe_differences({"commit": ("a1", "b2"), "changes": ("none", "c3")})
    assert told == "commit was a1 and is b2, the hash of uncommitted changes was none and is c3"
