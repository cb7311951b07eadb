"""Write a benchmark to MLflow as a run of its own, with links to those of its sweeps.

All of it is made from the journals each time and written over what is there. So a kill at any point loses nothing that
the next call does not write, and writing twice changes nothing: the run is found by its tag before it is created, and
points carry the times of the journals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.dataset_use import DatasetUse
from orchestrator.tracking.run_tags import (
    DRIVER_STATUS,
    KIND_TAG,
    RUN_NAME_TAG,
    SUITE_TAG,
    note_tags,
    source_tags,
    sweep_tags,
)
from orchestrator.tracking.runs import Point, RunStore, StoredRun, make_batches
from orchestrator.tracking.store import MlflowStore
from orchestrator.tracking.ui import run_path

EXPERIMENT = "benchmarks"
"""The experiment with the runs of all benchmarks; those of their sweeps are in their datasets' experiments."""
RUNNING, STOPPED, FINISHED, FAILED = (DRIVER_STATUS[name] for name in ("RUNNING", "INTERRUPTED", "FINISHED", "FAILED"))

_ABOUT = (
    "Benchmarks, each with one run: what it found, its tables and figures, and links to the sweeps and final runs of "
    "its cells, which are in the experiments of their datasets. Scores are in percent. To see one: "
    "`orchestrator browse SUITE`"
)


@dataclass(frozen=True)
class SuitePage:
    """What MLflow shows of a benchmark.

    Attributes:
        started_ms, ended_ms: Of the benchmark; no end while it runs or waits to be continued.
        status: One of MLflow's.
        note: Its description, as Markdown.
        provenance: By which code it was registered.
        params: What cannot change.
        tags: What can.
        points: Metrics, the step being how many cells were done, or seeds.
        datasets: Which it uses, as far as they are known.
        folder: Artifacts.
    """

    id: str
    name: str
    started_ms: int
    ended_ms: int | None
    status: str
    note: str
    provenance: Mapping[str, str]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    points: Sequence[Point]
    datasets: Sequence[DatasetUse]
    folder: Path


def connect_suites() -> MlflowStore:
    """Return the experiment of all benchmarks.

    Raises:
        Exception: As :class:`orchestrator.tracking.store.MlflowStore`.
    """
    return MlflowStore(EXPERIMENT, _ABOUT)


def write_suite(store: RunStore, page: SuitePage) -> None:
    """Write a benchmark's run; its status comes last, so one that is shown as finished has everything."""
    run = _find_or_create(store, page)
    wanted = {**_make_tags(page), **note_tags(page.note, run.tags)}
    tags = {key: value for key, value in wanted.items() if run.tags.get(key) != value}
    params: Mapping[str, str] = {} if run.has_params else page.params
    for batch in make_batches(page.points) or [[]]:
        store.log(run.run_id, batch, params, tags)
        params, tags = {}, {}
    for dataset in page.datasets:
        store.log_dataset(run.run_id, dataset)
    store.log_folder(run.run_id, page.folder)
    if run.status != page.status:
        store.set_status(run.run_id, page.status, page.ended_ms)


def _find_or_create(store: RunStore, page: SuitePage) -> StoredRun:
    found = store.find_runs(page.id, SUITE_TAG)
    if found:
        return found[0]
    tags = _make_tags(page)
    return StoredRun(store.create_run(page.id, page.started_ms, tags), RUNNING, tags)


def _make_tags(page: SuitePage) -> dict[str, str]:
    own = {RUN_NAME_TAG: page.id, SUITE_TAG: page.id, KIND_TAG: "benchmark"}
    return {**own, **source_tags(f"benchmark {page.name}", page.provenance), **page.tags}


def link_runs(runs: Mapping[str, tuple[str, StoredRun]]) -> dict[str, str]:
    """Return sweep -> address of the page of its own run, as a link on another page of the server."""
    return {sweep_id: run_path(experiment_id, run.run_id) for sweep_id, (experiment_id, run) in runs.items()}


def find_behind(
    works: Iterable[tuple[SweepPlan, SweepState]], runs: Mapping[str, tuple[str, StoredRun]]
) -> list[SweepPlan]:
    """Return the sweeps that have begun and of which MLflow lacks something.

    Args:
        works: The sweeps.
        runs: Their own runs in MLflow, each of which is written after those of its trials.
    """
    begun = [(plan, state) for plan, state in works if state.started_ms is not None]
    return [plan for plan, state in begun if plan.id not in runs or not _is_level(plan, state, runs[plan.id][1])]


def _is_level(plan: SweepPlan, state: SweepState, run: StoredRun) -> bool:
    is_done = run.status == DRIVER_STATUS[state.driver_state or "RUNNING"]
    return is_done and all(run.tags.get(key) == value for key, value in sweep_tags(plan, state).items())
