"""Checks what every node of a cluster has and can reach, with one small task each, before a sweep starts."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cluster import node_probe
from orchestrator.cluster.size import grown_resources
from orchestrator.errors import UserError
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.redaction import describe_error, redact
from orchestrator.sweep_folder.checkpoints import checkpoint_uri
from orchestrator.tracking.connection import tracking_uri
from training.config.run import Scalar

# Long, because a node may have to start a worker, import torch, make digit scenes and download weights first.
_ANSWER_S = 120.0
# As Linux names them in /proc/mounts.
_NETWORK_FILE_SYSTEMS = {
    "nfs",
    "nfs4",
    "lustre",
    "ceph",
    "gpfs",
    "beegfs",
    "cifs",
    "smb3",
    "glusterfs",
    "9p",
    "fuse.glusterfs",
    "fuse.s3fs",
}


@dataclass(frozen=True)
class Machines:
    """The machines of a cluster.

    Attributes:
        hosts: The machines of the nodes that are up; several nodes may share one.
        may_grow: Whether the cluster may start more machines by itself.
    """

    hosts: frozenset[str]
    may_grow: bool

    @property
    def are_several(self) -> bool:
        """Whether trials may run on a machine other than the driver's."""
        return len(self.hosts) > 1 or self.may_grow


@dataclass(frozen=True)
class NodeReport:
    """What one node reported.

    Attributes:
        node: The first characters of its id.
        host: Its machine.
        versions: The versions of Python, packages and this code, ``missing`` for what is not installed; and the hashes
            of a run's data and weights, if they were asked for.
        problems: What is wrong, by subject.
    """

    node: str
    host: str
    versions: Mapping[str, str]
    problems: Mapping[str, str]


def find_obstacle_to_sharing(
    tracking: str, storage: str, machines: Machines, blind: Iterable[str], *, is_networked: bool
) -> str | None:
    """Return why a sweep cannot run on these machines with this store and storage, and what to do; None if it can.

    Args:
        tracking: The URI of MLflow's store.
        storage: The folder or URI for checkpoints.
        machines: The machines of the cluster.
        blind: The hosts that cannot see what the driver writes to the storage.
        is_networked: Whether the storage folder is on a network file system. Machines that are not up yet cannot be
            checked for access to it.
    """
    if not machines.are_several:
        return None
    if tracking.startswith("sqlite:"):
        return (
            f"A cluster of several machines needs an MLflow server, but MLflow's store is {tracking}, a file on this "
            "machine. Start a server, and set MLFLOW_TRACKING_URI=http://HOST:5000 in the environment of the nodes."
        )
    blind = sorted(blind)
    if blind:
        return (
            f"{', '.join(blind)} cannot write to the checkpoint storage {storage}, which every node must share. "
            "Use --storage s3://bucket/checkpoints, or a folder that all of them mount."
        )
    if machines.may_grow and "://" not in storage and not is_networked:
        return (
            f"Nodes that start later will not see the checkpoint storage {storage}, a folder on this machine. "
            "Use --storage s3://bucket/checkpoints, or a folder that all nodes mount."
        )
    return None


def require_shared(plan: SweepPlan) -> None:
    """Check that all machines of the joined cluster see what the trials of a plan need.

    Raises:
        UserError: They do not.
    """
    machines = look_at_machines()
    if not machines.are_several:
        return
    storage = checkpoint_uri(plan).removeprefix("file://")
    blind = [] if "://" in storage else find_blind_hosts(Path(storage))
    obstacle = find_obstacle_to_sharing(
        tracking_uri(), storage, machines, blind, is_networked=is_networked(Path(storage))
    )
    if obstacle is not None:
        raise UserError(obstacle)


def look_at_machines() -> Machines:
    """Return the machines of the joined cluster."""
    import ray

    now: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    # If the cluster may get more GPUs or CPUs than it has now, they come with more machines.
    grows = any(count > now.get(name, 0) for name, count in grown_resources().items() if name in ("CPU", "GPU"))
    return Machines(frozenset(node["NodeManagerHostname"] for node in _living_nodes()), grows)


def find_blind_hosts(folder: Path) -> list[str]:
    """Return the hosts that do not see what this process writes into a folder, or cannot write there themselves."""
    return sorted({report.host for report in ask_nodes(storage=str(folder)) if report.problems})


