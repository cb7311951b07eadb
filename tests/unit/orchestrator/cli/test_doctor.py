from __future__ import annotations

import json

import pytest

from orchestrator.cluster import doctor
from orchestrator.cluster.checks import Finding, Health
from tests.kit.program import run


def test_doctor_exits_with_1_where_something_must_be_fixed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = [
        Finding("disk", Health.WARN, "1 GiB free"),
        Finding("Ray token", Health.FAIL, "mode 644", "chmod 600 token"),
    ]
    monkeypatch.setattr(doctor, "diagnose", lambda: findings)
    code, out, _ = run(capsys, "doctor")
    assert (code, "chmod 600 token" in out) == (1, True)
    code, out, _ = run(capsys, "doctor", "--json")
    assert (code, json.loads(out)[1]["fix"]) == (1, "chmod 600 token")
    del findings[1]
    assert run(capsys, "doctor")[0] == 0
