"""Test every kind of fault once, on a Ray cluster of several raylets; ``make faults`` repeats them.

The tests share one cluster and its sweeps, so they run in order, each from where the one before stopped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from benchmarks.faults.faults import Faults

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    before = dict(os.environ)
    faults = Faults(tmp_path_factory.mktemp("faults"))
    try:
        faults.begin()
        yield faults
    finally:
        left = faults.close()
        os.environ.clear()
        os.environ.update(before)
    assert left == []


@pytest.fixture
def faults(cluster: Faults, monkeypatch: pytest.MonkeyPatch) -> Faults:
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(cluster.folder))
    return cluster


def check(faults: Faults, num: int = 1) -> None:
    assert [cost.lost for cost in faults.costs[-num:]] == [0] * num


def test_a_trial_actor_killed(faults: Faults) -> None:
    faults.kill_trial_actor()
    check(faults)


def test_a_ray_train_worker_and_what_watches_over_it_killed(faults: Faults) -> None:
    faults.kill_train_worker()
    faults.kill_overseer()
    check(faults, 2)


def test_a_raylet_killed_with_trials_on_it(faults: Faults) -> None:
    faults.kill_node_of_trials()
    check(faults)


def test_a_node_of_a_two_node_trial_killed(faults: Faults) -> None:
    faults.kill_node_of_wide_trial()
    check(faults)


def test_the_driver_killed_once_and_twice(faults: Faults) -> None:
    faults.kill_driver(1)
    faults.kill_driver(2)
    check(faults, 2)


def test_no_space_for_checkpoints(faults: Faults) -> None:
    faults.fill_storage()
    check(faults)


def test_a_checkpoint_cut_short(faults: Faults) -> None:
    faults.cut_checkpoint()
    check(faults)
    assert faults.costs[-1].run_again <= 1, "there is a checkpoint of the epoch before"


def test_both_sweeps_come_to_their_ends_each_by_its_own_code(faults: Faults) -> None:
    assert faults.finish() == []
    check(faults)


def test_a_trial_that_hangs_and_one_that_is_out_of_memory(faults: Faults) -> None:
    assert faults.hang_and_run_out_of_memory() == []
    check(faults, 2)


def test_the_head_lost_and_a_new_cluster_from_the_backup(faults: Faults) -> None:
    assert faults.lose_head() == []
    check(faults)
    assert faults.costs[-1].uncopied > 0
