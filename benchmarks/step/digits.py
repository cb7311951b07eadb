"""Show where the CPU time of digits goes, on one thread: in an epoch of IGNORE with evaluation, and in a single step.

The step is compared with a plain one. A malloc that keeps its pages gained nothing: with ``MALLOC_TRIM_THRESHOLD_`` and
``MALLOC_MMAP_THRESHOLD_`` at 2e9 an epoch took 1,835 ms, without them 1,765 (single runs on 2026-11-26, not repeated
since).
"""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from dataclasses import asdict, replace

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.step.report import BATCH_NORM, CONVOLUTION, Row, device_name
from benchmarks.step.variants import CHANNELS_LAST, STRAIGHT, WARMUP_EPOCHS, Size, build_step
from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.sweep_plan import trial_config
from search_spaces.schema import load_space
from training.loop.run import TrainingRun
from training.metric_names import TIME_EPOCH_S, TIME_EVAL_S
from training.preparation import prepare

_GROUPS = {
    CONVOLUTION: ("aten::mkldnn_convolution", "aten::convolution_backward", "aten::mkldnn_convolution_backward"),
    BATCH_NORM: ("aten::native_batch_norm", "aten::native_batch_norm_backward"),
    "ReLU": ("aten::clamp_min", "aten::clamp_min_", "aten::relu", "aten::relu_", "aten::threshold_backward"),
    "views: noise, warp, shift": (
        "aten::normal_",
        "aten::grid_sampler_2d",
        "aten::replication_pad2d",
        "aten::index",
        "aten::affine_grid",
    ),
    "upsampling CAMs": ("aten::upsample_bilinear2d",),
    "element by element": tuple(
        f"aten::{name}{end}" for name in ("add", "sub", "mul", "div", "copy", "gt") for end in ("", "_")
    ),
    "optimiser": ("Optimizer.step#Adam.step", "Optimizer.zero_grad#Adam.zero_grad", "aten::_fused_adam_"),
}
_STEP_VARIANTS = (STRAIGHT, CHANNELS_LAST, replace(CHANNELS_LAST, name="+ torch.compile: ours", compile=True))
_CPU = torch.device("cpu")
REST = "all else: dispatch, allocation, Python"


def measure_digits(num_epochs: int = 3) -> Row:
    """Profile epochs after the first for each group's milliseconds per epoch.

    Then measure the share of evaluation in as many epochs without the profiler.
    """
    config = trial_config(make_plan(PlanRequest(load_space("digits"), kind="train", method="ignore", overrides={})), {})
    prepare(config.data)
    run = TrainingRun(config)
    run.train_epoch()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(num_epochs):
            run.train_epoch()
    epoch_s = eval_s = 0.0
    for _ in range(num_epochs):
        metrics = run.train_epoch()
        epoch_s, eval_s = epoch_s + metrics[TIME_EPOCH_S], eval_s + metrics[TIME_EVAL_S]
    print(f"digits, evaluation: {eval_s:.2f} s of {epoch_s:.2f} s", flush=True)
    size = Size(config.model.backbone, config.data.image_size, config.optim.batch_size)
    return _row(
        "digits",
        size,
        variant="ours",
        ms_epoch=_sum_groups(profiled, num_epochs),
        eval_frac=eval_s / epoch_s,
        num_epochs=num_epochs,
        load=round(os.getloadavg()[0], 1),
    )


def measure_digit_steps(rounds: int = 5, num_steps: int = 20) -> list[Row]:
    """Measure single steps, the straightforward one and ours in turn, on random images of the digits' size.

    Each row has the processor time of a step, and each group's milliseconds under the profiler.
    """
    size = Size("digits/resnet12", image_size=40, batch_size=32)
    steps = {variant.name: build_step(variant, size, _CPU, 1) for variant in _STEP_VARIANTS}
    batches = {
        variant.name: [size.random_batch(_CPU, seed, channels_last=variant.channels_last) for seed in range(num_steps)]
        for variant in _STEP_VARIANTS
    }
    found: dict[str, list[float]] = {name: [] for name in steps}
    epoch = WARMUP_EPOCHS + 1
    for number in range(rounds + 1):
        for name, step in steps.items():
            started = time.process_time()
            for batch in batches[name]:
                step(batch, epoch)
            if number:  # the first round builds and compiles
                found[name].append((time.process_time() - started) / num_steps * 1000)
    rows = []
    for name, step in steps.items():
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            for batch in batches[name]:
                step(batch, epoch)
        groups = _sum_groups(profiled, num_steps)
        load = round(os.getloadavg()[0], 1)
        rows.append(
            _row("digits step", size, variant=name, ms_step=statistics.median(found[name]), ms_groups=groups, load=load)
        )
        print(
            f"digits, {name}: {rows[-1]['ms_step']:.1f} ms a step, {groups[CONVOLUTION]:.1f} of it convolution",
            flush=True,
        )
    return rows


def _sum_groups(profiled: profile, count: int) -> dict[str, float]:
    groups: Counter[str] = Counter()
    for event in profiled.key_averages():
        groups[_group(event.key)] += event.self_cpu_time_total / 1000 / count
    return dict(groups)


def _row(kind: str, size: Size, **values: object) -> Row:
    return {"kind": kind, "device": device_name(_CPU), "torch": torch.__version__, **asdict(size), **values}


def _group(key: str) -> str:
    return next((name for name, keys in _GROUPS.items() if key in keys), REST)
