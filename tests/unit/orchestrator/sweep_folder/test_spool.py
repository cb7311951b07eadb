from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.home import sweep_dir
from orchestrator.sweep_folder.spool import spool_artifacts, write_error
from tests.kit.sweeps import make_sweep


def test_artifacts_appear_whole_and_replace_older_ones() -> None:
    plan = make_sweep()
    spool_artifacts(plan.id, 7, {"old.txt": b"1"})
    spool_artifacts(plan.id, 7, {"per_class_ap.parquet": b"2", "cam/cam.png": b"3"})
    spool = sweep_dir(plan.id) / "spool"
    files = {path.relative_to(spool).as_posix(): path.read_bytes() for path in spool.rglob("*") if path.is_file()}
    assert files == {"t0007/per_class_ap.parquet": b"2", "t0007/cam/cam.png": b"3"}


@pytest.mark.parametrize(
    "write",
    [lambda: spool_artifacts("digits-00000001", 7, {"a": b"1"}), lambda: write_error("digits-00000001", 7, "x")],
)
def test_full_disk_stops_the_sweep_with_what_to_do(write: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    make_sweep()

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(
        OrchestratorError, match=r"of trial 7 to .*No space left on device.*orchestrator resume digits-00000001"
    ):
        write()


def test_tracebacks_are_kept_beside_the_journal() -> None:
    plan = make_sweep()
    assert write_error(plan.id, 3, "Traceback").read_text() == "Traceback"
    assert write_error(plan.id, 3, "at s3://key:hunter2@bucket").read_text() == "at s3://key:***@bucket"
