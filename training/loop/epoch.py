"""Train the steps of an epoch: forward, backward, optimiser, schedule, method state.

Nothing here waits for a GPU except the guard, which looks for non-finite losses every few steps.
"""

from __future__ import annotations

import time
from contextlib import closing

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.config.run import TrainConfig
from training.data.batches import Batch
from training.data.loaders import Batches
from training.distributed import sum_over_ranks, world_size
from training.loop.arithmetic import training_network
from training.loop.guard import FiniteGuard
from training.loop.head_first import RestingTrunk
from training.loop.memory import memory_figures
from training.loop.optim import build_optimizer, build_schedule, guarded_step, set_own_decay
from training.loop.recordings import RecordingMeans, WeakLogits
from training.loop.weight_average import WeightAverage
from training.losses import total_loss
from training.methods.base import Method, StepOutput
from training.metric_names import (
    TIME_DATA_S,
    TIME_TRAIN_S,
    TRAIN_IMAGES_BACKWARD,
    TRAIN_IMAGES_FORWARD,
    TRAIN_LOSS,
    TRAIN_LR,
)
from training.models.base import ModelOutput


class EpochLoop:
    """Train a model by a method, one epoch at a time.

    Inside a torch.distributed process group it is one rank of a loop whose losses and thresholds count the global
    batch.

    Args:
        config: Settings of the run: optimiser, schedule, arithmetic.
        model: On ``device``.
        method: On ``device``.
        num_steps: Steps of one cycle of the schedule.
        device: Where to train.
        average: Averaged weights to update after every step, if the run keeps any.
        recordings: Means of the recordings, for their regulariser, if the run has one.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        method: Method,
        num_steps: int,
        device: torch.device,
        average: WeightAverage | None = None,
        recordings: RecordingMeans | None = None,
    ) -> None:
        self._recordings = recordings
        self._config, self._method, self._device, self._average = config.optim, method, device, average
        self._resting_trunk = RestingTrunk(model, config.optim.head_first_epochs)
        self.optimizer = build_optimizer(config.optim, model, method)
        self.schedule = build_schedule(config.optim, self.optimizer, num_steps)
        self._counted = _Counted(training_network(model, config.loop))
        self._forward: nn.Module = _Forward(self._counted, method, recordings)
        if world_size() > 1:
            # Buffers need no broadcast: thresholds and BatchNorm statistics are global, so the same on every rank.
            self._forward = DistributedDataParallel(self._forward, forward_sync_buffers=False)

    def train_epoch(self, batches: Batches, epoch: int) -> dict[str, float]:
        """Take every step of an epoch (from 1), in train mode.

        Returns:
            Mean loss and its parts, the method's own metrics, the last learning rate, the images that the network saw
            on all ranks with and without gradient, and the seconds spent training and waiting for data.

        Raises:
            NonFiniteLossError: A step's loss was not finite; that step changed neither weights nor method state.
            StepMemoryError: A step ran out of memory.
        """
        self._resting_trunk.begin(epoch)
        self._forward.train()
        self._counted.take()  # what an epoch that failed half-way has left
        set_own_decay(self._config, self.optimizer, self._method, epoch)
        guard = FiniteGuard(epoch, self._device)
        sums = _EpochSums()
        started, waited = time.perf_counter(), 0.0
        # Close the batches however the epoch ends, which stops the processes that read ahead.
        with closing(batches.epoch(epoch)) as source:
            for step in range(1, len(batches) + 1):
                fetching = time.perf_counter()
                batch = next(source).to(self._device)
                waited += time.perf_counter() - fetching
                # Read before the step, which moves the schedule on.
                lr = self.optimizer.param_groups[0]["lr"]
                with memory_figures(batch, epoch, step):
                    output, values = self.take_step(batch, epoch, step, guard)
                sums.add({TRAIN_LOSS: torch.stack(list(values.values())).sum(), **_part_names(values)}, output.sums)
        guard.check()
        means, totals = sums.read(len(batches))
        forward, backward = sum_over_ranks(torch.tensor(self._counted.take(), dtype=torch.float64)).tolist()
        took = time.perf_counter() - started
        return {
            **means,
            **self._method.epoch_metrics(totals),
            TRAIN_LR: float(lr),
            TRAIN_IMAGES_FORWARD: forward,
            TRAIN_IMAGES_BACKWARD: backward,
            TIME_DATA_S: waited,
            TIME_TRAIN_S: took - waited,
        }

    def take_step(
        self, batch: Batch, epoch: int, step: int, guard: FiniteGuard
    ) -> tuple[StepOutput, dict[str, Tensor]]:
        """Take one step.

        Args:
            batch: On the device.
            epoch: Counted from 1.
            step: Within the epoch, counted from 1.
            guard: The epoch's guard against non-finite losses.

        Returns:
            The method's output, and the value of each part of the loss over the global batch.
        """
        # Before the forward passes, whose graphs are the peak of memory: the old gradients are no longer needed.
        self.optimizer.zero_grad()
        output: StepOutput = self._forward(batch, epoch)
        loss, values = total_loss(output.parts)
        finite = guard.observe(step, values)
        # Before backward: on the CPU, where every step is checked, a bad one ends the run before it has changed
        # anything.
        guard.check(step)
        loss.backward()
        self._resting_trunk.drop_gradients(epoch)
        guarded_step(self.optimizer, finite)
        self.schedule.step()  # also after a skipped step, so that the rate depends only on the step number
        self._method.apply_updates(output, finite)
        if self._recordings is not None:
            self._recordings.update(finite)
        if self._average is not None:
            self._average.update(finite)
        return output, values


class _Counted(nn.Module):
    """The network of the training steps, which counts the images that pass it: the cost of a method on any machine."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self._forward, self._backward = model, 0, 0

    def forward(self, images: Tensor) -> ModelOutput:
        self._forward += len(images)
        # What runs without gradient, such as a pass that only decides on rejection, is not passed backward.
        self._backward += len(images) * torch.is_grad_enabled()
        output: ModelOutput = self.model(images)
        return output

    def take(self) -> tuple[int, int]:
        """Return how many images passed forward and backward since the last call."""
        counted = self._forward, self._backward
        self._forward = self._backward = 0
        return counted


