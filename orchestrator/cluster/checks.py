"""Checks what a sweep needs on this machine: one function per line of `orchestrator doctor`."""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import sqlite3
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.cluster.token import token_file
from orchestrator.datasets.listing import list_prepared
from orchestrator.health import ask_database, ask_mlflow
from orchestrator.home import HOME_VARIABLE, datasets_dir, home
from orchestrator.provenance import read_build
from orchestrator.redaction import describe_error, redact
from orchestrator.writable import find_obstacle
from training.cache import cache_dir
from training.counts import counted
from training.data.dataset_names import IMAGE_DATASETS, prepare_command
from training.errors import first_line

MIN_PYTHON = (3, 11)
MIN_FREE_GIB = 5.0
STORE_TIMEOUT_S = 5.0
# Those from which training.data.digits cuts its backgrounds; importing that module would import torch.
PHOTOS = ("china.jpg", "flower.jpg")
_CHECKOUT = Path(__file__).parents[2]
# In a checkout, make installs the versions of the lock file; elsewhere only the wheel knows what it needs.
INSTALL = (
    f"make -C {shlex.quote(str(_CHECKOUT))} clean setup"
    if (_CHECKOUT / "Makefile").is_file()
    else "install this program again: python -m pip install --force-reinstall <its wheel>"
)
_OTHER_HOME = f"export {HOME_VARIABLE}=<a folder that you can write>"


class Health(StrEnum):
    """What a check found."""

    OK = "ok"
    ABSENT = "absent"
    """Missing, but sweeps do not need it."""
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        subject: What was checked.
        health: Its state.
        detail: What was found.
        fix: The command that fixes it, or a sentence that says what to do; empty if there is nothing to fix.
    """

    subject: str
    health: Health
    detail: str
    fix: str = ""


def check_python() -> Finding:
    """Check the version of the interpreter."""
    version = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] < MIN_PYTHON:
        return Finding("Python", Health.FAIL, version, "PYTHON=python3.12 make clean setup")
    return Finding("Python", Health.OK, version)


def check_package() -> Finding:
    """Say which version of this program runs."""
    build = read_build()
    changed = " with uncommitted changes" if build["dirty"] == "true" else ""
    return Finding(
        "orchestrator",
        Health.OK,
        f"{_version('spml-orchestrator')}, commit {build['commit'][:12]}{changed}, lock {build['lock_hash']}",
    )


def check_torch() -> Finding:
    """Check that torch and torchvision work together."""
    import torch
    import torchvision

    # Operators built for another torch fail at their first call, so make that call here rather than in a trial.
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    return Finding(
        "torch",
        Health.OK,
        f"{torch.__version__} with torchvision {torchvision.__version__}, {os.cpu_count()} CPU cores",
    )


def check_cuda() -> Finding:
    """List the GPUs that torch can use; warn if there is a driver but torch cannot use it."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Finding("CUDA", Health.OK, f"{torch.version.cuda}: {', '.join(names)}")
    # NVIDIA's driver brings this program along, so where it is missing there is no GPU that torch could use.
    if shutil.which("nvidia-smi") is None:
        return Finding("CUDA", Health.ABSENT, "no NVIDIA driver: everything runs on the CPU")
    reason = _find_cuda_problem()
    return Finding(
        "CUDA",
        Health.WARN,
        f"an NVIDIA driver is installed, but torch cannot use it: {reason}",
        choose_cuda_fix(torch.version.cuda, os.environ.get("CUDA_VISIBLE_DEVICES"), reason),
    )


def choose_cuda_fix(torch_cuda: str | None, visible: str | None, reason: str) -> str:
    """Return what to do when torch cannot use the GPUs of a machine that has NVIDIA's driver.

    Args:
        torch_cuda: The CUDA version that torch was built with; None for a build without CUDA.
        visible: The value of ``CUDA_VISIBLE_DEVICES``; None if it is not set.
        reason: What torch says.
    """
    if torch_cuda is None:
        return INSTALL
    if visible is not None and visible.strip() in ("", "-1"):
        return "unset CUDA_VISIBLE_DEVICES"
    # Torch has no class or code for this, only "The NVIDIA driver on your system is too old".
    if "too old" in reason:
        return f"update NVIDIA's driver to one that supports CUDA {torch_cuda} or newer"
    return "run `nvidia-smi`; if it lists no GPU, restart the machine or reinstall NVIDIA's driver"


