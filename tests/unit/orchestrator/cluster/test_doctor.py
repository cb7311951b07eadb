from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster import checks, doctor
from orchestrator.cluster.checks import Finding, Health
from orchestrator.cluster.nodes import Machines, NodeReport
from orchestrator.errors import UserError
from orchestrator.health import Answer
from tests.kit.program import run


def test_only_a_failure_makes_it_unhealthy() -> None:
    findings = [Finding("a", Health.WARN, ""), Finding("b", Health.ABSENT, "")]
    assert doctor.is_healthy(findings)
    assert not doctor.is_healthy([*findings, Finding("c", Health.FAIL, "")])


def test_one_fix_for_several_things_is_printed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(file))
    findings = [checks.check_store(), checks.check_home()]
    monkeypatch.setattr(doctor, "diagnose", lambda: findings)
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert out.count("export ORCHESTRATOR_HOME=") == 1
    assert "fix MLflow store, home: export ORCHESTRATOR_HOME=" in out


def test_flags_of_the_cluster_s_doctor_are_not_silently_ignored_here(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "doctor", "--space", "voc")
    assert (code, "Add --address" in err) == (2, True)
    code, _, err = run(capsys, "doctor", "--set", "data.store=s3://bucket/voc")
    assert (code, "Add --address" in err) == (2, True)
    code, _, err = run(capsys, "doctor", "--address", "auto", "--set", "data.store=s3://bucket/voc")
    assert (code, "--set changes the settings of a space" in err) == (2, True)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the cluster by one healthy node; return the stores in the settings of the runs that it was asked for."""
    stores: list[Any] = []

    def ask_nodes(**wanted: Any) -> list[NodeReport]:
        assert wanted["stores"] == {}
        stores.append(wanted["config"]["data.store"])
        return [NodeReport("0a", "a", {"python": "3.11"}, {})]

    monkeypatch.setattr(doctor, "joined", lambda address: nullcontext())
    monkeypatch.setattr(doctor, "ask_nodes", ask_nodes)
    monkeypatch.setattr(doctor, "look_at_machines", lambda: Machines(frozenset({"a"}), may_grow=False))
    return stores


def test_doctor_of_a_cluster_finds_that_a_space_s_data_are_neither_named_nor_known(
    asked: list[Any], capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    code, out, _ = run(capsys, "doctor", "--address", "auto", "--space", "voc")
    assert (code, asked) == (1, [None])
    assert "0a on a: data: voc: the driver's node does not know where the prepared voc is" in out
    assert "--set data.store=s3://bucket/voc" in out
    assert run(capsys, "doctor", "--address", "auto", "--space", "digits")[0] == 0
    (home / "data").mkdir()
    (home / "data" / "voc.json").write_text('{"uri": "s3://known/voc"}')
    assert run(capsys, "doctor", "--address", "auto", "--space", "voc")[0] == 0
    assert run(capsys, "doctor", "--address", "auto", "--space", "voc", "--set", "data.store=s3://named/voc")[0] == 0
    assert asked[1:] == [None, "s3://known/voc", "s3://named/voc"]


def test_doctor_of_a_cluster_takes_no_setting_that_a_sweep_would_refuse(
    asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for setting, message in (
        ("data.stor=x", "data.stor"),
        ("data.store=s3://key:hunter2@bucket/x", "must not contain credentials"),
    ):
        code, _, err = run(capsys, "doctor", "--address", "auto", "--space", "voc", "--set", setting)
        assert (code, message in err, "hunter2" in err, asked) == (2, True, False, [])


def test_doctor_of_a_cluster_names_a_store_of_one_machine_and_refuses_credentials(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = NodeReport("0a", "a", {"python": "3.11"}, {})
    machines = Machines(frozenset({"a", "b"}), may_grow=False)
    monkeypatch.setattr(doctor, "joined", lambda address: nullcontext())
    monkeypatch.setattr(doctor, "ask_nodes", lambda **wanted: [report, replace(report, node="0b", host="b")])
    monkeypatch.setattr(doctor, "look_at_machines", lambda: machines)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    first, second = doctor.diagnose_nodes("auto")[0]
    assert "A cluster of several machines needs an MLflow server" in first.problems["MLflow"]
    assert second.problems == {}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setattr(doctor, "ask_mlflow", lambda uri: Answer(is_up=True))
    assert doctor.diagnose_nodes("auto")[0][0].problems == {}
    monkeypatch.setattr(doctor, "ask_mlflow", lambda uri: Answer(is_up=True, is_refused=True, reason="HTTP 401"))
    first, second = doctor.diagnose_nodes("auto")[0]
    assert first.problems == {"MLflow": "the server refuses the driver's credentials (HTTP 401)"}
    assert second.problems == {}, "only the driver logs to MLflow"
    with pytest.raises(UserError, match="--storage must not contain credentials") as caught:
        doctor.diagnose_nodes("auto", storage="s3://key:verysecret@bucket/x")
    assert "verysecret" not in str(caught.value)
