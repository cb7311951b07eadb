"""The verb that finds the largest batch that fits: max-batch."""

from __future__ import annotations

import math
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import EXIT_FAILURE, JsonOption, MethodOption, RecipeOption, SetOption, SpaceArgument
from orchestrator.cli.output import print_json, print_line, print_note, print_table
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from training.config.run import TrainConfig
    from training.loop.max_batch import MaxBatch


class Device(StrEnum):
    """Device whose memory is measured."""

    CUDA = "cuda"
    CPU = "cpu"


def max_batch(
    space: SpaceArgument,
    method: MethodOption = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
    device: Annotated[
        Device, typer.Option("--device", help="Measure the memory of this GPU or of this machine.")
    ] = Device.CUDA,
    limit_gib: Annotated[
        float | None,
        typer.Option(
            "--limit-gib",
            metavar="N",
            min=0.1,
            help="With --device cpu: memory that a process may use.",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Find the largest batch that fits one worker.

    Also finds how many trials can share the memory. Runs real training steps of the space's first start_from point on
    random images. With several workers, each gets its share of optim.batch_size.
    """
    from orchestrator.planning.data_fit import check_data
    from orchestrator.planning.plan import make_plan
    from orchestrator.planning.request import PlanRequest, parse_overrides
    from orchestrator.planning.sweep_plan import trial_config

    # Flags are checked first, because planning takes a second.
    _check_device(device, limit_gib)
    planned = make_plan(
        PlanRequest(space, kind="train", method=method, overrides=parse_overrides(settings or []), recipe=recipe)
    )
    check_data(planned)
    config = trial_config(planned, {})
    print_note(f"running steps of {planned.method} at {config.data.image_size} px ...")
    found = _probe(config, limit_gib)
    if json:
        print_json(asdict(found) | {"num_sharing": found.num_sharing})
    else:
        _show(found)
        # Trials of several workers do not share a GPU, so there is nothing to advise.
        if planned.resources.workers == 1 and found.num_sharing:
            _show_sharing(found, on_gpu=device is Device.CUDA)
    if found.batch_size == 0:
        raise typer.Exit(EXIT_FAILURE)


def _check_device(device: Device, limit_gib: float | None) -> None:
    if device is Device.CPU and limit_gib is None:
        raise UserError(
            "--device cpu needs --limit-gib, the memory that a process may use. For example: --device cpu --limit-gib 8"
        )
    if device is Device.CUDA and limit_gib is not None:
        raise UserError(
            f"--limit-gib {limit_gib:g} goes with --device cpu; the limit of a GPU is its own memory. Leave it out."
        )
    if device is Device.CUDA:
        import torch

        if not torch.cuda.is_available():
            raise UserError("This machine has no GPU. To measure its CPU memory: --device cpu --limit-gib N")


def _probe(config: TrainConfig, limit_gib: float | None) -> MaxBatch:
    import torch

    from training.data.registry import dataset_info, load_split
    from training.loop.max_batch import probe_cpu, probe_gpu
    from training.preparation import prepare

    # The number of classes and images comes from the data; the images themselves are random.
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
    limit = f"{found.limit_gib:.2f} GiB"
    if found.batch_size == 0:
        print_line(f"Not even one image fits into {limit}. Use a smaller --set data.image_size or model.backbone.")
    else:
        print_line(
            f"Largest batch per worker in {limit}: {found.batch_size}. Use --set optim.batch_size=N with N up to that."
        )


def _show_sharing(found: MaxBatch, *, on_gpu: bool) -> None:
    num = found.num_sharing
    own = f"A trial with the space's batch of {found.own_batch_size} needs {found.own_gib:.2f} GiB"
    if num <= 1:
        print_line(f"{own}: a second one does not fit.")
        return
    use = "--concurrency N with N up to that"
    if on_gpu:
        # Rounded down, so that together they do not ask for more than one GPU.
        use = f"--set resources.gpus_per_worker={math.floor(100 / num) / 100:g}"
    print_line(f"{own}: {num} fit at a time. Use {use}.")
