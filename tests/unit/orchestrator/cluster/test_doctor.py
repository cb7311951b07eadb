from __future__ import annotations

import http.server
import shlex
import shutil
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster import doctor
from orchestrator.cluster.doctor import Finding, Health
from orchestrator.cluster.nodes import Machines, NodeReport
from orchestrator.errors import UserError
from tests.kit.layouts import make_cub
from tests.kit.program import run
from training.data.sources.registry import read_source
from training.data.store.writer import write_store


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "auth_token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    return path


@pytest.fixture
def server() -> Iterator[str]:
    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Healthy) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def test_old_python_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_python().health is Health.OK
    monkeypatch.setattr(doctor, "MIN_PYTHON", (99, 0))
    finding = doctor.check_python()
    assert finding.health is Health.FAIL
    assert "make" in finding.mend


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_token_that_others_can_read_is_mended_by_the_printed_command(token: Path, mode: int) -> None:
    token.write_text("secret")
    token.chmod(mode)
    finding = doctor.check_token()
    assert finding.health is Health.FAIL
    assert f"{mode:o}" in finding.detail
    assert "secret" not in finding.detail
    command, octal, path = shlex.split(finding.mend)
    assert (command, path) == ("chmod", str(token))
    token.chmod(int(octal, 8))
    assert doctor.check_token().health is Health.OK


def test_absent_token_is_no_fault(token: Path) -> None:
    assert doctor.check_token().health is Health.ABSENT


def test_store_not_made_yet_is_not_made_by_looking(home: Path) -> None:
    finding = doctor.check_store()
    assert finding.health is Health.OK
    assert "first sweep" in finding.detail
    assert list(home.iterdir()) == []


def test_store_counts_its_runs(home: Path) -> None:
    with sqlite3.connect(home / "mlflow.db") as store:
        store.execute("create table runs (run_uuid text)")
        store.execute("insert into runs values ('a'), ('b')")
    store.close()
    assert doctor.check_store() == Finding("MLflow store", Health.OK, f"{home / 'mlflow.db'}, 2 runs")


def test_broken_store_is_moved_away_by_the_printed_command(home: Path) -> None:
    store = home / "mlflow.db"
    store.write_bytes(b"not a database" * 100)
    finding = doctor.check_store()
    assert finding.health is Health.FAIL
    command, source, target = shlex.split(finding.mend)
    assert (command, source) == ("mv", str(store))
    shutil.move(source, target)
    assert doctor.check_store().health is Health.OK


def test_server_that_answers(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert doctor.check_store().health is Health.OK


def test_server_that_is_away_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    # A sweep goes on without its store, so the doctor only warns.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    finding = doctor.check_store()
    assert finding.health is Health.WARN
    assert "does not answer" in finding.detail


def test_database_password_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:hunter2@db:5432/mlflow")
    assert doctor.check_store().detail.startswith("postgresql://me:***@db:5432/mlflow")


def test_home_that_is_a_file_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(file))
    finding = doctor.check_home()
    assert finding.health is Health.FAIL
    assert "ORCHESTRATOR_HOME" in finding.mend
    assert doctor.check_store().health is Health.FAIL, "no store can be made there either"


def test_cache_below_a_file_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_cache().health is Health.OK
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "deeper"))
    finding = doctor.check_cache()
    assert finding.health is Health.FAIL
    assert "Not a directory" in finding.detail
    assert "XDG_CACHE_HOME" in finding.mend


def test_home_that_is_not_there_yet_is_fine_and_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "new" / "deep"))
    assert doctor.check_home().health is Health.OK
    assert not (tmp_path / "new").exists()


