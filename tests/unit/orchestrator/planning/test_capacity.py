from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import UserError
from orchestrator.planning import capacity
from orchestrator.planning.capacity import require_room_here
from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.sweep_plan import Resources

PLAN = make_plan(PlanRequest("digits", num_cpus=1, num_gpus=0))
HERE = "this machine has 2 CPUs and "


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "usable_cpus", lambda: 2)
    set_gpus(monkeypatch, 0, 0)


def set_gpus(monkeypatch: pytest.MonkeyPatch, present: int, seen_by_torch: int) -> None:
    monkeypatch.setattr(capacity, "_count_gpus", lambda: present)
    monkeypatch.setattr(capacity, "_count_gpus_of_torch", lambda: seen_by_torch)


def check(**changes: Any) -> None:
    require_room_here(dataclasses.replace(PLAN, **changes))


def test_what_the_machine_has_is_given() -> None:
    check(resources=Resources(2, 1), concurrency=1)
    # Trials may share CPUs; a note of the plan says so.
    check(resources=Resources(), concurrency=8)


@pytest.mark.parametrize(
    ("resources", "has", "fixes"),
    [
        (Resources(1, 1, 1), "no GPUs", "--set resources.gpus_per_worker=0"),
        (Resources(1, 1, 0.5), "no GPUs", "--set resources.gpus_per_worker=0"),
        (Resources(1, 64), "no GPUs", "--set resources.cpus_per_worker=2"),
        (Resources(2, 2), "no GPUs", "--set resources.cpus_per_worker=1"),
        (Resources(4, 2), "no GPUs", "--set resources.workers=1"),
        (
            Resources(4, 4, 1),
            "no GPUs",
            "--set resources.workers=1 --set resources.cpus_per_worker=2 --set resources.gpus_per_worker=0",
        ),
    ],
)
def test_what_is_missing_is_refused_with_the_flags_that_run_it_here(resources: Resources, has: str, fixes: str) -> None:
    with pytest.raises(UserError) as caught:
        check(resources=resources, concurrency=1)
    said = str(caught.value)
    assert said.startswith(f"A trial needs {resources.describe()}, but {HERE}{has}. ")
    assert f"start it with {fixes}. To run it on a cluster" in said


def test_more_trials_at_a_time_than_gpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_gpus(monkeypatch, 1, 1)
    check(resources=Resources(1, 1, 0.5), concurrency=2)
    with pytest.raises(UserError, match=r"and 3 run at a time, but .* and 1 GPU\. .* start it with --concurrency 2\."):
        check(resources=Resources(1, 1, 0.5), concurrency=3)


def test_fewer_workers_are_advised_rather_than_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "usable_cpus", lambda: 16)
    for gpus, resources, fixes in (
        (1, Resources(2, 1, 1), "--set resources.workers=1"),
        (2, Resources(4, 1, 1), "--set resources.workers=2"),
        (2, Resources(2, 1, 4), "--set resources.workers=1 --set resources.gpus_per_worker=2"),
    ):
        set_gpus(monkeypatch, gpus, gpus)
        with pytest.raises(UserError, match=f"start it with {fixes}\\."):
            check(resources=resources, concurrency=1)
    set_gpus(monkeypatch, 1, 1)
    with pytest.raises(UserError, match=r"start it with --workers 1\."):
        check(kind="promote", resources=Resources(2, 1, 1), concurrency=1)
    set_gpus(monkeypatch, 0, 0)
    with pytest.raises(UserError, match=r"no GPUs\. To run it on a cluster"):
        check(kind="promote", resources=Resources(1, 1, 1), concurrency=1)


def test_torch_is_asked_before_a_gpu_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    set_gpus(monkeypatch, 0, 1)  # as under WSL, whose GPUs have other device files
    check(resources=Resources(1, 1, 1), concurrency=1)


def test_a_promotion_with_too_many_workers_names_its_own_flag() -> None:
    with pytest.raises(UserError, match=r"start it with --workers 1\."):
        check(kind="promote", resources=Resources(4, 1), concurrency=1)


def test_cuda_visible_devices_hides_gpus_and_makes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for name in ("0", "0,1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", name)
        monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(()))
        assert capacity._count_gpus() == 0
    files = [Path(f"/dev/nvidia{suffix}") for suffix in ("0", "1", "ctl", "-uvm")]
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(files))
    uuids = ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "GPU-1af2e5c1-0b6e-4f1c-9d5e-7c9d4b0f3a11")
    parts = ("MIG-83b2c8d5-4a67-5e3b-9d0f-0a8d7c6b5e4f", "MIG-GPU-8932f937-d72c-4106-c12f-20bd9faed9f6/1/0", "MIG-3")
    named = ((",".join(uuids), 2), (uuids[1], 1), (",".join(parts), 3))
    for visible, num in (("0,1", 2), ("0,1,2,3", 2), ("1", 1), ("", 0), ("-1", 0), ("1,-1,0", 1), ("0,0", 1), *named):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert capacity._count_gpus() == num
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert capacity._count_gpus() == 2
