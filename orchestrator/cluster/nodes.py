"""What the nodes of a cluster see and have: asked by one small task each, before anything is spent on a sweep."""

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

_ANSWER_S = 120.0
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
        hosts: Of the nodes that are up; several nodes may share one.
        may_grow: Whether it starts more by itself.
    """

    hosts: frozenset[str]
    may_grow: bool

    @property
    def are_several(self) -> bool:
        """Whether trials may run on another machine than the driver."""
        return len(self.hosts) > 1 or self.may_grow


@dataclass(frozen=True)
class NodeReport:
    """What one node said of itself.

    Attributes:
        node: Its id, short.
        host: Its machine.
        versions: Of Python, packages and this code; ``missing`` where there is none.
        problems: Subject -> what is wrong.
    """

    node: str
    host: str
    versions: Mapping[str, str]
    problems: Mapping[str, str]


def find_obstacle_to_sharing(
    tracking: str, storage: str, machines: Machines, blind: Iterable[str], *, is_networked: bool
) -> str | None:
    """Return why a sweep must not run on these machines with this store and storage, and the remedy; None if it may.

    Args:
        tracking: URI of MLflow's store.
        storage: Folder or URI under which checkpoints go.
        machines: Of the cluster.
        blind: Hosts that do not see what the driver writes there.
        is_networked: Whether a folder lies on a file system of the network; of machines that are not up yet, only this
            tells.
    """
    if not machines.are_several:
        return None
    if tracking.startswith("sqlite:"):
        return (
            f"MLflow's store must be a server when a cluster has several machines, but got {tracking}, a file of this "
            f"one. "
            "Start a server, and set MLFLOW_TRACKING_URI=http://HOST:5000 in the environment of the nodes."
        )
    blind = sorted(blind)
    if blind:
        return (
            f"checkpoint storage must be seen by every node, but got {storage}, which {', '.join(blind)} cannot see. "
            "Name one that all see: --storage s3://bucket/checkpoints, or a folder that all of them mount."
        )
    if machines.may_grow and "://" not in storage and not is_networked:
        return (
            f"checkpoint storage must be seen by nodes that are still to start, but got {storage}, a folder of this "
            f"machine. "
            "Name one that all see: --storage s3://bucket/checkpoints, or a folder that all of them mount."
        )
    return None


def require_shared(plan: SweepPlan) -> None:
    """Check, in a cluster that was joined, that all its machines see what the trials of a plan need.

    Raises:
        UserError: They do not; the message says what to do.
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
    """Return the machines of the cluster that was joined."""
    import ray

    now: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    # GPUs and CPUs that are not there yet come with machines that are not there yet.
    grows = any(count > now.get(name, 0) for name, count in grown_resources().items() if name in ("CPU", "GPU"))
    return Machines(frozenset(node["NodeManagerHostname"] for node in _living_nodes()), grows)


def find_blind_hosts(folder: Path) -> list[str]:
    """Return the hosts that do not see, or cannot write, what this process writes into a folder."""
    return sorted({report.host for report in ask_nodes(storage=str(folder)) if report.problems})


def ask_nodes(
    *,
    stores: Mapping[str, str] | None = None,
    storage: str | None = None,
    tracking: str | None = None,
    model: tuple[str, str] | None = None,
) -> list[NodeReport]:
    """Have one small task look at each living node of the cluster that was joined; return what they say, the driver's
    node first.

    Args:
        stores: Name -> URI of prepared data.
        storage: Where checkpoints would go.
        tracking: URI of MLflow's server.
        model: Backbone and weights.

    Raises:
        UserError: The storage is a folder that cannot be written here.
    """
    import ray
    from ray import cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    cloudpickle.register_pickle_by_value(node_probe)  # type: ignore[no-untyped-call]
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
            "model": model,
            "marker": marker,
        }
        answers = [
            task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(wanted)
            for node in nodes
        ]
        ray.wait(answers, num_returns=len(answers), timeout=_ANSWER_S)
        return [_read_answer(node, answer) for node, answer in zip(nodes, answers, strict=True)]


def compare_versions(reports: Iterable[NodeReport]) -> list[NodeReport]:
    """Return the reports with a further problem for every package that is missing on a node, or is not what most nodes
    have.

    Of two that are equally frequent, that of the first report, the driver's node, is taken for right.
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
    """Return whether a folder lies on a file system that other machines may mount."""
    import psutil

    path = str(folder.absolute())
    mounts = [
        mount
        for mount in psutil.disk_partitions(all=True)
        if os.path.commonpath([path, mount.mountpoint]) == mount.mountpoint
    ]
    return bool(mounts) and max(mounts, key=lambda mount: len(mount.mountpoint)).fstype in _NETWORK_FILE_SYSTEMS


@contextmanager
def _marked(storage: str | None) -> Iterator[str | None]:
    """Have a file in a folder by which it is known elsewhere; of a URI there is no other one."""
    if storage is None or "://" in storage:
        yield None
        return
    try:
        Path(storage).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=storage, prefix=".seen-") as marker:
            yield marker.name
    except OSError as error:
        raise UserError(
            f"checkpoint storage must be a folder that can be written, but got {storage} ({error.strerror}). Name "
            f"another: --storage URI"
        ) from None


def _living_nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _read_answer(node: Mapping[str, Any], answer: Any) -> NodeReport:
    import ray

    name, host = node["NodeID"][:8], node["NodeManagerHostname"]
    try:
        said = ray.get(answer, timeout=0)
    except Exception as error:  # of Ray, in many kinds: the node went, the task could not start
        said = {"versions": {}, "problems": {"task": describe_error(error)}}
    # Libraries repeat the URI that they were given.
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
