"""Measure the cost of a training step of IGNORE: ours, a straightforward one, the levers between them, and the floor.

    python -m benchmarks.step                  # CPU: ResNet-50, 224 px, batch 4, fp32; the loss curves; where the time
                                               # of a digits epoch goes
    python -m benchmarks.step --device cuda    # GPU: ResNet-50, 448 px, batch 16 and 64, fp32, TF32 and bf16

The straightforward step in ``variants.py`` follows the description of the release: three forward passes with gradient,
subsets by boolean indexing, PyTorch's default optimiser. Every variant starts from the same weights and uses the same
random images, which are already on the device; ``benchmarks.pipeline`` measures what reading them costs. Rounds
alternate between the variants, and the figure is the median round.

Peak memory is what torch allocated on a GPU. On a CPU each variant runs in processes of its own, and it is their peak
resident set. The floor is the time of the operations of three forwards and two backwards at the rate of a large matrix
product, or of their bytes at the rate of a large copy, whichever is longer; both rates are measured on the spot.

Each row is a line of ``results/step.jsonl``. A new measurement replaces an older one of the same thing, and
``results/step.md`` is written from all rows.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.step.report import UNREJECTED, Row, device_name, read_rows, write_rows
from benchmarks.step.variants import (
    CHANNELS_LAST,
    CPU_VARIANTS,
    GPU_VARIANTS,
    OUR_STEP,
    STRAIGHT,
    WARMUP_EPOCHS,
    Size,
    Step,
    Variant,
    build_step,
    count_floor,
    measure_rates,
    wait_for,
)
from training.data.batches import Batch
from training.errors import first_line
from training.loop.arithmetic import set_arithmetic
from training.loop.memory import GIB, peak_gib

RESULTS = Path(__file__).parents[1] / "results" / "step.jsonl"
CPU = torch.device("cpu")
CPU_SIZE = Size(image_size=224, batch_size=4)
GPU_BATCHES = (16, 64)
CURVE_SIZE = Size("torchvision/resnet18", 64, 8)
CURVE_STEPS = 20
_SEGMENT_S = 1.0
_REJECTING = WARMUP_EPOCHS + 1


def measure_cpu(size: Size, rounds: int, num_steps: int, threads: int) -> list[Row]:
    """Measure every variant on the CPU, each round of each in a process of its own."""
    found: dict[str, list[dict[str, float]]] = {variant.name: [] for variant in CPU_VARIANTS}
    for number in range(rounds):
        for variant in CPU_VARIANTS:
            found[variant.name].append(_in_process(variant, size, num_steps, threads))
            print(f"round {number + 1}, {variant.name}: {found[variant.name][-1]}", flush=True)
    load = os.getloadavg()[0]
    return [
        _row(
            "step",
            size,
            CPU,
            variant=variant.name,
            images_s=[one["images_s"] for one in found[variant.name]],
            cpu_s_image=[one["cpu_s_image"] for one in found[variant.name]],
            peak_mb=max(one["peak_mb"] for one in found[variant.name]),
            threads=threads,
            load=round(load, 1),
        )
        for variant in CPU_VARIANTS
    ]


def _in_process(variant: Variant, size: Size, num_steps: int, threads: int) -> dict[str, float]:
    task = json.dumps({"variant": asdict(variant), "size": asdict(size), "num_steps": num_steps, "threads": threads})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.step.measure", "--task", task], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_task(task: dict[str, Any]) -> dict[str, float]:
    """Measure one variant in this process, without counting its first step."""
    variant, size, num_steps = Variant(**task["variant"]), Size(**task["size"]), task["num_steps"]
    step = build_step(variant, size, CPU, task["threads"])
    batch = size.random_batch(CPU, channels_last=variant.channels_last)
    step(batch, _REJECTING)
    started, cpu_started = time.perf_counter(), time.process_time()
    for _ in range(num_steps):
        step(batch, _REJECTING)
    num_images = num_steps * size.batch_size
    return {
        "images_s": num_images / (time.perf_counter() - started),
        "cpu_s_image": (time.process_time() - cpu_started) / num_images,
        "peak_mb": peak_gib(CPU) * GIB / 1e6,
    }


class _Running:
    """A variant that stays on the GPU between rounds."""

    def __init__(self, variant: Variant, size: Size, device: torch.device) -> None:
        self.variant, self.size, self._device = variant, size, device
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        self._step: Step = build_step(variant, size, device)
        self._batch: Batch = size.random_batch(device, channels_last=variant.channels_last)
        self._take(3)
        self.peak_mb = (torch.cuda.max_memory_allocated(device) - before) / 1e6
        self._num_steps = max(2, round(_SEGMENT_S / self._take(2)))

    def measure(self) -> float:
        """Return images per second over a segment."""
        set_arithmetic(self.size.config(self.variant).loop)
        torch.cuda.empty_cache()
        self._take(1)
        return self.size.batch_size / self._take(self._num_steps)

    def _take(self, num_steps: int) -> float:
        wait_for(self._device)
        started = time.perf_counter()
        for _ in range(num_steps):
            self._step(self._batch, _REJECTING)
        wait_for(self._device)
        return (time.perf_counter() - started) / num_steps


def measure_gpu(size: Size, rounds: int, device: torch.device, variants: Sequence[Variant] = GPU_VARIANTS) -> list[Row]:
    """Measure every variant on an otherwise idle GPU; a variant that does not fit becomes a row that says so."""
    running: list[_Running] = []
    rows: list[Row] = []
    for variant in variants:
        gc.collect()
        torch.cuda.empty_cache()
        try:
            running.append(_Running(variant, size, device))
        except torch.OutOfMemoryError as error:
            rows.append(_row("step", size, device, variant=variant.name, error=f"does not fit: {first_line(error)}"))
        except Exception as error:  # a missing compiler must cost only one row
            rows.append(
                _row(
                    "step",
                    size,
                    device,
                    variant=variant.name,
                    error=f"{type(error).__name__}: {first_line(error)[:200]}",
                )
            )
        else:
            print(f"batch {size.batch_size}, {variant.name}: built, {running[-1].peak_mb:.0f} MB", flush=True)
    images_s: list[list[float]] = [[] for _ in running]
    for _ in range(rounds):
        for one, found in zip(running, images_s, strict=True):
            found.append(one.measure())
    for one, found in zip(running, images_s, strict=True):
        print(f"batch {size.batch_size}, {one.variant.name}: {statistics.median(found):.1f} images/s", flush=True)
        rows.append(_row("step", size, device, variant=one.variant.name, images_s=found, peak_mb=one.peak_mb))
    return rows


def measure_floor(size: Size, device: torch.device, precisions: Sequence[Any]) -> Row:
    """Count the operations and bytes of the floor, and measure the rates that turn them into seconds."""
    floor = count_floor(size)
    seconds = {}
    for precision in precisions:
        rates = measure_rates(device, precision)
        values = floor.seconds(*rates, bytes_per_value=2 if precision == "bf16" else 4)
        seconds[precision] = {"flops_s": rates[0], "bytes_s": rates[1], "floor_s": values}
    return _row("floor", size, device, variant="", flops=floor.flops, num_bytes=floor.num_bytes, rates=seconds)


def measure_curves(size: Size, num_steps: int) -> list[Row]:
    """Compare loss curves with the straightforward step's, on one thread.

    The second half of a ``rejecting`` curve rejects labels.
    """
    cases = [
        (UNREJECTED, CHANNELS_LAST, False, False),
        ("ours, rejecting, network in double precision", CHANNELS_LAST, True, True),
        ("ours, rejecting", CHANNELS_LAST, True, False),
        ("ours in the other memory format, rejecting", OUR_STEP, True, False),
        ("straightforward itself in channels-last, rejecting", replace(STRAIGHT, channels_last=True), True, False),
    ]
    rows = []
    for name, variant, rejecting, double in cases:
        plain, ours = (_curve(one, size, num_steps, rejecting, double) for one in (STRAIGHT, variant))
        distance = max(abs(a - b) for a, b in zip(plain, ours, strict=True))
        rows.append(
            _row("curve", size, CPU, variant=name, distance=distance, first=plain[0], last=plain[-1], steps=num_steps)
        )
        print(f"loss curve, {name}: {distance:.1e}", flush=True)
    return rows


def _curve(variant: Variant, size: Size, num_steps: int, rejecting: bool, double: bool) -> list[float]:
    step = build_step(variant, size, CPU, 1, double=double)
    losses = []
    for number in range(num_steps):
        batch = size.random_batch(CPU, number, channels_last=variant.channels_last, double=double)
        losses.append(float(step(batch, _REJECTING if rejecting and number >= num_steps // 2 else 1)))
    return losses


def _row(kind: str, size: Size, device: torch.device, **values: Any) -> Row:
    return {"kind": kind, "device": device_name(device), "torch": torch.__version__, **asdict(size), **values}


def main() -> None:
    """Measure on a device and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="Steps per round on the CPU.")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="Threads on the CPU.")
    parser.add_argument("--only", choices=["step", "curve", "digits"], help="Measure only this part on the CPU.")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(run_task(json.loads(options.task))))
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        print("There is no GPU here. Nothing was measured, and the results are unchanged.")
        sys.exit(1)
    rows = _measure_on_gpu(options.rounds) if options.device == "cuda" else _measure_on_cpu(options)
    print(f"{len(rows)} rows are in {RESULTS.with_suffix('.md')}")


