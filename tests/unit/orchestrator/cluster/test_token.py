from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.cluster.token import protect_token


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
        protect_token(make=True)
    finally:
        os.umask(before)
    assert modes == [0o600]
    text = token.read_text()
    assert len(text) == 64
    protect_token(make=True)
    assert token.read_text() == text
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]


@pytest.mark.parametrize(("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "secret")])
def test_no_token_is_made_where_none_is_needed(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")  # the session's own, with which none is ever needed
    monkeypatch.setenv(name, value)
    protect_token(make=True)
    assert not (tmp_path / ".ray").exists()


def test_token_that_the_user_named_is_protected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    protect_token(make=True)
    assert token.stat().st_mode & 0o777 == 0o600
