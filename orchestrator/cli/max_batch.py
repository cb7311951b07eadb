"""The verb that finds the largest batch: max-batch."""

from __future__ import annotations

import math
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import JsonOption, MethodOption, RecipeOption, SetOption, SpaceArgument
from orchestrator.cli.output import print_json, print_line, print_note, print_table
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from training.config.run import TrainConfig
    from training.loop.max_batch import MaxBatch


class Device(StrEnum):
    """Whose memory is asked for."""

    CUDA = "cuda"
    CPU = "cpu"


def max_batch(
    space: SpaceArgument,
    method: MethodOption = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
    device: Annotated[
        Device, typer.Option("--device", help="Whose memory: the GPU's here, or this machine's.")
    ] = Device.CUDA,
    limit_gib: Annotated[
        float | None,
        typer.Option(
            "--limit-gib", metavar="N", min=0.1, help="With --device cpu: what a process may take.", show_default=False
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Find the largest batch that fits one worker, and how many trials share its memory.

    Takes real steps of the space's first start_from point on random images. Of several workers each has its part of
    optim.batch_size.
    """
    from orchestrator.planning.data_fit import check_data
    from orchestrator.planning.plan import make_plan
    from orchestrator.planning.request import PlanRequest, parse_overrides
    from orchestrator.planning.sweep_plan import trial_config

    _check_device(device, limit_gib)
    planned = make_plan(
        PlanRequest(space, kind="train", method=method, overrides=parse_overrides(settings or []), recipe=recipe)
    )
    check_data(planned)
    config = trial_config(planned, {})
    print_note(f"taking steps of {planned.method} at {config.data.image_size} px ...")
    found = _probe(config, limit_gib)
    if json:
        print_json(asdict(found) | {"num_sharing": found.num_sharing})
    else:
        _show(found)
        if planned.resources.workers == 1 and found.num_sharing:
            _show_sharing(found, on_gpu=device is Device.CUDA)
    if found.batch_size == 0:
        raise typer.Exit(1)


def _check_device(device: Device, limit_gib: float | None) -> None:
    if device is Device.CPU and limit_gib is None:
        raise UserError(
            "--device cpu must have --limit-gib, what a process may take. For example: --device cpu --limit-gib 8"
        )
    if device is Device.CUDA and limit_gib is not None:
        raise UserError(
            f"--limit-gib must go with --device cpu: a GPU's memory is its limit. But got --limit-gib {limit_gib:g}"
        )
    if device is Device.CUDA:
        import torch

        if not torch.cuda.is_available():
            raise UserError("max-batch must have a GPU, but there is none here. For a CPU: --device cpu --limit-gib N")


def _probe(config: TrainConfig, limit_gib: float | None) -> MaxBatch:
    import torch

    from training.data.registry import dataset_info, load_split
    from training.loop.max_batch import probe_cpu, probe_gpu
    from training.preparation import prepare

    prepare(config.data)
    num_classes, num_train = len(dataset_info(config.data).classes), len(load_split(config.data, "train"))
    if limit_gib is None:
        return probe_gpu(config, num_classes, num_train, torch.device("cuda", torch.cuda.current_device()))
    return probe_cpu(config, num_classes, num_train, limit_gib)


def _show(found: MaxBatch) -> None:
    rows = [
        (
            str(attempt.batch_size),
            "fits" if attempt.fits else "does not fit",
            "?" if attempt.peak_gib is None else f"{attempt.peak_gib:.2f}",
        )
        for attempt in found.attempts
    ]
    print_table(["batch", "", "peak GiB"], rows)
    if found.batch_size == 0:
        print_line(
            f"Not even one image fits into {found.limit_gib:.2f} GiB. Use a smaller --set data.image_size or "
            f"model.backbone."
        )
    else:
        print_line(
            f"The largest batch of a worker in {found.limit_gib:.2f} GiB: {found.batch_size}. Use --set "
            f"optim.batch_size=N, N up to that."
        )


def _show_sharing(found: MaxBatch, *, on_gpu: bool) -> None:
    num = found.num_sharing
    use = "--concurrency N, N up to that"
    if on_gpu:
        # Rounded down: so many must not come to more than one GPU.
        use = f"gpus_per_worker: {math.floor(100 / num) / 100:g} under resources of a space of your own"
    print_line(
        f"A trial with the space's batch of {found.own_batch_size} takes {found.own_gib:.2f} GiB: {num} at a time fit. "
        f"Use {use}."
        if num > 1
        else f"A trial with the space's batch of {found.own_batch_size} takes {found.own_gib:.2f} GiB: no second one "
        f"fits beside it."
    )
