"""Compare two gloo processes with one process on the same global batches.

Losses, thresholds, BatchNorm, evaluation and resuming must be equal. The models compute in double precision here. In
single precision the two sides differ by rounding, about 1e-7, and by what a hard threshold, or Adam's division by a
gradient of nearly 0, makes of that; in double precision any remaining difference is a bug. One method without
thresholds, trained with SGD, is compared in single precision too, to 1e-4 after its 4 steps.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.kit.clip_scores import drawn_scores
from tests.kit.fingerprint import fingerprint
from tests.kit.scenes import prepare_tiny, thin_trunks, tiny_config
from training.config.run import TrainConfig
from training.data.split import InMemoryImages, SplitData
from training.data.views import PixelScale
from training.distributed import (
    differentiable_gather_rows,
    extremes_over_ranks,
    gather_rows,
    rank,
    sum_over_ranks,
    world_size,
)
from training.loop.run import TrainingRun, score_split
from training.losses import masked_mean_part, total_loss
from training.methods.em_apl import UNKNOWN
from training.methods.plc import EMPTY
from training.methods.registry import METHODS
from training.metrics import compute_metrics
from training.models.base import ModelOutput
from training.models.batch_norm import convert_to_global
from training.models.registry import build_model

# The first test waits until both processes have run all cases.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# 64 images in batches of 63: one of 32 + 31, and one of 1 + 0 whose second part is empty. Two epochs are 4 steps; more
# of them cost more than they show, because the ranks wait for each other at every layer of BatchNorm.
UNEVEN: dict[str, Any] = {"optim.batch_size": 63, "loop.epochs": 2}
NUM_STEPS = 4
Q2L: dict[str, Any] = {
    "model.name": "query2label",
    "model.hidden_dim": 16,
    "model.feedforward_dim": 16,
    "model.dropout": 0.0,
}
CASES: dict[str, dict[str, Any]] = {
    "assumed negative": {"method.name": "assumed_negative"},
    "ignore, eval_both": {},
    "ignore, train": {"method.masked_pass_bn": "train"},
    "ignore, no update, batch CAMs": {
        "method.masked_pass_bn": "batch_stats_no_update",
        "method.cam_normalisation": "batch",
    },
    "ignore, bias corrected": {"method.correct_gap_bias": True, "method.correct_average_bias": True},
    "ignore, gap alone, weak view": {"method.use_average_test": False, "method.view": "weak"},
    "ignore, Query2Label": Q2L,
    "LL-R": {"method.name": "large_loss", "method.delta_rel_percent": 3.0},
    "LL-Ct": {"method.name": "large_loss", "method.scheme": "LL-Ct", "method.delta_rel_percent": 3.0},
    "LL-Cp": {"method.name": "large_loss", "method.scheme": "LL-Cp", "method.delta_rel_percent": 3.0},
    "BoostLU + LL-R": {"method.name": "large_loss", "method.delta_rel_percent": 3.0, "model.cam_boost": 5.0},
    **{
        name: {"method.name": name}
        for name in ("full_labels", "wan", "em", "an_ls", "epr", "focal", "asl", "hill", "splc", "gr_loss", "gpr")
    },
    **{
        name: {"method.name": name} for name in ("role", "crisp", "mime", "plc", "iu", "iun", "bce_ls", "aevlp", "vlpl")
    },
    "plc, Query2Label": {"method.name": "plc", "method.first_threshold": 0.5, "model.frozen_stem": True, **Q2L},
    "em_apl": {"method.name": "em_apl", "method.warmup_epochs": 1},
    "plc_lac": {
        "method.name": "plc_lac",
        "method.first_threshold": 0.5,
        "method.first_stage_epochs": 1,
        "method.queue_size": 16,
        **Q2L,
    },
    "averaged and stopped": {
        "method.name": "assumed_negative",
        "data.normalisation": "none",
        "optim.average_decay": 0.9,
        "optim.cycle_epochs": 2,
        "optim.drop_last": True,
        "optim.batch_size": 21,
        "loop.patience_epochs": 0,
        "loop.epochs": 5,
    },
    "single precision": {"method.name": "assumed_negative", "optim.name": "sgd", "optim.lr": 0.02},
}
RESUMED: dict[str, dict[str, Any]] = {
    "ignore, train": CASES["ignore, train"],
    "LL-Cp": CASES["LL-Cp"],
    "em_apl": CASES["em_apl"],
    "role": CASES["role"],
    "plc_lac with dropout": CASES["plc_lac"] | {"model.dropout": 0.2},
}
# Adam turns the rounding error of a gradient of nearly 0 into a full step, as with the projector of PLC + LAC, which is
# in single precision.
TOLERANCES = {"single precision": 1e-4, "plc_lac": 1e-5}
UNCHANGED = {
    "gap_threshold": 0,
    "average_threshold": 0,
    "corrected": False,
    "pseudo_labels": UNKNOWN,
    "key_classes": EMPTY,
    "priors": 0,
}
"""Buffers of methods -> what they hold before anything happens."""
NUM_ROWS = (5, 0, 3)
"""Rows of rank 0 in each piece's global batch: all of the second one. Rank 1 has the rest of the others."""