def test_full_disk_warns(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_disk().detail.endswith(str(home))
    monkeypatch.setattr(doctor, "MIN_FREE_GIB", 1e9)
    assert doctor.check_disk().health is Health.WARN


def test_lost_photo_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_digits().health is Health.OK
    monkeypatch.setattr(doctor, "PHOTOS", ("china.jpg", "tower.jpg"))
    finding = doctor.check_digits()
    assert finding.health is Health.FAIL
    assert "tower.jpg" in finding.detail
    assert "china.jpg" not in finding.detail


def test_prepared_data_is_told_from_what_is_not(home: Path, tmp_path: Path) -> None:
    finding = doctor.check_prepared_data()
    assert (finding.health, finding.mend) == (Health.ABSENT, "orchestrator data prepare voc --source DIR")
    write_store(read_source("cub", make_cub(tmp_path), images=True), str(home / "data" / "cub"), image_size=16)
    finding = doctor.check_prepared_data()
    assert (finding.health, finding.detail) == (Health.OK, "cub prepared; not voc, coco, nuswide")


def test_store_that_does_not_open_is_a_warning(home: Path) -> None:
    (home / "data" / "voc").mkdir(parents=True)
    (home / "data" / "voc" / "manifest.json").write_text("{")
    finding = doctor.check_prepared_data()
    assert (finding.health, finding.mend) == (Health.WARN, "orchestrator data prepare voc --source DIR")
    assert "manifest.json" in finding.detail


def test_ray_without_its_extra_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.train", None)
    assert doctor._guarded(doctor.check_ray).health is Health.FAIL


def test_what_does_not_import_is_a_finding_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    finding = doctor._guarded(doctor.check_torch)
    assert (finding.subject, finding.health) == ("torch", Health.FAIL)
    assert "torch" in finding.detail
    assert finding.mend == doctor.INSTALL


def test_only_a_failure_makes_it_unhealthy() -> None:
    findings = [Finding("a", Health.WARN, ""), Finding("b", Health.ABSENT, "")]
    assert doctor.is_healthy(findings)
    assert not doctor.is_healthy([*findings, Finding("c", Health.FAIL, "")])


def test_one_command_that_mends_several_things_is_printed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(file))
    findings = [doctor.check_store(), doctor.check_home()]
    monkeypatch.setattr(doctor, "diagnose", lambda: findings)
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert out.count("export ORCHESTRATOR_HOME=") == 1
    assert "mend MLflow store, home with: export ORCHESTRATOR_HOME=" in out


def test_flags_of_the_cluster_s_doctor_are_not_silently_ignored_here(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "doctor", "--space", "voc")
    assert (code, "must go with --address" in err) == (2, True)
    code, _, err = run(capsys, "doctor", "--set", "data.store=s3://bucket/voc")
    assert (code, "must go with --address" in err) == (2, True)
    code, _, err = run(capsys, "doctor", "--address", "auto", "--set", "data.store=s3://bucket/voc")
    assert (code, "--set must go with --space" in err) == (2, True)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Put one healthy node in the place of a cluster; return the stores that it was asked for."""
    stores: list[Any] = []

    def ask_nodes(**wanted: Any) -> list[NodeReport]:
        stores.append(wanted["stores"])
        return [NodeReport("0a", "a", {"python": "3.11"}, {})]

    monkeypatch.setattr(doctor, "joined", lambda address: nullcontext())
    monkeypatch.setattr(doctor, "ask_nodes", ask_nodes)
    monkeypatch.setattr(doctor, "look_at_machines", lambda: Machines(frozenset({"a"}), may_grow=False))
    return stores


def test_doctor_of_a_cluster_finds_that_a_space_s_data_are_neither_named_nor_known(
    asked: list[Any], capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    code, out, _ = run(capsys, "doctor", "--address", "auto", "--space", "voc")
    assert (code, asked) == (1, [{}])
    assert "0a on a: data: voc: its store must be named or known where the driver runs" in out
    assert "--set data.store=s3://bucket/voc" in out
    assert run(capsys, "doctor", "--address", "auto", "--space", "digits")[0] == 0
    (home / "data").mkdir()
    (home / "data" / "voc.json").write_text('{"uri": "s3://known/voc"}')
    assert run(capsys, "doctor", "--address", "auto", "--space", "voc")[0] == 0
    assert run(capsys, "doctor", "--address", "auto", "--space", "voc", "--set", "data.store=s3://named/voc")[0] == 0
    assert asked[1:] == [{}, {"voc": "s3://known/voc"}, {"voc": "s3://named/voc"}]


def test_doctor_of_a_cluster_takes_no_setting_that_a_sweep_would_refuse(
    asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for setting, message in (
        ("data.stor=x", "data.stor"),
        ("data.store=s3://key:hunter2@bucket/x", "must hold no credentials"),
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
    assert "must be a server when a cluster has several machines" in first.problems["MLflow"]
    assert second.problems == {}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert doctor.diagnose_nodes("auto")[0][0].problems == {}
    with pytest.raises(UserError, match="--storage must hold no credentials") as caught:
        doctor.diagnose_nodes("auto", storage="s3://key:verysecret@bucket/x")
    assert "verysecret" not in str(caught.value)
