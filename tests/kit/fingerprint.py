"""Compute what two runs share if they are the same to the last bit; as a program, train a run and print that as JSON.

``python -m tests.kit.fingerprint CONFIG STORAGE STOP_AFTER WIDTHS``: CONFIG is flat JSON, STORAGE a folder ('' for
none), STOP_AFTER an epoch, WIDTHS the channels of the digits trunk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.config.run import TrainConfig
from training.loop.run import TrainingRun
from training.models import backbone


def fingerprint(run: TrainingRun) -> dict[str, Any]:
    """Return a run's metrics, except times, and a hash of its complete state."""
    state = run.state_dict()
    digest = hashlib.sha256()
    for name in ("model", "average", "method", "optimizer", "schedule", "best", "best_of_sets"):
        for value in _leaves(state[name]):
            digest.update(value)
    return {
        "metrics": {name: value for name, value in run.metrics.items() if not name.startswith("time/")},
        "state": digest.hexdigest(),
    }


def train(config: TrainConfig, storage: Path | None = None, stop_after: int | None = None) -> TrainingRun:
    """Resume a run if there is anything to resume, train to an epoch or to its end, saving each epoch."""
    run = TrainingRun(config, storage=storage)
    run.resume()
    while not run.finished and run.epoch != stop_after:
        run.train_epoch()
        run.save()
    return run


def train_and_keep(config: TrainConfig, folder: Path) -> Iterator[TrainingRun]:
    """Train a run to its end; yield it after each epoch, once it is saved and its storage is copied to FOLDER/EPOCH."""
    run = TrainingRun(config, storage=folder / "whole")
    while not run.finished:
        run.train_epoch()
        run.save()
        shutil.copytree(folder / "whole", folder / str(run.epoch))
        yield run


def train_elsewhere(config: TrainConfig, storage: Path | None = None, stop_after: int | None = None) -> dict[str, Any]:
    """Do :func:`train` in a fresh process and return the fingerprint."""
    arguments = [json.dumps(config.flatten()), str(storage or ""), str(stop_after or config.loop.epochs)]
    arguments.append(json.dumps(backbone.WIDTHS))  # a test may have made the trunk thin
    done = subprocess.run(
        [sys.executable, "-m", "tests.kit.fingerprint", *arguments],
        cwd=Path(__file__).parents[2],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _leaves(value: Any) -> Iterator[bytes]:
    if hasattr(value, "numpy"):
        yield value.detach().contiguous().numpy().tobytes()
    elif isinstance(value, dict):
        for key in value:
            yield repr(key).encode()
            yield from _leaves(value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield repr(value).encode()


if __name__ == "__main__":
    warnings.simplefilter("error")
    flat, folder, last, widths = sys.argv[1:]
    backbone.WIDTHS = tuple(json.loads(widths))
    print(
        json.dumps(
            fingerprint(train(TrainConfig.from_flat(json.loads(flat)), Path(folder) if folder else None, int(last)))
        )
    )
