"""Runs the trials of a sweep as coroutines of a few processes, so that one machine can hold thousands of them.

The driver does not notice: Tune has a handle for every trial and waits for results that Ray delivers, with the same
calls as otherwise. What is left out are the trials' own processes and their placement groups.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest.mock import patch

import ray
from ray.air.execution.resources.fixed import FixedResourceManager
from ray.tune.execution import class_cache, tune_controller

from orchestrator.sweep_folder.records import Handout, TrialReport
from orchestrator.trials.actor import HANDOUT, REPORT
from training.metric_names import EPOCH, TIME_EPOCH_S, VAL_MAP, VAL_OBSERVED_MAP

MADE = "time/made_s"
"""A metric: when a report was made, in seconds since 1970."""
NUM_HOSTS = 2
_SPREAD = 0.25
_FILLERS = {f"train/figure_{number}": 0.5 for number in range(12)}
"""With the others, as many metrics as a real run reports."""


class _Host:
    """Many trials, each of which only waits and reports."""

    def __init__(self) -> None:
        self._epochs: dict[int, int] = {}
        self._handouts: dict[int, Handout] = {}
        self._lengths: dict[int, float] = {}

    async def begin(self, key: int, config: dict[str, Any], epoch_s: float) -> bool:
        handout: Handout = config[HANDOUT]
        self._handouts[key], self._epochs[key] = handout, len(handout.metrics)
        self._lengths[key] = epoch_s * random.Random(handout.trial).uniform(1 - _SPREAD, 1 + _SPREAD)
        return True

    async def train(self, key: int) -> dict[str, Any]:
        await asyncio.sleep(self._lengths[key])
        self._epochs[key] += 1
        epoch, params = self._epochs[key], self._handouts[key].params
        distance = abs(float(params["method.spbc_weight"] or 0) - 1) + abs(float(params["method.reg_weight"] or 0) - 1)
        score = 80 - 10 * distance - 10 / epoch
        metrics = {EPOCH: float(epoch), VAL_MAP: score, VAL_OBSERVED_MAP: score - 5, TIME_EPOCH_S: self._lengths[key]}
        report = TrialReport(epoch, {**metrics, MADE: time.time(), **_FILLERS})
        # What a Trainable adds to every result.
        return {REPORT: report, "done": False, "training_iteration": epoch, "time_this_iter_s": 1.0, "pid": key}

    async def no_metrics(self) -> dict[str, Any]:
        return {}

    async def nothing(self) -> None:
        """Stop a trial, for which there is nothing to do."""


class _Handle:
    """What Tune takes for the handle of a trial's own actor."""

    def __init__(self, host: Any, key: int, config: dict[str, Any], epoch_s: float) -> None:
        begun = host.begin.remote(key, config, epoch_s)
        self.__ray_ready__ = _Method(lambda: begun)
        self.train = _Method(lambda: host.train.remote(key))
        self.reset = _Method(lambda config, **options: host.begin.remote(key, config, epoch_s))
        self.get_auto_filled_metrics = _Method(lambda **options: host.no_metrics.remote())
        self.stop = self.__ray_terminate__ = _Method(host.nothing.remote)


class _Method:
    def __init__(self, remote: Any) -> None:
        self.remote = remote


class _Starter:
    """What Tune takes for a trial's actor class with its options."""

    hosts: ClassVar[list[Any]] = []
    started: ClassVar[int] = 0

    def __init__(self, epoch_s: float) -> None:
        self._epoch_s = epoch_s

    def remote(self, config: dict[str, Any], **options: Any) -> _Handle:
        if not _Starter.hosts:
            host: Any = ray.remote(_Host)
            host = host.options(num_cpus=0, max_concurrency=100_000)
            _Starter.hosts += [host.remote() for _ in range(NUM_HOSTS)]
        _Starter.started += 1
        return _Handle(_Starter.hosts[_Starter.started % NUM_HOSTS], _Starter.started, config, self._epoch_s)


class _Room(FixedResourceManager):
    """Grants every request."""

    def __init__(self) -> None:
        super().__init__({"CPU": 1e9, "GPU": 1e9, "memory": 1e18})

    def has_resources_ready(self, resource_request: Any) -> bool:
        return resource_request in self._requested_resources


@contextmanager
def hosted_trials(epoch_s: float) -> Iterator[None]:
    """Run trials as coroutines while the context is active; their epochs take ``epoch_s`` on average."""
    known: dict[Any, Any] = {}

    def get(self: Any, trainable: Any) -> Any:
        if trainable not in known:
            known[trainable] = ray.remote(trainable)
            known[trainable].options = lambda **options: _Starter(epoch_s)
        return known[trainable]

    with (
        patch.object(class_cache._ActorClassCache, "get", get),
        patch.object(tune_controller, "PlacementGroupResourceManager", _Room),
    ):
        yield
