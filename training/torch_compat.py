"""Collect every private name and undocumented protocol of torch that this project uses, to check them in one place.

Each was read in torch 2.15.0, and its docstring says which public call is missing. The unit test of this module fails
when one of them is gone or behaves differently.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer


def move_towards(values: Sequence[Tensor], targets: Sequence[Tensor], share: Tensor) -> None:
    """Change ``values`` in place to ``values + share (targets - values)``; integers become their targets.

    ``torch._foreach_*`` take a list of tensors in a few kernels; one public call per tensor would cost a GPU several
    hundred launches a step. torch has no public name for them: its optimisers and ``torch.optim.swa_utils`` use these.

    Args:
        values: Tensors of one type, on one device.
        targets: As many, of the same type and shapes.
        share: Scalar on their device.
    """
    values, targets = list(values), list(targets)
    if values[0].is_floating_point():
        steps = torch._foreach_sub(targets, values)
        torch._foreach_mul_(steps, share.to(values[0].dtype))
        torch._foreach_add_(values, steps)
    else:
        torch._foreach_copy_(values, targets)


def step_unless(optimizer: Optimizer, skip: Tensor) -> None:
    """Step a fused optimiser, or leave parameters and moments alone where ``skip`` (float scalar) is 1.

    The attributes are those that ``torch.amp.GradScaler`` sets before it calls ``step``: the fused kernels read them on
    the device, so that the host need not know whether the step is taken. ``GradScaler`` itself cannot do this: it sets
    the flag from the gradients it finds, not from a loss, and it scales.

    Args:
        optimizer: Built with ``fused=True``.
        skip: On the parameters' device.
    """
    optimizer.found_inf = skip  # type: ignore[attr-defined]
    # Unlike with GradScaler, the gradients are not scaled.
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.step()
