"""Keep what a benchmark was asked to compare: ``<home>/suites/<id>/suite.jsonl``, one line per change.

The first line is written before anything runs, so its contrasts are registered. Later lines add methods, datasets or
seeds. What has run is not here: each cell is an ordinary sweep, with a plan that names the benchmark.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import home
from orchestrator.provenance import UNKNOWN, read_build
from orchestrator.sweep_folder.index import find_entry
from orchestrator.sweep_folder.lines import append_line
from search_spaces.suite import Contrast, Suite
from training.config.run import Scalar
from training.config.spelling import did_you_mean
from training.files import sync_folder
from training.path_names import is_path_name

RECORD_FILE = "suite.jsonl"
SUITES_DIR = "suites"


@dataclass(frozen=True)
class Budget:
    """What the search of each cell may cost.

    Attributes:
        by: ``images``, ``trials`` or ``gpu-hours``.
        amount: How many; with ``of``, in trials of that method.
    """

    by: str
    amount: float
    of: str | None = None

    def __str__(self) -> str:
        amount = f"{self.amount:,g}"
        if self.by == "images":
            return f"as many images as {amount} trials of {self.of}" if self.of else f"{amount} images"
        return f"{amount} trials" if self.by == "trials" else f"{amount} GPU-hours"


@dataclass(frozen=True)
class SuiteRecord:
    """A benchmark as it was asked for last.

    Attributes:
        id: Its name, and 8 hex digits of the hash of what cannot change.
        spaces: Dataset -> search space.
        methods, bounds: Labels; bounds are in no comparison.
        settings: Of every run, as with ``--set``.
        contrasts: As registered in the first line.
        max_gpu_hours: What all runs together may take; None is no limit. CPU-hours of runs without GPUs.
        utc, commit, dirty: When it was written, and by which code.
    """

    id: str
    name: str
    spaces: dict[str, str]
    methods: tuple[str, ...]
    bounds: tuple[str, ...]
    budget: Budget
    seeds: int
    race_frac: float
    recipe: str | None
    scheduler: str | None
    settings: dict[str, Scalar]
    contrasts: tuple[tuple[str, str, str], ...]
    suite_text: str
    utc: str = ""
    commit: str = UNKNOWN
    dirty: str = UNKNOWN
    max_gpu_hours: float | None = None

    @property
    def cells(self) -> list[tuple[str, str]]:
        """(dataset, method) of every cell, dataset by dataset."""
        return [(dataset, method) for dataset in self.spaces for method in (*self.methods, *self.bounds)]

    @property
    def folder(self) -> Path:
        """Its folder."""
        return suites_dir() / self.id


def suites_dir() -> Path:
    """Return the folder of all benchmarks."""
    return home() / SUITES_DIR


def make_record(suite: Suite, spaces: Mapping[str, str], budget: Budget, settings: Mapping[str, Scalar]) -> SuiteRecord:
    """Return the record of a suite before anything was registered.

    Args:
        suite: The suite.
        spaces: Dataset -> search space.
        budget: Of each cell.
        settings: Of every run, the suite's and the user's.
    """
    file = suite.file
    fixed: dict[str, Any] = {
        "budget": asdict(budget),
        "race_frac": file.race_frac,
        "recipe": file.recipe,
        "scheduler": file.scheduler,
        "settings": dict(settings),
    }
    digest = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:8]
    return SuiteRecord(
        id=f"{suite.name}-{digest}",
        name=suite.name,
        spaces=dict(spaces),
        methods=tuple(file.methods),
        bounds=tuple(file.bounds),
        budget=budget,
        seeds=file.seeds,
        race_frac=file.race_frac,
        recipe=file.recipe,
        scheduler=file.scheduler,
        settings=dict(settings),
        contrasts=tuple(_place_contrast(suite, number, spaces) for number in range(len(file.contrasts))),
        suite_text=suite.document.text,
    )


def _place_contrast(suite: Suite, number: int, spaces: Mapping[str, str]) -> tuple[str, str, str]:
    contrast: Contrast = suite.file.contrasts[number]
    if contrast.dataset is None and len(spaces) > 1:
        raise suite.error(
            ("contrasts", number),
            f"contrasts.{number}.dataset must be given, as the suite has {len(spaces)}: {', '.join(spaces)}",
        )
    dataset = contrast.dataset or next(iter(spaces))
    if dataset not in spaces:
        raise suite.error(
            ("contrasts", number, "dataset"),
            f"contrasts.{number}.dataset must be a dataset of the suite, but got {dataset}. "
            f"{did_you_mean(dataset, spaces)} Valid: {', '.join(spaces)}.",
        )
    return contrast.method, contrast.against, dataset


def register(wanted: SuiteRecord) -> SuiteRecord:
    """Write what is asked for, together with what was asked for before, unless it is there; return it.

    Raises:
        UserError: Seeds would be taken away, or contrasts changed after the first run.
        OrchestratorError: The record is damaged or cannot be written.
    """
    before = read_record(wanted.id) if (suites_dir() / wanted.id / RECORD_FILE).exists() else None
    if before is None:
        return _write(wanted)
    if wanted.seeds < before.seeds:
        raise UserError(
            f"{wanted.id} has {before.seeds} seeds, and seeds can be added but not taken away: the best {wanted.seeds} "
            f"of them would be chosen by luck. Use --seeds {before.seeds}"
        )
    if wanted.contrasts != before.contrasts:
        raise UserError(
            f"The contrasts of {wanted.id} were registered on {before.utc}, before its first run, as "
            f"{describe_contrasts(before)}; what is added now would not be. Put them back, or run the suite under "
            f"another file name, which starts from nothing."
        )
    for dataset in before.spaces.keys() & wanted.spaces.keys():
        if before.spaces[dataset] != wanted.spaces[dataset]:
            raise UserError(
                f"{wanted.id} searches {before.spaces[dataset]} on {dataset}, and not {wanted.spaces[dataset]}. Put it "
                f"back, or run the suite under another file name, which starts from nothing."
            )
    merged = replace(
        wanted,
        spaces={**before.spaces, **wanted.spaces},
        methods=_merge(before.methods, wanted.methods),
        bounds=tuple(label for label in _merge(before.bounds, wanted.bounds) if label not in before.methods),
        max_gpu_hours=wanted.max_gpu_hours or before.max_gpu_hours,
    )
    as_before = replace(merged, utc=before.utc, commit=before.commit, dirty=before.dirty)
    return before if as_before == before else _write(merged)


def keep_limit(wanted: SuiteRecord) -> SuiteRecord:
    """Return what is asked for with the limit of GPU-hours that was asked for before, unless it has another."""
    if wanted.max_gpu_hours is not None or not (suites_dir() / wanted.id / RECORD_FILE).exists():
        return wanted
    return replace(wanted, max_gpu_hours=read_record(wanted.id).max_gpu_hours)


def _merge(before: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*before, *wanted]))


def describe_contrasts(record: SuiteRecord) -> str:
    """Return the contrasts in words."""
    return ", ".join(f"{first} - {second} on {dataset}" for first, second, dataset in record.contrasts) or "none"


def _write(record: SuiteRecord) -> SuiteRecord:
    build = read_build()
    record = replace(
        record,
        utc=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        commit=build.get("commit", UNKNOWN),
        dirty=build.get("dirty", UNKNOWN),
    )
    path = record.folder / RECORD_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            append_line(descriptor, json.dumps(asdict(record)).encode() + b"\n")
        finally:
            os.close(descriptor)
        sync_folder(path.parent)
    except OSError as error:
        raise OrchestratorError(f"Cannot write {path}: {error.strerror}. Nothing was started.") from None
    return record


def read_record(suite_id: str) -> SuiteRecord:
    """Return a benchmark as it was asked for last.

    Raises:
        OrchestratorError: Its record cannot be read.
    """
    return read_history(suite_id)[-1]


def read_history(suite_id: str) -> list[SuiteRecord]:
    """Return all lines of a benchmark's record; a last one that a kill cut short is left out.

    Raises:
        OrchestratorError: The record cannot be read; the message names the line.
    """
    path = suites_dir() / suite_id / RECORD_FILE
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except OSError as error:
        raise OrchestratorError(f"Cannot read {path}: {error.strerror}.") from None
    found = [_read_line(path, number, line) for number, line in enumerate(lines, start=1)]
    if not found:
        raise OrchestratorError(f"{path} is empty, so {suite_id} never began. Delete its folder.")
    return found


def _read_line(path: Path, number: int, line: bytes) -> SuiteRecord:
    try:
        plain = json.loads(line)
        # An earlier version knew no limit.
        if {*plain, "max_gpu_hours"} != {field.name for field in fields(SuiteRecord)}:
            raise ValueError("its fields are not those of this version")
        return SuiteRecord(
            **{
                **plain,
                "budget": Budget(**plain["budget"]),
                "methods": tuple(plain["methods"]),
                "bounds": tuple(plain["bounds"]),
                "contrasts": tuple(map(tuple, plain["contrasts"])),
            }
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise OrchestratorError(f"{path}:{number}: not a line that this program wrote ({error}).") from None


def list_suites() -> list[str]:
    """Return the ids of all benchmarks of this home, the one that was registered first coming first."""
    folders = [path.parent for path in suites_dir().glob(f"*/{RECORD_FILE}")]
    return [folder.name for folder in sorted(folders, key=lambda folder: (folder / RECORD_FILE).stat().st_ctime)]


def find_suite(word: str | None) -> str | None:
    """Return the id of the benchmark with this id, or the latest with this name, unless a sweep has it; else None."""
    if word is None or not is_path_name(word):
        return None
    known = list_suites()
    if word in known:
        return word
    named = [suite_id for suite_id in known if suite_id.rpartition("-")[0] == word]
    return named[-1] if named and find_entry(word) is None else None
