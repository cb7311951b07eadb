"""MIME: labels left open by class priors, over a variational bottleneck (Liu et al., ICML 2023).

As their release trains it (palm-biaoliu/mime; of the paper itself we had the abstract alone). With p = sigmoid(z) and
``nl(x) = -log(x + 1e-5)``, an entry costs

    nl(p)        if the label was observed
    0            if it is left open
    nl(1 - p)    otherwise

and the loss is the mean over all B x C entries, those left open included, plus beta times

    KL = mean of  -1/2 (1 + 2 log s - m^2 - s^2)    over images, classes and the d latent numbers of each

for a network whose logits are read from a latent vector per class, drawn from N(m, s^2) (``model.latent_dim``, which is
256 in the release). For other networks that term is 0.

After each epoch from the end of the warm-up on, the entries that the next epochs leave open are chosen afresh: of each
class the ``floor(K n_c)`` unobserved ones with the highest p, where n_c images have the class observed: K n_c estimates
how many have it. K is privileged: the release divides n_c by the mean of 1 / (true positives of an image), which it
counts on the true labels, instead of multiplying it by K.

Differences from the release:
  * p comes from unaugmented images in eval mode; there it comes from one more pass in train mode over the augmented
    batches, of which the last, smaller one is left out.
  * The release optimises with Adamax; we have Adam.
  * It draws latent vectors in evaluation too; here m is evaluated, so that a model gives the same scores twice.
  * Our published recipes have the mean number of positives as K, like those of EPR: the real labels, from which the
    release counts, were not at hand. By Jensen's inequality this leaves more entries open.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from training.config.methods import MimeConfig
from training.data.batches import Batch
from training.losses import assumed_negative_entries, mean_part
from training.methods.base import Method, Sizes, StepOutput
from training.methods.found_labels import count_found, found_metrics
from training.methods.known_negatives import may_be_positive
from training.methods.ranks import rank_in_class


class Mime(Method):
    """MIME as in the module's docstring. State: the entries that are left open (N, C), as bool."""

    left_open: Tensor

    def __init__(self, config: MimeConfig, sizes: Sizes) -> None:
        super().__init__()
        self._config, self._num_epochs = config, sizes.num_epochs
        self.register_buffer("left_open", torch.zeros(sizes.num_examples, sizes.num_classes, dtype=torch.bool))

    def step(self, model: nn.Module, batch: Batch, epoch: int) -> StepOutput:
        """Forward the weak view."""
        output = model(batch.weak)
        unknown = may_be_positive(batch)
        left_open = self.left_open[batch.index] & unknown
        entries = assumed_negative_entries(output.logits.float(), batch.observed)
        parts = {"entries": mean_part(torch.where(left_open, 0, entries))}
        if output.latents is not None:
            mean, log_std = output.latents
            divergence = -0.5 * (1 + 2 * log_std - mean.square() - (2 * log_std).exp())
            parts["kl"] = mean_part(divergence, self._config.kl_weight)
        return StepOutput(parts, sums=count_found(left_open, unknown, batch.true))

    def needs_train_scores(self, epoch: int) -> bool:
        """Return whether the next epoch leaves entries open."""
        return self._config.warmup_epochs <= epoch < self._num_epochs

    @torch.no_grad()
    def end_epoch(
        self, epoch: int, logits: Tensor, observed: Tensor, negative: Tensor | None = None
    ) -> dict[str, float]:
        """Choose the unobserved entries with the highest scores of each class."""
        unknown = ~observed if negative is None else ~observed & ~negative
        quotas = (observed.sum(0).double() * self._config.expected_positives).floor().long()
        self.left_open = unknown & (rank_in_class(torch.where(unknown, -logits, torch.inf)) < quotas)
        return {}

    def epoch_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Report how many unobserved labels were left open, and how often they were true."""
        return found_metrics(sums)
