"""Train the head alone for some epochs before the whole network (``linear_init`` of Cole et al., CVPR 2021)."""

from __future__ import annotations

from torch import nn

from training.models.base import Network

TRUNK = "trunk"


class RestingTrunk:
    """Keeps a network's trunk as it is in the first epochs of a run: its weights and BatchNorm statistics.

    Cole et al. train a linear classifier on stored features of unaugmented images, with a rate and a batch of its own;
    here the same run does it, on its own views and at its own rates, and goes on with the whole network.

    Args:
        model: Of class :class:`training.models.base.Network`, if there are such epochs.
        num_epochs: How many; 0 leaves the model alone.
    """

    def __init__(self, model: nn.Module, num_epochs: int) -> None:
        self._num_epochs = num_epochs
        if num_epochs:
            assert isinstance(model, Network)
            self._network, self._frozen_norms = model, model.frozen_norms
            self._parameters = list(model.trunk.parameters())

    def begin(self, epoch: int) -> None:
        """Say which BatchNorms stay in eval mode in an epoch (from 1); call it before the model's ``train``."""
        if self._num_epochs:
            self._network.frozen_norms = (*self._frozen_norms, TRUNK) if self._rests(epoch) else self._frozen_norms

    def drop_gradients(self, epoch: int) -> None:
        """Forget the trunk's gradients; an optimiser skips parameters that have none, with decay and moments."""
        # Not requires_grad, because DistributedDataParallel waits for the gradient of every parameter that it knows.
        if self._rests(epoch):
            for parameter in self._parameters:
                parameter.grad = None

    def _rests(self, epoch: int) -> bool:
        return epoch <= self._num_epochs
