"""Checks one node of a cluster, in a small task that runs there.

The task is sent by value, so that it also runs where this package is missing or has another version. That is why this
module imports only the standard library; each check imports what it needs, and reports a failure as text.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

OURS = "spml-orchestrator"
PACKAGES = ("ray", "torch", "torchvision", "timm", "numpy", "pyarrow", "optuna", "mlflow")
_TIMEOUT_S = 10.0
_MAX_TEXT = 1000  # long enough for the command that fixes it, which comes last


def probe(wanted: dict[str, Any]) -> dict[str, Any]:
    """Check this node.

    Args:
        wanted: What to check: ``stores`` (the URIs of prepared data, by name), ``storage`` (a folder or URI),
            ``tracking_uri``, ``config`` (the settings of a run, whose data and weights to prepare or fetch as a trial
            does) and ``marker`` (a file that the driver has written); all but the first may be None.

    Returns:
        ``host``, ``versions`` (of Python and packages, and the hashes of data and weights), and ``problems`` (what is
        wrong, by subject).
    """
    versions = _versions()
    checks: dict[str, Callable[[], None]] = {
        f"data: {name}": partial(_read_store, uri) for name, uri in wanted["stores"].items()
    }
    if wanted["marker"]:
        checks["storage"] = partial(_see, wanted["marker"])
    elif wanted["storage"]:
        checks["storage"] = partial(_write, wanted["storage"])
    if wanted["tracking_uri"]:
        checks["MLflow"] = partial(_ask_server, wanted["tracking_uri"])
    if wanted["config"]:
        checks[f"data: {wanted['config']['data.name']}"] = partial(_prepare_data, wanted["config"], versions)
        checks["weights"] = partial(_fetch_weights, wanted["config"], versions)
    problems = {subject: problem for subject, check in checks.items() if (problem := _problem_of(check))}
    return {"host": socket.gethostname(), "versions": versions, "problems": problems}


def _problem_of(check: Callable[[], None]) -> str | None:
    try:
        check()
    except Exception as error:  # whatever is wrong on this node is worth reporting
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:_MAX_TEXT]
    return None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    found[OURS] = _our_code()
    return found


def _our_code() -> str:
    try:
        from orchestrator.provenance import read_build
    except ImportError:
        return "missing"
    build = read_build()
    return " ".join(build[key][:12] for key in ("commit", "changes", "lock_hash"))


def _read_store(uri: str) -> None:
    from training.data.store.manifest import read_manifest

    read_manifest(uri)


def _write(uri: str) -> None:
    """Write a small file and delete it."""
    from pyarrow import fs

    # Not training.files.open_location: this has to run where our packages are missing.
    storage, root = fs.FileSystem.from_uri(uri) if "://" in uri else (fs.LocalFileSystem(), uri)
    name = f"{root.rstrip('/')}/.orchestrator-{socket.gethostname()}-{os.getpid()}"
    if isinstance(storage, fs.LocalFileSystem) and not Path(root).is_dir():
        raise FileNotFoundError(f"the folder {root} does not exist")
    with storage.open_output_stream(name) as stream:
        stream.write(b"x")
    storage.delete_file(name)


def _see(marker: str) -> None:
    if not Path(marker).is_file():
        raise FileNotFoundError(f"{Path(marker).parent} is not the folder that the driver writes to")
    _write(str(Path(marker).parent))


def _ask_server(uri: str) -> None:
    from orchestrator.health import ask_server

    answer = ask_server(uri, timeout_s=_TIMEOUT_S)
    # Only the driver logs to MLflow, so a node needs no password: a refusal shows that the server can be reached.
    if not answer.is_well and not answer.is_refused:
        raise ConnectionError(answer.reason)


def _prepare_data(flat: dict[str, Any], versions: dict[str, str]) -> None:
    """Make the data that can be made, and look whether the other can be read and copied here."""
    from training.config.run import TrainConfig
    from training.data.dataset_names import EMBEDDED
    from training.data.registry import dataset_info, open_dataset
    from training.preparation import prepare

    config = TrainConfig.from_flat(flat).data
    if config.name != EMBEDDED and config.store is None:
        return  # that nobody has named the store is the driver's problem, reported once
    prepare(config)
    versions["data hash"] = dataset_info(config).data_hash[:12]
    # Not copied: that may take many minutes, and the first trial does it.
    if config.name != EMBEDDED:
        open_dataset(config).require_room()


def _fetch_weights(flat: dict[str, Any], versions: dict[str, str]) -> None:
    """Find the weights in this node's cache, or make or download them."""
    from training.config.run import TrainConfig
    from training.data.registry import dataset_info
    from training.models.backbone import build_trunk

    config = TrainConfig.from_flat(flat)
    pretext = dataset_info(config.data).pretext_file if config.model.weights == "pretext" else None
    versions["weights hash"] = build_trunk(config.model, pretext).weights_hash[:12]
