"""Define what ``benchmarks.step`` compares: a straightforward step of IGNORE, ours lever by lever, and the floor."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, mse_loss
from torch.utils.flop_counter import FlopCounterMode

from training.config.methods import IgnoreConfig
from training.config.run import TrainConfig
from training.data.batches import Batch
from training.loop.arithmetic import set_arithmetic
from training.loop.epoch import EpochLoop
from training.loop.guard import FiniteGuard
from training.methods.base import Sizes
from training.methods.registry import build_method
from training.models.registry import build_model

Precision = Literal["fp32", "tf32", "bf16"]
Step = Callable[[Batch, int], Tensor]
"""Takes a step on (batch, epoch) and returns its loss, on the device."""

NUM_CLASSES = 20
WARMUP_EPOCHS = 1
_EPS = 1e-5
_CONVOLUTIONS = (torch.ops.aten.convolution, torch.ops.aten.convolution_backward)


@dataclass(frozen=True)
class Variant:
    """A way to take a step.

    Attributes:
        name: Name in the table.
        ours: Whether it is our step or the straightforward one.
        masked_gradient: Whether the straightforward step's masked pass builds a graph, as released.
        channels_last: Memory format of weights and images.
        precision, compile: As in ``LoopConfig``.
    """

    name: str
    ours: bool = False
    masked_gradient: bool = True
    channels_last: bool = False
    precision: Precision = "fp32"
    compile: bool = False


STRAIGHT = Variant("straightforward")
NO_GRAPH = Variant("+ masked pass without gradient", masked_gradient=False)
OUR_STEP = Variant("+ no boolean indexing, guard on the device, fused optimiser", ours=True)
CHANNELS_LAST = Variant("+ channels-last: ours", ours=True, channels_last=True)
CPU_VARIANTS = (STRAIGHT, NO_GRAPH, OUR_STEP, CHANNELS_LAST)
GPU_VARIANTS = (
    STRAIGHT,
    Variant("straightforward, TF32", precision="tf32"),
    Variant("straightforward, bf16", precision="bf16"),
    NO_GRAPH,
    OUR_STEP,
    CHANNELS_LAST,
    Variant("+ TF32: ours", ours=True, channels_last=True, precision="tf32"),
    Variant("+ bf16: ours", ours=True, channels_last=True, precision="bf16"),
    Variant("+ torch.compile: ours", ours=True, channels_last=True, precision="bf16", compile=True),
)


@dataclass(frozen=True)
class Size:
    """The size of the problem: a trunk by name, the side of its random images in px, and the batch."""

    backbone: str = "torchvision/resnet50"
    image_size: int = 448
    batch_size: int = 16

    def config(self, variant: Variant, num_threads: int = 1) -> TrainConfig:
        """Return the settings of the run that takes our step."""
        return TrainConfig.from_flat(
            {
                "data.image_size": self.image_size,
                "model.backbone": self.backbone,
                "model.weights": "none",
                "method.warmup_epochs": WARMUP_EPOCHS,
                "optim.batch_size": self.batch_size,
                "optim.head_lr_multiplier": 10.0,
                "loop.num_threads": num_threads,
                "loop.precision": variant.precision,
                "loop.compile": variant.compile,
            }
        )

    def random_batch(
        self, device: torch.device, seed: int = 0, *, channels_last: bool = False, double: bool = False
    ) -> Batch:
        """Draw random images with one observed positive each, in double precision if ``double``."""
        generator = torch.Generator().manual_seed(seed)
        shape = (self.batch_size, 3, self.image_size, self.image_size)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        dtype = torch.float64 if double else torch.float32
        weak, strong = (
            torch.randn(shape, generator=generator).to(device, dtype, memory_format=layout) for _ in range(2)
        )
        positive = torch.randint(NUM_CLASSES, (self.batch_size,), generator=generator)
        observed = torch.nn.functional.one_hot(positive, NUM_CLASSES).float().to(device)
        return Batch(torch.arange(self.batch_size, device=device), weak, strong, observed, None)


def build_step(
    variant: Variant, size: Size, device: torch.device, num_threads: int = 1, *, double: bool = False
) -> Step:
    """Build a model, the same for all variants, and the step that trains it; ``double`` is the network's precision."""
    config = size.config(variant, num_threads)
    set_arithmetic(config.loop)
    torch.manual_seed(0)
    model, _ = build_model(config.model, NUM_CLASSES, device)
    if not variant.channels_last:
        model = model.to(memory_format=torch.contiguous_format)
    model = (model.double() if double else model).train()
    return _our_step(config, model, device) if variant.ours else _StraightforwardStep(config, model, variant)


