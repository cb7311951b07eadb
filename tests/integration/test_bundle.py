"""A bundle made from a real MLflow, opened where there is neither that nor the home."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.home import sweep_dir
from orchestrator.tracking import ui as browse
from orchestrator.tracking.connection import connect
from orchestrator.tracking.store import find_trial_run
from orchestrator.tracking.tracker import sync
from tests.kit.program import run
from tests.kit.sweeps import make_sweep, whole_sweep, write_events

pytestmark = pytest.mark.slow


def test_a_bundle_shows_runs_metrics_and_pictures_elsewhere(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_sweep(num_trials=4)
    write_events(plan, whole_sweep(plan))
    picture = sweep_dir(plan.id) / "spool" / "t0003" / "cam" / "cat.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"\x89PNG")
    assert sync(plan.id)
    assert not picture.exists()  # MLflow has it now
    file = tmp_path / "x.bundle.zip"
    assert run(capsys, "bundle", plan.id, "--out", str(file))[0] == 0
    shutil.rmtree(home)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nothing answers there
    shown: list[object] = []

    def serve(uri: str, port: int, on_ready: Callable[[str], None]) -> None:
        run_id, client = find_trial_run(plan, 3), connect()
        assert run_id is not None
        points = client.get_metric_history(run_id, "val/mAP")
        shown.append([(point.step, point.value) for point in points])
        shown.append(Path(client.download_artifacts(run_id, "cam/cat.png", str(tmp_path))).read_bytes())
        assert str(home) not in uri
        on_ready(f"http://127.0.0.1:{port}")

    monkeypatch.setattr(browse, "serve", serve)
    code, out, _ = run(capsys, "browse", str(file), "--port", "5986")
    assert (code, out.startswith(f"sweep {plan.id}: http://127.0.0.1:5986/#/experiments/1/runs?")) == (0, True)
    assert shown == [[(1, 50.0), (2, 55.0), (3, 80.0)], b"\x89PNG"]