def ask_nodes(
    *,
    stores: Mapping[str, str] | None = None,
    storage: str | None = None,
    tracking: str | None = None,
    config: Mapping[str, Scalar] | None = None,
) -> list[NodeReport]:
    """Run one small task on each living node of the joined cluster, and return the reports, the driver's node first.

    Args:
        stores: The URIs of prepared data to open, by name.
        storage: The place for checkpoints to write to.
        tracking: The URI of the MLflow server to reach.
        config: The settings of a run, whose data and weights to prepare or fetch as a trial does.

    Raises:
        UserError: The storage is a folder that cannot be written here.
    """
    import ray
    from ray import cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Sent by value, so that it also runs on a node that lacks this package: that is one of the faults it looks for.
    cloudpickle.register_pickle_by_value(node_probe)  # type: ignore[no-untyped-call]
    # Without a CPU, so that it also runs on a node whose CPUs are all taken.
    task: Any = ray.remote(num_cpus=0, max_retries=0)(node_probe.probe)
    here = ray.get_runtime_context().get_node_id()
    nodes = sorted(
        _living_nodes(), key=lambda node: (node["NodeID"] != here, node["NodeManagerHostname"], node["NodeID"])
    )
    with _marked(storage) as marker:
        wanted = {
            "stores": dict(stores or {}),
            "storage": storage,
            "tracking_uri": tracking,
            "config": dict(config) if config else None,
            "marker": marker,
        }
        # Not soft: another node would answer in the place of the one that cannot.
        answers = [
            task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(wanted)
            for node in nodes
        ]
        # One time-out for all nodes together: one by one, each silent node would take all of it again.
        ray.wait(answers, num_returns=len(answers), timeout=_ANSWER_S)
        return [_read_answer(node, answer) for node, answer in zip(nodes, answers, strict=True)]


def compare_versions(reports: Iterable[NodeReport]) -> list[NodeReport]:
    """Return the reports with a problem added for each package that a node lacks, or has in an unusual version.

    The usual version is the one that most nodes have; if two are equally common, the driver's, which comes first.
    """
    reports = list(reports)
    names = dict.fromkeys(name for report in reports for name in report.versions)
    usual = {
        name: Counter(report.versions[name] for report in reports if name in report.versions).most_common(1)[0][0]
        for name in names
    }
    return [
        NodeReport(
            report.node, report.host, report.versions, {**report.problems, **_odd_versions(report.versions, usual)}
        )
        for report in reports
    ]


def is_networked(folder: Path) -> bool:
    """Return whether a folder is on a file system that other machines can mount."""
    import psutil

    path = str(folder.absolute())
    mounts = [
        mount
        for mount in psutil.disk_partitions(all=True)
        if os.path.commonpath([path, mount.mountpoint]) == mount.mountpoint
    ]
    # Mounts are nested, and the folder is on the innermost one.
    return bool(mounts) and max(mounts, key=lambda mount: len(mount.mountpoint)).fstype in _NETWORK_FILE_SYSTEMS


@contextmanager
def _marked(storage: str | None) -> Iterator[str | None]:
    """Put a file into a folder for the ``with`` block: nodes that see the file share the folder.

    A URI needs no such file.
    """
    if storage is None or "://" in storage:
        yield None
        return
    try:
        Path(storage).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=storage, prefix=".seen-") as marker:
            yield marker.name
    except OSError as error:
        raise UserError(
            f"Cannot write to the checkpoint storage {storage} ({error.strerror}). Name another: --storage URI"
        ) from None


def _living_nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _read_answer(node: Mapping[str, Any], answer: Any) -> NodeReport:
    import ray

    name, host = node["NodeID"][:8], node["NodeManagerHostname"]
    try:
        said = ray.get(answer, timeout=0)
    except Exception as error:  # Ray raises many kinds: the node is gone, the task could not start, ...
        said = {"versions": {}, "problems": {"task": describe_error(error)}}
    # Library error messages may contain the URI they were given, including its password.
    return NodeReport(
        name, host, said["versions"], {subject: redact(problem) for subject, problem in said["problems"].items()}
    )


def _odd_versions(versions: Mapping[str, str], usual: Mapping[str, str]) -> dict[str, str]:
    missing = {name: "is not installed" for name, version in versions.items() if version == "missing"}
    return missing | {
        name: f"{version}, but most nodes have {usual[name]}"
        for name, version in versions.items()
        if version not in ("missing", usual[name])
    }
