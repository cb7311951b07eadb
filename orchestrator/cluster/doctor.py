"""What is there for a sweep, what is not, and the command that mends it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sqlite3
import stat
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from orchestrator.cluster.nodes import (
    Machines,
    NodeReport,
    ask_nodes,
    compare_versions,
    find_obstacle_to_sharing,
    look_at_machines,
)
from orchestrator.cluster.session import joined
from orchestrator.cluster.token import token_file
from orchestrator.datasets.listing import list_prepared
from orchestrator.datasets.prepared import EMBEDDED, IMAGE_DATASETS, list_stores, prepare_command
from orchestrator.home import HOME_VARIABLE, data_dir, home
from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.provenance import read_build
from orchestrator.redaction import redact
from orchestrator.uris import require_no_credentials
from orchestrator.writable import find_obstacle
from training.cache import cache_dir
from training.config.run import Scalar

MIN_PYTHON = (3, 11)
MIN_FREE_GIB = 5.0
STORE_TIMEOUT_S = 5.0
PHOTOS = ("china.jpg", "flower.jpg")
INSTALL = "make clean setup"


class Health(StrEnum):
    """What a check found."""

    OK = "ok"
    ABSENT = "absent"
    """Not there, and nothing in the main job needs it."""
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        mend: The command, or what to do; empty where there is nothing to mend.
    """

    subject: str
    health: Health
    detail: str
    mend: str = ""


def diagnose() -> list[Finding]:
    """Run every check; none of them starts, changes or downloads anything."""
    return [_guarded(check) for check in _CHECKS]


def diagnose_nodes(
    address: str, space: str | None = None, storage: str | None = None, overrides: Mapping[str, Scalar] | None = None
) -> tuple[list[NodeReport], Machines]:
    """Have every node of a cluster look at what a sweep needs; nothing is started but one small task on each.

    Args:
        address: Of the cluster.
        space: Its data and weights are looked at; None is all that was prepared from this home, and no weights.
        storage: Where checkpoints would go.
        overrides: Settings in place of the space's, as ``--set`` of a sweep: ``data.store``, say.

    Raises:
        SpaceError: The space is at fault.
        UserError: A setting is at fault, or a place holds credentials.
        OrchestratorError: There is no Ray at that address.
    """
    from orchestrator.tracking.store import tracking_uri

    require_no_credentials("--storage", storage)
    stores, model, problems = list_stores(), None, {}
    if space is not None:
        base = make_plan(PlanRequest(space, overrides=overrides or {}, num_cpus=1, num_gpus=0)).base
        problems = _find_missing_store(base)
        stores = {str(base["data.name"]): str(base["data.store"])} if base.get("data.store") else {}
        # Weights that are made beside the scenes are made on the node.
        model = (
            None if base["model.weights"] == "pretext" else (str(base["model.backbone"]), str(base["model.weights"]))
        )
    tracking = tracking_uri()
    with joined(address):
        reports = ask_nodes(
            stores=stores, storage=storage, tracking=tracking if tracking.startswith("http") else None, model=model
        )
        machines = look_at_machines()
    obstacle = find_obstacle_to_sharing(tracking, "", machines, (), is_networked=True)
    if obstacle is not None:
        problems["MLflow"] = obstacle
    # It is the driver's node that has them, the first.
    reports[0] = replace(reports[0], problems={**reports[0].problems, **problems})
    return compare_versions(reports), machines


def _find_missing_store(base: Mapping[str, Scalar]) -> dict[str, str]:
    name = str(base["data.name"])
    if name == EMBEDDED or base.get("data.store"):
        return {}
    return {
        f"data: {name}": f"its store must be named or known where the driver runs, but it is neither. Prepare it once "
        f"({prepare_command(name)} --out s3://bucket/{name}), and name it here and to the sweep: --set data.store=s3://bucket/{name}"
    }


def list_mends(findings: Iterable[Finding]) -> dict[str, str]:
    """Return command -> what it mends; one command may mend several."""
    mends: dict[str, list[str]] = {}
    for finding in findings:
        if finding.mend:
            mends.setdefault(finding.mend, []).append(finding.subject)
    return {command: ", ".join(subjects) for command, subjects in mends.items()}


