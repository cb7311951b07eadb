"""Test what runs have cost, added up by hand: without waits for a process, and part by part of a promotion."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.planning.sweep_plan import Resources, SweepPlan
from orchestrator.results.promotion_spent import describe_spent, split_spent
from orchestrator.results.suite_record import register
from orchestrator.sweep_folder.events import EpochReported, Event
from orchestrator.sweep_folder.journal import replay
from orchestrator.sweep_folder.rows import read_rows
from orchestrator.sweep_folder.spent import Spent, sum_spent
from tests.kit import sweeps
from tests.kit.program import run
from tests.kit.suites import make_suite_record

pytestmark = pytest.mark.usefixtures("home")
ON_TWO = Resources(cpus_per_worker=4, gpus_per_worker=2)


def ran(plan: SweepPlan, images: list[int | None], queue_s: float = 10.0, **params: Any) -> SweepPlan:
    """Write a sweep whose runs take 110 s each, the first ``queue_s`` of which they wait for a process."""
    events: list[Event] = [sweeps.driver_started(plan)]
    for trial, num in enumerate(images):
        start = trial * 110.0
        known = sweeps.epoch_reported(trial, 1, start + 100, queue_s=queue_s)
        counts = {} if num is None else {"train/images_forward": num * 2.0, "train/images_backward": float(num)}
        metrics = {**known.metrics, **counts}
        events += [
            sweeps.trial_started(trial, start, **params),
            EpochReported(trial, 1, metrics, queue_s=queue_s, start_s=1.0, time_ms=known.time_ms),
            sweeps.trial_ended(trial, start + 110),
        ]
    sweeps.write_events(plan, [*events, sweeps.driver_ended(110.0 * len(images))])
    return plan


def work(plan: SweepPlan) -> Any:
    return plan, replay(sweeps.journal_path(plan))


def test_waits_for_a_process_are_not_spent_in_any_sum() -> None:
    plan = ran(sweeps.make_sweep(resources=ON_TWO, num_trials=3), [100, 50, 10])
    spent = sum_spent([work(plan)])
    assert spent == Spent(images=480, held_s=300, gpu_seconds=600, hours=600 / 3600)
    rows = {row["trial"]: row["gpu_seconds"] for row in read_rows(*work(plan))}
    assert sum(rows.values()) == spent.gpu_seconds, "as the rows of results say"
    other = ran(sweeps.make_sweep("other-00000002", num_trials=1), [None])
    assert sum_spent([work(plan), work(other)]).images is None, "an earlier version did not count"
    assert sum_spent([work(other)]).hours == pytest.approx(100 / 3600), "hours of its CPU"


def test_the_parts_of_a_promotion_are_apart(capsys: pytest.CaptureFixture[str]) -> None:
    search = ran(sweeps.make_sweep("mine-00000001", num_trials=4), [10] * 4)
    points = tuple({"loop.seed": seed} for seed in (1, 2))
    final = sweeps.make_sweep(
        "mine-promote-00000002", kind="promote", parent=search.id, start_from=points, num_trials=2
    )
    ran(final, [30, 40])
    parts = split_spent(*work(final))
    assert {name: spent.images for name, spent in parts.items()} == {"search": 120, "reported": 210}
    lines = describe_spent(parts, "CPU-hours")
    assert lines == [
        "images  search 120, reported runs 210, forward and backward",
        "CPU-hours  search 0.11, reported runs 0.056",
    ]
    shown = run(capsys, "status", final.id)[1]
    assert all(f"  {line}\n" in shown for line in lines)
    told = json.loads(run(capsys, "status", final.id, "--json")[1])
    assert told["spent"]["reported"]["images"] == 210
    assert "images" not in run(capsys, "status", search.id)[1]


def test_the_parts_of_a_cell_are_apart(capsys: pytest.CaptureFixture[str]) -> None:
    record = register(make_suite_record())
    common: dict[str, Any] = {"suite": record.id, "method": "ignore"}
    search = ran(sweeps.make_sweep("mine-ignore-00000001", num_trials=4, **common), [10] * 4)
    common |= {"parent": search.id, "start_from": ({},)}
    ran(sweeps.make_sweep("mine-ignore-race-00000002", kind="race", num_trials=2, **common), [20, 20])
    ran(sweeps.make_sweep("mine-ignore-promote-00000003", kind="promote", num_trials=1, **common), [500])
    shown = run(capsys, "leaderboard", record.id)[1].splitlines()
    [row] = [line.split() for line in shown if line.startswith("ignore ") and "120" in line]
    assert row == ["ignore", "120", "120", "1,500", "11", "min", "40", "s"]
    told = json.loads(run(capsys, "leaderboard", record.id, "--json")[1])
    [cell] = [cell for cell in told["datasets"][0]["cells"] if cell["method"] == "ignore"]
    parts = {part: (cell[part]["images"], cell[part]["held_s"]) for part in ("search", "race", "reported", "total")}
    assert parts == {"search": (120, 400), "race": (120, 200), "reported": (1500, 100), "total": (1740, 700)}
