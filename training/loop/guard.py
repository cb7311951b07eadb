"""Watch for non-finite losses without making the host wait for the device in every step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from training.errors import NonFiniteLossError

CHECK_EVERY_STEPS = 50
"""How often a GPU's buffer is read; on the CPU it is read in every step."""


class FiniteGuard:
    """Keep the first bad step of an epoch, and its loss parts, in a buffer on the device.

    Args:
        epoch: Counted from 1.
        device: Where losses live.
    """

    def __init__(self, epoch: int, device: torch.device) -> None:
        self._epoch = epoch
        self._every = 1 if device.type == "cpu" else CHECK_EVERY_STEPS
        self._bad_step = torch.zeros((), dtype=torch.long, device=device)
        self._bad_parts: Tensor | None = None
        self._names: list[str] = []

    def observe(self, step: int, values: Mapping[str, Tensor]) -> Tensor:
        """Record a step's loss parts (scalars over the global batch).

        Returns:
            bool scalar on the device: whether weights and state may change. Once False, it stays False for the epoch.
        """
        parts = torch.stack(list(values.values()))
        finite = torch.isfinite(parts).all()
        # All of this stays on the device: torch.where in place of if, and a step number in place of a flag.
        first = ~finite & (self._bad_step == 0)
        self._names = list(values)
        self._bad_parts = torch.where(first, parts, parts if self._bad_parts is None else self._bad_parts)
        self._bad_step = torch.where(first, step, self._bad_step)
        return self._bad_step == 0

    def check(self, step: int | None = None) -> None:
        """Read the buffer every few steps, and at the end of the epoch (``step`` None).

        Raises:
            NonFiniteLossError: A step was bad; the error names the first.
        """
        if step is not None and step % self._every:
            return
        bad_step = int(self._bad_step)
        if bad_step:
            assert self._bad_parts is not None
            raise NonFiniteLossError(
                self._epoch, bad_step, dict(zip(self._names, self._bad_parts.tolist(), strict=True))
            )