def _our_step(config: TrainConfig, model: nn.Module, device: torch.device) -> Step:
    method = build_method(config.method, Sizes(NUM_CLASSES, config.optim.batch_size, num_epochs=2)).to(device)
    loop = EpochLoop(config, model, method, num_steps=1000, device=device)
    guard = FiniteGuard(1, device)
    num_taken = 0

    def step(batch: Batch, epoch: int) -> Tensor:
        nonlocal num_taken
        num_taken += 1
        _, values = loop.take_step(batch, epoch, num_taken, guard)
        return torch.stack(list(values.values())).sum()

    return step


class _StraightforwardStep:
    """IGNORE as its release is described: three forwards with gradient, boolean indexing, PyTorch's defaults."""

    def __init__(self, config: TrainConfig, model: nn.Module, variant: Variant) -> None:
        assert isinstance(config.method, IgnoreConfig)
        self._settings, self._model, self._variant = config.method, model, variant
        optim = config.optim
        groups: list[dict[str, Any]] = [
            {"params": list(model.get_submodule("trunk").parameters())},
            {"params": list(model.get_submodule("head").parameters()), "lr": optim.lr * optim.head_lr_multiplier},
        ]
        self._optimizer = torch.optim.Adam(groups, lr=optim.lr)
        self._gap_threshold: Any = 0.0
        self._average_threshold: Any = 0.0

    def __call__(self, batch: Batch, epoch: int) -> Tensor:
        assert batch.strong is not None
        with (
            torch.autocast(batch.weak.device.type, torch.bfloat16)
            if self._variant.precision == "bf16"
            else nullcontext()
        ):
            weak, strong = self._model(batch.weak), self._model(batch.strong)
            masked = batch.weak * self._mask(weak.cams.detach().float(), batch.observed, batch.weak.shape[-2:])[:, None]
            with torch.set_grad_enabled(self._variant.masked_gradient):
                cut = self._model(masked)
        loss = self._loss(weak.logits.float(), strong.logits.float(), cut.logits.float(), batch.observed == 1, epoch)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def _mask(self, cams: Tensor, observed: Tensor, size: torch.Size) -> Tensor:
        cam = cams[observed == 1]
        low, high = cam.amin((1, 2), keepdim=True), cam.amax((1, 2), keepdim=True)
        upsampled = interpolate(((cam - low) / (high - low))[:, None], size=size, mode="bilinear", align_corners=False)[
            :, 0
        ]
        return (upsampled > self._settings.cam_threshold).float()

    def _loss(self, weak: Tensor, strong: Tensor, cut: Tensor, positive: Tensor, epoch: int) -> Tensor:
        gap = (weak - cut).abs().detach()
        decay = self._settings.gap_decay
        self._gap_threshold = decay * self._gap_threshold + (1 - decay) * gap[positive].mean()
        self._average_threshold = decay * self._average_threshold + (1 - decay) * weak.detach().mean(0)
        rejected = (gap > self._gap_threshold) & (weak > self._average_threshold) & ~positive & (epoch > WARMUP_EPOCHS)
        probs = strong.sigmoid()
        losses = torch.where(positive, -torch.log(probs + _EPS), -torch.log(1 - probs + _EPS))
        spbc = -torch.log(weak.sigmoid()[positive] + _EPS).mean()
        reg = mse_loss(strong, weak)
        return self._settings.spbc_weight * spbc + losses[~rejected].mean() + self._settings.reg_weight * reg


