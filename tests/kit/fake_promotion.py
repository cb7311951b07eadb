"""A promotion without training: runs, the registry and the test split are made up, and counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.promotion import promote as promotion
from orchestrator.promotion import scoring, test_set
from orchestrator.sweep.driver import SweepOutcome
from orchestrator.sweep.options import DEFAULT, DriveOptions
from orchestrator.sweep_folder.checkpoints import trial_uri
from orchestrator.sweep_folder.events import Event
from orchestrator.sweep_folder.index import load_plan
from orchestrator.sweep_folder.journal import replay
from orchestrator.sweep_folder.ledger import read_ledger
from orchestrator.tracking import registry
from orchestrator.tracking import store as mlflow_store
from orchestrator.tracking import tracker as tracking
from orchestrator.tracking.registry import ModelVersion
from orchestrator.tracking.run_tags import SWEEP_TAG
from tests.kit import sweeps
from training.config.run import DataConfig, Scalar
from training.data.registry import DatasetInfo
from training.data.split import InMemoryImages, SplitData
from training.data.views import PixelScale
from training.inference.scores import Scores


def make_split(name: str, num: int = 2) -> SplitData:
    """Return two images of two classes."""
    labels = torch.eye(2, dtype=torch.bool)[:num]
    return SplitData(name, InMemoryImages(torch.zeros(num, 3, 4, 4)), labels, labels, None, ("a", "b"))


class Store:
    """Counts the calls to the registry and how often the test split is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.champions: dict[str, ModelVersion] = {}
        self.versions: list[ModelVersion] = []
        self.opened: list[int] = []
        self.loaded: list[tuple[str, int]] = []
        self.trained = 0
        self.fail_at: str | None = None
        self.scores: tuple[float, ...] = (60.0, 62.0)
        self.score_of: Callable[[SweepPlan, Mapping[str, Scalar]], float] | None = None
        self.num_test = 2
        for module, name, fake in (
            (registry, "find_champion", self.champions.get),
            (
                registry,
                "find_other_champions",
                lambda dataset, name: [found for found in self.champions.values() if found.name != name],
            ),
            (registry, "register_version", self.register),
            (registry, "find_version_of", self.find_version_of),
            (registry, "set_champion", self.set_champion),
            (tracking, "sync", lambda sweep_id, *wait_s: True),
            (mlflow_store, "find_trial_run", lambda plan, trial: f"run-{plan.id}-{trial}"),
        ):
            monkeypatch.setattr(module, name, fake)
        monkeypatch.setattr(promotion, "require_answer", lambda advice: self._fail("require_answer"))
        monkeypatch.setattr(promotion, "run_sweep", self.train)
        monkeypatch.setattr(promotion, "resume", lambda sweep_id, options: self.train(load_plan(sweep_id), options))
        monkeypatch.setattr(
            "training.loop.checkpoint.CheckpointStore.load_best",
            lambda store, epoch: {"epoch": epoch, "classes": ["a", "b"]},
        )
        monkeypatch.setattr(test_set, "load_test_split", self.load_test_split)
        monkeypatch.setattr(test_set, "score_weights", self.score)
        monkeypatch.setattr(test_set, "dataset_info", self.describe_data)
        monkeypatch.setattr(scoring, "load_split", self.load_split)
        monkeypatch.setattr(scoring, "score_weights", self.score)
        self.data_hash = "da7a"
        monkeypatch.setattr("training.preparation.prepare", lambda config: None)
        monkeypatch.setattr("training.data.registry.dataset_info", self.describe_data)
        monkeypatch.setattr("training.inference.predictor.save_model", lambda folder, config, state, scale, card: None)

    def describe_data(self, config: Any) -> DatasetInfo:
        scale = PixelScale(torch.zeros(3), torch.ones(3))
        return DatasetInfo(self.data_hash, ("a", "b"), scale, None)

    def train(self, plan: SweepPlan, options: DriveOptions = DEFAULT) -> SweepOutcome:
        """Stand in for a race or for final runs: their journal, written once."""
        self._fail(f"train {plan.kind}")
        state = replay(sweeps.journal_path(plan))
        if not state.records:
            self.trained += 1
            sweeps.create(plan)
            events: list[Event] = [sweeps.driver_started(plan)]
            scores = self.scores
            if self.score_of is not None:
                scores = tuple(self.score_of(plan, point) for point in plan.start_from)
            for trial, (score, point) in enumerate(zip(scores, plan.start_from, strict=True)):
                Path(trial_uri(plan, trial)).mkdir(parents=True)
                events += [sweeps.trial_started(trial, 1, 1, **point), sweeps.epoch_reported(trial, 1, 2, score - 1)]
                events += [sweeps.epoch_reported(trial, 2, 2, score), sweeps.trial_ended(trial, 3)]
            sweeps.write_events(plan, [*events, sweeps.driver_ended(4)])
            state = replay(sweeps.journal_path(plan))
        return SweepOutcome(plan, tuple(state.records.values()), "FINISHED", 1.0)

    def load_split(self, config: DataConfig, split: str) -> SplitData:
        self.loaded.append((split, config.draw_seed))
        return make_split(split)

    def load_test_split(self, config: Any) -> SplitData:
        return make_split("test", self.num_test)

    def score(self, config: Any, state: Mapping[str, Any], data: SplitData) -> Scores:
        if data.name == "test":
            assert read_ledger(), "the opening is on disk before anything is scored"
            self._fail("evaluate")
            self.opened.append(config.loop.seed)
        logits = torch.linspace(0.5, config.loop.seed % 100, 4).reshape(2, 2)
        return Scores.of(data, logits)

    def register(self, name: str, dataset: str, run_id: str, folder: Path, tags: Mapping[str, str]) -> ModelVersion:
        self._fail("register")
        for known in self.versions:
            if known.run_id == run_id:
                return known
        self.versions.append(ModelVersion(name, len(self.versions) + 1, run_id, tags))
        return self.versions[-1]

    def find_version_of(self, name: str, sweep_id: str) -> ModelVersion | None:
        found = [known for known in self.versions if (known.name, known.tags.get(SWEEP_TAG)) == (name, sweep_id)]
        return found[-1] if found else None

    def lose_registry(self) -> None:
        """Stand in for the loss of mlflow.db."""
        self.champions.clear()
        self.versions.clear()

    def set_champion(self, version: ModelVersion) -> None:
        self._fail("set_champion")
        self.champions[version.name] = version
        self._fail("after")

    def _fail(self, at: str) -> None:
        if self.fail_at == at:
            raise KeyboardInterrupt
