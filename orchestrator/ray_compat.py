"""Collects every private name of Ray that this project uses, so that a new version of Ray is checked in one place.

Each was read in Ray 2.60, and its docstring says which public call is missing. This module's unit test fails when one
of them moves or changes its signature; a repository test fails when another module uses a private name.

Ray is imported inside the functions: `orchestrator --help` must not wait for it.
"""

from __future__ import annotations

import copy
import ctypes
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from training.machine import is_running

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.train.v2._internal.execution.worker_group import WorkerGroupContext
    from ray.tune.experiment import Trial

_HANDLERS_FLAG = "_ZN3ray6RayLog36is_failure_signal_handler_installed_E"
_PACKAGING_LOGGER = "ray._private.runtime_env.packaging"
_START_S = 180.0
_Node = TypeVar("_Node")


def read_operator_limits() -> dict[str, int]:
    """Return the resources to which the joined cluster can grow, as its operator reports them; empty if unknown.

    ``ray.cluster_resources()`` knows only the nodes that are up. No public call returns what the autoscaler may add.
    """
    from ray._private.state import state

    return state.get_max_resources_from_cluster_config() or {}


def reload_environment() -> None:
    """Make Ray's core read its environment variables again.

    It reads them once, when ray is imported. No public call sets the authentication mode after that.
    """
    from ray import _raylet

    _raylet.Config.initialize("")  # type: ignore[attr-defined]  # a Cython class without stubs


def init(folder: Path | None, **options: Any) -> None:
    """Call ``ray.init``, keep it from handling signals, and wait for a slow machine.

    It installs a SIGTERM handler in Python and, from its core, another one below Python's, which ends the process
    without a word; ``ray.shutdown`` then resets SIGTERM to the system's default. No option prevents any of that.

    Args:
        folder: Where a local Ray writes its files; no public option sets it. All processes of such a Ray listen on
            127.0.0.1 only, as on macOS and Windows. On Linux, Ray replaces ``_node_ip_address="127.0.0.1"`` by the
            address of the network. None for a cluster.
        options: The public options of ``ray.init``.
    """
    import ray
    from ray import _raylet
    from ray._private import ray_constants, services, utils

    # Ray's core installs and resets handlers only according to this flag; it is False whenever Ray is not starting.
    are_installed = ctypes.c_bool.in_dll(ctypes.CDLL(_raylet.__file__), _HANDLERS_FLAG)
    before = utils.set_sigterm_handler, ray_constants.ENABLE_RAY_CLUSTER, services.get_node
    utils.set_sigterm_handler = lambda handler: None
    services.get_node = partial(_await_node, services.get_node)
    if folder is not None:
        options["_temp_dir"] = str(folder)
        ray_constants.ENABLE_RAY_CLUSTER = False
    are_installed.value = True
    try:
        ray.init(**options)
    finally:
        are_installed.value = False
        utils.set_sigterm_handler, ray_constants.ENABLE_RAY_CLUSTER, services.get_node = before


def _await_node(get_node: Callable[..., _Node], gcs_address: str, node_id: str) -> _Node:
    """Ask for a node until it is there, for as long as its raylet runs.

    Ray gives a raylet 30 s, without a setting for it, and then starts from scratch. A busy machine needs longer.
    """
    deadline = time.monotonic() + _START_S
    while True:
        try:
            return get_node(gcs_address, node_id)
        except RuntimeError:
            if time.monotonic() > deadline or not _is_raylet_running():
                raise
        time.sleep(0.1)


def _is_raylet_running() -> bool:
    return any(child.name() == "raylet" and is_running(child) for child in psutil.Process().children())


def keep_credentials_local() -> None:
    """Stop Tune from copying credentials into the runtime environment of every trial, which Ray logs and shows.

    Tune forwards a fixed set of variables, among them ``AWS_SECRET_ACCESS_KEY``, and has no option for it. Processes on
    this machine inherit the environment anyway, and those of a cluster have the one of their node.
    """
    from ray.tune.execution import class_cache

    names = class_cache.ENV_VARS_TO_PROPAGATE
    names.intersection_update([name for name in names if name.startswith("RAY_")])


