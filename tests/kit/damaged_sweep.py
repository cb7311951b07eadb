"""Damage the files of a small sweep one by one, run the verbs on it, and find what they do wrong."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer

from orchestrator.cli import app as cli
from orchestrator.errors import OrchestratorError
from orchestrator.home import sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep import driver
from orchestrator.sweep_folder.events import SweepPlanned
from orchestrator.sweep_folder.journal import replay
from orchestrator.sweep_folder.lease import LEASE_FILE
from orchestrator.tracking import artifacts as run_artifacts
from search_spaces.ranges import Range
from tests.kit.damage import DAMAGES, FOLDER, damage, restore
from tests.kit.sweeps import journal_path, make_sweep, whole_sweep, write_events

Run = Callable[..., tuple[int, str, str]]
"""Runs a command of the program; returns exit code, output and errors."""

RAY = "Ray would start now"
FILES = (
    "plan.json",
    "journal.jsonl",
    LEASE_FILE,
    "checkpoints/t0003/last-0003.pt.done",
    "errors/t0002.txt",
    "spool/t0000/cam.png",
)
_READ = FILES[:3]
_COARSE = ("gone", "empty", "cut", "zeros", "bad text", FOLDER)
"""The damages of a file whose content is only passed on."""
_LOST = ("gone", "empty", "zeroed")


def make_damageable() -> SweepPlan:
    """Make a sweep of four trials and one that is still to come, with everything that a sweep leaves."""
    ranges = {"method.cam_threshold": Range(type="float", low=0, high=1)}
    plan = make_sweep(num_trials=5, ranges=ranges, start_from=({"method.cam_threshold": 0.5},))
    events = list(whole_sweep(plan))
    for trial in (2, 3):
        index = next(i for i, event in enumerate(events) if getattr(event, "trial", None) == trial)
        events[index].params["method.cam_threshold"] = 0.1 * trial  # type: ignore[attr-defined]
    write_events(plan, [SweepPlanned(json.loads(plan.to_json())), *events])
    for name, content in (
        (LEASE_FILE, b'{"host": "here", "pid": 1, "pid_started": 1.5, "renewed": 2.5}'.ljust(512)),
        ("checkpoints/t0003/last-0003.pt.done", b'{"size": 3, "sha256": "abc"}'),
        ("checkpoints/t0003/last-0003.pt", b"abc"),
        ("errors/t0002.txt", b"Traceback"),
        ("spool/t0000/cam.png", b"PNG"),
    ):
        restore(sweep_dir(plan.id) / name, content)
    return plan


@contextmanager
def without_ray() -> Iterator[None]:
    """Have a resume stop where Ray would start, after it has read everything; and have MLflow know nothing."""

    def run(self: Any, num_more: int) -> str:
        from orchestrator.trials.director import Director

        Director(self._plan, self._journal)
        raise OrchestratorError(RAY)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "app", typer.main.get_command(cli.app))  # assembled once: that takes longest
        patch.setattr(driver._Driver, "run", run)
        patch.setattr(run_artifacts, "read_artifacts", lambda plan: iter(()))
        yield


def try_damages(plan: SweepPlan, run: Run, dice: random.Random, out: Path) -> Iterator[str]:
    """Yield what is wrong with the answers of the verbs, for each damage of each file."""
    folder = sweep_dir(plan.id)
    whole = {name: (folder / name).read_bytes() for name in FILES}
    figures = _figures(plan)
    for name, kind in _list_damages():
        damage(folder / name, kind, dice)
        for fault in _check(plan, run, name, kind, figures, out):
            yield f"{name}, {kind}: {fault}"
        for file, content in whole.items():
            restore(folder / file, content)
        for kept in folder.glob("journal.jsonl.damaged*"):
            kept.unlink()


def count_damages() -> int:
    """Return how many damages :func:`try_damages` tries."""
    return len(list(_list_damages()))


def _list_damages() -> Iterator[tuple[str, str]]:
    for name in FILES:
        for kind in [*DAMAGES, FOLDER] if name in _READ else _COARSE:
            yield name, kind


def _check(plan: SweepPlan, run: Run, name: str, kind: str, figures: dict[int, set[float]], out: Path) -> Iterator[str]:
    commands = {
        "status": ("status", plan.id),
        "status --all": ("status", "--all"),
        "leaderboard": ("leaderboard", plan.id, "--json"),
        "bundle": ("bundle", plan.id, "--out", str(out)),
        "extend": ("extend", plan.id, "--trials", "+1"),
        "resume": ("resume", plan.id),
    }
    # The first two files are what every verb reads.
    chosen = list(commands) if name in FILES[:2] else ["status --all", "bundle", "resume"]
    for words in map(commands.__getitem__, chosen):
        code, printed, said = run(*words)
        if code not in (0, 1, 2) or "Traceback" in said or "--debug" in said:
            yield f"{words[0]} ends with {code}: {said}"
        elif code and RAY not in said and Path(name).name not in said:
            yield f"{words[0]} does not name the file: {said}"
        if words[0] == "leaderboard" and code == 0:
            rows = json.loads(printed)["rows"]
            wrong = [row for row in rows if row["value"] not in {None, *figures[row["trial"]]}]
            if wrong:
                yield f"wrong figures: {wrong}"
        if words == ("status", "--all") and plan.id not in printed:
            yield "status --all does not list it"
        if words[0] in ("resume", "extend") and RAY in said and name == "journal.jsonl" and kind in _LOST:
            yield f"{words[0]} starts again without a journal"


def _figures(plan: SweepPlan) -> dict[int, set[float]]:
    """Return every score that a trial has reported."""
    records = replay(journal_path(plan)).records.values()
    return {record.trial: {metrics["val/mAP"] for metrics in record.metrics.values()} for record in records}
