from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.cluster import node_probe, nodes
from orchestrator.cluster.nodes import Machines, NodeReport, compare_versions, find_obstacle_to_sharing
from orchestrator.errors import UserError
from tests.kit.http_service import basic, like_mlflow, serving
from tests.kit.scenes import prepare_tiny, tiny_config
from tests.kit.stores import make_store, store_config
from tests.kit.sweeps import make_sweep
from training.config.run import TrainConfig
from training.data.store import node_cache
from training.data.store.reader import Store

ONE = Machines(frozenset({"a"}), may_grow=False)
TWO = Machines(frozenset({"a", "b"}), may_grow=False)
GROWING = Machines(frozenset({"a"}), may_grow=True)
SERVER, SQLITE, BUCKET, FOLDER = (
    "http://mlflow:5000",
    "sqlite:////x/mlflow.db",
    "s3://bucket/checkpoints",
    "/x/sweeps/a/checkpoints",
)


@pytest.mark.parametrize(
    ("tracking", "storage", "machines", "blind", "is_networked", "message"),
    [
        (SQLITE, FOLDER, ONE, [], False, None),
        (SQLITE, BUCKET, TWO, [], False, "MLFLOW_TRACKING_URI=http://HOST:5000"),
        (SQLITE, BUCKET, GROWING, [], False, "needs an MLflow server"),
        (SERVER, BUCKET, TWO, [], False, None),
        (SERVER, FOLDER, TWO, ["b"], False, "every node must share. Use --storage s3://"),
        (SERVER, FOLDER, TWO, [], False, None),  # no node is blind, so all mount it
        (SERVER, FOLDER, GROWING, [], False, "Nodes that start later will not see"),
        (SERVER, FOLDER, GROWING, [], True, None),
        (SERVER, BUCKET, GROWING, [], False, None),
    ],
)
def test_what_only_one_machine_has_is_refused_on_several(
    tracking: str, storage: str, machines: Machines, blind: list[str], is_networked: bool, message: str | None
) -> None:
    found = find_obstacle_to_sharing(tracking, storage, machines, blind, is_networked=is_networked)
    assert found is None if message is None else message in str(found)


def report(node: str, versions: Mapping[str, str], problems: Mapping[str, str] | None = None) -> NodeReport:
    return NodeReport(node, f"host-{node}", versions, problems or {})


def test_node_with_another_version_or_none_is_named_and_the_others_are_not() -> None:
    usual = {"python": "3.11.9", "torch": "2.15.0"}
    compared = compare_versions(
        [
            report("a", usual),
            report("b", {**usual, "torch": "2.14.0"}),
            report("c", {**usual, "torch": "missing"}, {"MLflow": "away"}),
        ]
    )
    assert [dict(entry.problems) for entry in compared] == [
        {},
        {"torch": "2.14.0, but most nodes have 2.15.0"},
        {"MLflow": "away", "torch": "is not installed"},
    ]


def test_of_two_nodes_that_differ_the_driver_s_is_right() -> None:
    compared = compare_versions([report("driver", {"torch": "1"}), report("b", {"torch": "2"})])
    assert [dict(entry.problems) for entry in compared] == [{}, {"torch": "2, but most nodes have 1"}]


def test_a_node_that_did_not_answer_is_no_measure_for_the_others() -> None:
    compared = compare_versions([report("a", {}, {"task": "gone"}), report("b", {"torch": "2"})])
    assert [dict(entry.problems) for entry in compared] == [{"task": "gone"}, {}]


def test_networked_folder_is_told_by_its_nearest_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mount:
        def __init__(self, mountpoint: str, fstype: str) -> None:
            self.mountpoint, self.fstype = mountpoint, fstype

    monkeypatch.setattr(
        "psutil.disk_partitions",
        lambda all: [Mount("/", "ext4"), Mount("/shared", "nfs4"), Mount("/shared/scratch", "xfs")],
    )
    assert nodes.is_networked(Path("/shared/sweeps"))
    assert not nodes.is_networked(Path("/shared/scratch/sweeps"))
    assert not nodes.is_networked(Path("/sharedish"))


