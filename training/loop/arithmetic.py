"""In which precision a run computes, and with how many threads. What it returns, compares and sums up is float32 in any
case.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.config.run import LoopConfig
from training.models.base import ModelOutput


def set_arithmetic(config: LoopConfig) -> None:
    """Set what holds for the whole process: CPU threads, and whether a GPU rounds float32 factors to TF32 (``fp32``:
    no).
    """
    torch.set_num_threads(config.num_threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.precision != "fp32"


def training_network(model: nn.Module, config: LoopConfig) -> nn.Module:
    """Return the model as a training step calls it, over the same parameters: compiled and under bfloat16 autocast
    where asked for.

    Evaluation calls the model itself: its figures are of float32 (or TF32) arithmetic whatever the training was.
    """
    # Each shape on its own: an epoch has two, and one graph for any shape is slower.
    network: nn.Module = torch.compile(model, dynamic=False) if config.compile else model  # type: ignore[assignment]
    return _Bfloat16(network) if config.precision == "bf16" else network


class _Bfloat16(nn.Module):
    """Runs convolutions and matrix products of a model in bfloat16, and what loses by it (norms, softmax, logarithms)
    in float32.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> ModelOutput:
        with torch.autocast(images.device.type, torch.bfloat16):
            output: ModelOutput = self.model(images)
        embeddings = None if output.embeddings is None else output.embeddings.float()
        return ModelOutput(output.logits.float(), output.cams.float(), embeddings)
