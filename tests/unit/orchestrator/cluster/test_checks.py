from __future__ import annotations

import shlex
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest

from orchestrator.cluster import checks
from orchestrator.cluster.checks import Finding, Health, choose_cuda_fix
from orchestrator.health import Answer
from tests.kit.http_service import basic, like_mlflow, serving
from tests.kit.layouts import make_cub
from training.data.sources.registry import read_source
from training.data.store.writer import write_store


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "STORE_TIMEOUT_S", 60.0)  # a loaded machine may need longer than a user would wait


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "auth_token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    return path


def test_old_python_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_python().health is Health.OK
    monkeypatch.setattr(checks, "MIN_PYTHON", (99, 0))
    finding = checks.check_python()
    assert finding.health is Health.FAIL
    assert "make" in finding.fix


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_token_that_others_can_read_is_fixed_by_the_printed_command(token: Path, mode: int) -> None:
    token.write_text("secret")
    token.chmod(mode)
    finding = checks.check_token()
    assert finding.health is Health.FAIL
    assert f"{mode:o}" in finding.detail
    assert "secret" not in finding.detail
    command, octal, path = shlex.split(finding.fix)
    assert (command, path) == ("chmod", str(token))
    token.chmod(int(octal, 8))
    assert checks.check_token().health is Health.OK


def test_absent_token_is_no_fault(token: Path) -> None:
    assert checks.check_token().health is Health.ABSENT


def test_store_not_made_yet_is_not_made_by_looking(home: Path) -> None:
    finding = checks.check_store()
    assert finding.health is Health.OK
    assert "first sweep" in finding.detail
    assert list(home.iterdir()) == []


def test_store_counts_its_runs(home: Path) -> None:
    with sqlite3.connect(home / "mlflow.db") as store:
        store.execute("create table runs (run_uuid text)")
        store.execute("insert into runs values ('a'), ('b')")
    store.close()
    assert checks.check_store() == Finding("MLflow store", Health.OK, f"{home / 'mlflow.db'}, 2 runs")


def test_broken_store_is_moved_away_by_the_printed_command(home: Path) -> None:
    store = home / "mlflow.db"
    store.write_bytes(b"not a database" * 100)
    finding = checks.check_store()
    assert finding.health is Health.FAIL
    command, source, target = shlex.split(finding.fix)
    assert (command, source) == ("mv", str(store))
    shutil.move(source, target)
    assert checks.check_store().health is Health.OK


def test_server_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(like_mlflow()) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{server}")
        assert checks.check_store().health is Health.OK


