from __future__ import annotations

from orchestrator.planning.sweep_plan import Resources
from orchestrator.sweep_folder.records import Handout
from orchestrator.trials.placement import OVERSEER_BYTES, DeadTrials, group_name, request_resources, runs_over_train
from tests.kit.sweeps import make_sweep


def handout(*, alone: bool = False) -> Handout:
    return Handout(7, {}, handed_ms=123, alone=alone)


def test_one_worker_takes_its_share_and_after_out_of_memory_a_gpu_for_itself() -> None:
    plan = make_sweep(resources=Resources(cpus_per_worker=4, gpus_per_worker=0.5))
    assert not runs_over_train(plan)
    assert request_resources(plan, handout()).bundles == [{"CPU": 4.0, "GPU": 0.5}]
    assert request_resources(plan, handout(alone=True)).bundles == [{"CPU": 4.0, "GPU": 1.0}]


def test_what_watches_over_workers_takes_no_cpu() -> None:
    for sweep_id, changes in (("a-00000001", {"resources": Resources(workers=2)}), ("b-00000001", {"kind": "promote"})):
        plan = make_sweep(sweep_id, **changes)
        assert runs_over_train(plan)
        assert request_resources(plan, handout()).bundles == [{"memory": float(OVERSEER_BYTES)}]


def test_an_attempt_has_a_name_of_its_own() -> None:
    assert group_name("digits-00000001", handout()) == "digits-00000001/t0007/123"


def test_what_a_dead_attempt_holds_is_looked_for_once_a_second_for_a_minute() -> None:
    now, removed = [0.0], list[str]()

    def remove(name: str) -> int:
        removed.append(name)
        return 1

    dead = DeadTrials(clock=lambda: now[0], remove=remove)
    dead.end()
    assert removed == []
    dead.add("a")
    for step in range(1000):
        now[0] = step / 10
        dead.end()
    assert 58 <= len(removed) <= 62
    assert set(removed) == {"a"}
