"""Test that no password is repeated, wherever in a text it occurs."""

from __future__ import annotations

import pytest

from orchestrator.redaction import redact


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("postgresql://me:hunter2@db:5432/mlflow", "postgresql://me:***@db:5432/mlflow"),
        ("it said: https://me:p@ss@host/x is away", "it said: https://me:***@host/x is away"),
        ("https://token@host", "https://***@host"),
        ("https://host/a@b and s3://bucket/x", "https://host/a@b and s3://bucket/x"),
        ("s3://key:se/cr/et@bucket/x", "s3://key:***@bucket/x"),
        ("http://127.0.0.1:5000/a@b", "http://127.0.0.1:5000/a@b"),
        ("abfs://box/x?account_key=abc&tls=1 and", "abfs://box/x?account_key=***&tls=1 and"),
        ("https://box.example/x?sv=2024&sig=a%2Bb&se=9", "https://box.example/x?sv=2024&sig=***&se=9"),
        ("s3://b/x?X-Amz-Credential=AK&X-Amz-Signature=0f", "s3://b/x?X-Amz-Credential=***&X-Amz-Signature=***"),
        ("--storage=https://b/x?sig=a.b:c: plans (?sig=d).", "--storage=https://b/x?sig=***: plans (?sig=***)."),
        ("gs://b?GoogleAccessId=me&Signature=ab", "gs://b?GoogleAccessId=me&Signature=***"),
        (
            "refused AccountName=me;AccountKey=a/b==;EndpointSuffix=x",
            "refused AccountName=me;AccountKey=***;EndpointSuffix=x",
        ),
        ("SharedAccessSignature=sv=1&sig=2", "SharedAccessSignature=***&sig=***"),
        ("access_key=abc, token=def and api-key=ghi", "access_key=***, token=*** and api-key=***"),
        ("design=7 at ?assign=1&passing=2&sigma=3", "design=7 at ?assign=1&passing=2&sigma=3"),
        ("a https://a:b@c and d https://e:f@g", "a https://a:***@c and d https://e:***@g"),
    ],
)
def test_redact(text: str, redacted: str) -> None:
    assert redact(text) == redacted


def test_secrets_of_the_environment_are_redacted_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abcdefgh+/12")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountName=me")
    monkeypatch.setenv("SHORT_TOKEN", "run")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert redact("run in us-east-1 with abcdefgh+/12 (correct horse), AccountName=me") == (
        "run in us-east-1 with *** (***), ***"
    )
