"""Counts the CPUs and GPUs of a cluster, including those that its autoscaler may still start."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from orchestrator import ray_compat
from orchestrator.cluster.session import joined
from orchestrator.errors import UserError
from orchestrator.planning.sweep_plan import Resources
from training.counts import counted


def count_cluster(address: str) -> dict[str, int]:
    """Return ``num_cpus`` and ``num_gpus`` of the cluster at an address, at its maximum size.

    Raises:
        OrchestratorError: No Ray answers at that address.
    """
    import ray

    with joined(address):
        found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        most = grown_resources()
    return {f"num_{name.lower()}s": int(max(found.get(name, 0), most.get(name, 0))) for name in ("CPU", "GPU")}


def count_share(address: str) -> dict[str, int]:
    """Return ``num_cpus`` and ``num_gpus`` that nobody uses now of the cluster at an address, at its maximum size.

    A cluster is shared: by default a sweep takes what others leave, and queues no trials behind theirs.

    Raises:
        OrchestratorError: No Ray answers at that address.
    """
    import ray

    with joined(address):
        found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        return compute_share(found, free, grown_resources())


def count_machine(address: str | None) -> dict[str, int]:
    """Return what a plan may use by default: :func:`count_share` of the cluster at an address.

    Empty without an address, because a plan counts this machine itself.
    """
    return {} if address is None else count_share(address)


def compute_share(found: Mapping[str, float], free: Mapping[str, float], most: Mapping[str, int]) -> dict[str, int]:
    """Return what a cluster has at its maximum size, without what is in use.

    Args:
        found: Resources of the nodes that are up.
        free: What of them nobody uses.
        most: Resources at maximum size; empty if it does not grow.
    """
    used = {name: found.get(name, 0.0) - free.get(name, 0.0) for name in ("CPU", "GPU")}
    return {f"num_{name.lower()}s": int(max(found.get(name, 0), most.get(name, 0)) - used[name]) for name in used}


def grown_resources() -> dict[str, int]:
    """Return the resources that the joined cluster can grow to; empty if it does not grow or its limit is unknown.

    Ray knows the limit only where an operator (KubeRay, say) reports it. On a cluster started by `ray up`, it is in the
    file that the autoscaler reads. That file is on the head, which is where submitted verbs run.
    """
    import ray

    most = ray_compat.read_operator_limits() or _most_of_autoscaler(ray.get_runtime_context().gcs_address)
    # Ray reports "no limit" as the largest integer, which is no size to plan with.
    return {name: count for name, count in most.items() if 0 < count < sys.maxsize}


def require_room(resources: Resources) -> None:
    """Check that the joined cluster has what a trial requests, now or at its maximum size.

    Ray would wait for it without a word.

    Raises:
        UserError: It has not.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    obstacle = find_obstacle_to_room(resources, nodes, grown_resources())
    if obstacle is not None:
        raise UserError(obstacle)


def find_obstacle_to_room(
    resources: Resources, nodes: Sequence[Mapping[str, float]], grown: Mapping[str, int]
) -> str | None:
    """Return why no trial can run on a cluster, or None.

    Args:
        resources: Of a trial.
        nodes: The resources of each node that is up.
        grown: The resources of the cluster at its maximum size; empty if that is unknown or it does not grow.
    """
    if sum(count_workers(node, resources) for node in nodes) >= resources.workers:
        return None
    # The sizes of nodes that are not up yet are unknown, so only their sum can be compared.
    if any(grown.values()) and all(
        grown.get(name, 0) >= resources.workers * share for name, share in _shares(resources).items()
    ):
        return None
    largest = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in ("CPU", "GPU")}
    up = f"{counted(len(nodes), 'node')} with at most"
    return (
        f"A trial needs {resources.describe()}, but the cluster has {up} {largest['CPU']:g} CPU and "
        f"{largest['GPU']:g} GPU each. Add nodes, or request less with --set resources.cpus_per_worker=..., "
        "resources.gpus_per_worker=... or resources.workers=..."
    )


def count_workers(node: Mapping[str, float], resources: Resources) -> int:
    """Return how many workers of a trial fit on an empty node."""
    # Shares such as 0.1 are not exact in binary.
    return min(int(node.get(name, 0.0) / share + 1e-9) for name, share in _shares(resources).items())


def _shares(resources: Resources) -> dict[str, float]:
    wanted = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    return {name: share for name, share in wanted.items() if share > 0}


def compute_most(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the most CPUs and GPUs that a cluster file allows: on the head and up to ``max_workers`` workers."""
    types: dict[str, dict[str, Any]] = dict(config.get("available_node_types") or {})
    head = types.get(str(config.get("head_node_type")), {}).get("resources") or {}
    limit = int(config.get("max_workers") or 0)
    most = {}
    for name in ("CPU", "GPU"):
        left, total = limit, int(head.get(name, 0))
        counts = (
            (int((kind.get("resources") or {}).get(name, 0)), int(kind.get("max_workers", 0)))
            for kind in types.values()
        )
        # Largest first; each node type has its own limit in addition to the cluster's.
        for each, number in sorted(counts, reverse=True):
            total, left = total + each * min(number, left), left - min(number, left)
        most[name] = total
    return most


def _most_of_autoscaler(gcs_address: str) -> dict[str, int]:
    """Return what the cluster's autoscaler may start, if it runs on this machine: its command line names its file."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError, ValueError, YAMLError):
            words = process.cmdline()
            files = [word.partition("=")[2] for word in words if word.startswith("--autoscaling-config=")]
            # The machine may run the head of another cluster too.
            if files and f"--gcs-address={gcs_address}" in words:
                config = YAML(typ="safe", pure=True).load(Path(files[0]).expanduser().read_text(encoding="utf-8"))
                return compute_most(config) if isinstance(config, dict) else {}
    return {}
