"""Starts, joins and stops Ray for one driver, and sends what Ray prints to a file instead of the terminal."""

from __future__ import annotations

import importlib
import json
import logging
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator import ray_compat
from orchestrator.cluster.orphans import HOOK
from orchestrator.cluster.processes import DRIVER_VARIABLE, SWEEP_VARIABLE, kill_own
from orchestrator.cluster.ray_folder import RayFolder, remove_dead_folders
from orchestrator.cluster.token import protect_token, token_file, use_token
from orchestrator.errors import OrchestratorError
from orchestrator.redaction import redact
from training.errors import first_line
from training.machine import identify_process

LOG_FILE = "ray.log"
_ON_NODES = ("RAY_CHDIR_TO_TRIAL_DIR", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO")
"""The part of ``_ENVIRONMENT`` that must be sent to other nodes: processes there do not inherit it from this driver."""
_OBJECT_STORE_BYTES = 100 * 1024**2  # holds only reports and a handful of pictures
_RECONNECT_S = 600
"""How long Ray tries to reach its GCS before it ends the driver; :mod:`orchestrator.cluster.watch` notices long before.
"""
_TOO_SLOW = "timed out during startup"
_STOP_S = 15.0
_ROUNDS = 3
"""How often to look for processes to kill: if the start of Ray was interrupted, another one may just have begun."""
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # Some of Ray's processes write their title over their environment. Orphans are found by their environment, so this
    # variable keeps it readable.
    "SPT_NOENV": "1",
    # Relative paths in a search space mean the user's current folder, not a trial's.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Sweeps resume from the journal, so Tune need not write snapshots of the experiment or result files per trial.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    # Without it, trials that requested no GPU would all see the first one and share it.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # Without it, Ray would end a driver that lost its GCS before the driver notices, without a word.
    "RAY_gcs_rpc_server_reconnect_timeout_s": str(_RECONNECT_S),
    # 30 s is too little on a busy machine.
    "RAY_gcs_server_port_wait_time_s": "180",
    # The driver handles signals itself.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
_folder: RayFolder | None = None
"""Of this process's local Ray."""


def quieten() -> None:
    """Set the environment that keeps Ray quiet.

    Call it before ray is imported, which is when Ray reads it, and before the first thread starts.
    """
    os.environ.update(_ENVIRONMENT)
    # Torch filters this warning during its import. The filters are global, so a thread that restores its own at that
    # moment would let the warning through.
    warnings.filterwarnings("ignore", message="Warning only once for all operators", category=UserWarning)


def start_ray(
    folder: Path,
    *,
    address: str | None,
    num_cpus: int,
    num_gpus: int,
    dashboard: bool = False,
    driver_modules: Sequence[str] = (),
) -> None:
    """Start a local Ray, or join the one at an address.

    Args:
        folder: The sweep's. Ray's warnings go to a file in it, and every process of a local Ray has its path in the
            environment, so that orphans can be recognised.
        address: ``auto`` or an address; None starts Ray on this machine.
        num_cpus, num_gpus: What a local Ray may use.
        dashboard: Whether a local Ray starts its dashboard, on loopback only; Train inside Tune needs it.
        driver_modules: Modules to import while Ray's processes start: both take seconds.

    Raises:
        OrchestratorError: Ray does not start, no Ray answers at that address, or it refuses our token.
    """
    quieten()

    os.environ[SWEEP_VARIABLE] = str(folder)
    os.environ[DRIVER_VARIABLE] = json.dumps(identify_process())
    options: dict[str, Any] = {
        "address": address,
        "namespace": folder.name,
        "log_to_driver": False,
        "configure_logging": False,
    }
    if address is None:
        # "local", because a bare init would try to join a dead cluster that left its address file behind.
        options |= {"address": "local", "num_cpus": num_cpus, "num_gpus": num_gpus}
        options |= {"include_dashboard": dashboard, "object_store_memory": _OBJECT_STORE_BYTES}
        _make_folder()
    else:
        options["runtime_env"] = {
            "env_vars": {name: _ENVIRONMENT[name] for name in _ON_NODES},
            "worker_process_setup_hook": HOOK,
        }
        use_token()
    protect_token(make=address is None)
    with _logging_to(folder / LOG_FILE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importing = threading.Thread(target=_import_all, args=(driver_modules,), daemon=True)
        importing.start()
        try:
            _init(options)
        finally:
            # Warning filters belong to the process: leaving this block earlier would restore them in the middle of an
            # import in the other thread. And a process that exits in the middle of an import of torch aborts.
            importing.join()


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Join the cluster at an address for the duration of a ``with`` block.

    Raises:
        OrchestratorError: No Ray answers at that address, or it refuses our token.
    """
    quieten()
    import ray

    use_token()
    options = {"address": address, "log_to_driver": False, "configure_logging": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _init(options | {"logging_level": logging.CRITICAL})
    try:
        yield
    finally:
        ray.shutdown()


def _make_folder() -> None:
    """Create the folder for the files of this process's local Ray."""
    global _folder
    remove_dead_folders()  # of drivers that were killed
    _folder = RayFolder()


def _init(options: Mapping[str, Any]) -> None:
    address = None if options["address"] == "local" else options["address"]
    folder = None if address is not None or _folder is None else _folder.path
    for is_last in (False, False, True):
        try:
            ray_compat.init(folder, **options)
            return
        # Catch everything: Ray raises a bare Exception for a node that takes too long to start, and a class of its own
        # for a refused token.
        except Exception as error:
            # Ray's processes also give up on each other when the machine is busy. The next try is faster, because the
            # files are in memory by then.
            if address is not None or is_last or _TOO_SLOW not in str(error):
                raise cannot_start(address, error) from error
            kill_own(Path(os.environ[SWEEP_VARIABLE]))


def cannot_start(address: str | None, error: Exception) -> OrchestratorError:
    """Return the error to show when Ray does not start (no address) or cannot be joined."""
    reason = redact(first_line(error)).rstrip(".")
    if address is None:
        message = f"Ray does not start on this machine: {reason}. See what is missing: orchestrator doctor"
    elif type(error).__name__ == "AuthenticationError":  # not imported: this module must load without ray
        message = (
            f"The Ray cluster at {address} refuses our token ({token_file()}). "
            f"Copy ~/.ray/auth_token from the head of the cluster to it."
        )
    else:
        # A RuntimeError comes from a cluster that answers: it runs another version of Ray or Python, say.
        problem = "No Ray cluster answers" if isinstance(error, OSError) else "Cannot join the Ray cluster"
        message = (
            f"{problem} at {address}: {reason}. "
            "Start one with `orchestrator cluster up`, or leave --address out to run on this machine."
        )
    return OrchestratorError(message)


def _import_all(modules: Sequence[str]) -> None:
    for module in modules:
        importlib.import_module(module)


def stop_ray() -> None:
    """Stop the local Ray, or leave the cluster; this driver's actors end with it."""
    import ray

    # If Ray's servers are already gone, its shutdown may wait for them for minutes.
    shutdown = threading.Thread(target=ray.shutdown, daemon=True)
    shutdown.start()
    shutdown.join(_STOP_S)
    kill_local_ray()


def kill_local_ray() -> None:
    """Kill what is left of the local Ray, and remove its files."""
    global _folder
    sweep = os.environ.get(SWEEP_VARIABLE)
    for _ in range(_ROUNDS):
        if sweep is None or not kill_own(Path(sweep)):
            break
    for variable in (SWEEP_VARIABLE, DRIVER_VARIABLE):
        os.environ.pop(variable, None)
    ours, _folder = _folder, None
    if ours is not None:
        ours.remove()


@contextmanager
def _logging_to(log_file: Path) -> Iterator[None]:
    """Send Ray's log to a file. Ray clears the handlers of its loggers when it starts, so ours is added afterwards."""
    import ray  # noqa: F401  # the first import sets the level of the logger

    logger = logging.getLogger("ray")
    logger.propagate = False
    logger.setLevel(logging.CRITICAL)
    yield
    handler = logging.FileHandler(log_file, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.handlers = [handler]
    logger.setLevel(logging.WARNING)
    ray_compat.redirect_raylet_messages(lambda lines: logger.warning("\n".join(lines)))
