"""Jobs on a real Ray of two nodes with token authentication: submit, follow, cancel, resume, and ask both nodes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from orchestrator.sweep_folder.events import DriverStarted, EpochReported, Event
from orchestrator.sweep_folder.journal import JOURNAL_FILE, follow, replay
from tests.kit import scenes
from tests.kit.program import run
from tests.kit.ray_cluster import RayCluster

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long]

TINY = {key: value for key, value in scenes.TINY.items() if key.startswith("data.") and key != "data.name"}


@pytest.fixture(scope="module")
def head_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("head_home")


@pytest.fixture(scope="module")
def worker_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the empty cache of the second node: no driver runs there."""
    return tmp_path_factory.mktemp("worker_cache")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, head_home: Path, worker_cache: Path) -> Iterator[RayCluster]:
    scenes.prepare_tiny()
    found = RayCluster(
        tmp_path_factory.mktemp("cluster"), {"ORCHESTRATOR_HOME": str(head_home), "OMP_NUM_THREADS": "1"}
    )
    try:
        found.start_head(num_cpus=1)
        found.start_worker(num_cpus=1, environment={"XDG_CACHE_HOME": str(worker_cache)})
        yield found
    finally:
        found.stop()


@pytest.fixture(autouse=True)
def token(cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process the laptop that has the cluster's token."""
    for name, value in cluster.client_environment().items():
        monkeypatch.setenv(name, value)


def sweep_words(trials: int, epochs: int) -> list[str]:
    words = ["sweep", "digits", "--trials", str(trials), "--epochs", str(epochs), "--startup-trials", str(trials)]
    settings = {**TINY, "method.warmup_epochs": 1, "optim.batch_size": 16}
    return words + [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def only_sweep(head_home: Path, known: set[str]) -> Path:
    (found,) = (path for path in (head_home / "sweeps").iterdir() if path.name not in known)
    return found


def wait_for_epochs(head_home: Path, known: set[str], count: int, describe: Callable[[], str]) -> Path:
    """Return the folder of the new sweep once it has reported this many epochs."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if len(list((head_home / "sweeps").iterdir())) > len(known):
            sweep = only_sweep(head_home, known)
            if len(events(sweep, EpochReported)) >= count:
                return sweep
        time.sleep(0.5)
    raise AssertionError(describe())


E = TypeVar("E", bound=Event)


def events(sweep: Path, kind: type[E]) -> list[E]:
    return [event for event in follow(sweep / JOURNAL_FILE)[0] if isinstance(event, kind)]


def test_submitted_sweep_runs_on_the_cluster_by_the_code_that_was_sent(
    cluster: RayCluster, head_home: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Typed as a laptop's sweep, with one more flag.
    code, out, err = run(capsys, *sweep_words(trials=2, epochs=2), "--address", cluster.url)
    assert code == 0, err
    (job_id,) = re.findall(r"submitted (\S+):", out)
    code, out, err = run(capsys, "logs", "--follow")
    assert code == 0, out + err
    assert f"{job_id}: SUCCEEDED" in err
    sweep = only_sweep(head_home, set())
    assert f"promote {sweep.name}" in out
    state = replay(sweep / JOURNAL_FILE)
    assert [(trial, str(state.records[trial].state)) for trial in sorted(state.records)] == [
        (0, "COMPLETE"),
        (1, "COMPLETE"),
    ]
    assert re.fullmatch(r"[0-9a-f]{40}", state.provenance["commit"])  # sent along with the code
    assert {event.pid for event in events(sweep, DriverStarted)}.isdisjoint({os.getpid()})
    # Here, the home holds nothing but the record of the job.
    assert [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()] == [f"jobs/{job_id}.json"]
    code, out, _ = run(capsys, "jobs", "--json")
    (job,) = json.loads(out)
    assert (job["id"], job["state"], job["address"]) == (job_id, "SUCCEEDED", cluster.url)


def test_cancelled_sweep_is_resumed_and_no_epoch_is_counted_twice(
    cluster: RayCluster, head_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {path.name for path in (head_home / "sweeps").iterdir()}
    assert run(capsys, "submit", "--address", cluster.url, *sweep_words(trials=2, epochs=25))[0] == 0
    sweep = wait_for_epochs(head_home, known, 4, lambda: run(capsys, "logs")[1])
    code, out, err = run(capsys, "cancel")
    assert code == 0, err
    assert "STOPPED" in out
    stopped = replay(sweep / JOURNAL_FILE)
    assert stopped.driver_state == "INTERRUPTED"
    assert stopped.open_trials()
    code, out, err = run(
        capsys, "submit", "--address", cluster.url, "--follow", "resume", sweep.name, "--allow-changed"
    )
    assert code == 0, out + err
    reported = Counter((event.trial, event.epoch) for event in events(sweep, EpochReported))
    assert max(reported.values()) == 1
    for record in replay(sweep / JOURNAL_FILE).records.values():
        assert record.ended
        assert sorted(record.metrics) == list(range(1, record.last_epoch + 1))


def test_doctor_asks_both_nodes_and_names_what_each_lacks(
    cluster: RayCluster, head_home: Path, worker_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(head_home / "no" / "weights.safetensors")
    space = head_home / "mine.yaml"
    text = (Path(__file__).parents[2] / "search_spaces" / "digits.yaml").read_text(encoding="utf-8")
    space.write_text(text.replace("weights: pretext", f"weights: {missing}"), encoding="utf-8")
    words = ["--address", cluster.url, "--space", str(space), "--storage", str(head_home / "checkpoints")]
    code, out, err = run(capsys, "doctor", *words)
    assert code == 1, out + err
    # Both nodes lack the weights and nothing else: they see the folder, and have the same versions of everything.
    problems = re.findall(r"(?m)^(\w+) on \S+: (.+?): .*$", out)
    assert [subject for _, subject in problems] == ["weights", "weights"], out
    assert len({node for node, _ in problems}) == 2
    assert missing in out
    assert list(worker_cache.rglob("trunk.safetensors")), "as for a trial, the scenes were made where they were missing"


def test_stranger_is_refused_and_a_dead_port_is_named(
    cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "submit", "--address", "http://127.0.0.1:9", "doctor")
    assert (code, "No Ray cluster answers at http://127.0.0.1:9" in err) == (1, True)
    other = tmp_path / "token"
    other.write_text("another")
    other.chmod(0o600)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(other))
    # A process of its own: Ray reads the token once.
    words = [sys.executable, "-m", "orchestrator", "submit", "--address", cluster.url, "doctor"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    code, err = done.returncode, done.stderr
    assert (code, "refuses our token" in err) == (1, True), err
