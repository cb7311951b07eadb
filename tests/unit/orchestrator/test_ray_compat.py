"""Check that Ray's private names are where Ray 2.60 has them, and do what we use them for."""

from __future__ import annotations

import ctypes
import inspect
import logging
import pickle
import signal
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from ray.exceptions import RayActorError
from ray.tune.error import TuneError
from ray.tune.experiment import Trial
from ray.util.placement_group import placement_group

from orchestrator import ray_compat


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_an_operators_limits_are_read_from_rays_state(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.state import state

    assert parameters(state.get_max_resources_from_cluster_config) == []
    for told, expected in (({"CPU": 8}, {"CPU": 8}), (None, {})):
        monkeypatch.setattr(state, "get_max_resources_from_cluster_config", lambda told=told: told)
        assert ray_compat.read_operator_limits() == expected


def test_the_environment_can_be_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._raylet import AuthenticationMode, get_authentication_mode  # type: ignore[attr-defined]

    for word, mode in (("disabled", AuthenticationMode.DISABLED), ("token", AuthenticationMode.TOKEN)):
        with monkeypatch.context() as environment:
            environment.setenv("RAY_AUTH_MODE", word)
            ray_compat.reload_environment()
            assert get_authentication_mode() == mode
    ray_compat.reload_environment()


def test_while_ray_starts_its_signal_handlers_and_outside_addresses_are_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import ray
    from ray import _raylet
    from ray._private import ray_constants

    services, utils = import_module("ray._private.services"), import_module("ray._private.utils")
    flag = ctypes.c_bool.in_dll(ctypes.CDLL(_raylet.__file__), ray_compat._HANDLERS_FLAG)
    handler = signal.getsignal(signal.SIGTERM)
    assert parameters(utils.set_sigterm_handler) == ["sigterm_handler"]
    assert "_temp_dir" in inspect.getsource(ray.init)
    started: list[dict[str, Any]] = []

    def init(**options: Any) -> None:
        assert flag.value  # Ray's core takes its handlers for installed
        assert (services.get_node_ip_address() == "127.0.0.1") == ("_temp_dir" in options)
        utils.set_sigterm_handler(lambda number, frame: None)
        assert signal.getsignal(signal.SIGTERM) is handler
        started.append(options)

    monkeypatch.setattr(ray, "init", init)
    for folder in (tmp_path, None):
        ray_compat.init(folder, num_cpus=1)
        assert not flag.value
        assert ray_constants.ENABLE_RAY_CLUSTER
    assert started == [{"num_cpus": 1, "_temp_dir": str(tmp_path)}, {"num_cpus": 1}]
    assert parameters(utils.set_sigterm_handler) == ["sigterm_handler"]
    assert "ray_constants.ENABLE_RAY_CLUSTER" in inspect.getsource(services)


def test_a_slow_raylet_is_waited_for_and_a_dead_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    services, node = import_module("ray._private.services"), import_module("ray._private.node")
    assert parameters(services.get_node) == ["gcs_address", "node_id"]
    assert "ray._private.services.get_node(" in inspect.getsource(node.Node.__init__)  # looked up there at each call
    answers: list[Any] = []

    def get_node(gcs_address: str, node_id: str) -> Any:
        answer = answers.pop(0)
        if answer is None:
            raise RuntimeError("no such node")
        return answer

    monkeypatch.setattr(services, "get_node", get_node)
    monkeypatch.setattr(ray, "init", lambda **options: services.get_node("127.0.0.1:1", "ab"))
    answers[:] = [None, None, {"labels": {}}, None]
    monkeypatch.setattr(ray_compat, "_is_raylet_running", lambda: True)
    ray_compat.init(None)
    assert answers == [None]
    monkeypatch.setattr(ray_compat, "_is_raylet_running", lambda: False)
    with pytest.raises(RuntimeError, match="no such node"):
        ray_compat.init(None)
    assert services.get_node is get_node


def test_tune_forwards_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train.v2._internal import constants

    class_cache = import_module("ray.tune.execution.class_cache")
    names = class_cache.ENV_VARS_TO_PROPAGATE
    monkeypatch.setattr(class_cache, "ENV_VARS_TO_PROPAGATE", set(names))
    ray_compat.keep_credentials_local()
    assert "RAY_CHDIR_TO_TRIAL_DIR" in class_cache.ENV_VARS_TO_PROPAGATE
    for name in names:
        monkeypatch.setenv(name, "planted")
    remote = class_cache._ActorClassCache().get(type("Trial", (), {}))
    assert all(
        name.startswith("RAY_")
        for name, value in remote._default_options["runtime_env"]["env_vars"].items()
        if value == "planted"
    )
    # Ray Train forwards a set of its own, in which there are only settings.
    others = {name for name in constants.ENV_VARS_TO_PROPAGATE if not name.startswith("RAY_")}
    assert others == {"NCCL_RAS_ADDR", "TORCHFT_LIGHTHOUSE"}


def test_messages_of_raylets_go_to_the_function_and_not_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from ray._private import worker

    assert parameters(worker.print_to_stdstream) == ["data", "ignore_prefix"]
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    taken: list[list[str]] = []
    ray_compat.redirect_raylet_messages(lambda lines: taken.append(list(lines)))
    worker.print_to_stdstream({"lines": ["a worker died"]}, ignore_prefix=False)
    assert taken == [["a worker died"]]
    assert capfd.readouterr() == ("", "")
    # It is looked up in its module for every message: replacing it there is enough.
    assert "print_to_stdstream(" in inspect.getsource(worker)


def test_a_cluster_file_is_checked_by_rays_own_schema() -> None:
    document: dict[str, Any] = {
        "cluster_name": "a",
        "provider": {"type": "local", "head_ip": "192.0.2.1", "worker_ips": ["192.0.2.2"]},
        "auth": {"ssh_user": "someone"},
    }
    before = repr(document)
    ray_compat.check_cluster_schema(document)
    assert repr(document) == before, "Ray fills in its defaults in place"
    with pytest.raises(Exception, match="'colour' was unexpected"):
        ray_compat.check_cluster_schema({**document, "colour": "red"})


def test_the_job_clients_loggers_are_limited_to_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.runtime_env import packaging
    from ray.dashboard.modules import dashboard_sdk
    from ray.dashboard.modules.job import sdk

    # Ray gives the logger to packaging's functions; the module's own is the default.
    assert packaging.default_logger.name == ray_compat._PACKAGING_LOGGER
    loggers = [dashboard_sdk.logger, sdk.logger, packaging.default_logger]
    for logger in loggers:
        monkeypatch.setattr(logger, "level", logging.DEBUG)
    ray_compat.quieten_job_client()
    assert {logger.level for logger in loggers} == {logging.WARNING}


def test_errors_of_dead_workers_are_exceptions_that_survive_pickling() -> None:
    failed, timed_out = ray_compat.worker_death_errors()
    assert issubclass(timed_out, Exception)
    error = failed("the node ran low on memory", ValueError("inner"))
    assert str(pickle.loads(pickle.dumps(error))).startswith("the node ran low on memory")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")  # Ray Data sets its own old options
def test_workers_reserve_under_the_name_and_rays_cleaner_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ray import train
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.train.v2._internal.execution.worker_group import worker_group

    # What the patch rests on: the function is a global of this module, and is called there without a name.
    module: Any = worker_group
    assert module.placement_group is placement_group
    assert "pg = placement_group(" in inspect.getsource(worker_group)
    monkeypatch.setattr(worker_group, "placement_group", placement_group)
    trainer = ray_compat.make_named_trainer()(
        lambda: None,
        scaling_config=train.ScalingConfig(num_workers=1),
        run_config=train.RunConfig(name="a", storage_path=str(tmp_path)),
        group_name="sweep/t0000/1",
    )
    callbacks = trainer._create_default_callbacks()
    assert not any(isinstance(callback, PlacementGroupCleanerCallback) for callback in callbacks)
    naming: Any = callbacks[-1]
    for number in (1, 2):
        naming.before_worker_group_start(None)
        made = module.placement_group
        assert made.func is placement_group
        assert made.keywords == {"name": f"sweep/t0000/1/{number}"}


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """Return a Tune trial with a folder of its own, as the controller has it."""
    from ray.train._internal import storage

    monkeypatch.setattr(storage, "_get_ray_train_session_dir", lambda: str(tmp_path))  # else it asks a running Ray
    context = storage.StorageContext(str(tmp_path / "storage"), "sweep", trial_dir_name="t1")
    made = Trial("trial_a", stub=True, storage=context, trial_id="t1")
    made.init_local_path()  # type: ignore[no-untyped-call]
    return made


def test_the_actor_of_a_trial_is_the_one_that_tune_gave_it(trial: Trial) -> None:
    assert ray_compat.trial_actor(trial) is None
    actor: Any = MagicMock()  # Tune asks it for its metrics
    trial.set_ray_actor(actor)  # type: ignore[no-untyped-call]
    assert ray_compat.trial_actor(trial) is actor


def test_the_error_of_a_trial_is_the_one_that_tune_kept(trial: Trial) -> None:
    assert ray_compat.read_trial_error(trial) is None
    trial.handle_error(TuneError("could not be reset"))
    error = ray_compat.read_trial_error(trial)
    assert isinstance(error, TuneError)
    assert str(error).strip() == "could not be reset"
    trial.handle_error(RayActorError(error_msg="The actor died.\n\tip: 192.0.2.7"))
    error = ray_compat.read_trial_error(trial)
    assert isinstance(error, RayActorError)
    assert str(error) == "The actor died.\n\tip: 192.0.2.7"
    # Whatever cannot be read again is still there as text.
    assert trial.pickled_error_file is not None
    Path(trial.pickled_error_file).write_bytes(b"not a pickle")
    assert "The actor died." in str(ray_compat.read_trial_error(trial))
