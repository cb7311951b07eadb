from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from orchestrator.cluster import size
from orchestrator.planning.sweep_plan import Resources


def test_a_cluster_file_says_how_far_the_cluster_may_grow() -> None:
    gpu = {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 4}
    config = {
        "max_workers": 4,
        "head_node_type": "head",
        "available_node_types": {"head": {"resources": {"CPU": 0, "GPU": 0}}, "gpu": gpu},
    }
    assert size.compute_most(config) == {"CPU": 16, "GPU": 4}
    large = {"resources": {"CPU": 8, "GPU": 0}, "max_workers": 3}
    several = {**config, "available_node_types": {**config["available_node_types"], "large": large}}  # type: ignore[dict-item]
    assert size.compute_most(several) == {"CPU": 3 * 8 + 1 * 4, "GPU": 4}
    assert size.compute_most({"provider": {"type": "local"}}) == {"CPU": 0, "GPU": 0}


def test_a_sweep_takes_what_others_leave() -> None:
    found, free = {"CPU": 16.0, "GPU": 8.0}, {"CPU": 6.0, "GPU": 1.5}
    assert size.compute_share(found, free, {}) == {"num_cpus": 6, "num_gpus": 1}
    assert size.compute_share(found, found, {}) == {"num_cpus": 16, "num_gpus": 8}
    assert size.compute_share(found, free, {"CPU": 64, "GPU": 16}) == {"num_cpus": 54, "num_gpus": 9}
    # Ray leaves out what nobody has.
    assert size.compute_share({"CPU": 4.0}, {}, {}) == {"num_cpus": 0, "num_gpus": 0}


def test_the_autoscaler_of_this_cluster_is_found_by_its_address(tmp_path: Path) -> None:
    file = tmp_path / "bootstrap.yaml"
    file.write_text(
        '{"max_workers": 2, "available_node_types": {"gpu": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 2}}}'
    )
    words = [
        sys.executable,
        "-c",
        "import time; time.sleep(60)",
        f"--autoscaling-config={file}",
        "--gcs-address=10.9.8.7:6379",
    ]
    with subprocess.Popen(words) as monitor:
        try:
            assert size._most_of_autoscaler("10.9.8.7:6379") == {"CPU": 8, "GPU": 2}
            assert size._most_of_autoscaler("10.9.8.8:6379") == {}
        finally:
            monitor.kill()


def test_a_trial_that_fits_on_no_node_is_refused_unless_the_cluster_may_grow() -> None:
    cpu, gpu = {"CPU": 4.0}, {"CPU": 8.0, "GPU": 2.0}
    find = size.find_obstacle_to_room
    assert find(Resources(1, 4, 1), [cpu, gpu], {}) is None
    assert find(Resources(2, 4, 1), [gpu], {}) is None
    for resources in (Resources(1, 4, 4), Resources(3, 4, 1), Resources(1, 16), Resources(5, 4)):
        said = find(resources, [cpu, gpu], {})
        assert said is not None
        assert said.startswith(f"A trial needs {resources.describe()}, but the cluster has 2 nodes with at most 8 CPU")
    assert find(Resources(1, 4, 4), [cpu], {"CPU": 64, "GPU": 8}) is None
    assert find(Resources(1, 4, 4), [cpu], {"CPU": 64, "GPU": 2}) is not None
    assert find(Resources(1, 4, 1), [cpu], {}) is not None