@dataclass(frozen=True)
class Floor:
    """The least that three forwards and two backwards of a step need.

    Attributes:
        flops: Operations of convolutions and matrix products; a multiplication and an addition are two.
        num_bytes: Bytes that these read and write at four bytes a value, as if everything between them were free, plus
            Adam's seven passes over the parameters.
    """

    flops: float
    num_bytes: float

    def seconds(self, flops_per_s: float, bytes_per_s: float, bytes_per_value: int = 4) -> float:
        """Return the time on a machine with these rates for a large matrix product and a large copy."""
        return max(self.flops / flops_per_s, self.num_bytes * bytes_per_value / 4 / bytes_per_s)


def count_floor(size: Size) -> Floor:
    """Count the floor of a step from shapes alone, without computing on a device."""
    one = Size(size.backbone, size.image_size, 1)
    model, _ = build_model(one.config(STRAIGHT).model, NUM_CLASSES, torch.device("cpu"))
    model = model.to("meta").train()
    images = torch.empty(1, 3, size.image_size, size.image_size, device="meta")
    with FlopCounterMode(display=False) as flops, count_conv_bytes() as traffic:
        (model(images).logits.sum() + model(images).logits.sum()).backward()
        with torch.no_grad():
            model(images)
    num_parameter_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    # The whole batch reads the weights once in each of three forwards and two backwards; the latter also write their
    # gradients.
    # Only convolutions: for other operations the counter still counts operations, not bytes.
    num_bytes = sum(traffic.get_flop_counts()["Global"].get(operation, 0) for operation in _CONVOLUTIONS)
    activations = num_bytes - 7 * num_parameter_bytes
    return Floor(size.batch_size * flops.get_total_flops(), size.batch_size * activations + 14 * num_parameter_bytes)


def count_conv_bytes() -> FlopCounterMode:
    """Return a counter whose "flops" are the bytes of what goes into convolutions and comes out of them."""
    # torch's counter adds up whatever a formula returns for an operation; here that is bytes.
    return FlopCounterMode(display=False, custom_mapping=dict.fromkeys(_CONVOLUTIONS, _conv_bytes))


def _conv_bytes(*inputs: Any, out_shape: Any, **_: Any) -> int:
    """Return the bytes of what goes into a convolution, or its backward pass, and comes out of it."""
    shapes = [*inputs, *([out_shape] if isinstance(out_shape, torch.Size) else out_shape)]
    # Strides and paddings are plain lists; only tensors arrive as a torch.Size.
    return sum(4 * shape.numel() for shape in shapes if isinstance(shape, torch.Size))


def measure_rates(device: torch.device, precision: Precision) -> tuple[float, float]:
    """Measure the operations per second of a large matrix product and the bytes per second of a large copy."""
    set_arithmetic(
        TrainConfig.from_flat({"loop.precision": precision, "loop.num_threads": torch.get_num_threads()}).loop
    )
    side = 8192 if device.type == "cuda" else 2048
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    block = torch.empty(2**29 if device.type == "cuda" else 2**26, device=device)
    copied = torch.empty_like(block)
    product_s = _best_time(lambda: left @ right, device)
    copy_s = _best_time(lambda: copied.copy_(block), device)
    return 2 * side**3 / product_s, 2 * 4 * block.numel() / copy_s


def _best_time(run: Callable[[], Any], device: torch.device) -> float:
    best = float("inf")
    for _ in range(6):
        wait_for(device)
        started = time.perf_counter()
        run()
        wait_for(device)
        best = min(best, time.perf_counter() - started)
    return best


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
