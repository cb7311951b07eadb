"""Store the rows of ``benchmarks.step`` as a file of JSON lines, and render them as tables."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.step.variants import CHANNELS_LAST, CPU_VARIANTS, GPU_VARIANTS, STRAIGHT

Row = dict[str, Any]
CONVOLUTION, BATCH_NORM = "convolution", "BatchNorm"
"""Groups of operations in ``ms_groups`` of a digits step."""
UNREJECTED = "ours, no label rejected yet"
"""The loss curve that the aim refers to."""
AIM_SPEED, AIM_MEMORY, AIM_DISTANCE, AIM_REST = 1.08, 0.85, 1e-4, 0.5
_KEY = ("kind", "device", "backbone", "image_size", "batch_size", "variant")
_INTRODUCTION = """# A training step

Written by `python -m benchmarks.step` and `python -m benchmarks.step --device cuda` from `step.jsonl`. The docstring of
`benchmarks/step/measure.py` describes what is measured, and how. All rows of a table have the same model, initial
weights, images, batch and device.
"""
_NO_GPU = "## GPU\n\nNot measured, because there was no GPU. Measure it with `python -m benchmarks.step --device cuda`."


def device_name(device: torch.device) -> str:
    """Return the kind of device, without the name of the host."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU"


def read_rows(path: Path) -> list[Row]:
    """Read earlier rows; empty if the file does not exist."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def write_rows(path: Path, before: Iterable[Row], new: Iterable[Row]) -> None:
    """Write the rows, newer ones in place of older ones of the same thing, and the tables next to them."""
    kept = {tuple(row.get(key) for key in _KEY): row for row in [*before, *new]}
    path.write_text("".join(json.dumps(row) + "\n" for row in kept.values()))
    path.with_suffix(".md").write_text(render(list(kept.values())))


def render(rows: Sequence[Row]) -> str:
    """Return the tables in Markdown."""
    steps = [row for row in rows if row["kind"] == "step"]
    floors = [row for row in rows if row["kind"] == "floor"]
    groups = dict.fromkeys((row["device"], row["backbone"], row["image_size"], row["batch_size"]) for row in steps)
    parts = [_INTRODUCTION.rstrip()]
    for group in groups:
        mine = [row for row in steps if (row["device"], row["backbone"], row["image_size"], row["batch_size"]) == group]
        floor = next(
            (row for row in floors if (row["device"], row["backbone"], row["image_size"], row["batch_size"]) == group),
            None,
        )
        section = _step_section(group, mine, floor)
        verdicts = _cpu_verdicts(mine, rows) if group[0].endswith("CPU") else ""
        parts.append(f"{section}\n\n{verdicts}" if verdicts else section)
    if all(row["device"].endswith("CPU") for row in steps):
        parts.append(_NO_GPU)
    parts += [section for section in (_curve_section(rows), _digits_section(rows)) if section]
    return "\n\n".join(parts) + "\n"


def _step_section(group: tuple[str, str, int, int], rows: Sequence[Row], floor: Row | None) -> str:
    device, backbone, image_size, batch_size = group
    lines = [f"## {backbone}, {image_size} px, batch {batch_size}: {device}", ""]
    lines += _conditions(rows)
    if floor is not None:
        lines += ["", *_floor_lines(floor)]
    base = next((row for row in rows if row["variant"] == STRAIGHT.name and "images_s" in row), None)
    lines += [
        "",
        "| step | images/s (rounds) | speed over the first (rounds) | peak MB | memory over the first "
        "| share of the floor |",
        "|---|---|---|---|---|---|",
    ]
    order = [variant.name for variant in (*GPU_VARIANTS, *CPU_VARIANTS)]
    for row in sorted(rows, key=lambda row: order.index(row["variant"])):
        lines.append(_step_line(row, base, floor))
    return "\n".join(lines)


def _conditions(rows: Sequence[Row]) -> list[str]:
    measured = [row for row in rows if "images_s" in row]
    if not measured:
        return []
    threads = f", {measured[0]['threads']} threads" if "threads" in measured[0] else ""
    load = f", load average {measured[0]['load']}" if "load" in measured[0] else ""
    return [
        f"torch {measured[0]['torch']}{threads}{load}; median of {len(measured[0]['images_s'])} alternating rounds "
        f"(lowest - highest)."
    ]


def _floor_lines(floor: Row) -> list[str]:
    said = [f"Floor: {floor['flops'] / 1e9:,.0f} GFLOP and {floor['num_bytes'] / 1e9:.2f} GB (fp32) per step."]
    for precision, found in floor["rates"].items():
        images = floor["batch_size"] / found["floor_s"]
        said.append(
            f"{precision}: the machine reached {found['flops_s'] / 1e9:,.0f} GFLOP/s and "
            f"{found['bytes_s'] / 1e9:,.0f} GB/s, which makes {found['floor_s'] * 1000:,.0f} ms, {images:.2f} images/s."
        )
    return said


def _step_line(row: Row, base: Row | None, floor: Row | None) -> str:
    if "error" in row:
        return f"| {row['variant']} | {row['error']} | | | | |"
    speed, found = _speed(row), row["images_s"]
    times = memory = ""
    if base is not None:
        ratios = _ratios(row, base)
        times = "1.00" if row is base else f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
        memory = f"{row['peak_mb'] / base['peak_mb']:.3f}"
    share = ""
    if floor is not None and (rate := floor["rates"].get(_precision(row["variant"]))):
        share = f"{100 * rate['floor_s'] * speed / row['batch_size']:.0f} %"
    return (
        f"| {row['variant']} | {speed:.2f} ({min(found):.2f} - {max(found):.2f}) | {times} | {row['peak_mb']:,.0f} "
        f"| {memory} | {share} |"
    )


def _speed(row: Row) -> float:
    return float(statistics.median(row["images_s"]))


def _ratios(row: Row, base: Row) -> list[float]:
    """Return one ratio per round, whose two sides ran at about the same time and load."""
    return [ours / first for ours, first in zip(row["images_s"], base["images_s"], strict=True)]


def _cpu_verdicts(steps: Sequence[Row], rows: Sequence[Row]) -> str:
    """Return which aims our step meets on a CPU; empty if it or the straightforward one was not measured."""
    found = {row["variant"]: row for row in steps if "images_s" in row}
    if not {STRAIGHT.name, CHANNELS_LAST.name} <= found.keys():
        return ""
    ours, first = found[CHANNELS_LAST.name], found[STRAIGHT.name]
    speed, memory = statistics.median(_ratios(ours, first)), ours["peak_mb"] / first["peak_mb"]
    said = [
        f"at least {AIM_SPEED:g} times the straightforward step's speed: {speed:.3f}, {_verdict(speed >= AIM_SPEED)}",
        f"at most {AIM_MEMORY:g} times its peak memory: {memory:.3f}, {_verdict(memory <= AIM_MEMORY)}",
    ]
    if curve := next((row for row in rows if row["kind"] == "curve" and row["variant"] == UNREJECTED), None):
        met = _verdict(curve["distance"] <= AIM_DISTANCE)
        said.append(
            f"a loss curve within {AIM_DISTANCE:.0e} of its curve before any rejection: {curve['distance']:.1e}, {met}"
        )
    return f"Aims for our step on a CPU: {'; '.join(said)}."


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def _precision(name: str) -> str:
    return next(variant.precision for variant in (*GPU_VARIANTS, *CPU_VARIANTS) if variant.name == name)


def _curve_section(rows: Sequence[Row]) -> str:
    curves = [row for row in rows if row["kind"] == "curve"]
    if not curves:
        return ""
    first = curves[0]
    lines = [
        "## Loss curves",
        "",
        f"{first['backbone']}, {first['image_size']} px, batch {first['batch_size']}, {first['steps']} steps on one "
        "CPU thread, in fp32 unless stated otherwise; `rejecting` curves reject labels in their second half. Distance "
        "is the largest from the straightforward step's loss.",
        "",
        "| step | distance | loss of the straightforward step |",
        "|---|---|---|",
    ]
    lines += [
        f"| {row['variant']} | {row['distance']:.1e} | {row['first']:.3f} - {row['last']:.3f} |" for row in curves
    ]
    lines += [
        "",
        "Rejecting a label and masking a pixel are comparisons. Where both sides are equal up to the last bits, "
        "rounding decides, and one label more or less among so few moves the mean. The last row compares the "
        "straightforward step with itself in another memory format. In double precision no comparison is that close, "
        "and the two steps agree, including their rejections.",
    ]
    return "\n".join(lines)


def _digits_section(rows: Sequence[Row]) -> str:
    """Return the table of where an epoch's time goes; empty if it was not measured."""
    found = [row for row in rows if row["kind"] == "digits"]
    if not found:
        return ""
    row = found[0]
    total = sum(row["ms_epoch"].values())
    lines = [
        "## Where a digits epoch goes",
        "",
        f"IGNORE, first start point of `search_spaces/digits.yaml` (batch {row['batch_size']}, one thread), with "
        f"evaluation, under torch's profiler: {total:,.0f} ms per epoch, load average {row['load']}.",
        "",
        "| what | ms per epoch | share |",
        "|---|---|---|",
    ]
    groups = sorted(row["ms_epoch"].items(), key=lambda item: -item[1])
    lines += [f"| {name} | {value:,.0f} | {100 * value / total:.0f} % |" for name, value in groups]
    lines += [
        "",
        f"Evaluation takes {100 * row['eval_frac']:.1f} % of an epoch's wall time ({row['num_epochs']} epochs without "
        "the profiler). Overlapping it with training could gain no more than that, which is too little to do it.",
    ]
    return "\n".join([*lines, *_digit_step_lines(rows)])


