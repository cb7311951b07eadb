"""PLC and PLC + LAC: label consistency, then label-aware contrast.

Source: Xie et al., "Label-aware global consistency", NeurIPS 2022. With z the logits of the weak view, z_s those of the
strong one, y the observed labels and sg stopping the gradient,

    q   = sg sigmoid(z) + y,     pseudo-label 1[q >= thr],     known where q >= thr or q < 1 - thr
    PLC = mean of BCE(z_s, pseudo-label) over the entries where it is known
    L   = BCE(z, y) + lambda_plc PLC                       first stage, thr 0.6
    L   = BCE(z, y) + lambda_plc PLC + lambda_lac LAC      second stage, thr 0.9

where BCE is binary cross-entropy with logits, a mean over all entries in its first use: AN without the 1e-5 inside the
logarithms of other methods, as released.

LAC is a supervised contrast (Khosla et al., 2020) of class embeddings. A projector maps the model's embedding of a
class in an image to a unit vector. A queue holds the 512 newest entries that are observed or known pseudo-positives,
each as u_j with its class c_j, once per view: its entries are both anchors and keys. With temperature T = 0.5, N the
anchors and P_i the other vectors of the anchor's class,

    LAC = 1/N sum_i [ log sum_{j != i} exp(u_i u_j / T) - 1/|P_i| sum_{j in P_i} u_i u_j / T ]

As released, the batch's own entries are put into the queue first, with gradient, as anchors and as keys; older entries
have none. An anchor is not a key of its own, but the other view of its entry is one. Since the mean is over the whole
queue, LAC's gradient is in proportion to the batch's share of it: a ``lac_weight`` of 1 is the published one at a batch
of 32 and a queue of 512, and acts like 1/4 at a batch of 8.

Differences from the released code:
  * Both stages are one run: the second starts after ``first_stage_epochs`` epochs, from the weights at that point. The
    release starts it from the best weights of the first stage, with a new optimiser and schedule. Its projector is new
    then too, so ours takes weight decay only from the second stage on; before, Adam would shrink it to nothing.
  * Several ranks contrast the entries of the global batch, so they compute what one process computes.
  * The queue is a ring that keeps the newest entries; the release starts over at its beginning when it overflows, and
    fails if a single batch has more entries than the queue.
``plc`` has no second stage and needs no embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from training.config.methods import PlcConfig, PlcLacConfig
from training.data.batches import Batch
from training.distributed import differentiable_gather_rows, gather_rows
from training.losses import LossPart, masked_mean_part, mean_part
from training.methods.base import Method, Sizes, StepOutput
from training.methods.found_labels import count_found, found_metrics
from training.methods.known_negatives import may_be_positive
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
        label, known = pseudo_labels(
            weak.logits.detach().float(), batch.observed, self._threshold(epoch), batch.negative
        )
        consistency = binary_cross_entropy_with_logits(strong.logits.float(), label.float(), reduction="none")
        positive = batch.observed > 0
        negative = binary_cross_entropy_with_logits(weak.logits.float(), positive.float(), reduction="none")
        return self._extend(
            StepOutput(
                {
                    "assumed_negative": mean_part(negative),
                    "plc": masked_mean_part(consistency, known, self._config.plc_weight),
                },
                sums=count_found(label & ~positive, may_be_positive(batch), batch.true),
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

    def decays_in(self, epoch: int) -> bool:
        """Return whether the projector takes weight decay, as released, in this epoch (from 1)."""
        return self._in_second_stage(epoch)

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
        queue = self._enqueue(views.flatten(0, 1), classes.flatten(), label.flatten())
        # Every rank computes the whole of it, and the sum over ranks counts all of them alike.
        losses, filled = contrast(queue["keys"], queue["key_classes"], self.config.temperature)
        output.parts["lac"] = masked_mean_part(losses, filled, self.config.lac_weight)
        output.updates.update({name: value.detach() for name, value in queue.items()})
        return output

    def _project(self, embeddings: Tensor) -> Tensor:
        return normalize(self.projector(embeddings.float()), dim=-1)

    def _enqueue(self, views: Tensor, classes: Tensor, chosen: Tensor) -> dict[str, Tensor]:
        """Return the queue with the chosen entries of all ranks added, which keep their gradient.

        Args:
            views: (M, 2, d).
            classes: (M,).
            chosen: bool (M,).
        """
        views, classes, chosen = differentiable_gather_rows(views), gather_rows(classes), gather_rows(chosen)
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
        return {"keys": keys, "key_classes": key_classes, "next_key": (self.next_key + total) % size}


def pseudo_labels(
    logits: Tensor, observed: Tensor, threshold: float, negative: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the pseudo-labels, and where they are known.

    Args:
        logits: Those of the weak view, detached (B, C).
        observed: (B, C) of 0 and 1.
        threshold: thr, in 0.5-1.
        negative: bool (B, C), the labels that are known to be negative, or None.

    Returns:
        Two bool tensors (B, C); an observed positive is 1 and known, a known negative is 0 and known.
    """
    score = logits.sigmoid() + observed
    label = score >= threshold
    known = label | (score < 1 - threshold)
    return (label, known) if negative is None else (label & ~negative, known | negative)


def contrast(keys: Tensor, classes: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return LAC's loss of each vector of the queue (Q, 2), and whether its place is filled (Q, 2).

    It holds several tensors of (2 Q)^2 numbers: 4 MB each at the published 512, 1 GB each at 8192.

    Args:
        keys: Unit vectors (Q, 2, d): both views of each entry.
        classes: (Q,); EMPTY where nothing is stored yet.
        temperature: T, the softmax's.
    """
    vectors, of_vector = keys.flatten(0, 1), classes.repeat_interleave(2)
    similarities = vectors @ vectors.T / temperature
    filled = of_vector != EMPTY
    others = filled & ~torch.eye(len(of_vector), dtype=torch.bool, device=classes.device)
    positives = others & (of_vector[:, None] == of_vector)
    # A finite number instead of -inf: the gradient of a row without any key would be NaN.
    log_sum = torch.where(others, similarities, _NEVER).logsumexp(1)
    # An entry's other view is always a positive; only empty places have none.
    mean_similarity = torch.where(positives, similarities, 0).sum(1) / positives.sum(1).clamp_min(1)
    return (log_sum - mean_similarity).view(-1, 2), filled.view(-1, 2)
