from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator.cluster.watch import Nodes, RayWatch
from orchestrator.planning.sweep_plan import Resources

OURS, OTHER = "ours", "other"


def node(name: str, *, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"NodeID": name, "Alive": alive, "Resources": resources}


class Lost:
    """Stands for the driver: stops the watch when Ray is gone, as leaving the driver's stack does."""

    def __init__(self) -> None:
        self.came = threading.Event()
        self.watch: RayWatch | None = None

    def __call__(self) -> None:
        self.came.set()
        assert self.watch is not None
        self.watch.stop()


@pytest.fixture
def release() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def begin(ask: Callable[[], Nodes], address: str | None = None, **settings: Any) -> tuple[RayWatch, Lost]:
    lost = Lost()
    watch = RayWatch(address, lost, resume="orchestrator resume s", ask=ask, own_node=OURS, look_s=0.01, **settings)
    lost.watch = watch
    watch.start()
    return watch, lost


def test_a_ray_that_answers_is_no_problem_even_when_another_node_died_or_it_raised_once() -> None:
    answers = threading.Semaphore(0)

    def ask() -> Nodes:
        answers.release()
        asked.append(len(asked))
        if len(asked) == 2:
            raise ConnectionError("for a moment")
        return [node(OURS), node(OTHER, alive=False)]

    asked: list[int] = []
    watch, lost = begin(ask)
    for _ in range(5):
        assert answers.acquire(timeout=240)
    watch.stop()
    assert watch.problem is None
    assert not lost.came.is_set()


def test_a_dead_raylet_is_named_and_the_main_thread_is_told() -> None:
    watch, lost = begin(lambda: [node(OURS, alive=False), node(OTHER)])
    assert lost.came.wait(240)
    assert watch.problem is not None
    assert watch.problem.startswith("the raylet was killed or hangs")


def test_a_ray_that_does_not_answer_is_gone_after_the_stated_time(release: threading.Event) -> None:
    def ask() -> Nodes:
        release.wait()
        return []

    watch, lost = begin(ask, "10.0.0.1:6379", silence_s=0.1)
    assert lost.came.wait(240)
    assert watch.problem is not None
    assert watch.problem.startswith("the Ray cluster at 10.0.0.1:6379 has not answered for 0 s")


def test_a_main_thread_that_does_not_react_ends_with_the_process(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []
    ended = threading.Event()

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    monkeypatch.setattr(os, "_exit", end)
    watch = RayWatch(
        None,
        lambda: None,
        resume="orchestrator resume s",
        ask=lambda: [node(OURS, alive=False)],
        own_node=OURS,
        look_s=0.01,
        grace_s=0.01,
    )
    watch.start()
    assert ended.wait(240)
    watch.stop()
    assert codes == [1]
    assert "Continue: orchestrator resume s" in capfd.readouterr().err


def test_a_shortage_is_what_no_living_node_can_run() -> None:
    watch = RayWatch(None, lambda: None, resume="")
    wide, share = Resources(workers=3, cpus_per_worker=2), Resources(gpus_per_worker=0.25)
    assert watch.find_shortage(wide) is None, "nothing is known yet"
    watch._nodes = [node(OURS, CPU=4.0), node(OTHER, CPU=2.0)]
    assert watch.find_shortage(wide) is None
    shortage = watch.find_shortage(share)
    assert shortage is not None
    assert shortage.startswith("each needs 1 worker x 1 CPU + 0.25 GPU")
    watch._nodes = [node(OURS, CPU=4.0), node(OTHER, alive=False, CPU=2.0, GPU=1.0)]
    assert watch.find_shortage(share) is not None
    shortage = watch.find_shortage(wide)
    assert shortage is not None
    assert shortage.endswith("(1 node is up)")
    watch._nodes = [node(OURS, CPU=5.0), node(OTHER, CPU=1.0)]
    assert watch.find_shortage(wide) is not None, "workers do not span nodes"
    watch._nodes = [node(OURS, CPU=1.0, GPU=0.3)]
    assert watch.find_shortage(share) is None