def is_healthy(findings: list[Finding]) -> bool:
    """Whether nothing keeps a sweep on the embedded dataset from running."""
    return all(finding.health is not Health.FAIL for finding in findings)


def check_python() -> Finding:
    """Check the interpreter's version."""
    version = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] < MIN_PYTHON:
        return Finding("Python", Health.FAIL, version, "PYTHON=python3.12 make clean setup")
    return Finding("Python", Health.OK, version)


def check_package() -> Finding:
    """Say which code this is."""
    build = read_build()
    changed = " with uncommitted changes" if build["dirty"] == "true" else ""
    return Finding(
        "orchestrator",
        Health.OK,
        f"{_version('spml-orchestrator')}, commit {build['commit'][:12]}{changed}, lock {build['lock_hash']}",
    )


def check_torch() -> Finding:
    """Import torch and torchvision; operators built for another torch fail here, not in a trial."""
    import torch
    import torchvision

    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    return Finding(
        "torch",
        Health.OK,
        f"{torch.__version__} with torchvision {torchvision.__version__}, {os.cpu_count()} CPU cores",
    )


def check_cuda() -> Finding:
    """Say which GPUs torch can use, and warn of one that it cannot."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Finding("CUDA", Health.OK, f"{torch.version.cuda}: {', '.join(names)}")
    if shutil.which("nvidia-smi"):
        return Finding(
            "CUDA",
            Health.WARN,
            f"a driver is installed, but torch (CUDA {torch.version.cuda}) cannot use it",
            "nvidia-smi",
        )
    return Finding("CUDA", Health.ABSENT, "no GPU: everything runs on CPU")


def check_ray() -> Finding:
    """Say which Ray this is, and whether the environment sends it to a cluster."""
    address = os.environ.get("RAY_ADDRESS")
    detail = f"{_version('ray')}, Tune and Train"
    import ray.train
    import ray.tune  # noqa: F401 - an extra that is not installed fails here

    if address:
        return Finding(
            "Ray",
            Health.WARN,
            f"{detail}; RAY_ADDRESS={address}, but a sweep without --address is local",
            "unset RAY_ADDRESS",
        )
    return Finding("Ray", Health.OK, detail)


def check_token() -> Finding:
    """Check that nobody else can read Ray's token, which is the key to run code on the cluster."""
    path = token_file()
    if not path.exists():
        return Finding("Ray token", Health.ABSENT, f"{path} is not there; Ray makes it with the first cluster")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Finding("Ray token", Health.FAIL, f"{path} has mode {mode:o}: others can read it", f"chmod 600 {path}")
    return Finding("Ray token", Health.OK, f"{path} has mode {mode:o}")


def check_store() -> Finding:
    """Look whether MLflow's store can be read, without making it."""
    from orchestrator.tracking.store import tracking_uri

    uri = tracking_uri()
    if uri.startswith("sqlite:///"):
        return _check_sqlite(Path(uri.removeprefix("sqlite:///")))
    if uri.startswith(("http://", "https://")):
        return _check_server(uri)
    return Finding("MLflow store", Health.WARN, f"{redact(uri)} is not looked into from here")


def check_home() -> Finding:
    """Check that the home can be written."""
    obstacle = find_obstacle(home())
    if obstacle is not None:
        return Finding(
            "home", Health.FAIL, f"{home()} cannot be written ({obstacle})", f"export {HOME_VARIABLE}=~/orchestrator"
        )
    count = len(list((home() / "sweeps").glob("*/plan.json")))
    return Finding("home", Health.OK, f"{home()}, {count} sweep{'' if count == 1 else 's'}")


def check_cache() -> Finding:
    """Check that what can be made again, such as the scenes, can be kept."""
    obstacle = find_obstacle(cache_dir())
    if obstacle is not None:
        return Finding(
            "cache",
            Health.FAIL,
            f"{cache_dir()} cannot be written ({obstacle})",
            f"export XDG_CACHE_HOME={home() / 'cache'}",
        )
    return Finding("cache", Health.OK, str(cache_dir()))


