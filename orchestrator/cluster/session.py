"""Starts and ends Ray for one driver, without a word from it on the terminal; what it has to say goes to a file."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from orchestrator import ray_compat
from orchestrator.cluster.orphans import HOOK
from orchestrator.cluster.token import protect_token, use_token
from orchestrator.errors import OrchestratorError
from orchestrator.sweep_folder.lease import SWEEP_VARIABLE

LOG_FILE = "ray.log"
_SESSION_FILE = "ray.session"
"""Names the folder that a local Ray makes for itself among the temporary files of the system, and leaves there."""
_ON_NODES = ("RAY_CHDIR_TO_TRIAL_DIR", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO")
"""Of the environment below, what processes on other nodes must have as well: there they are not this driver's children.
"""
_OBJECT_STORE_BYTES = 100 * 1024**2  # reports and a handful of pictures
_STOP_S = 15.0
_KILLED_S = 5.0
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # Some of Ray's processes write their title over their environment, by which orphans are found; this has them leave
    # it alone.
    "SPT_NOENV": "1",
    # A trial's folders are absolute; where the user stands is where relative paths mean something.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # The journal is what is resumed from: no snapshots of the experiment, no result files per trial.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    # A trial that asked for no GPU sees none; else all of them would share the first.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # Signals are ours, see sweep.py.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}


def quieten() -> None:
    """Set what Ray reads when it is imported and started; call it before anything imports ray, and before the first
    thread starts.
    """
    os.environ.update(_ENVIRONMENT)
    # Torch hides this warning while it is imported; another thread that leaves its own filters just then brings it out
    # again.
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
        folder: Of the sweep; Ray's warnings go to a file there. Every process of a local Ray carries it in its
            environment, so that orphans can be told.
        address: ``auto`` or an address; None starts one on this machine.
        num_cpus, num_gpus: What a local Ray may use.
        dashboard: Train inside Tune needs it (loopback only).
        driver_modules: Imported here while Ray's processes start, which takes seconds.

    Raises:
        ConnectionError: There is no Ray at that address.
    """
    quieten()
    import ray

    os.environ[SWEEP_VARIABLE] = str(folder)
    options: dict[str, Any] = {
        "address": address,
        "namespace": folder.name,
        "log_to_driver": False,
        "configure_logging": False,
    }
    if address is None:
        # Not a bare init: a stale file of a dead cluster would have it join that one.
        options |= {"address": "local", "num_cpus": num_cpus, "num_gpus": num_gpus}
        options |= {"include_dashboard": dashboard, "object_store_memory": _OBJECT_STORE_BYTES}
        _remove_session(folder)  # of a driver that was killed
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
        context: Any = ray.init(**options)
        # Filters of warnings are the process's, not the thread's: left earlier, they would be back in the middle of an
        # import.
        importing.join()
    if address is None:
        _note_session(folder, context.address_info["session_dir"])


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Be in the cluster at an address for a while, without a word from Ray.

    Raises:
        OrchestratorError: There is no Ray at that address, or it does not let us in.
    """
    quieten()
    import ray
    from ray.exceptions import AuthenticationError

    use_token()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(address=address, log_to_driver=False, configure_logging=False, logging_level=logging.CRITICAL)
    except (RuntimeError, OSError, AuthenticationError) as error:
        raise cannot_start(address, error) from error
    try:
        yield
    finally:
        ray.shutdown()


def cannot_start(address: str | None, error: Exception) -> OrchestratorError:
    """Return what to tell the user of a Ray that does not start, or is not reached."""
    where = "on this machine" if address is None else f"at {address}"
    return OrchestratorError(
        f"Ray must start or be reached {where}, but it said: {(str(error).splitlines() or [type(error).__name__])[0]} "
        "`orchestrator doctor` says what is there and what is not."
    )


def _import_all(modules: Sequence[str]) -> None:
    for module in modules:
        importlib.import_module(module)


def stop_ray() -> None:
    """End the local Ray, or leave the cluster; the actors of this driver end with it."""
    import ray

    # With its servers gone, a shutdown may wait for them for long.
    shutdown = threading.Thread(target=ray.shutdown, daemon=True)
    shutdown.start()
    shutdown.join(_STOP_S)
    folder = os.environ.pop(SWEEP_VARIABLE, None)
    if folder is None:
        return
    killed = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.environ().get(SWEEP_VARIABLE) == folder:
                process.kill()
                killed.append(process)
    psutil.wait_procs(killed, timeout=_KILLED_S)
    _remove_session(Path(folder))


def _note_session(folder: Path, session: str) -> None:
    """Write down which folder Ray has made; a driver that is killed leaves both."""
    (folder / _SESSION_FILE).write_text(session, encoding="utf-8")


def _remove_session(folder: Path) -> None:
    """Remove the folder that Ray made for this sweep, and no other."""
    note = folder / _SESSION_FILE
    try:
        session = Path(note.read_text(encoding="utf-8"))
    except OSError:
        return
    if session.name.startswith("session_"):
        shutil.rmtree(session, ignore_errors=True)
        with suppress(OSError):
            if (latest := session.with_name("session_latest")).readlink() == session:
                latest.unlink()
    note.unlink(missing_ok=True)


@contextmanager
def _logging_to(log_file: Path) -> Iterator[None]:
    """Keep Ray's loggers off the terminal; they clear their handlers on start, so ours comes afterwards."""
    logger = logging.getLogger("ray")
    logger.propagate = False
    logger.setLevel(logging.CRITICAL)
    yield
    handler = logging.FileHandler(log_file, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.handlers = [handler]
    logger.setLevel(logging.WARNING)
    ray_compat.redirect_raylet_messages(lambda lines: logger.warning("\n".join(lines)))