def check_ray() -> Finding:
    """Check that Ray is installed with Tune and Train, and that no environment variable points it to a cluster."""
    address = os.environ.get("RAY_ADDRESS")
    detail = f"{_version('ray')}, Tune and Train"
    import ray.train
    import ray.tune  # noqa: F401 - fails here if the extras of Ray are not installed

    if address:
        return Finding(
            "Ray",
            Health.WARN,
            f"{detail}; RAY_ADDRESS={redact(address)} is set, but only --address sends a sweep to a cluster",
            "unset RAY_ADDRESS",
        )
    return Finding("Ray", Health.OK, detail)


def check_token() -> Finding:
    """Check that nobody else can read Ray's token: anyone who has it can run code on the cluster."""
    path = token_file()
    if not path.exists():
        return Finding("Ray token", Health.ABSENT, f"{path} does not exist; the first sweep or cluster creates it")
    mode = stat.S_IMODE(path.stat().st_mode)
    # Any right of the group or of others.
    if mode & 0o077:
        return Finding(
            "Ray token",
            Health.FAIL,
            f"{path} has mode {mode:o}: others can read it",
            f"chmod 600 {shlex.quote(str(path))}",
        )
    return Finding("Ray token", Health.OK, f"{path} has mode {mode:o}")


def check_store() -> Finding:
    """Check that MLflow's store can be reached, without creating it."""
    from orchestrator.tracking.connection import tracking_uri

    uri = tracking_uri()
    # SQLAlchemy's schemes may name a driver too: postgresql+psycopg2.
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme in ("http", "https"):
        return _check_server(uri)
    if scheme == "sqlite":
        return _check_sqlite(uri)
    if scheme in ("postgresql", "mysql", "mssql"):
        return _check_database(uri)
    # MLflow also accepts the bare word, without a scheme.
    if scheme.startswith("databricks") or uri.startswith("databricks"):
        return Finding(
            "MLflow store",
            Health.WARN,
            f"{redact(uri)} is not checked here",
            "check it with Databricks' own tool: databricks auth describe",
        )
    return Finding(
        "MLflow store",
        Health.WARN,
        f"{redact(uri)} is neither a server nor a database, and MLflow no longer writes into folders",
        "unset MLFLOW_TRACKING_URI to use sqlite in the home, or set it to http://HOST:5000",
    )


def check_home() -> Finding:
    """Check that the home can be written."""
    obstacle = find_obstacle(home())
    if obstacle is not None:
        return Finding("home", Health.FAIL, f"{home()} cannot be written ({obstacle})", _OTHER_HOME)
    count = len(list((home() / "sweeps").glob("*/plan.json")))
    return Finding("home", Health.OK, f"{home()}, {counted(count, 'sweep')}")


def check_cache() -> Finding:
    """Check that the cache can be written: it keeps what would take time to recompute."""
    obstacle = find_obstacle(cache_dir())
    if obstacle is not None:
        return Finding(
            "cache",
            Health.FAIL,
            f"{cache_dir()} cannot be written ({obstacle})",
            f"export XDG_CACHE_HOME={shlex.quote(str(home() / 'cache'))}",
        )
    return Finding("cache", Health.OK, str(cache_dir()))


def check_disk() -> Finding:
    """Check the space left for checkpoints and artifacts."""
    # The home may not exist yet; it will be on the disk of its nearest existing parent.
    nearest = next(path for path in (home(), *home().parents) if path.exists())
    usage = shutil.disk_usage(nearest)
    free_gib = usage.free / 2**30
    detail = f"{free_gib:.1f} of {usage.total / 2**30:.0f} GiB free at {home()}"
    if free_gib < MIN_FREE_GIB:
        return Finding(
            "disk", Health.WARN, detail, f"delete what you no longer need, or export {HOME_VARIABLE}=<another disk>"
        )
    return Finding("disk", Health.OK, detail)


def check_digits() -> Finding:
    """Check that the embedded dataset can be made, and say whether its scenes are cached."""
    package = importlib.util.find_spec("sklearn")  # looked up, not imported: an import takes seconds
    images = Path(package.origin).parent / "datasets" / "images" if package and package.origin else Path("sklearn")
    missing = [photo for photo in PHOTOS if not (images / photo).is_file()]
    if missing:
        return Finding("data: digits", Health.FAIL, f"scikit-learn lacks {', '.join(missing)}", INSTALL)
    cached = sum(path.stat().st_size for path in cache_dir().rglob("*") if path.is_file()) / 2**20
    state = (
        f"cached: {cached:.0f} MiB in {cache_dir()}"
        if cached
        else f"the first sweep makes the scenes in under 20 s and caches them in {cache_dir()}"
    )
    return Finding("data: digits", Health.OK, state)