def config_of(case: str) -> TrainConfig:
    """Return the configuration of a case."""
    return tiny_config(UNEVEN | (CASES | RESUMED)[case])


@contextmanager
def thin_model(case: str) -> Iterator[None]:
    """Make runs build thin models, in double precision unless the case is the one in single precision."""

    def build_double(*args: Any, **kwargs: Any) -> tuple[nn.Module, str]:
        model, weights_hash = build_model(*args, **kwargs)
        model.double().register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
        return model, weights_hash

    with thin_trunks(), drawn_scores(), pytest.MonkeyPatch.context() as patch:
        if case != "single precision":
            patch.setattr("training.loop.run.build_model", build_double)
        yield


def train(case: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train a case; return the figures that must be equal, and the fingerprint."""
    with thin_model(case):
        run = TrainingRun(config_of(case))
        epochs = []
        while not run.finished:
            epochs.append({name: value for name, value in run.train_epoch().items() if not name.startswith("time/")})
    state = run.state_dict()
    figures = {
        "epochs": epochs,
        "model": state["model"],
        "average": state["average"] or {},
        "method": state["method"],
        "num_steps": run.epoch * len(run._batches),
        "logits": run._val_scores()[0],
    }
    return figures, fingerprint(run)


def resume_after_an_epoch(case: str, storage: Path) -> dict[str, Any]:
    """Train an epoch, resume from what rank 0 saved, train to the end, and return the fingerprint."""
    with thin_model(case):
        stopped = TrainingRun(config_of(case), storage=storage)
        stopped.train_epoch()
        stopped.save()
        dist.barrier()
        resumed = TrainingRun(config_of(case), storage=storage)
        assert resumed.resume()
        assert resumed.epoch == 1
        while not resumed.finished:
            resumed.train_epoch()
    return fingerprint(resumed)


def draw_dropout() -> Tensor:
    """Return ones after dropout, drawn once the first epoch of a run has begun on this rank."""
    run = TrainingRun(tiny_config({"loop.epochs": 1, "optim.batch_size": 64}))
    drawn: list[Tensor] = []
    run._model.register_forward_pre_hook(lambda *_: drawn.append(nn.functional.dropout(torch.ones(100), 0.5)))
    run.train_epoch()
    return drawn[0]


def compute_pieces() -> dict[str, Any]:
    """Return the results of the parts that ranks share, on global batches with unevenly split rows."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Any] = {}
    norm = convert_to_global(nn.Sequential(nn.BatchNorm2d(3)), torch.device("cpu")).train()
    for number, shared in enumerate(NUM_ROWS):
        num = shared + 2
        images = 5 + 3 * torch.randn(num, 3, 4, 4, generator=generator)
        mask = torch.rand(num, 3, generator=generator) < 0.4
        rows = _own_rows(num)
        mine = images[rows].requires_grad_()
        norm.zero_grad()
        logits = norm(mine).mul(torch.arange(16.0).view(4, 4)).mean((2, 3))
        loss, values = total_loss({"kept": masked_mean_part(logits.square(), mask[rows])})
        loss.backward()
        assert mine.grad is not None
        # The loss is scaled by the world size, because DistributedDataParallel averages gradients.
        by_weight = {
            name: sum_over_ranks(value.grad) / world_size()
            for name, value in norm.named_parameters()
            if value.grad is not None
        }
        low, high = extremes_over_ranks(mine.detach(), mask[rows, 0])
        gathered = images[rows].mean((2, 3)).requires_grad_()
        everyone = differentiable_gather_rows(gathered)
        (everyone @ everyone.T).square().sum().backward()  # all ranks' rows with all ranks' rows
        assert gathered.grad is not None
        found[str(number)] = {
            "logits": gather_rows(logits.detach()),
            "gradient": gather_rows(mine.grad) / world_size(),
            "value": values["kept"],
            "statistics": {name: value.clone() for name, value in norm.state_dict().items()},
            "by_weight": by_weight,
            "low": low,
            "high": high,
            "gathered": everyone.detach(),
            "gathered_gradient": gather_rows(gathered.grad) / world_size(),
        }
    return found


class MeanColour(nn.Module):
    """A model that scores images by their mean colour."""

    def forward(self, images: Tensor) -> ModelOutput:
        logits = images.mean((2, 3))
        return ModelOutput(logits, logits[:, :, None, None])


def evaluate_splits() -> dict[str, Any]:
    """Return logits and metrics of splits that divide unevenly; in the last one, one rank has no image."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Any] = {}
    for num in (41, 2, 1):
        true = torch.rand(num, 3, generator=generator) < 0.4
        pixels = torch.randint(0, 256, (num, 3, 8, 8), dtype=torch.uint8, generator=generator)
        data = SplitData(
            "val", InMemoryImages(pixels), true & (true.cumsum(1) == 1), true, None, ("red", "green", "blue")
        )
        where = (MeanColour(), data, PixelScale(torch.zeros(3), torch.ones(3)), torch.device("cpu"))
        logits = score_split(*where)
        found[str(num)] = {"logits": logits, "metrics": compute_metrics("val", logits, data.true, data.observed)}
    return found


def _own_rows(num: int) -> slice:
    if world_size() == 1:
        return slice(0, num)
    cut = num if num == 2 else 2
    return slice(0, cut) if rank() == 0 else slice(cut, num)


def work(folder: Path) -> None:
    """Run all cases as one rank of two, and write this rank's results."""
    whole: dict[str, Any] = {}
    for case in CASES | RESUMED:
        figures, whole[case] = train(case)
        torch.save(figures, folder / f"{case}.{rank()}.pt")
    resumed = {
        case: {"resumed": resume_after_an_epoch(case, folder / f"checkpoints-{number}"), "whole": whole[case]}
        for number, case in enumerate(RESUMED)
    }
    parts = {"pieces": compute_pieces(), "splits": evaluate_splits(), "resumed": resumed, "dropped": draw_dropout()}
    torch.save(parts, folder / f"parts.{rank()}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, _isolated_environment: None) -> Path:
    """Return the folder with the results of the two processes."""
    prepare_tiny()
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "tests.integration.test_distributed", json.dumps(str(folder))]
    processes = [
        subprocess.Popen(command, cwd=Path(__file__).parents[2], env=os.environ | address | {"RANK": str(number)})
        for number in (0, 1)
    ]
    try:
        assert [process.wait(timeout=550) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return folder


def read(folder: Path, name: str, number: int) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / f"{name}.{number}.pt", weights_only=True)
    return found


def assert_equal(two: Any, one: Any, tolerance: float, name: str = "") -> None:
    """Compare nested results, with tensors and numbers to a relative or absolute tolerance."""
    if isinstance(one, dict):
        assert two.keys() == one.keys(), name
        for key in one:
            assert_equal(two[key], one[key], tolerance, f"{name} {key}")
    elif isinstance(one, list):
        assert len(two) == len(one), name
        for number, item in enumerate(one):
            assert_equal(two[number], item, tolerance, f"{name} {number}")
    else:
        values = [
            value.detach().double() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
            for value in (two, one)
        ]
        torch.testing.assert_close(*values, rtol=tolerance, atol=tolerance, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one(case: str, ranks: Path) -> None:
    torch.set_num_threads(1)
    one, two = train(case)[0], read(ranks, case, 0)
    if case == "averaged and stopped":
        assert len(one["epochs"]) < config_of(case).loop.epochs, "or nothing was stopped"
    else:
        assert one["num_steps"] == NUM_STEPS
    if case.startswith(("ignore", "LL", "BoostLU", "plc")):
        assert max(epoch["train/rejected_frac"] for epoch in one["epochs"]) > 0, "or the thresholds were not needed"
    for name, unchanged in UNCHANGED.items():
        assert name not in one["method"] or (one["method"][name] != unchanged).any(), "or there is no state to compare"
    # A difference of 1e-7 in a score can change a ranking, so in single precision the scores are compared, not their
    # order.
    if case == "single precision":
        one["epochs"], two["epochs"] = (
            [{name: value for name, value in epoch.items() if name.startswith("train/")} for epoch in each["epochs"]]
            for each in (one, two)
        )
    assert_equal(two, one, tolerance=TOLERANCES.get(case, 1e-6))
    assert len(two["logits"]) == 40, "no example of the validation split is counted twice"


def test_every_method_is_compared() -> None:
    assert {config_of(case).method.name for case in CASES} == set(METHODS)


@pytest.mark.parametrize("case", CASES)
def test_both_ranks_hold_the_same(case: str, ranks: Path) -> None:
    assert_equal(read(ranks, case, 1), read(ranks, case, 0), tolerance=0)


def test_pieces_of_uneven_and_empty_parts(ranks: Path) -> None:
    two = [read(ranks, "parts", number)["pieces"] for number in (0, 1)]
    one = compute_pieces()
    assert_equal(two[0], one, tolerance=1e-5)
    assert_equal(two[1], two[0], tolerance=0)


def test_evaluation_counts_every_example_once(ranks: Path) -> None:
    two, one = [read(ranks, "parts", number)["splits"] for number in (0, 1)], evaluate_splits()
    assert [len(split["logits"]) for split in one.values()] == [41, 2, 1]
    assert_equal(two[0], one, tolerance=1e-12)
    assert_equal(two[1], two[0], tolerance=0)
    for split in one.values():
        assert split["metrics"]["val/mAP"] > 0


@pytest.mark.parametrize("case", RESUMED)
def test_resumed_ranks_go_on_bit_for_bit(case: str, ranks: Path) -> None:
    for number in (0, 1):
        found = read(ranks, "parts", number)["resumed"][case]
        assert found["resumed"] == found["whole"]


def test_ranks_drop_different_entries(ranks: Path) -> None:
    masks = [read(ranks, "parts", number)["dropped"] for number in (0, 1)]
    assert not torch.equal(*masks), "the same for both would be one mask for two images"


if __name__ == "__main__":
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    work(Path(json.loads(sys.argv[1])))
    dist.destroy_process_group()
