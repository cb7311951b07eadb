"""Starts and ends Ray for one driver, without a word from it on the terminal; what it has to say goes to a file."""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from orchestrator.cluster.orphans import HOOK
from orchestrator.errors import OrchestratorError, UserError
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
    _protect_token(make=address is None)
    with _logging_to(folder / LOG_FILE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importing = threading.Thread(target=_import_all, args=(driver_modules,), daemon=True)
        importing.start()
        ray.init(**options)
        # Filters of warnings are the process's, not the thread's: left earlier, they would be back in the middle of an
        # import.
        importing.join()
    if address is None:
        _note_session(folder)


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


def count_cluster(address: str) -> dict[str, int]:
    """Return ``num_cpus`` and ``num_gpus`` of the cluster at an address: of all its nodes, and of those that it may
    still start.

    Raises:
        OrchestratorError: There is no Ray at that address.
    """
    import ray

    with joined(address):
        found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        most = grown_resources()
    return {f"num_{name.lower()}s": int(max(found.get(name, 0), most.get(name, 0))) for name in ("CPU", "GPU")}


def grown_resources() -> dict[str, int]:
    """Return what the cluster that was joined may grow to; empty where it does not grow by itself, or nobody here knows
    how far.

    Ray keeps it only where its operator reports it. A cluster of `ray up` has it in the file that its autoscaler reads,
    on the head, where jobs run.
    """
    import ray
    from ray._private.state import state

    most = state.get_max_resources_from_cluster_config() or _most_of_autoscaler(ray.get_runtime_context().gcs_address)
    return {name: count for name, count in most.items() if 0 < count < sys.maxsize}


def compute_most(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the resources of the head and all workers that a cluster file allows for, as many as fit under its
    ``max_workers``.
    """
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
        for each, number in sorted(counts, reverse=True):
            total, left = total + each * min(number, left), left - min(number, left)
        most[name] = total
    return most


def _most_of_autoscaler(gcs_address: str) -> dict[str, int]:
    """Return what the autoscaler of the cluster may start, if it runs on this machine."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError, ValueError, YAMLError):
            words = process.cmdline()
            files = [word.partition("=")[2] for word in words if word.startswith("--autoscaling-config=")]
            if files and f"--gcs-address={gcs_address}" in words:
                config = YAML(typ="safe", pure=True).load(Path(files[0]).expanduser().read_text(encoding="utf-8"))
                return compute_most(config) if isinstance(config, dict) else {}
    return {}


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


def _note_session(folder: Path) -> None:
    """Write down which folder Ray has made; a driver that is killed leaves both."""
    from ray._private import worker

    node = worker.global_worker.node
    assert node is not None, "Ray was started in this process"
    (folder / _SESSION_FILE).write_text(node.get_session_dir_path(), encoding="utf-8")


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
    _log_errors_of_raylets(logger)


def _log_errors_of_raylets(logger: logging.Logger) -> None:
    """Log what raylets tell the driver (a worker died), which Ray prints on stdout whatever it is
    told about logging.
    """
    from ray._private import worker

    def log(data: dict[str, Any], ignore_prefix: bool) -> None:
        logger.warning("\n".join(data["lines"]))

    worker.print_to_stdstream = log


def token_file() -> Path:
    """Return where Ray reads the token from that lets code run on its cluster: ``$RAY_AUTH_TOKEN_PATH``, else under the
    user's home.
    """
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def use_token() -> None:
    """Have this process show the token wherever it joins a cluster or calls one, if it has a token and nobody has said
    otherwise.
    """
    if os.environ.get("RAY_AUTH_MODE") is None and (os.environ.get("RAY_AUTH_TOKEN") or token_file().exists()):
        os.environ["RAY_AUTH_MODE"] = "token"
        from ray import _raylet

        _raylet.Config.initialize("")  # type: ignore[attr-defined]  # anew; its types are not told


def ensure_token() -> Path:
    """Make the token unless there is one, and keep it from others; return its file.

    Raises:
        UserError: It cannot be made.
    """
    token = token_file()
    try:
        if not token.exists():
            _make_token(token)
        token.chmod(0o600)
    except OSError as error:
        raise UserError(
            f"Ray's token must be a file that can be made, but {token} cannot ({error.strerror}). Set HOME."
        ) from None
    return token


def _protect_token(*, make: bool) -> None:
    """Take from others the token that Ray writes for everyone to read: whoever has it may run code here.

    Args:
        make: Make it where Ray would, before Ray does: between its making and a change of its mode it could be read.
    """
    token = token_file()
    elsewhere = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if make and not elsewhere and os.environ.get("RAY_AUTH_MODE") != "disabled":
        with suppress(OSError):  # Ray then says what is wrong
            _make_token(token)
    with suppress(OSError):  # none, or not ours
        token.chmod(0o600)


def _make_token(token: Path) -> None:
    token.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=token.parent, prefix=".auth_token-")  # mode 600 from its first moment
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        # Linked, so that one that is there, or that another driver makes now, stays; both are then read whole.
        with suppress(FileExistsError):
            os.link(draft, token)
    finally:
        os.unlink(draft)
