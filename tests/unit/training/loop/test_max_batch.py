"""Test the probe for the largest batch, and the message of a step that runs out of memory."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from tests.kit.scenes import prepare_tiny, tiny_config
from training.errors import StepMemoryError
from training.loop import epoch as epoch_module
from training.loop import max_batch as max_batch_module
from training.loop.epoch import EpochLoop
from training.loop.max_batch import Attempt, find_max_batch, probe_cpu
from training.loop.memory import is_out_of_memory, peak_gib, total_gib
from training.loop.run import TrainingRun

CPU = torch.device("cpu")


@pytest.mark.parametrize("capacity", [0, 1, 2, 3, 7, 8, 9, 48, 63, 64, 65, 99, 100, 1000])
def test_search_finds_the_largest_that_fits(capacity: int) -> None:
    tried: list[int] = []

    def try_batch(batch_size: int) -> Attempt:
        tried.append(batch_size)
        return Attempt(batch_size, batch_size <= capacity, 0.1 * batch_size)

    found, attempts = find_max_batch(try_batch, largest=100)
    assert found == min(capacity, 100)
    assert [attempt.batch_size for attempt in attempts] == tried
    assert len(set(tried)) == len(tried) <= 14
    assert max(tried) <= min(100, max(1, 2 * capacity)), "never far above what fits"


class _Room:
    """A stand-in for a GPU: a step with a small enough batch passes, a larger one runs out of memory."""

    def __init__(self, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[int] = []
        take_step = EpochLoop.take_step

        def limited(loop: EpochLoop, batch: Any, *args: Any) -> Any:
            output = take_step(loop, batch, *args)
            self.taken.append(len(batch.weak))
            if len(batch.weak) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return output

        monkeypatch.setattr(EpochLoop, "take_step", limited)


@pytest.mark.parametrize("name", ["ignore", "em_apl", "role"])
def test_steps_are_real_and_running_out_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    room = _Room(3, monkeypatch)
    config = tiny_config({"method.name": name, "model.weights": "none"})

    def try_batch(batch_size: int) -> Attempt:
        return Attempt(batch_size, max_batch_module._steps_fit(config, 10, batch_size, 64, CPU), None)

    assert find_max_batch(try_batch, 16)[0] == 3
    assert room.taken == [1, 1, 2, 2, 4, 3, 3]


def test_another_error_is_no_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(EpochLoop, "take_step", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        max_batch_module._steps_fit(tiny_config({"model.weights": "none"}), 10, 2, 64, CPU)


@pytest.mark.slow
def test_cpu_probe_measures_processes() -> None:
    config = tiny_config({"model.weights": "none"})
    alone = probe_cpu(config, 10, largest=1, limit_gib=4.0)
    assert alone.batch_size == 1
    base = alone.attempts[0].peak_gib
    assert base is not None
    found = probe_cpu(config, 10, largest=1000, limit_gib=base + 0.1)
    assert 4 < found.batch_size < 1000
    assert found.own_batch_size == config.optim.batch_size
    assert found.own_gib is None or base <= found.own_gib <= base + 0.1
    assert alone.own_gib is None, "only one image was to be tried"
    assert probe_cpu(config.with_params({"optim.batch_size": 4}), 10, largest=8, limit_gib=4 * base).num_sharing == 3
    for attempt in found.attempts:
        assert attempt.fits == (attempt.peak_gib is not None and attempt.peak_gib <= base + 0.1)
    assert probe_cpu(config, 10, largest=8, limit_gib=0.1).batch_size == 0


@pytest.mark.slow
def test_what_fails_otherwise_is_not_taken_for_a_lack_of_memory() -> None:
    config = tiny_config({"model.weights": "none", "model.backbone": "torchvision/no_such_trunk"})
    with pytest.raises(RuntimeError, match="A step with batch 1 failed, and not for lack of memory"):
        probe_cpu(config, 10, largest=1, limit_gib=4.0)


def test_a_run_reports_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_tiny()
    monkeypatch.setattr(epoch_module, "guarded_step", _raise_out_of_memory)
    run = TrainingRun(tiny_config())
    with pytest.raises(StepMemoryError) as caught:
        run.train_epoch()
    figures = caught.value.figures
    assert (figures["batch_size"], figures["image_size"], figures["epoch"], figures["step"]) == (16, 40, 1, 1)
    assert 0.05 < float(figures["peak_gib"]) < float(figures["total_gib"])
    for said in (
        "batch=16",
        "image_size=40",
        f"{figures['peak_gib']} GiB",
        f"{figures['total_gib']} GiB",
        "orchestrator max-batch",
    ):
        assert said in str(caught.value)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def _raise_out_of_memory(*args: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_what_lack_of_memory_looks_like() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert 0 < peak_gib(CPU) < total_gib(CPU)
