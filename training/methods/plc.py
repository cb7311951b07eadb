"""PLC and PLC + LAC: label consistency, then label-aware contrast.

Source: Xie et al., "Label-aware global consistency", NeurIPS 2022. With z the logits of the weak view, z_s those of the
strong one, y the observed labels and sg stopping the gradient,

    q   = sg sigmoid(z) + y,     pseudo-label 1[q >= thr],     known where q >= thr or q < 1 - thr
    PLC = mean of BCE(z_s, pseudo-label) over the entries where it is known
    L   = AN(z) + lambda_plc PLC                       first stage, thr 0.6
    L   = AN(z) + lambda_plc PLC + lambda_lac LAC      second stage, thr 0.9

LAC is a supervised contrast (Khosla et al., 2020) of class embeddings. A projector maps the model's embedding of a
class in an image to a unit vector. Entries that are observed or known pseudo-positives are anchors, in both views. Keys
are the 512 newest of them with both their views, and an anchor's positives are the keys of its class. The temperature
is 0.5.

Differences from the released code:
  * Both stages are one run: the second starts after ``first_stage_epochs`` epochs, from the weights at that point. The
    release starts it from the best weights of the first stage, with a new optimiser and schedule.
  * Keys carry no gradient, including those of the current batch, and come from the global batch, so that one process
    and several compute the same.
  * The queue is a ring that keeps the newest entries; the release starts over at its beginning when it overflows.
  * A key that is the anchor's own view is left out of its sums.
``plc`` has no second stage and needs no embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from training.config.methods import PlcConfig, PlcLacConfig
from training.data.batches import Batch
from training.distributed import gather_rows, rank, world_size
from training.losses import LossPart, assumed_negative_entries, masked_mean_part, mean_part
from training.methods.base import Method, Sizes, StepOutput
from training.methods.found_labels import count_found, found_metrics
from training.models.base import ModelOutput

EMPTY = -1
_NEVER = -1e4


class Plc(Method):
    """The first stage alone, without state; see the module's docstring."""

    needs_strong_view = True

    def __init__(self, config: PlcConfig | PlcLacConfig, sizes: Sizes) -> None:
        super().__init__()
        self._config = config

    def step(self, model: nn.Module, batch: Batch, epoch: int) -> StepOutput:
        """Forward both views."""
        assert batch.strong is not None
        weak, strong = model(batch.weak), model(batch.strong)
        label, known = pseudo_labels(weak.logits.detach().float(), batch.observed, self._threshold(epoch))
        consistency = binary_cross_entropy_with_logits(strong.logits.float(), label.float(), reduction="none")
        positive = batch.observed > 0
        return self._extend(
            StepOutput(
                {
                    "assumed_negative": mean_part(assumed_negative_entries(weak.logits.float(), batch.observed)),
                    "plc": masked_mean_part(consistency, known, self._config.plc_weight),
                },
                sums=count_found(label & ~positive, positive, batch.true),
            ),
            weak,
            strong,
            label,
            epoch,
        )

    def epoch_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Report how many unobserved labels became pseudo-positives, and how often that was right."""
        return found_metrics(sums)

    def _threshold(self, epoch: int) -> float:
        return self._config.first_threshold

    def _extend(
        self, output: StepOutput, weak: ModelOutput, strong: ModelOutput, label: Tensor, epoch: int
    ) -> StepOutput:
        return output


class PlcLac(Plc):
    """Both stages; see the module's docstring.

    Parameters: the projector. State: the queue of keys, their classes and the place of the next one.
    """

    needs_embeddings = True
    keys: Tensor
    key_classes: Tensor
    next_key: Tensor
    config: PlcLacConfig

    def __init__(self, config: PlcLacConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.config = config
        width = sizes.embedding_dim or 1  # the run refuses a model without embeddings, in a message that names it
        self.projector = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.projection_dim))
        self.register_buffer("keys", torch.zeros(config.queue_size, 2, config.projection_dim))
        self.register_buffer("key_classes", torch.full((config.queue_size,), EMPTY))
        self.register_buffer("next_key", torch.zeros((), dtype=torch.long))

    def _threshold(self, epoch: int) -> float:
        return self.config.second_threshold if self._in_second_stage(epoch) else self.config.first_threshold

    def _in_second_stage(self, epoch: int) -> bool:
        return epoch > self.config.first_stage_epochs

    def _extend(
        self, output: StepOutput, weak: ModelOutput, strong: ModelOutput, label: Tensor, epoch: int
    ) -> StepOutput:
        assert weak.embeddings is not None
        assert strong.embeddings is not None
        # Project in the first stage too, with weight 0, because DistributedDataParallel needs every parameter to have a
        # gradient in every step.
        views = torch.stack([self._project(weak.embeddings), self._project(strong.embeddings)], 2)
        if not self._in_second_stage(epoch):
            output.parts["lac"] = LossPart(0 * views.sum(), label.sum().float(), self.config.lac_weight)
            return output
        classes = torch.arange(label.shape[1], device=label.device).expand_as(label)
        anchors, anchor_classes, chosen = views.flatten(0, 1), classes.flatten(), label.flatten()
        updates, place = self._enqueue(anchors.detach(), anchor_classes, chosen)
        losses, counted = _contrast(
            anchors, anchor_classes, place, updates["keys"], updates["key_classes"], self.config.temperature
        )
        output.parts["lac"] = masked_mean_part(losses, counted & chosen[:, None], self.config.lac_weight)
        output.updates.update(updates)
        return output

    def _project(self, embeddings: Tensor) -> Tensor:
        return normalize(self.projector(embeddings.float()), dim=-1)

    @torch.no_grad()
    def _enqueue(self, views: Tensor, classes: Tensor, chosen: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the queue with the chosen entries of all ranks added, and the places of this rank's entries.

        Args:
            views: (M, 2, d).
            classes: (M,).
            chosen: bool (M,).

        Returns:
            The new buffers, and the places (M,) in the queue; the queue's length stands for entries left out.
        """
        mine = gather_rows(torch.full_like(classes, rank())) == rank()
        views, classes, chosen = gather_rows(views), gather_rows(classes), gather_rows(chosen)
        size = len(self.key_classes)
        order = chosen.long().cumsum(0)
        total = chosen.sum()
        # Keep only the newest of more entries than the queue holds, so that each place is written once: the result of
        # writing a place twice is undefined.
        newest = chosen & (order > total - size)
        place = torch.where(newest, (self.next_key + order - 1) % size, size)
        # Entries left out are all written to one extra place behind the end, which is cut off.
        keys = torch.cat([self.keys, self.keys[:1]]).index_copy(0, place, views)[:size]
        key_classes = torch.cat([self.key_classes, self.key_classes[:1]]).index_copy(0, place, classes)[:size]
        updates = {"keys": keys, "key_classes": key_classes, "next_key": (self.next_key + total) % size}
        return updates, place if world_size() == 1 else place[mine]


