"""Turn a sweep's journal into rows of a table, one per run, split and metric, and keep them as Parquet.

The rows are a view of the journal that can be rebuilt. Nothing is averaged, and nothing is filled in: a run that failed
has a row without a value, with its cause. Every value is that of the chosen epoch, never simply the last one.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.home import sweep_dir
from orchestrator.planning.config_hash import hash_config
from orchestrator.planning.sweep_plan import SweepPlan, trial_config
from orchestrator.provenance import LIBRARIES, UNKNOWN
from orchestrator.sweep_folder.events import DriverStarted, Event, TrialStarted
from orchestrator.sweep_folder.final_sets import final_sets
from orchestrator.sweep_folder.journal import JOURNAL_FILE, follow
from orchestrator.sweep_folder.records import TrialRecord, TrialState
from orchestrator.sweep_folder.state import SweepState
from training.files import write_whole
from training.metric_names import TRAIN_IMAGES_BACKWARD, TRAIN_IMAGES_FORWARD

if TYPE_CHECKING:
    import pyarrow as pa

RESULTS_FILE = "results.parquet"
COLUMNS: dict[str, str] = {
    **dict.fromkeys(("sweep", "kind"), "string"),
    "trial": "int64",
    **dict.fromkeys(("cell", "dataset", "method", "recipe", "protocol", "config_hash"), "string"),
    **dict.fromkeys(("training_seed", "draw_seed"), "int64"),
    "split": "string",
    "epoch": "int64",
    "metric": "string",
    "value": "float64",
    **dict.fromkeys(("seconds", "gpu_seconds", "images_forward", "images_backward"), "float64"),
    **dict.fromkeys(("state", "cause", "commit", "dirty", "environment_hash", "data_hash", "weights_hash"), "string"),
    **dict.fromkeys(("world_size", "opening"), "int64"),
}
"""Column -> type. Values are in percent; seconds are those of all attempts; images are those of all epochs."""


def make_rows(plan: SweepPlan, state: SweepState, origins: Mapping[int, Mapping[str, str]]) -> list[dict[str, Any]]:
    """Return the rows of a sweep's runs, in order.

    Args:
        plan: The sweep, training, ablation or promotion.
        state: Its state.
        origins: Trial -> the provenance of the driver that started it, see :func:`read_origins`.
    """
    return [row for _, record in sorted(state.records.items()) for row in _rows_of(plan, state, record, origins)]


def read_origins(events: Iterable[Event]) -> dict[int, dict[str, str]]:
    """Return the provenance of the driver that started each trial; after a resume, that of the last one."""
    provenance: dict[str, str] = {}
    origins = {}
    for event in events:
        if isinstance(event, DriverStarted):
            provenance = dict(event.provenance)
        elif isinstance(event, TrialStarted):
            origins[event.trial] = provenance
    return origins


def read_rows(plan: SweepPlan, state: SweepState) -> list[dict[str, Any]]:
    """Return the rows of a sweep of this home; its journal tells where each run comes from."""
    return make_rows(plan, state, read_origins(follow(sweep_dir(plan.id) / JOURNAL_FILE)[0]))


def write_results(plan: SweepPlan, state: SweepState) -> Path:
    """Write the rows of a sweep next to its journal; return the file."""
    path = sweep_dir(plan.id) / RESULTS_FILE
    write_table(path, read_rows(plan, state))
    return path


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as Parquet."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(make_table(rows), buffer, compression="zstd")
    write_whole(path, buffer.getvalue())


def make_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return rows as a table with the columns of :data:`COLUMNS`."""
    import pyarrow as pa

    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    return pa.Table.from_pylist([dict(row) for row in rows], schema)


def _rows_of(
    plan: SweepPlan, state: SweepState, record: TrialRecord, origins: Mapping[int, Mapping[str, str]]
) -> list[dict[str, Any]]:
    config, origin = trial_config(plan, record.params), origins.get(record.trial, {})
    gpus = plan.resources.workers * plan.resources.gpus_per_worker
    common = {
        "sweep": plan.id,
        "kind": plan.kind,
        "trial": record.trial,
        "cell": f"{plan.dataset}/{plan.method}",
        "dataset": plan.dataset,
        "method": plan.method,
        "recipe": str(config.loop.recipe),
        "protocol": str(plan.protocol),
        "config_hash": hash_config(config.flatten()),
        "training_seed": config.loop.seed,
        "draw_seed": config.data.draw_seed,
        "seconds": record.run_s,
        "gpu_seconds": record.held_s * gpus,
        "images_forward": _sum(record, TRAIN_IMAGES_FORWARD),
        "images_backward": _sum(record, TRAIN_IMAGES_BACKWARD),
        "state": str(record.state),
        "cause": None if record.cause is None else str(record.cause),
        "commit": origin.get("commit", UNKNOWN),
        "dirty": origin.get("dirty", UNKNOWN),
        "environment_hash": hash_environment(origin),
        "data_hash": origin.get("data_hash", UNKNOWN),
        "weights_hash": origin.get("weights_hash", UNKNOWN),
        "world_size": plan.resources.workers,
    }
    return [{**common, **figures} for figures in _figures_of(plan, state, record)]


def _figures_of(plan: SweepPlan, state: SweepState, record: TrialRecord) -> list[dict[str, Any]]:
    epoch = record.chosen_epoch(plan.protocol)
    # Nothing of a failed run counts, even if it had epochs.
    if record.state is TrialState.FAILED or epoch is None:
        return [{"split": "val", "epoch": None, "opening": None, "metric": plan.protocol.metric, "value": None}]
    measured = {name: value for name, value in record.metrics[epoch].items() if name.startswith("val/")}
    rows: list[dict[str, Any]] = [
        {"split": "val", "epoch": epoch, "opening": None, "metric": name, "value": value}
        for name, value in measured.items()
    ]
    if (test := state.test) is not None:
        trial = str(record.trial)
        own = next((found for found in final_sets(plan) if record.trial in found.trials), None)
        opening = None if own is None else own.opening_in(test)[0]
        opened = {"split": "test", "epoch": test.epochs.get(trial), "opening": opening}
        rows += [{**opened, "metric": name, "value": value} for name, value in test.figures.get(trial, {}).items()]
    return rows


def _sum(record: TrialRecord, name: str) -> float | None:
    """Return the sum over all epochs; None if an epoch of an earlier version lacks it."""
    values = [metrics.get(name) for metrics in record.metrics.values()]
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def hash_environment(origin: Mapping[str, str]) -> str:
    """Return 12 hex digits for the lock file and the versions of Python and of the libraries."""
    names = ("lock_hash", "python", *LIBRARIES)
    return hashlib.sha256(json.dumps({name: origin.get(name, UNKNOWN) for name in names}).encode()).hexdigest()[:12]
