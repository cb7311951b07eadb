"""Set the precision and the number of threads that a run computes with.

Whatever the precision, what a model returns is float32, and so is everything that compares or sums it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.config.run import LoopConfig
from training.models.base import ModelOutput


def set_arithmetic(config: LoopConfig) -> None:
    """Set the number of CPU threads, and whether a GPU rounds float32 factors to TF32 (``fp32``: no).

    Both settings apply to the whole process.
    """
    torch.set_num_threads(config.num_threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.precision != "fp32"


def training_network(model: nn.Module, config: LoopConfig) -> nn.Module:
    """Return the model as training steps call it: compiled, and under bfloat16 autocast, if so configured.

    It shares the model's parameters. Evaluation calls the model itself, in float32 (or TF32), however it is trained.
    """
    # One graph per shape: an epoch has two shapes, its last batch being smaller, and a graph for any shape is slower.
    network: nn.Module = torch.compile(model, dynamic=False) if config.compile else model  # type: ignore[assignment]
    return _Bfloat16(network) if config.precision == "bf16" else network


class _Bfloat16(nn.Module):
    """Run a model under autocast: convolutions and matrix products in bfloat16, norms and softmax in float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> ModelOutput:
        with torch.autocast(images.device.type, torch.bfloat16):
            output: ModelOutput = self.model(images)
        # Back to float32 here, so that no loss, threshold or mask is computed from bfloat16 sums.
        embeddings = None if output.embeddings is None else output.embeddings.float()
        latents = None if output.latents is None else (output.latents[0].float(), output.latents[1].float())
        return ModelOutput(output.logits.float(), output.cams.float(), embeddings, latents)