class _Forward(nn.Module):
    """Model and method as one module, so that DistributedDataParallel sees one forward per step."""

    def __init__(self, model: nn.Module, method: Method, recordings: RecordingMeans | None) -> None:
        super().__init__()
        self.model, self.method, self.recordings = model, method, recordings

    def forward(self, batch: Batch, epoch: int) -> StepOutput:
        if self.recordings is None:
            return self.method.step(self.model, batch, epoch)
        model = WeakLogits(self.model, batch)
        output = self.method.step(model, batch, epoch)
        assert model.logits is not None, "every method passes the weak view"
        output.parts["recordings"] = self.recordings.part(model.logits, batch.index)
        return output


class _EpochSums:
    """Add up scalars over the steps of an epoch on the device, in double precision, to read them once at its end."""

    def __init__(self) -> None:
        self._global: dict[str, Tensor] = {}
        self._local: dict[str, Tensor] = {}

    def add(self, global_values: dict[str, Tensor], local_values: dict[str, Tensor]) -> None:
        """Add values that are already summed over all ranks, and values of this rank alone."""
        for kept, values in ((self._global, global_values), (self._local, local_values)):
            for name, value in values.items():
                kept[name] = kept[name] + value.detach().double() if name in kept else value.detach().double()

    def read(self, num_steps: int) -> tuple[dict[str, float], dict[str, float]]:
        """Return the mean of each global value over the steps, and the sum of each local one over the ranks."""
        # Converting to float waits for the device; it happens only here, once per epoch.
        means = {name: float(value) / num_steps for name, value in self._global.items()}
        if not self._local:
            return means, {}
        totals = sum_over_ranks(torch.stack(list(self._local.values())))
        return means, dict(zip(self._local, totals.tolist(), strict=True))


def _part_names(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the loss parts under their metric names; empty if there is only one, which is the loss itself."""
    return {f"{TRAIN_LOSS}_{name}": value for name, value in values.items()} if len(values) > 1 else {}
