from __future__ import annotations

import socket
import tempfile
import webbrowser
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.home import sweep_dir
from orchestrator.sweep_folder.lease import Lease
from orchestrator.tracking import connection, pages
from orchestrator.tracking import tracker as tracking
from orchestrator.tracking import ui as browse
from tests.kit.program import run
from tests.kit.sweeps import make_sweep


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace MLflow by a store with one run; return the requests that it gets."""
    asked: list[str] = []

    def sync(sweep_id: str, wait_s: float) -> bool:
        asked.append(f"sync {sweep_id}")
        return True

    def serve(uri: str, port: int, on_ready: Callable[[str], None]) -> None:
        asked.append(f"serve {port}")
        on_ready(f"http://127.0.0.1:{port}")

    monkeypatch.setattr(connection, "require_answer", lambda advice: None)
    monkeypatch.setattr(tracking, "sync", sync)
    monkeypatch.setattr(pages, "find_sweep_run", lambda plan: ("1", "abc"))
    monkeypatch.setattr(pages, "has_experiment_tag", lambda experiment_id, key: True)
    monkeypatch.setattr(browse, "serve", serve)
    return asked


def test_browse_links_to_the_trials_their_charts_and_the_sweeps_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, finished: str, store: list[str]
) -> None:
    code, out, _ = run(capsys, "browse", "--port", "5987")
    trials = f"http://127.0.0.1:5987/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey={finished}"
    own = "http://127.0.0.1:5987/#/experiments/1/runs/abc?workflowType=machine_learning"
    links = f"sweep {finished}: {trials}\nin charts: {trials}&compareRunsMode=CHART\ndescribed: {own}\n"
    assert (code, out) == (0, links)
    assert store == [f"sync {finished}", "serve 5987"]
    # Of a sweep whose view is not in MLflow, the order at least is in the address.
    monkeypatch.setattr(pages, "has_experiment_tag", lambda experiment_id, key: False)
    _, out, _ = run(capsys, "browse", "--port", "5987")
    assert "orderByKey=metrics.%60chosen%2Fval%2FmAP%60&orderByAsc=false" in out
    assert f"searchFilter=tags.%60orchestrator.sweep%60%20%3D%20%27{finished}%27" in out


def test_browse_opens_the_browser_without_a_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, finished: str, store: list[str]
) -> None:
    opened: list[str] = []
    answers = iter((True, False))

    def open_browser(address: str) -> bool:
        opened.append(address)
        return next(answers)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter2@mlflow.example/")
    monkeypatch.setattr(webbrowser, "open", open_browser)
    for is_found in (True, False):
        code, out, err = run(capsys, "browse", "--open")
        assert code == 0
        assert "hunter2" not in out + err
        assert ("No browser was found" in err) is not is_found
    address = "https://mlflow.example/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey="
    assert opened == [f"{address}{finished}"] * 2


def test_browse_of_a_server_starts_none_and_hides_its_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, finished: str, store: list[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter2@mlflow.example/")
    code, out, err = run(capsys, "browse")
    assert code == 0
    assert out.startswith(f"sweep {finished}: https://me:***@mlflow.example/#/experiments/1/runs?")
    assert "hunter2" not in out
    assert "hunter2" not in err
    assert store == [f"sync {finished}"]


def test_browse_leaves_the_store_to_a_living_driver(capsys: pytest.CaptureFixture[str], store: list[str]) -> None:
    plan = make_sweep()
    with Lease(sweep_dir(plan.id)):
        run(capsys, "browse", "--port", "5987")
    assert store == ["serve 5987"]


def test_browse_on_a_taken_port_is_a_mistake_before_anything_starts(
    capsys: pytest.CaptureFixture[str], finished: str, store: list[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, _, err = run(capsys, "browse", "--port", str(taken.getsockname()[1]))
    assert (code, "--port" in err, store) == (2, True, [])


def test_browse_of_a_server_that_is_away_fails_before_it_catches_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, finished: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(tracking, "sync", lambda sweep_id, wait_s: pytest.fail("the store is away"))
    code, _, err = run(capsys, "browse")
    assert code == 1
    assert "MLflow at http://127.0.0.1:9 failed: Connection refused. The leaderboard needs no MLflow: orch" in err


def test_browse_in_a_home_that_cannot_be_written_says_how_to_look_at_a_copy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, finished: str, store: list[str]
) -> None:
    monkeypatch.setattr("orchestrator.writable.find_obstacle", lambda folder: "Read-only file system")
    code, _, err = run(capsys, "browse", "--port", "5987")
    assert (code, store) == (2, [])
    assert f"orchestrator bundle {finished} --out " in err
    assert f"orchestrator browse {Path(tempfile.gettempdir())}/{finished}.bundle.zip" in err


def test_browse_says_what_takes_so_long_before_it_opens_a_bundle(
    capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "broken.zip"
    bundle.write_bytes(b"PK")
    _, _, err = run(capsys, "browse", str(bundle), "--port", "5987")
    first, second = err.splitlines()
    assert first.startswith(f"opening {bundle} in a temporary MLflow store")
    assert second.startswith("error: ")


def test_browse_says_which_bundle_does_not_exist(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    code, _, err = run(capsys, "browse", "nothing.zip")
    assert (code, "nothing.zip" in err) == (2, True), err
