"""``TrainingRun``: one configuration, trained one epoch at a time, whose complete state can be saved and resumed."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.config.run import PLACE_KEYS, TrainConfig
from training.criteria import measure_criteria
from training.data.loaders import load_eval_batches, make_train_batches
from training.data.registry import dataset_info, load_split
from training.data.split import SplitData
from training.data.views import PixelScale
from training.distributed import gather_rows, rank, world_size
from training.errors import CheckpointError
from training.loop.arithmetic import set_arithmetic
from training.loop.checkpoint import CheckpointStore
from training.loop.early_stopping import Best, BestOfSets, is_over, was_stopped
from training.loop.epoch import EpochLoop
from training.loop.localisation import measure_localisation
from training.loop.recordings import RecordingMeans
from training.loop.requirements import check_requirements
from training.loop.weight_average import WeightAverage, average_leads, gain_of_average
from training.methods.base import Sizes
from training.methods.registry import build_method, start_method
from training.metric_names import (
    EPOCH,
    TIME_CHECKPOINT_S,
    TIME_EPOCH_S,
    TIME_EVAL_S,
    TIME_TRAIN_S,
    TRAIN_IMAGES_FORWARD,
    TRAIN_STOPPED,
)
from training.metrics import compute_metrics
from training.models.registry import build_model
from training.preparation import prepare
from training.seeding import seed_everything
from training.selection import SelectBy, epoch_metric


class TrainingRun:
    """Train one configuration on its train split, and evaluate it on val after every epoch; it has no test split.

    Interrupted after any epoch and resumed, it gives results that are bit-identical to an uninterrupted run's (on the
    same machine, with the same versions and number of threads). Inside a torch.distributed process group it is one rank
    of a run whose losses, thresholds and BatchNorm count the global batch. What its process can make or fetch (digit
    scenes, weights, a copy of a remote store) it does, once per node.

    Args:
        config: All settings.
        storage: Folder or URI of this run's checkpoints; None keeps none.
        device: By default a GPU if there is one, else the CPU.

    Raises:
        ConfigError: Dataset, model or method are not available in this version, do not fit each other, or the method
            needs true labels that do not exist.
        DatasetError: The dataset is not prepared.
        WeightsError: Pretrained weights cannot be loaded here.
    """

    def __init__(
        self, config: TrainConfig, *, storage: str | Path | None = None, device: torch.device | None = None
    ) -> None:
        # First, because building the model draws its head from torch's global generator.
        set_arithmetic(config.loop)
        seed_everything("run", config.loop.seed)
        self.config = config
        self.epoch = 0
        self.metrics: dict[str, float] = {}
        self._loaded_epoch: int | None = None
        self._best = Best()
        self._device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._store = None if storage is None else CheckpointStore(storage)
        prepare(config.data)
        info = dataset_info(config.data)
        self._train, self._val, self._scale = (
            load_split(config.data, "train"),
            load_split(config.data, "val"),
            info.scale,
        )
        self.classes = info.classes
        self._model, weights_hash = build_model(
            config.model, len(self.classes), self._device, pretext_file=info.pretext_file, distributed=world_size() > 1
        )
        sizes = Sizes(
            len(self.classes), len(self._train), config.loop.epochs, getattr(self._model, "embedding_dim", None)
        )
        self._method = build_method(config.method, sizes).to(self._device)
        check_requirements(config, self._method, sizes, self._train, self._val)
        scores = start_method(self._method, config.data, *self._known_labels())
        self.identity = {
            "data_hash": info.data_hash,
            "weights_hash": weights_hash,
            "true_labels": "not available" if self._val.true is None else "available",
            **scores,
        }
        self._batches = make_train_batches(
            self._train, self._scale, config, self._method.needs_strong_view, self._device
        )
        # Over the full length: a run that a scheduler ends early must have trained on the same schedule as the others.
        cycle_steps = (config.optim.cycle_epochs or config.loop.epochs) * len(self._batches)
        decay = config.optim.average_decay
        # Built here, because the average starts from the initial weights.
        self._average = None if decay is None else WeightAverage(self._model, decay)
        self._best_of_sets = None if decay is None else BestOfSets()
        self._recordings = self._make_recordings()
        self._loop = EpochLoop(
            config, self._model, self._method, cycle_steps, self._device, self._average, self._recordings
        )
        self.passed_over: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or a stopping rule ended the run early."""
        return self.epoch >= self.config.loop.epochs or was_stopped(self.metrics)

    @property
    def best_epoch(self) -> int | None:
        """The best epoch so far."""
        return self._best.epoch

    @property
    def is_best(self) -> bool:
        """Whether the last finished epoch is the best one so far."""
        return self.best_epoch == self.epoch > 0

    def train_epoch(self) -> dict[str, float]:
        """Train one epoch, then evaluate on val.

        Returns:
            Metrics by name, ``epoch`` included; all values are finite. They are also kept as ``metrics``.

        Raises:
            NonFiniteLossError: A step's loss was not finite; that step changed neither weights nor method state.
        """
        started = time.perf_counter()
        epoch = self.epoch + 1
        # Order and views have seeds of their own. This one is for dropout, which must differ between ranks and be the
        # same after a resume.
        seed_everything("epoch", self.config.loop.seed, epoch, rank())
        trained = self._loop.train_epoch(self._batches, epoch)
        labelling = time.perf_counter()
        if self._method.needs_train_scores(epoch):
            trained |= self._end_epoch(epoch)
            trained[TRAIN_IMAGES_FORWARD] += len(self._train)
        evaluating = time.perf_counter()
        trained[TIME_TRAIN_S] += evaluating - labelling  # scoring the train split for the method is part of training
        evaluated = self._evaluate(epoch)
        ended = time.perf_counter()
        # Only now: an epoch that failed half-way must not count as finished.
        self.epoch = epoch
        self.metrics = {
            EPOCH: float(epoch),
            **trained,
            **evaluated,
            TIME_EVAL_S: ended - evaluating,
            TIME_EPOCH_S: ended - started,
        }
        self._choose_best()
        if self.epoch < self.config.loop.epochs and self._is_over():
            self.metrics[TRAIN_STOPPED] = 1.0
        return self.metrics

    def state_dict(self) -> dict[str, Any]:
        """Return the complete state after the last finished epoch; tensors are not copied."""
        return {
            "config": self.config.flatten(),
            "epoch": self.epoch,
            "metrics": dict(self.metrics),
            "best": asdict(self._best),
            "best_of_sets": None if self._best_of_sets is None else asdict(self._best_of_sets),
            "model": self._model.state_dict(),
            "average": None if self._average is None else self._average.model.state_dict(),
            "method": self._method.state_dict(),
            "recordings": None if self._recordings is None else self._recordings.state_dict(),
            "optimizer": self._loop.optimizer.state_dict(),
            # No state of any random generator: every epoch derives its seeds from the run's seed and its own number.
            "schedule": self._loop.schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state.

        Raises:
            CheckpointError: It belongs to another configuration; the message names the first setting that differs.
        """
        self._check_config(state["config"])
        self._model.load_state_dict(state["model"])
        if self._average is not None:
            self._average.model.load_state_dict(state["average"])
        self._method.load_state_dict(state["method"])
        if self._recordings is not None:
            self._recordings.load_state_dict(state["recordings"])
        # torch keeps the moments it is given without copying them, so a state that is used again would be trained along
        # with this run.
        self._loop.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self._loop.schedule.load_state_dict(state["schedule"])
        self.epoch, self.metrics = state["epoch"], dict(state["metrics"])
        self._best = Best(**state["best"])
        # Checkpoints of earlier versions lack it: patience then starts again, and the run may end later.
        if self._best_of_sets is not None and (of_sets := state.get("best_of_sets")):
            best = {name: Best(**of_sets[name]) for name in ("trained", "averaged")}
            self._best_of_sets = BestOfSets(**best, has_fallen=of_sets["has_fallen"])

    def save(self) -> None:
        """Write this epoch's checkpoint, and the best one too if this epoch is the best; only rank 0 writes.

        The time it takes is added to the metrics as ``time/checkpoint_s``; the checkpoint's own metrics lack it.
        """
        if self._store is None or rank() != 0:
            return
        started = time.perf_counter()
        self._store.save(self.state_dict(), self.epoch, self.best_state() if self.is_best else None)
        self.metrics[TIME_CHECKPOINT_S] = time.perf_counter() - started

    def resume(self) -> bool:
        """Load the newest complete checkpoint of the storage, with its epoch's metrics, which may be reported again.

        Returns:
            Whether there was one.
        """
        state = None if self._store is None else self._store.load_last()
        if self._store is not None:
            self.passed_over = self._store.passed_over
        if state is not None:
            self.load_state_dict(state)
        return state is not None

    def best_state(self) -> dict[str, Any]:
        """Return what pictures, evaluation, prediction and registration need from the current epoch.

        The weights are the averaged ones if the run keeps them and they are better.
        """
        return {
            "config": self.config.flatten(),
            "epoch": self.epoch,
            "metrics": dict(self.metrics),
            "model": self._leading_model().state_dict(),
            "method": self._method.state_dict(),
            "classes": list(self.classes),
        }

    def load_best(self) -> None:
        """Load the weights and thresholds of the best epoch once the run is over; the optimiser stays as it is.

        Raises:
            CheckpointError: The storage has no complete best weights, or there is no storage.
        """
        state = None if self._store is None else self._store.load_best(self.best_epoch)
        if state is None:
            raise CheckpointError(f"The checkpoints hold no complete weights of the best epoch, {self.best_epoch}")
        self._check_config(state["config"])
        # Whichever set of weights was better: training is over, so it may replace the trained ones.
        self._model.load_state_dict(state["model"])
        self._method.load_state_dict(state["method"])
        self._loaded_epoch = int(state["epoch"])

    def write_artifacts(self, folder: Path, title: str = "") -> None:
        """Write ``per_class_ap.parquet`` and ``cam/*.png`` of the current weights into a folder.

        Every rank must call this, with a folder of its own, because they share the evaluation.
        """
        # Imported late, because only a run's end needs matplotlib, which takes a second to load.
        from training.loop.artifacts import write_cam_sheet, write_per_class_ap

        logits, true, observed = self._val_scores()
        write_per_class_ap(folder / "per_class_ap.parquet", self.classes, logits, true, observed)
        heading = ", ".join(part for part in (title, f"epoch {self._loaded_epoch or self.epoch}") if part)
        with evaluating(self._model):
            write_cam_sheet(
                folder / "cam",
                self._model,
                self._method,
                self.config.method,
                self._val,
                self._scale,
                self._device,
                heading,
            )

    def _end_epoch(self, epoch: int) -> dict[str, float]:
        """Pass the scores of the train split to the method."""
        logits = self._scores(self._train, self._model)
        return self._method.end_epoch(epoch, logits.to(self._device), *self._known_labels())

    def _known_labels(self) -> tuple[Tensor, ...]:
        # Without known negatives nothing more is passed on: a method of the user's own need not take them.
        labels = (self._train.observed, self._train.negative)
        return tuple(each.to(self._device) for each in labels if each is not None)

    def _evaluate(self, epoch: int) -> dict[str, float]:
        """Evaluate on val; with averaged weights, return the better set's metrics and the gain of averaging."""
        trained = self._measure(self._model)
        if self._average is None or self._best_of_sets is None:
            return trained
        averaged = self._measure(self._average.model)
        name = epoch_metric(self.config.loop.select_epoch_by)
        self._best_of_sets = self._best_of_sets.after(epoch, trained.get(name), averaged.get(name))
        gain = gain_of_average(averaged, trained, self.config.loop.select_epoch_by)
        return (averaged if average_leads(gain, self.config.loop.select_epoch_by) else trained) | gain

    def _leading_model(self) -> nn.Module:
        if self._average is not None and average_leads(self.metrics, self.config.loop.select_epoch_by):
            return self._average.model
        return self._model

    def _measure(self, model: nn.Module) -> dict[str, float]:
        logits = self._scores(self._val, model)
        scored = compute_metrics("val", logits, self._val.true, self._val.observed)
        scored |= measure_criteria(logits, self._val.observed)
        with evaluating(model):
            return scored | measure_localisation(model, self._val, self._scale, self._device, self.config.method)

    @torch.no_grad()
    def _val_scores(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the val logits (N, C) on the CPU, in order, with true and observed labels."""
        return self._scores(self._val, self._model), self._val.true, self._val.observed

    def _scores(self, data: SplitData, model: nn.Module) -> Tensor:
        return score_split(model, data, self._scale, self._device, self.config.data.num_workers)

    def _choose_best(self) -> None:
        select_by = self.config.loop.select_epoch_by
        value = self.metrics.get(epoch_metric(select_by))
        if select_by is SelectBy.LAST:
            self._best = Best(self.epoch)
        else:
            self._best = self._best.after(self.epoch, value)

    def _is_over(self) -> bool:
        value = self.metrics.get(epoch_metric(self.config.loop.select_epoch_by))
        return is_over(self.config.loop, self.epoch, value, self._best, self._best_of_sets)

    def _make_recordings(self) -> RecordingMeans | None:
        loop, recordings = self.config.loop, self._train.recordings
        if recordings is None or not loop.recording_weight:
            return None
        means = RecordingMeans(recordings, len(self.classes), loop.recording_weight, loop.recording_decay)
        return means.to(self._device)

    def _check_config(self, saved: dict[str, Any]) -> None:
        # A checkpoint of an earlier version lacks settings that came later; it was trained with their defaults.
        saved = TrainConfig.from_flat({"method.name": self.config.method.name}).flatten() | saved
        for key, value in self.config.flatten().items():
            if key not in PLACE_KEYS and saved[key] != value:
                raise CheckpointError(
                    f"The checkpoint belongs to another configuration: its {key} is {saved[key]!r}, not {value!r}"
                )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode without gradient, and restore its mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def score_batches(
    model: nn.Module, data: SplitData, scale: PixelScale, device: torch.device, num_workers: int = 0
) -> Iterator[Tensor]:
    """Yield the logits (b, C) of this rank's part of a split, batch by batch in order, as float32 on the device."""
    # Closing stops the processes that read the images, even if the caller stops early or the model fails.
    with evaluating(model), closing(load_eval_batches(data, scale, device, num_workers)) as batches:
        for images in batches:
            yield model(images).logits.float()


def score_split(
    model: nn.Module, data: SplitData, scale: PixelScale, device: torch.device, num_workers: int = 0
) -> Tensor:
    """Return a split's logits (N, C) in order, on the CPU; ranks share the work, and each example counts once."""
    parts = list(score_batches(model, data, scale, device, num_workers))
    # A rank without any image must still take part in gathering.
    mine = torch.cat(parts) if parts else torch.zeros(0, len(data.classes), device=device)
    return gather_rows(mine).cpu()