def _measure_on_gpu(rounds: int) -> list[Row]:
    device = torch.device("cuda", torch.cuda.current_device())
    measured: list[Row] = []
    for batch_size in GPU_BATCHES:
        size = Size(batch_size=batch_size)
        rows = [measure_floor(size, device, ["fp32", "tf32", "bf16"]), *measure_gpu(size, rounds, device)]
        write_rows(RESULTS, read_rows(RESULTS), rows)  # at once, so that an interruption loses nothing
        measured += rows
    return measured


def _measure_on_cpu(options: argparse.Namespace) -> list[Row]:
    from benchmarks.step.digits import measure_digit_steps, measure_digits

    measured: list[Row] = []
    if options.only in (None, "step"):
        torch.set_num_threads(options.threads)
        measured += [
            measure_floor(CPU_SIZE, CPU, ["fp32"]),
            *measure_cpu(CPU_SIZE, options.rounds, options.steps, options.threads),
        ]
    if options.only in (None, "curve"):
        measured += measure_curves(CURVE_SIZE, CURVE_STEPS)
    if options.only in (None, "digits"):
        measured += [measure_digits(), *measure_digit_steps()]
    write_rows(RESULTS, read_rows(RESULTS), measured)
    return measured


if __name__ == "__main__":
    main()