def redirect_raylet_messages(take: Callable[[Sequence[str]], object]) -> None:
    """Pass the lines that raylets send to the driver ("a worker died") to a function instead of printing them.

    ``log_to_driver=False`` silences the workers' output, but not these lines, and they are printed rather than logged.
    """
    from ray._private import worker

    def replacement(data: dict[str, Any], ignore_prefix: bool) -> None:
        take(data["lines"])

    worker.print_to_stdstream = replacement


def check_cluster_schema(document: Mapping[str, Any]) -> None:
    """Check a cluster file as ``ray up`` does before it starts anything.

    The command line has no dry run, and the schema is not exported.

    Raises:
        Exception: Ray refuses the file; an error of jsonschema, click, Ray or Python, depending on the fault.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(dict(document))))


def local_state_file(cluster: str) -> Path:
    """Return the file in which Ray notes which machines of an on-prem cluster run, here and on the head.

    ``ray down`` is the only public way to clear it, and does so without stopping the machines.
    """
    from ray.autoscaler._private.local.config import get_state_path

    return Path(get_state_path(cluster))


def quieten_job_client() -> None:
    """Limit the loggers of Ray's job client to warnings.

    These modules set a level of their own, so the level of the logger "ray" does not reach them.
    """
    from ray.dashboard.modules import dashboard_sdk
    from ray.dashboard.modules.job import sdk

    for logger in (dashboard_sdk.logger, sdk.logger, logging.getLogger(_PACKAGING_LOGGER)):
        logger.setLevel(logging.WARNING)


def trial_actor(trial: Trial) -> ActorHandle[Any] | None:
    """Return the handle of the actor in which a Tune trial runs, if there is one.

    Tune has no public call that ends a trial whose process hangs: a stop is queued behind the running step.
    """
    actor: ActorHandle[Any] | None = trial.temporary_state.ray_actor
    return actor


def read_trial_error(trial: Trial) -> Exception | None:
    """Return the exception that ended a Tune trial, as Tune pickled it on this machine a moment ago.

    ``Callback.on_trial_error`` and ``TrialScheduler.on_trial_error`` do not get it, and ``Trial.get_pickled_error``
    looks for it in the storage, to which Tune copies it only with its next snapshot.
    """
    from ray import cloudpickle
    from ray.tune.error import TuneError

    try:
        if trial.pickled_error_file is not None:
            error: Exception = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
            return error
    except Exception:  # whatever unpickling raises, the text remains
        pass
    try:
        # An error that is not Ray's is only written as text, under a heading.
        return TuneError(Path(str(trial.error_file)).read_text(encoding="utf-8").partition("\n")[2])
    except OSError:
        return None


def worker_death_errors() -> tuple[type[Exception], ...]:
    """Return the errors with which Ray Train reports a worker whose process is gone or does not answer.

    ``WorkerGroupError.worker_failures`` is public, but these classes in it are not exported.
    """
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError

    return WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError


def make_named_trainer() -> Any:
    """Return a ``TorchTrainer`` that takes ``group_name``, the name of its placement groups; torch is imported here.

    ``RunConfig`` and ``ScalingConfig`` cannot name the placement group of the workers, and without a name, the group
    of a killed controller cannot be released. Ray Train's own cleaner is left out: it learns of a group only
    once the workers run, and it needs the dashboard, which a local Ray does not start.
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.train.v2._internal.execution.callback import WorkerGroupCallback
    from ray.train.v2._internal.execution.worker_group import worker_group
    from ray.util.placement_group import placement_group

    class NameGroups(WorkerGroupCallback):
        """Names the next placement group; runs in the controller's process."""

        def __init__(self, name: str) -> None:
            self._name, self._count = name, 0

        def before_worker_group_start(self, worker_group_context: WorkerGroupContext) -> None:
            self._count += 1
            # WorkerGroup looks the function up in its module, and passes no name.
            vars(worker_group)["placement_group"] = partial(placement_group, name=f"{self._name}/{self._count}")

    base: Any = TorchTrainer  # its type is that of Ray Train V1

    class NamedTrainer(base):  # type: ignore[misc]
        def __init__(self, *arguments: Any, group_name: str, **more: Any) -> None:
            self._group_name = group_name
            super().__init__(*arguments, **more)

        def _create_default_callbacks(self) -> list[Any]:
            kept = [
                callback
                for callback in super()._create_default_callbacks()
                if not isinstance(callback, PlacementGroupCleanerCallback)
            ]
            return [*kept, NameGroups(self._group_name)]

    return NamedTrainer
