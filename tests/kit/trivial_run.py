"""A run that trains nothing, to see what a sweep costs and survives without torch; for benchmarks and tests."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from training.config.run import TrainConfig
from training.errors import NonFiniteLossError
from training.metric_names import EPOCH, VAL_MAP, VAL_OBSERVED_MAP

RESUMED_FROM = "resumed_from"


@dataclass(frozen=True)
class TrivialRuns:
    """Makes runs whose metrics are a fixed function of their configuration and epoch.

    ``method.spbc_weight`` and ``method.reg_weight`` are what a sweep over them searches; the best score is at 1.0 and
    0.1.

    Attributes:
        epoch_s: How long an epoch takes.
        level: All runs have the same scores, so that ASHA cuts none and no later one is the best.
        keep: Write a checkpoint after every epoch and resume from it.
        nan_below, die_below, hang_below, oom_below: A run with a smaller ``method.spbc_weight`` has a non-finite loss
            in epoch 2, kills its process, never comes back, or runs out of memory.
        offset: Added to all scores: by whose code a run was.
        tell_start: A further metric, ``resumed_from``: the epoch of the checkpoint from which this attempt went on, or
            0.
        hurry_file: Once it is there, epochs take no time.
        full_file: While it is there, the storage of the checkpoints takes nothing more.
    """

    epoch_s: float = 0.0
    level: bool = False
    keep: bool = True
    nan_below: float = -1.0
    die_below: float = -1.0
    hang_below: float = -1.0
    oom_below: float = -1.0
    offset: float = 0.0
    tell_start: bool = False
    hurry_file: str | None = None
    full_file: str | None = None

    def __call__(self, config: TrainConfig, storage: str) -> TrivialRun:
        return TrivialRun(config, Path(storage), self)


class TrivialRun:
    """One run of :class:`TrivialRuns`."""

    def __init__(self, config: TrainConfig, storage: Path, settings: TrivialRuns) -> None:
        self._config, self._storage, self._settings = config, storage, settings
        flat = config.flatten()
        self._spbc, self._reg = float(flat["method.spbc_weight"] or 0), float(flat["method.reg_weight"] or 0)
        self.epoch, self._resumed_from = 0, 0
        self.metrics: dict[str, float] = {}
        self.passed_over: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        return self.epoch >= self._config.loop.epochs

    def resume(self) -> bool:
        for name in ("last.json", "before.json"):
            path = self._storage / name
            try:
                saved = json.loads(path.read_text())
            except FileNotFoundError:
                continue
            except ValueError:
                self.passed_over += (name,)
                continue
            self.epoch = self._resumed_from = saved["epoch"]
            self.metrics = saved["metrics"] | self._tell_start()
            return True
        return False

    def train_epoch(self) -> dict[str, float]:
        hurry = self._settings.hurry_file
        if hurry is None or not Path(hurry).exists():
            time.sleep(self._settings.epoch_s)
        epoch = self.epoch + 1
        if epoch == 2:
            self._misbehave()
        self.epoch = epoch
        distance = 0.0 if self._settings.level else abs(self._spbc - 1) + abs(self._reg - 0.1)
        score = 80 - 10 * distance - 10 / epoch + self._settings.offset
        self.metrics = {EPOCH: float(epoch), VAL_MAP: score, VAL_OBSERVED_MAP: score - 5, **self._tell_start()}
        return self.metrics

    def _tell_start(self) -> dict[str, float]:
        return {RESUMED_FROM: float(self._resumed_from)} if self._settings.tell_start else {}

    def _misbehave(self) -> None:
        if self._spbc < self._settings.die_below:
            os._exit(1)
        if self._spbc < self._settings.nan_below:
            raise NonFiniteLossError(2, 1, {"bce": float("nan")})
        if self._spbc < self._settings.hang_below:
            time.sleep(1e6)
        if self._spbc < self._settings.oom_below:
            raise MemoryError("this is more than there is")

    def save(self) -> None:
        if not self._settings.keep or not _is_first_rank():
            return
        full = self._settings.full_file
        if full is not None and Path(full).exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        self._storage.mkdir(parents=True, exist_ok=True)
        draft = self._storage / "last.json.draft"
        draft.write_text(json.dumps({"epoch": self.epoch, "metrics": self.metrics}))
        last = self._storage / "last.json"
        if last.exists():
            last.replace(self._storage / "before.json")
        draft.replace(last)

    def load_best(self) -> None:
        """There are no weights."""

    def write_artifacts(self, folder: Path, title: str) -> None:
        (folder / "score.txt").write_text(f"{self.metrics.get(VAL_MAP)}\n")


def _is_first_rank() -> bool:
    torch = sys.modules.get("torch")  # where there are ranks, Ray Train has loaded it
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return True
    return bool(torch.distributed.get_rank() == 0)