def pseudo_labels(logits: Tensor, observed: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the pseudo-labels, and where they are known.

    Args:
        logits: Those of the weak view, detached (B, C).
        observed: (B, C) of 0 and 1.
        threshold: thr, in 0.5-1.

    Returns:
        Two bool tensors (B, C); an observed positive is 1 and known.
    """
    score = logits.sigmoid() + observed
    label = score >= threshold
    return label, label | (score < 1 - threshold)


def _contrast(
    anchors: Tensor, anchor_classes: Tensor, place: Tensor, keys: Tensor, key_classes: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the loss of each anchor view (M, 2), and whether it has a positive key (M, 2).

    Args:
        anchors: Unit vectors (M, 2, d).
        anchor_classes: (M,).
        place: The place of each anchor among the keys (M,).
        keys: Unit vectors without gradient (Q, 2, d); those of class EMPTY do not count.
        key_classes: (Q,).
        temperature: The softmax's.
    """
    similarities = torch.einsum("mvd,qwd->mvqw", anchors, keys).flatten(2) / temperature
    classes = key_classes.repeat_interleave(2)
    view = torch.arange(2, device=place.device)
    own = torch.arange(len(classes), device=place.device) == (2 * place[:, None] + view)[..., None]
    counts = (classes != EMPTY) & ~own
    positives = counts & (anchor_classes[:, None, None] == classes)
    # A finite number instead of -inf: the gradient of a row without any key would be NaN.
    log_sum = torch.where(counts, similarities, _NEVER).logsumexp(2)
    num_positives = positives.sum(2)
    mean_similarity = torch.where(positives, similarities, 0).sum(2) / num_positives.clamp_min(1)
    return log_sum - mean_similarity, num_positives > 0
