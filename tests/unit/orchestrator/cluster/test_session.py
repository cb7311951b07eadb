from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster import ray_folder
from orchestrator.cluster import session as ray_session
from orchestrator.errors import OrchestratorError


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the folders of local Rays out of the system's temporary files."""
    monkeypatch.setattr(ray_folder, "ray_base_dir", lambda: tmp_path)


class AuthenticationError(Exception):
    """Has the same name as Ray's class."""


def test_end_of_ray_removes_its_folder_and_no_other(tmp_path: Path) -> None:
    ray_session._make_folder()
    other = ray_folder.RayFolder()
    for folder in tmp_path.iterdir():
        (folder / "r").mkdir()
    ray_session.kill_local_ray()
    assert list(tmp_path.glob("spml-*")) == [other.path.parent]
    other.remove()


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


@pytest.mark.slow
def test_rays_first_import_does_not_undo_the_redirection_of_its_log(tmp_path: Path) -> None:
    program = f"""
import logging, pathlib
from orchestrator.cluster.session import _logging_to
with _logging_to(pathlib.Path({str(tmp_path / "ray.log")!r})):
    import ray
    logging.getLogger("ray").info("to the terminal")
"""
    assert subprocess.check_output([sys.executable, "-c", program], stderr=subprocess.STDOUT) == b""
