"""An in-memory stand-in for MLflow with the rules that the runs writer relies on; it can die at any call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.tracking.dataset_use import DatasetUse
from orchestrator.tracking.run_tags import SWEEP_TAG
from orchestrator.tracking.runs import Point, StoredRun


class Killed(BaseException):
    """The writer's death, which no ``except Exception`` may catch."""


class FakeStore:
    """Keeps identical rows once, and writes params and points each in one piece."""

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.rows: Counter[tuple[str, str, int, int, float]] = Counter()
        self.params: dict[str, dict[str, str]] = {}
        self.ends: dict[str, int | None] = {}
        self.files: dict[str, set[str]] = {}
        self.texts: dict[tuple[str, str], str] = {}
        self.names: dict[str, str] = {}
        self.datasets: dict[str, DatasetUse] = {}
        self.views: dict[str, str] = {}
        self.calls = 0
        self.die_before: int | None = None
        self.die_after: int | None = None

    def _call(self, act: Callable[[], None]) -> None:
        self.calls += 1
        if self.calls == self.die_before:
            raise Killed
        act()
        if self.calls == self.die_after:
            raise Killed

    def find_runs(self, of: str, tag: str = SWEEP_TAG) -> list[StoredRun]:
        found = [run for run in self.runs.values() if run.tags.get(tag) == of]
        return [replace(run, tags=dict(run.tags), metrics=self._last(run.run_id)) for run in found]

    def _last(self, run_id: str) -> dict[str, float]:
        rows = sorted(((step, time_ms, name, value) for run, name, step, time_ms, value in self.rows if run == run_id))
        return {name: value for _, _, name, value in rows}

    def create_run(self, name: str, start_ms: int, tags: Mapping[str, str]) -> str:
        run_id = f"run{len(self.runs)}"
        self.names[run_id] = name
        self._call(lambda: self.runs.update({run_id: StoredRun(run_id, "RUNNING", dict(tags))}))
        return run_id

    def log(self, run_id: str, points: Sequence[Point], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        run = self.runs[run_id]

        def write_params() -> None:
            self.params.setdefault(run_id, dict(params))
            assert not params or self.params[run_id] == params, "MLflow refuses to change a param"
            run.has_params = run.has_params or bool(params)

        def write_points() -> None:
            for point in points:
                for key, value in point.metrics.items():
                    self.rows[run_id, key, point.step, point.time_ms, value] = 1
                run.last_epoch = max(run.last_epoch, int(point.metrics.get("epoch", 0)))
                run.metrics = {**run.metrics, **point.metrics}

        self._call(write_params)  # its own transaction, as in MLflow
        self._call(write_points)
        self._call(lambda: run.tags.update(tags))

    def set_status(self, run_id: str, status: str, end_ms: int | None) -> None:
        def write() -> None:
            self.runs[run_id].status = status
            self.ends[run_id] = end_ms

        self._call(write)

    def log_text(self, run_id: str, text: str, path: str) -> None:
        self._call(lambda: self.files.setdefault(run_id, set()).add(path))
        self.texts[run_id, path] = text

    def log_dataset(self, run_id: str, dataset: DatasetUse) -> None:
        def write() -> None:
            self.datasets[run_id] = dataset
            self.runs[run_id].has_dataset = True

        self._call(write)

    def set_view(self, tags: Mapping[str, str]) -> None:
        self._call(lambda: self.views.update(tags))

    def run_path(self, run_id: str) -> str:
        return f"#/{run_id}"

    def log_folder(self, run_id: str, folder: Path) -> None:
        self._call(lambda: self.files.setdefault(run_id, set()).update(path.name for path in folder.iterdir()))

    def of_trial(self, trial: int | None) -> StoredRun:
        (run,) = [run for run in self.runs.values() if run.trial == trial]
        return run

    def epochs(self, trial: int, key: str = "val/mAP") -> list[int]:
        return sorted(
            step for run_id, name, step, _, _ in self.rows if run_id == self.of_trial(trial).run_id and name == key
        )
