"""Measure how long an epoch takes here, from a few steps of the real training on the real data."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import torch

from training.config.run import TrainConfig
from training.loop.guard import FiniteGuard
from training.loop.run import TrainingRun, score_batches
from training.machine import name_device

_WARM_STEPS = 3
"""The first steps start the processes that read ahead, and allocate memory."""
_EVAL_BATCHES = 8


@dataclass(frozen=True)
class Pace:
    """How fast a run is.

    Attributes:
        epoch_s: Seconds of an epoch, with its evaluation.
        step_s: Seconds of a step, with the wait for its data.
        num_steps: How many steps were timed.
        weights_bytes: Size of the weights.
        device: The GPU or CPU.
    """

    epoch_s: float
    step_s: float
    num_steps: int
    weights_bytes: int
    device: str


def measure_pace(config: TrainConfig, num_steps: int, device: torch.device | None = None) -> Pace:
    """Take some steps of a run's last epoch, in which every part of its loss is active, and score a part of val.

    Args:
        config: Settings of the run.
        num_steps: Steps to time, at least one.
        device: By default a GPU if there is one, else the CPU.

    Raises: as :class:`training.loop.run.TrainingRun`.
    """
    return _ProbedRun(config, device=device).measure(num_steps)


class _ProbedRun(TrainingRun):
    def measure(self, num_steps: int) -> Pace:
        step_s, num_steps = self._time_steps(num_steps)
        image_s = self._time_scoring()
        passes = 1 if self._average is None else 2
        scored = passes * len(self._val)
        if self._method.needs_train_scores(self.config.loop.epochs):
            scored += len(self._train)
        state = self._model.state_dict().values()
        return Pace(
            epoch_s=step_s * len(self._batches) + image_s * scored,
            step_s=step_s,
            num_steps=num_steps,
            weights_bytes=sum(tensor.numel() * tensor.element_size() for tensor in state),
            device=name_device(),
        )

    def _time_steps(self, num_steps: int) -> tuple[float, int]:
        """Return the mean seconds of a step, and how many steps there were to time."""
        epoch, total = self.config.loop.epochs, len(self._batches)
        warm = min(_WARM_STEPS, total - 1)
        timed = min(num_steps, total - warm)
        guard, started = FiniteGuard(epoch, self._device), 0.0
        self._model.train()
        with closing(self._batches.epoch(epoch)) as source:
            for step, batch in enumerate(islice(source, warm + timed), start=1):
                if step == warm + 1:
                    started = self._now()
                self._loop.take_step(batch.to(self._device), epoch, step, guard)
            took = self._now() - started
        return took / timed, timed

    def _time_scoring(self) -> float:
        """Return the seconds that an image of val takes."""
        num_images, started = 0, self._now()
        batches = score_batches(self._model, self._val, self._scale, self._device, self.config.data.num_workers)
        with closing(batches):  # type: ignore[type-var]  # a generator
            for logits in islice(batches, _EVAL_BATCHES):
                num_images += len(logits)
        return (self._now() - started) / max(1, num_images)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # steps are only queued
        return time.perf_counter()
