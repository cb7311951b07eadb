"""Test a sweep with MLflow as a service, with passwords, PostgreSQL and S3, each of which is down once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from orchestrator.cluster import checks
from orchestrator.cluster.checks import Health, check_store
from orchestrator.cluster.processes import end_orphans
from orchestrator.home import sweep_dir
from orchestrator.sweep_folder.events import EpochReported
from orchestrator.sweep_folder.index import load_plan
from orchestrator.sweep_folder.journal import JOURNAL_FILE, follow, replay
from orchestrator.tracking.connection import make_client
from orchestrator.tracking.store import find_sweep_run
from tests.kit.mlflow_service import BUCKET, HOST, PASSWORD, SECRETS, USER, MlflowService

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
ID = "trivial-00000001"
TRIALS, EPOCHS = 60, 6


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowService]:
    # Not in pytest's own folder: started by root, PostgreSQL runs as somebody else, to whom pytest closes that again
    # and again.
    with tempfile.TemporaryDirectory(prefix="mlflow-service-") as folder:
        running = MlflowService(Path(folder))
        try:
            running.start()
            for name, value in running.client_environment.items():
                monkeypatch.setenv(name, value)
            yield running
        finally:
            running.stop()


@pytest.fixture
def driver(service: MlflowService, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A sweep that takes longer than what will happen to the service."""
    command = [
        sys.executable,
        "-m",
        "tests.kit.trivial_sweep",
        ID,
        "--trials",
        str(TRIALS),
        "--epochs",
        str(EPOCHS),
        "--epoch-s",
        "1",
    ]
    with (tmp_path / "driver.log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, text=True, start_new_session=True)
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    end_orphans(sweep_dir(ID))


def test_what_goes_away_for_a_while_loses_nothing(
    service: MlflowService, driver: subprocess.Popen[str], tmp_path: Path
) -> None:
    wait_for(driver, lambda: num_epochs() >= 4 and find_sweep_run(load_plan(ID)) is not None)
    service.kill_server()
    time.sleep(8)  # away is told after 5 s
    service.start_server()
    told = num_epochs()
    wait_for(driver, lambda: num_epochs() >= told + 4)
    service.restart_postgres()
    assert driver.wait(timeout=240) == 0, (tmp_path / "driver.log").read_text()

    said = (tmp_path / "driver.log").read_text()
    assert said.count("MLflow is unavailable") == 1, said
    assert said.count("MLflow is back") == 1, said
    client, runs = make_client(), read_runs()
    state = replay(sweep_dir(ID) / JOURNAL_FILE)
    assert sorted(runs) == list(range(TRIALS)) == sorted(state.records)
    for trial, record in state.records.items():
        points = client.get_metric_history(runs[trial].info.run_id, "val/mAP")
        assert sorted(point.step for point in points) == sorted(record.metrics)
        in_order = [point.step for point in sorted(points, key=lambda point: (point.timestamp, point.step))]
        assert in_order == sorted(record.metrics)
    # Of the trials that were the best when they ended; none is left to be written.
    shown = [trial for trial in runs if client.list_artifacts(runs[trial].info.run_id)]
    assert shown
    assert not list((sweep_dir(ID) / "spool").glob("t*"))
    with urllib.request.urlopen(f"http://{HOST}:{service.storage_port}/{BUCKET}?list-type=2", timeout=10) as listing:
        assert listing.read().count(b"score.txt") == len(shown)
    check_no_secret(service, said, runs)


def test_a_wrong_password_is_refused_and_not_repeated_and_the_right_one_is_accepted(
    service: MlflowService, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", "from orchestrator.cli.app import main; main()", "doctor"]
    uri = f"http://somebody:{'wrong' * 4}@{HOST}:{service.port}"
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"MLFLOW_TRACKING_URI": uri}, capture_output=True, text=True, check=False
    )
    assert "wrongwrong" not in done.stdout + done.stderr
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(
            f"http://{HOST}:{service.port}/api/2.0/mlflow/experiments/search?max_results=1", timeout=10
        )
    # The doctor accepts credentials from the environment or from the URI, as MLflow's own client does.
    monkeypatch.setattr(checks, "STORE_TIMEOUT_S", 60.0)
    assert check_store().health is Health.OK
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert "refuses our credentials (HTTP 401" in check_store().detail
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{USER}:{quote(PASSWORD)}@{HOST}:{service.port}/")
    assert check_store().health is Health.OK
    make_client().search_experiments(max_results=1)


def num_epochs() -> int:
    return sum(isinstance(event, EpochReported) for event in follow(sweep_dir(ID) / JOURNAL_FILE)[0])


def read_runs() -> dict[int, Any]:
    """Return the runs of the trials, by number."""
    client = make_client()
    experiment = client.get_experiment_by_name("trivial")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    trials = [run for run in found if "orchestrator.trial" in run.data.tags]
    assert len(trials) == len(found) - 1
    assert len({run.data.tags["orchestrator.trial"] for run in trials}) == len(trials)
    return {int(run.data.tags["orchestrator.trial"]): run for run in trials}


def check_no_secret(service: MlflowService, said: str, runs: dict[int, Any]) -> None:
    """Check that no password is in what the sweep printed and wrote, in MLflow, or in the server's own log."""
    files = [path for path in sweep_dir(ID).rglob("*") if path.is_file()]
    texts = [said, service.log, *(path.read_text(errors="replace") for path in files)]
    texts += [str(run.to_dictionary()) for run in runs.values()]
    for secret in SECRETS:
        assert not any(secret in text for text in texts)


def wait_for(driver: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.5)