def check_prepared_data() -> Finding:
    """List the image datasets that are prepared, and those that do not open."""
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
            "data: images", Health.ABSENT, f"none prepared under {datasets_dir()}", prepare_command(missing[0])
        )
    return Finding(
        "data: images", Health.OK, f"{', '.join(ready)} prepared" + (f"; not {', '.join(missing)}" if missing else "")
    )


def run_check(check: Callable[[], Finding]) -> Finding:
    """Run a check, and turn an exception into a finding: the user must learn that a package cannot be imported."""
    try:
        return check()
    except Exception as error:
        subject = check.__name__.removeprefix("check_")
        return Finding(subject, Health.FAIL, describe_error(error), INSTALL)


def _find_cuda_problem() -> str:
    """Return why torch finds no GPU, in torch's own words: `is_available` only says that it finds none."""
    import torch

    try:
        torch.cuda.init()
    except Exception as error:  # RuntimeError of the driver, AssertionError of a build without CUDA
        return first_line(error)
    return "it finds no GPU"


def _check_sqlite(uri: str) -> Finding:
    # SQLAlchemy's form: three slashes before a relative path, four before an absolute one.
    name = unquote(urlsplit(uri).path)[1:]
    if name in ("", ":memory:"):
        return Finding(
            "MLflow store",
            Health.FAIL,
            f"{uri} is in memory and is lost when its process ends",
            "unset MLFLOW_TRACKING_URI",
        )
    path = Path(name)
    if not path.exists() and (obstacle := find_obstacle(path.absolute().parent)):
        fix = "unset MLFLOW_TRACKING_URI" if os.environ.get("MLFLOW_TRACKING_URI") else _OTHER_HOME
        return Finding("MLflow store", Health.FAIL, f"{path} cannot be created ({obstacle})", fix)
    if not path.exists():
        return Finding("MLflow store", Health.OK, f"{path} does not exist yet; the first sweep creates it")
    try:
        # Read-only, because looking must not change a store into which a sweep may be writing.
        # Five seconds, since a sweep that is writing holds the lock for a moment at a time.
        with sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=STORE_TIMEOUT_S) as store:
            (num_runs,) = store.execute("select count(*) from runs").fetchone()
    except sqlite3.Error as error:
        # Moving it away is safe: everything but the model registry can be rebuilt from the journals.
        return Finding(
            "MLflow store",
            Health.FAIL,
            f"{path} cannot be read ({error})",
            shlex.join(["mv", str(path), f"{path}.broken"]),
        )
    return Finding("MLflow store", Health.OK, f"{path}, {counted(num_runs, 'run')}")


def _check_server(uri: str) -> Finding:
    answer = ask_mlflow(uri, timeout_s=STORE_TIMEOUT_S)
    if answer.is_well:
        return Finding("MLflow store", Health.OK, f"{redact(uri)} answers")
    if answer.is_refused:
        detail = f"{redact(uri)} answers, but refuses our credentials ({answer.reason})"
        fix = (
            # MLflow refuses requests under a name that it was not told, as a guard against DNS rebinding.
            "name the host of MLFLOW_TRACKING_URI in the server's --allowed-hosts"
            if "Host header" in answer.reason
            else "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an account of that server"
        )
        return Finding("MLflow store", Health.WARN, detail, fix)
    problem = "answers, but not like an MLflow server" if answer.is_up else "does not answer"
    fix = (
        "set MLFLOW_TRACKING_SERVER_CERT_PATH to the certificate of the authority that signed the server's"
        if "certificate" in answer.reason.lower()
        else "start the MLflow server, or correct MLFLOW_TRACKING_URI (unset: sqlite in the home)"
    )
    # Only a warning: a sweep does not need MLflow, and writes what is missing once MLflow is back.
    return Finding("MLflow store", Health.WARN, f"{redact(uri)} {problem} ({answer.reason})", fix)


def _check_database(uri: str) -> Finding:
    answer = ask_database(uri, timeout_s=STORE_TIMEOUT_S)
    if answer.is_well:
        return Finding("MLflow store", Health.OK, f"{redact(uri)} answers")
    fix = (
        "install that package into this environment, or use an MLflow server: MLFLOW_TRACKING_URI=http://HOST:5000"
        if "not installed" in answer.reason
        else "start the database, or correct MLFLOW_TRACKING_URI (unset: sqlite in the home)"
    )
    return Finding("MLflow store", Health.WARN, f"{redact(uri)} does not answer ({answer.reason})", fix)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


CHECKS: tuple[Callable[[], Finding], ...] = (
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
