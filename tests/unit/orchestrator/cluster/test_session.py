from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster import session as ray_session
from orchestrator.cluster.processes import SWEEP_VARIABLE
from orchestrator.errors import OrchestratorError


class AuthenticationError(Exception):
    """Has the same name as Ray's class."""


@pytest.fixture
def session(tmp_path: Path, home: Path) -> Path:
    """Return the folder that Ray made for the sweep whose folder is the home, next to that of another Ray."""
    ours = tmp_path / "ray" / "session_2026_1"
    for folder in (ours, ours.with_name("session_2026_2")):
        (folder / "logs").mkdir(parents=True)
    (ours.parent / "session_latest").symlink_to(ours)
    ray_session._note_session(home, str(ours))
    return ours


def test_end_of_ray_removes_its_folder_and_no_other(monkeypatch: pytest.MonkeyPatch, session: Path, home: Path) -> None:
    monkeypatch.setenv(SWEEP_VARIABLE, str(home))
    ray_session.stop_ray()
    assert [path.name for path in session.parent.iterdir()] == ["session_2026_2"]
    assert not (session.parent / "session_latest").is_symlink()
    assert list(home.iterdir()) == []


def test_what_is_no_session_of_ray_is_never_removed(session: Path, home: Path, tmp_path: Path) -> None:
    other = tmp_path / "photos"
    other.mkdir()
    (home / ray_session._SESSION_FILE).write_text(str(other))
    ray_session._remove_left_session(home)
    assert other.is_dir()
    assert session.is_dir()


def test_a_session_is_removed_only_by_its_driver_or_once_that_is_dead(
    monkeypatch: pytest.MonkeyPatch, session: Path, home: Path
) -> None:
    monkeypatch.setenv(SWEEP_VARIABLE, str(home))
    other = session.with_name("session_2026_2")
    note = home / ray_session._SESSION_FILE
    ours = json.loads(note.read_text())
    # Another driver takes the sweep while we are alive: it leaves our session alone, and we leave its.
    ray_session._remove_left_session(home)
    assert session.is_dir()
    theirs = json.dumps(ours | {"session": str(other), "machine": "another container"})
    note.write_text(theirs)
    ray_session.kill_local_ray()
    assert not session.exists()
    assert note.read_text() == theirs
    ray_session._remove_left_session(home)
    assert other.is_dir()
    # Its driver is dead: a later process has its pid. An earlier version noted only the folder.
    note.write_text(json.dumps(ours | {"session": str(other), "ticks": 1}))
    ray_session._remove_left_session(home)
    assert not other.exists()
    assert not note.exists()
    left = session.with_name(f"session_2026_{2**22 + 5}")
    left.mkdir()  # no process has such a large pid
    note.write_text(str(left))
    ray_session._remove_left_session(home)
    assert not left.exists()


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        (None, RuntimeError("no memory.\nmore"), "Ray does not start on this machine: no memory. See what is missing"),
        ("auto", ConnectionError("Could not find any running Ray instance."), "No Ray cluster answers at auto: Could"),
        ("auto", RuntimeError("Version mismatch"), "Cannot join the Ray cluster at auto: Version mismatch. Start one"),
        ("h:6379", AuthenticationError(), "The Ray cluster at h:6379 refuses our token"),
    ],
)
def test_a_ray_that_does_not_start_says_why_and_what_to_do(address: str | None, error: Exception, message: str) -> None:
    said = str(ray_session.cannot_start(address, error))
    assert said.startswith(message)
    assert "\n" not in said


@pytest.mark.parametrize("address", [None, "auto"])
def test_whatever_ray_raises_while_it_starts_is_a_failure_that_says_what_to_do(
    address: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    tries: list[str] = []

    def init(**options: Any) -> None:
        tries.append(options["address"])
        raise Exception("The current node timed out during startup.")  # Ray raises just that

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(OrchestratorError, match="timed out during startup"):
        ray_session.start_ray(tmp_path, address=address, num_cpus=1, num_gpus=0)
    # A busy machine is given more time; a cluster that does not answer is not.
    assert tries == (["auto"] if address else ["local"] * 3)
    with pytest.raises(OrchestratorError, match="timed out during startup"), ray_session.joined("auto"):
        pass


def test_a_failed_start_waits_for_the_imports_that_run_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    done = []

    def init(**options: Any) -> None:
        raise ValueError("no")

    def import_slowly(modules: Any) -> None:
        time.sleep(0.1)
        done.append(modules)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray_session, "_import_all", import_slowly)
    with pytest.raises(OrchestratorError):
        ray_session.start_ray(tmp_path, address=None, num_cpus=1, num_gpus=0, driver_modules=["x"])
    assert done == [["x"]]


def test_nothing_noted_is_nothing_to_remove(home: Path) -> None:
    ray_session._remove_left_session(home)
    ray_session._remove_own_session(home)