def _digit_step_lines(rows: Sequence[Row]) -> list[str]:
    steps = [row for row in rows if row["kind"] == "digits step"]
    if not steps:
        return []
    rest = {row["variant"]: row["ms_step"] - row["ms_groups"][CONVOLUTION] for row in steps}
    ours = rest[CHANNELS_LAST.name] / rest[STRAIGHT.name]
    lines = [
        "",
        f"A single step on random images of that size: processor time, median of alternating rounds, load average "
        f"{steps[0]['load']}. The profiler measures convolution and BatchNorm; all else is the rest, and includes "
        "BatchNorm where it is compiled into other operations.",
        "",
        "| step | ms | convolution | BatchNorm | all else |",
        "|---|---|---|---|---|",
    ]
    lines += [_digit_step_line(row) for row in steps]
    return [
        *lines,
        "",
        f"The aim was to halve the time of everything but convolution: ours takes {ours:.2f} of the straightforward "
        f"step's, {_verdict(ours <= AIM_REST)}.",
    ]


def _digit_step_line(row: Row) -> str:
    """Return a line of the table; a compiled step may have no separate BatchNorm to show."""
    convolution, norm = row["ms_groups"][CONVOLUTION], row["ms_groups"].get(BATCH_NORM)
    rest = row["ms_step"] - convolution - (norm or 0)
    return (
        f"| {row['variant']} | {row['ms_step']:.1f} | {convolution:.1f} | {'' if norm is None else f'{norm:.1f}'} | "
        f"{rest:.1f} |"
    )