@pytest.mark.parametrize("open_health", [True, False])
def test_server_with_credentials_in_its_uri_answers(open_health: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(like_mlflow(basic("me", "hunter2-hunter2"), open_health=open_health)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hunter2-hunter2@{server}/")
        assert checks.check_store() == Finding("MLflow store", Health.OK, f"http://me:***@{server}/ answers")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hunter3-hunter3@{server}")
        finding = checks.check_store()
    assert finding.health is Health.WARN
    assert "refuses our credentials (HTTP 401" in finding.detail
    assert "hunter3" not in finding.detail
    assert "MLFLOW_TRACKING_PASSWORD" in finding.fix
    assert "unset" not in finding.fix


def test_server_that_does_not_know_its_own_host_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda path, headers: (403, "Invalid Host header - possible DNS rebinding attack detected")) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{server}")
        assert "--allowed-hosts" in checks.check_store().fix


def test_certificate_of_an_unknown_authority_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate"
    monkeypatch.setattr(checks, "ask_mlflow", lambda uri, timeout_s: Answer(is_up=False, reason=reason))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.internal")
    assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in checks.check_store().fix


def test_server_that_is_away_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    # A sweep goes on without its store, so the doctor only warns.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    finding = checks.check_store()
    assert finding.health is Health.WARN
    assert "does not answer" in finding.detail


@pytest.mark.parametrize("driver", ["postgresql", "postgresql+psycopg", "mysql+nonesuch"])
def test_database_password_is_hidden(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{driver}://me:hunter2@127.0.0.1:9/mlflow")
    finding = checks.check_store()
    assert finding.detail.startswith(f"{driver}://me:***@127.0.0.1:9/mlflow does not answer")
    assert "hunter2" not in str(finding)
    assert finding.fix


@pytest.mark.parametrize(
    ("uri", "detail", "fix"),
    [
        ("databricks", "is not checked here", "databricks auth"),
        ("databricks://profile", "is not checked here", "databricks auth"),
        ("./mlruns", "neither a server nor a database", "unset MLFLOW_TRACKING_URI"),
        ("file:///data/mlruns", "neither a server nor a database", "unset MLFLOW_TRACKING_URI"),
        ("sqlite://", "is in memory", "unset MLFLOW_TRACKING_URI"),
        ("sqlite:///:memory:", "is in memory", "unset MLFLOW_TRACKING_URI"),
        ("sqlite:////proc/none/mlflow.db", "cannot be created", "unset MLFLOW_TRACKING_URI"),
    ],
)
def test_stores_that_cannot_hold_runs_say_so(uri: str, detail: str, fix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    finding = checks.check_store()
    assert finding.health is not Health.OK
    assert detail in finding.detail
    assert fix in finding.fix


def test_sqlite_is_found_by_a_relative_path_and_with_options(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    with sqlite3.connect("my runs.db") as store:
        store.execute("create table runs (run_uuid text)")
    store.close()
    for uri in ("sqlite:///my runs.db", f"sqlite:///{home}/my runs.db", "sqlite+pysqlite:///my%20runs.db?timeout=5"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert checks.check_store().detail.endswith("my runs.db, 0 runs")
    Path("my runs.db").write_bytes(b"broken" * 1000)
    assert shlex.split(checks.check_store().fix)[0] == "mv"
    assert len(shlex.split(checks.check_store().fix)) == 3


@pytest.mark.parametrize(
    ("torch_cuda", "visible", "reason", "fix"),
    [
        (None, None, "Torch not compiled with CUDA enabled", checks.INSTALL),
        ("13.0", "", "No CUDA GPUs are available", "unset CUDA_VISIBLE_DEVICES"),
        ("13.0", "-1", "No CUDA GPUs are available", "unset CUDA_VISIBLE_DEVICES"),
        ("13.0", None, "The NVIDIA driver on your system is too old (found version 11040)", "CUDA 13.0 or newer"),
        ("13.0", "0", "CUDA unknown error", "reinstall NVIDIA's driver"),
    ],
)
def test_gpu_that_torch_cannot_use_names_a_fix(
    torch_cuda: str | None, visible: str | None, reason: str, fix: str
) -> None:
    assert fix in choose_cuda_fix(torch_cuda, visible, reason)


def test_driver_without_a_usable_gpu_is_a_warning_with_torch_s_own_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    finding = checks.check_cuda()
    assert finding.health is Health.WARN
    assert "torch cannot use it: " in finding.detail
    assert finding.fix not in ("", "nvidia-smi")
    program.unlink()
    assert checks.check_cuda().health is Health.ABSENT


def test_every_finding_that_is_not_well_says_what_to_do(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Absent things that appear by themselves need no fix: no GPU, no token yet.
    for check in checks.CHECKS:
        finding = checks.run_check(check)
        assert finding.fix or finding.health in (Health.OK, Health.ABSENT), finding


def test_home_that_is_a_file_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(file))
    finding = checks.check_home()
    assert finding.health is Health.FAIL
    assert "ORCHESTRATOR_HOME" in finding.fix
    assert checks.check_store().health is Health.FAIL, "no store can be made there either"


def test_cache_below_a_file_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_cache().health is Health.OK
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "deeper"))
    finding = checks.check_cache()
    assert finding.health is Health.FAIL
    assert "Not a directory" in finding.detail
    assert "XDG_CACHE_HOME" in finding.fix


def test_home_that_is_not_there_yet_is_fine_and_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "new" / "deep"))
    assert checks.check_home().health is Health.OK
    assert not (tmp_path / "new").exists()


def test_full_disk_warns(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_disk().detail.endswith(str(home))
    monkeypatch.setattr(checks, "MIN_FREE_GIB", 1e9)
    assert checks.check_disk().health is Health.WARN


def test_lost_photo_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_digits().health is Health.OK
    monkeypatch.setattr(checks, "PHOTOS", ("china.jpg", "tower.jpg"))
    finding = checks.check_digits()
    assert finding.health is Health.FAIL
    assert "tower.jpg" in finding.detail
    assert "china.jpg" not in finding.detail


def test_prepared_data_is_told_from_what_is_not(home: Path, tmp_path: Path) -> None:
    finding = checks.check_prepared_data()
    assert (finding.health, finding.fix) == (Health.ABSENT, "orchestrator data prepare voc --source DIR")
    write_store(read_source("cub", make_cub(tmp_path), images=True), str(home / "data" / "cub"), image_size=16)
    finding = checks.check_prepared_data()
    assert (finding.health, finding.detail) == (Health.OK, "cub prepared; not voc, coco, nuswide, l48")


def test_store_that_does_not_open_is_a_warning(home: Path) -> None:
    (home / "data" / "voc").mkdir(parents=True)
    (home / "data" / "voc" / "manifest.json").write_text("{")
    assert checks.check_prepared_data().health is Health.ABSENT  # some other program's, for all we know
    (home / "data" / "voc" / "train-00000.arrow").touch()
    finding = checks.check_prepared_data()
    assert (finding.health, finding.fix) == (Health.WARN, "orchestrator data prepare voc --source DIR")
    assert "manifest.json" in finding.detail


def test_ray_without_its_extra_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.train", None)
    assert checks.run_check(checks.check_ray).health is Health.FAIL


def test_what_does_not_import_is_a_finding_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    finding = checks.run_check(checks.check_torch)
    assert (finding.subject, finding.health) == ("torch", Health.FAIL)
    assert "torch" in finding.detail
    assert finding.fix == checks.INSTALL