@pytest.fixture
def server() -> Iterator[str]:
    with serving(like_mlflow()) as found:
        yield found


def probe(**wanted: object) -> dict[str, str]:
    nothing: dict[str, object] = {"stores": {}, "storage": None, "tracking_uri": None, "config": None, "marker": None}
    found: dict[str, str] = node_probe.probe({**nothing, **wanted})["problems"]
    return found


RESNET = TrainConfig.from_flat(
    {"data.name": "voc", "model.backbone": "torchvision/resnet18", "model.weights": "none"}
).flatten()


def test_probe_finds_nothing_wrong_where_nothing_is(tmp_path: Path, server: str) -> None:
    store = tmp_path / "store"
    store.mkdir()
    assert probe(storage=str(store), tracking_uri=f"http://me:secret@{server}/", config=RESNET) == {}
    assert list(store.iterdir()) == []
    said = node_probe.probe({"stores": {}, "storage": None, "tracking_uri": None, "config": None, "marker": None})
    assert said["host"] == socket.gethostname()
    assert {"python", "torch", "ray", "mlflow", "spml-orchestrator"} <= set(said["versions"])


@pytest.mark.parametrize("open_health", [True, False])
def test_probe_needs_no_password_of_mlflow(open_health: bool) -> None:
    with serving(like_mlflow(basic("me", "secret"), open_health=open_health)) as locked:
        assert probe(tracking_uri=f"http://{locked}") == {}


def test_probe_names_what_it_cannot_see_write_or_reach(tmp_path: Path) -> None:
    problems = probe(
        stores={"cub": str(tmp_path / "cub")},
        storage=str(tmp_path / "none"),
        tracking_uri="http://me:secret@127.0.0.1:9",
        config={**RESNET, "model.weights": "none.safetensors"},
    )
    assert set(problems) == {"data: cub", "storage", "MLflow", "weights"}
    assert "does not exist" in problems["storage"]
    assert "none.safetensors" in problems["weights"]
    assert "secret" not in str(problems)


def test_probe_makes_digit_scenes_as_a_trial_does_and_says_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_tiny()
    wanted = {"stores": {}, "storage": None, "tracking_uri": None, "config": tiny_config().flatten(), "marker": None}
    said = node_probe.probe(wanted)
    assert said["problems"] == {}
    assert {"data hash", "weights hash"} <= set(said["versions"])
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert set(node_probe.probe(wanted)["problems"]) == {"data: digits", "weights"}


def test_probe_finds_a_store_of_another_size_and_one_that_does_not_fit_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = store_config(make_store(tmp_path)).flatten()
    assert probe(config=config) == {}
    assert "data.image_size" in probe(config={**config, "data.image_size": 448})["data: mine"]
    monkeypatch.setattr(Store, "require_room", lambda store: node_cache.require_room(store.manifest))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    assert "A copy of the store needs" in probe(config=config)["data: mine"]


def test_marker_that_is_not_there_means_another_folder(tmp_path: Path) -> None:
    marker = tmp_path / ".seen"
    assert "is not the folder that the driver writes to" in probe(marker=str(marker))["storage"]
    marker.touch()
    assert probe(marker=str(marker)) == {}


def test_sweep_of_several_machines_is_refused_without_a_server_or_with_a_folder_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = make_sweep()
    asked: list[Path] = []

    def find_blind(folder: Path) -> list[str]:
        asked.append(folder)
        return ["b"]

    monkeypatch.setattr(nodes, "look_at_machines", lambda: ONE)
    nodes.require_shared(plan)
    assert asked == []
    monkeypatch.setattr(nodes, "look_at_machines", lambda: TWO)
    monkeypatch.setattr(nodes, "find_blind_hosts", find_blind)
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI"):
        nodes.require_shared(plan)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    with pytest.raises(UserError, match="b cannot write to the checkpoint storage"):
        nodes.require_shared(plan)
    asked.clear()
    nodes.require_shared(replace(plan, storage="s3://bucket/checkpoints"))
    assert asked == []
