"""Test what a Ray Train worker reports to its driver, without Ray.

Epochs come in order, a resumed one again, and failures are reported.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from training import ray_worker
from training.config.run import TrainConfig
from training.errors import NonFiniteLossError
from training.ray_worker import Channel, Job, Message, train_worker


@dataclass
class CountingRun:
    """A run of three empty epochs, resumed from a checkpoint if there is one."""

    checkpoint: int = 0
    fails: Exception | None = None
    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    saved: list[int] = field(default_factory=list)
    draws: bool = True
    passed_over: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        return self.epoch == 3

    def resume(self) -> bool:
        self.epoch = self.checkpoint
        self.metrics = {"val/mAP": float(self.epoch)}
        return self.checkpoint > 0

    def train_epoch(self) -> dict[str, float]:
        if self.fails is not None and self.epoch == 1:
            raise self.fails
        self.epoch += 1
        self.metrics = {"val/mAP": float(self.epoch)}
        return self.metrics

    def save(self) -> None:
        self.saved.append(self.epoch)

    def load_best(self) -> None:
        self.metrics = dict(self.metrics)

    def write_artifacts(self, folder: Path, title: str) -> None:
        if not self.draws:
            raise OSError("no font")
        (folder / "cam").mkdir()
        (folder / "cam" / "0.png").write_bytes(b"png")


class Driver:
    """The other end of the channel: records the messages and answers them."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.told: list[Message] = []
        self.stop_at = stop_at
        self.tell = SimpleNamespace(remote=self._tell)

    def _tell(self, message: Message) -> bool:
        self.told.append(message)
        return message.get("epoch") != self.stop_at


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.get", lambda answer: answer)


def _train(run: CountingRun, driver: Driver) -> list[Any]:
    train_worker(Job(TrainConfig(), "nowhere", driver, handed_ms=0, make_run=lambda config, storage: run))
    return [message.get("epoch") for message in driver.told]


def _epochs(driver: Driver) -> list[Message]:
    return [message for message in driver.told if message.get("epoch")]


def test_every_epoch_is_saved_and_then_told() -> None:
    run, driver = CountingRun(), Driver()
    assert _train(run, driver) == [0, 1, 2, 3]
    assert driver.told[0] == {"epoch": 0}, "it is set up"
    assert run.saved == [1, 2, 3]
    assert driver.told[2]["metrics"] == {"val/mAP": 2.0}


def test_first_report_says_where_and_how_long_it_took_to_start() -> None:
    driver = Driver()
    _train(CountingRun(), driver)
    first, second, _ = _epochs(driver)
    assert {"host", "pid", "queue_s", "start_s"} <= set(first)
    assert (first["resumed_from"], first["passed_over"]) == (0, ())
    assert set(second) == {"epoch", "metrics", "artifacts"}


def test_artifacts_come_with_the_last_epoch() -> None:
    driver = Driver()
    _train(CountingRun(), driver)
    assert [message["artifacts"] for message in _epochs(driver)] == [{}, {}, {"cam/0.png": b"png"}]


def test_picture_that_cannot_be_drawn_does_not_cost_the_run() -> None:
    driver = Driver()
    assert _train(CountingRun(draws=False), driver) == [0, 1, 2, 3]
    assert b"no font" in driver.told[-1]["artifacts"]["artifacts_error.txt"]


def test_ranks_fail_together_because_they_share_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.distributed.world_size", lambda: 2)
    with pytest.raises(OSError, match="no font"):
        _train(CountingRun(draws=False), Driver())


@pytest.mark.parametrize(("checkpoint", "told"), [(2, [0, 2, 3]), (3, [0, 3])])
def test_epoch_of_the_checkpoint_is_told_again(checkpoint: int, told: list[int]) -> None:
    driver = Driver()
    assert _train(CountingRun(checkpoint, passed_over=("last-0003.pt",)), driver) == told
    assert (driver.told[1]["resumed_from"], driver.told[1]["passed_over"]) == (checkpoint, ("last-0003.pt",))
    assert driver.told[-1]["artifacts"]


def test_driver_can_end_the_run() -> None:
    for last in (0, 2):
        driver = Driver(stop_at=last)
        with pytest.raises(ray_worker._StoppedError):
            _train(CountingRun(), driver)
        assert [message["epoch"] for message in driver.told] == list(range(last + 1))


def test_failure_is_told_with_its_traceback_and_raised() -> None:
    driver = Driver()
    with pytest.raises(NonFiniteLossError):
        _train(CountingRun(fails=NonFiniteLossError(2, 5, {"spbc": float("nan")})), driver)
    failure = driver.told[-1]
    assert isinstance(failure["error"], NonFiniteLossError)
    assert "in train_epoch" in failure["details"]


def test_failure_that_cannot_travel_is_told_by_its_name() -> None:
    class LocalError(Exception):
        pass

    driver = Driver()
    with pytest.raises(LocalError):
        _train(CountingRun(fails=LocalError("why")), driver)
    assert repr(driver.told[-1]["error"]) == "RuntimeError('LocalError: why')"


def test_channel_lets_the_worker_wait_for_the_answer() -> None:
    async def converse() -> tuple[Message, bool, bool]:
        channel = Channel()
        telling = asyncio.create_task(channel.tell({"epoch": 1}))
        message = await channel.take()
        waited = not telling.done()
        await channel.answer(False)
        return message, waited, await telling

    assert asyncio.run(converse()) == ({"epoch": 1}, True, False)
