from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.uris import absolute_uri, join_uri, require_safe_uri, split_uri


def test_names_go_before_the_question_mark() -> None:
    assert join_uri("s3://bucket/x/?region=a", "b", "c") == "s3://bucket/x/b/c?region=a"
    assert join_uri("/mnt/x/", "b") == "/mnt/x/b"
    assert split_uri("s3://bucket/x/b?region=a") == ("s3://bucket/x?region=a", "b")
    assert split_uri("/mnt/x/b") == ("/mnt/x", "b")


def test_a_folder_is_named_as_every_machine_would(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_uri("x") == str(tmp_path / "x")
    assert absolute_uri("s3://bucket/x") == "s3://bucket/x"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:secret@bucket/x",
        "s3://key:se/cret@bucket/x",
        "abfs://me@box/x",
        "abfs://box/x?sas_token=abc",
        "gs://b/x?a=1&secret_key=abc",
    ],
)
def test_credentials_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(UserError, match=r"--backup must not contain credentials.*\*\*\*") as refused:
        require_safe_uri("--backup", uri)
    assert "se/cret" not in str(refused.value)
    assert "=abc" not in str(refused.value)


@pytest.mark.parametrize(
    "uri", [None, "/mnt/a@b", "s3://bucket/x?region=a&endpoint_override=http%3A%2F%2F127.0.0.1%3A9000"]
)
def test_places_without_credentials_are_taken(uri: str | None) -> None:
    require_safe_uri("--backup", uri)


def test_a_uri_that_is_almost_one_is_refused_and_not_taken_for_a_folder() -> None:
    for uri in ("s3:/bucket/x", "s3:bucket", "S3:/b", "gs//b/x", "file:/mnt", "s3a:/key:secret@bucket"):
        with pytest.raises(UserError, match=r"--out begins with .* A URI begins with \w+://; for a folder") as refused:
            require_safe_uri("--out", uri)
        assert "secret" not in str(refused.value)
    for uri in ("./s3:/bucket", "s3/bucket", "files//x", "file:///mnt/x", "s3a://b", "gs", "/gs:/b"):
        require_safe_uri("--out", uri)