def check_disk() -> Finding:
    """Check the space left for checkpoints and artifacts."""
    usage = shutil.disk_usage(_nearest_existing(home()))
    free_gib = usage.free / 2**30
    detail = f"{free_gib:.1f} of {usage.total / 2**30:.0f} GiB free at {home()}"
    if free_gib < MIN_FREE_GIB:
        return Finding("disk", Health.WARN, detail, f"free some, or export {HOME_VARIABLE}=<a folder on another disk>")
    return Finding("disk", Health.OK, detail)


def check_digits() -> Finding:
    """Check what the embedded dataset is made from, and whether scenes are cached."""
    package = importlib.util.find_spec("sklearn")  # not imported, which takes seconds
    images = Path(package.origin).parent / "datasets" / "images" if package and package.origin else Path("sklearn")
    missing = [photo for photo in PHOTOS if not (images / photo).is_file()]
    if missing:
        return Finding("data: digits", Health.FAIL, f"scikit-learn lacks {', '.join(missing)}", INSTALL)
    cached = sum(path.stat().st_size for path in cache_dir().rglob("*") if path.is_file()) / 2**20
    state = (
        f"cached: {cached:.0f} MiB in {cache_dir()}"
        if cached
        else f"scenes are made once, under 20 s, into {cache_dir()}"
    )
    return Finding("data: digits", Health.OK, state)


def check_prepared_data() -> Finding:
    """Say which image datasets are prepared, and which of them do not open."""
    found = list_prepared()
    ready = [entry.name for entry in found if entry.is_ready]
    broken = [entry for entry in found if not entry.is_ready]
    if broken:
        state = "; ".join(f"{entry.name} is not ready: {entry.state}" for entry in broken)
        return Finding(
            "data: images", Health.WARN, f"{', '.join(ready) or 'none'} ready; {state}", prepare_command(broken[0].name)
        )
    missing = [name for name in IMAGE_DATASETS if name not in ready]
    if not ready:
        return Finding(
            "data: images", Health.ABSENT, f"none prepared under {data_dir('')}", prepare_command(missing[0])
        )
    return Finding(
        "data: images", Health.OK, f"{', '.join(ready)} prepared" + (f"; not {', '.join(missing)}" if missing else "")
    )


def _check_sqlite(path: Path) -> Finding:
    if not path.exists() and (obstacle := find_obstacle(path.parent)):
        return Finding(
            "MLflow store", Health.FAIL, f"{path} cannot be made ({obstacle})", f"export {HOME_VARIABLE}=~/orchestrator"
        )
    if not path.exists():
        return Finding("MLflow store", Health.OK, f"{path} is made by the first sweep")
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=STORE_TIMEOUT_S) as store:
            (num_runs,) = store.execute("select count(*) from runs").fetchone()
    except sqlite3.Error as error:
        # What it holds can be written again from the journals, so it is safe to move away.
        return Finding("MLflow store", Health.FAIL, f"{path} cannot be read ({error})", f"mv {path} {path}.broken")
    return Finding("MLflow store", Health.OK, f"{path}, {num_runs} runs")


def _check_server(uri: str) -> Finding:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=STORE_TIMEOUT_S):
            return Finding("MLflow store", Health.OK, f"{redact(uri)} answers")
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Finding(
            "MLflow store", Health.WARN, f"{redact(uri)} does not answer ({reason})", "unset MLFLOW_TRACKING_URI"
        )


def _nearest_existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _guarded(check: Callable[[], Finding]) -> Finding:
    """Turn a broken installation into a finding: what fails to import is what the user wants to hear of."""
    try:
        return check()
    except Exception as error:
        subject = check.__name__.removeprefix("check_")
        return Finding(subject, Health.FAIL, f"{type(error).__name__}: {error}".splitlines()[0], INSTALL)


_CHECKS: tuple[Callable[[], Finding], ...] = (
    check_python,
    check_package,
    check_torch,
    check_cuda,
    check_ray,
    check_token,
    check_store,
    check_home,
    check_cache,
    check_disk,
    check_digits,
    check_prepared_data,
)
