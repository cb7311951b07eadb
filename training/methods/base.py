"""Define what a method is: it turns a model and a batch into loss parts, and keeps its own state as buffers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from training.data.batches import Batch
from training.data.store.clip_scores import ClipScores
from training.distributed import gather_rows
from training.losses import LossPart
from training.models.base import ModelOutput

Forward = Callable[[Tensor], ModelOutput]


@dataclass(frozen=True)
class Sizes:
    """What a method knows about its run.

    Attributes:
        num_classes: C.
        num_examples: N of the train split; per-example state is a buffer (N, C), indexed by ``batch.index``.
        num_epochs: Full length of the run, even if a scheduler ends it earlier.
        embedding_dim: d of ``ModelOutput.embeddings``, or None if the model returns none.
    """

    num_classes: int
    num_examples: int
    num_epochs: int
    embedding_dim: int | None = None


@dataclass(frozen=True)
class StepOutput:
    """The result of a method's step.

    Attributes:
        parts: Loss parts by name; their weighted sum is minimised.
        updates: New values of buffers by name; written only if the loss is finite.
        sums: Scalars by name, summed over the steps and ranks of an epoch for :meth:`Method.epoch_metrics`.
        row_updates: For buffers (N, ...) by name: the examples (long, B) whose rows change, as in ``batch.index``, and
            their new rows (B, ...). Each rank gives its own and receives those of all; written only if the loss is
            finite.
    """

    parts: dict[str, LossPart]
    updates: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)
    row_updates: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class Method(nn.Module, ABC):
    """A way to learn from single positives, built as ``Class(config, sizes)``.

    Its state consists of buffers, which are saved and restored with the run. The run's optimiser trains its parameters,
    if it has any, together with the model's.

    Attributes:
        needs_strong_view: Whether batches must hold the strong view.
        needs_true_labels: Whether it reads true labels (bounds and oracles only).
        needs_embeddings: Whether it reads ``ModelOutput.embeddings``, which not every model returns.
        lr_multiplier: Factor on ``optim.lr`` for the method's own parameters.
        clip_model: The CLIP whose scores :meth:`take_scores` needs, or None.
    """

    needs_strong_view: bool = False
    needs_true_labels: bool = False
    needs_embeddings: ClassVar[bool] = False
    lr_multiplier: float = 1.0
    clip_model: str | None = None

    def start(self, observed: Tensor, negative: Tensor | None = None) -> None:
        """Receive what is known of the train split's labels, once, before anything is trained or loaded.

        Most methods do not need it.

        Args:
            observed: bool (N, C), the observed positives.
            negative: bool (N, C), the labels that are known to be negative, or None if none is.
        """

    def take_scores(self, scores: ClipScores, observed: Tensor) -> None:
        """Receive CLIP's scores of the train split, once after :meth:`start`, if ``clip_model`` says whose.

        Args:
            scores: Of the N images, on the CPU.
            observed: bool (N, C), the observed positives.
        """
        raise NotImplementedError(f"{type(self).__name__} asks for scores of CLIP but does not implement take_scores")

    def decays_in(self, epoch: int) -> bool:
        """Return whether the method's own parameters take the run's weight decay in this epoch (from 1).

        By default they take none, because they are estimates and not weights.
        """
        return False

    @abstractmethod
    def step(self, model: nn.Module, batch: Batch, epoch: int) -> StepOutput:
        """Compute the loss parts of this rank's part of a global batch, without changing the state.

        Args:
            model: Maps normalised images (B, 3, H, W) to a :class:`ModelOutput`; called with gradient.
            batch: May be empty on this rank, and may have no observed positive at all. What its known negatives cost is
                in :mod:`training.methods.known_negatives`.
            epoch: Counted from 1.
        """

    @torch.no_grad()
    def apply_updates(self, output: StepOutput, finite: Tensor) -> None:
        """Write the new state, or keep the old one where ``finite`` (bool scalar) is False."""
        # torch.where instead of an if: the host need not wait for the device to learn whether the loss was finite.
        for name, value in output.updates.items():
            buffer = self.get_buffer(name)
            buffer.copy_(torch.where(finite, value, buffer))
        for name, (index, rows) in output.row_updates.items():
            buffer = self.get_buffer(name)
            # The rows of all ranks, so that the buffer stays the same on every rank.
            everywhere = gather_rows(index)
            buffer[everywhere] = torch.where(finite, gather_rows(rows), buffer[everywhere])

    def needs_train_scores(self, epoch: int) -> bool:
        """Return whether to call :meth:`end_epoch` after this epoch (from 1) with the scores of the train split."""
        return False

    def end_epoch(
        self, epoch: int, logits: Tensor, observed: Tensor, negative: Tensor | None = None
    ) -> dict[str, float]:
        """Change the state after an epoch for which :meth:`needs_train_scores` is True, in the same way on every rank.

        Args:
            epoch: The epoch that ended, counted from 1.
            logits: float (N, C) of the train split, in order, from one pass in eval mode over unaugmented images.
            observed: bool (N, C).
            negative: bool (N, C), the labels that are known to be negative, or None if none is.

        Returns:
            Metrics of the epoch, in addition to those of :meth:`epoch_metrics`.
        """
        raise NotImplementedError(f"{type(self).__name__} asks for train scores but does not implement end_epoch")

    def thresholds(self) -> tuple[Tensor, Tensor] | None:
        """Return the gap threshold () and average-logit thresholds (C,) of a method that rejects by them, else None."""
        return None

    def epoch_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Compute the method's own metrics of an epoch from the sums over its steps and ranks; none by default."""
        return {}
