from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cluster import session as ray_session
from orchestrator.sweep_folder.lease import SWEEP_VARIABLE


@pytest.fixture
def session(tmp_path: Path, home: Path) -> Path:
    """Return the folder that a Ray has made for the sweep whose folder is the home, beside one of another Ray."""
    ours = tmp_path / "ray" / "session_2026_1"
    for folder in (ours, ours.with_name("session_2026_2")):
        (folder / "logs").mkdir(parents=True)
    (ours.parent / "session_latest").symlink_to(ours)
    (home / ray_session._SESSION_FILE).write_text(str(ours))
    return ours


def test_end_of_ray_removes_its_folder_and_no_other(monkeypatch: pytest.MonkeyPatch, session: Path, home: Path) -> None:
    monkeypatch.setenv(SWEEP_VARIABLE, str(home))
    ray_session.stop_ray()
    assert [path.name for path in session.parent.iterdir()] == ["session_2026_2"]
    assert not (session.parent / "session_latest").is_symlink()
    assert list(home.iterdir()) == []


def test_what_is_no_session_of_ray_is_never_removed(session: Path, home: Path, tmp_path: Path) -> None:
    other = tmp_path / "photos"
    other.mkdir()
    (home / ray_session._SESSION_FILE).write_text(str(other))
    ray_session._remove_session(home)
    assert other.is_dir()
    assert session.is_dir()


def test_nothing_noted_is_nothing_to_remove(home: Path) -> None:
    ray_session._remove_session(home)


def test_token_is_never_anybody_elses_to_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".ray" / "auth_token"
    modes: list[int] = []
    link = os.link

    def note_mode(source: str, target: Path) -> None:
        link(source, target)
        modes.append(target.stat().st_mode & 0o777)

    monkeypatch.setattr(os, "link", note_mode)
    before = os.umask(0)
    try:
        ray_session._protect_token(make=True)
    finally:
        os.umask(before)
    assert modes == [0o600]
    text = token.read_text()
    assert len(text) == 64
    ray_session._protect_token(make=True)
    assert token.read_text() == text
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]


@pytest.mark.parametrize(("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "secret")])
def test_no_token_is_made_where_none_is_needed(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")  # the session's own, with which none is ever needed
    monkeypatch.setenv(name, value)
    ray_session._protect_token(make=True)
    assert not (tmp_path / ".ray").exists()


def test_token_that_the_user_named_is_protected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    ray_session._protect_token(make=True)
    assert token.stat().st_mode & 0o777 == 0o600


def test_a_cluster_file_says_how_far_the_cluster_may_grow() -> None:
    gpu = {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 4}
    config = {
        "max_workers": 4,
        "head_node_type": "head",
        "available_node_types": {"head": {"resources": {"CPU": 0, "GPU": 0}}, "gpu": gpu},
    }
    assert ray_session.compute_most(config) == {"CPU": 16, "GPU": 4}
    large = {"resources": {"CPU": 8, "GPU": 0}, "max_workers": 3}
    several = {**config, "available_node_types": {**config["available_node_types"], "large": large}}  # type: ignore[dict-item]
    assert ray_session.compute_most(several) == {"CPU": 3 * 8 + 1 * 4, "GPU": 4}
    assert ray_session.compute_most({"provider": {"type": "local"}}) == {"CPU": 0, "GPU": 0}


def test_the_autoscaler_of_this_cluster_is_found_by_its_address(tmp_path: Path) -> None:
    file = tmp_path / "bootstrap.yaml"
    file.write_text(
        '{"max_workers": 2, "available_node_types": {"gpu": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 2}}}'
    )
    words = [
        sys.executable,
        "-c",
        "import time; time.sleep(60)",
        f"--autoscaling-config={file}",
        "--gcs-address=10.9.8.7:6379",
    ]
    with subprocess.Popen(words) as monitor:
        try:
            assert ray_session._most_of_autoscaler("10.9.8.7:6379") == {"CPU": 8, "GPU": 2}
            assert ray_session._most_of_autoscaler("10.9.8.8:6379") == {}
        finally:
            monitor.kill()
