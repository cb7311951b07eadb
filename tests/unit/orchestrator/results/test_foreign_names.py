"""Test that no name in a file from others leads a write out of the folder that the file is put into.

Every field of plans, journals and manifests gets every kind of bad name, by seed where there are too many pairs.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.datasets.prepared import find_store, list_stores, require_store
from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import artifacts_dir, data_dir, sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.results.bundle import unpack_bundle, write_bundle
from orchestrator.sweep_folder.backup import Segment
from orchestrator.sweep_folder.chain import reseal
from orchestrator.sweep_folder.index import load_plan
from orchestrator.sweep_folder.restore import restore_sweep
from orchestrator.tracking import artifacts as run_artifacts
from orchestrator.tracking import tracker as tracking
from tests.kit.fake_store import FakeStore
from tests.kit.sweeps import journal_path, make_sweep, whole_sweep, write_events
from tests.unit.orchestrator.results.test_bundle import rewrite
from training.path_names import is_path_name, require_path_name

PATHS_OF_PLANS: tuple[tuple[str, ...], ...] = (("id",), ("name",), ("dataset",), ("base", "data.name"))
REFUSALS = (UserError, OrchestratorError)
_NUM_PAIRS = 12


def bad_names(outside: Path) -> list[str]:
    """Return names that are no names; the absolute one is where the test would see a file."""
    return [
        str(outside / "caught"),
        "..",
        "../../x",
        "a/../../../b",
        "a/b",
        "",
        ".",
        "a\0b",
        "x" * 5000,
        "C:\\x",
        "..\\x",
        "~/x",
        "-x",
        ".hidden",
        "a\n",
        "\x1b[2J",
        "ü",
    ]


class StoreInArtifacts(FakeStore):
    """Writes where MLflow would: into the folder of the dataset's experiment."""

    def __init__(self, experiment: str, known: bool) -> None:
        super().__init__()
        folder = artifacts_dir() / experiment
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "artifact").touch()

    def check(self) -> None:
        """Be there."""


@pytest.fixture
def home_of_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of which only ``elsewhere``, the home, may change."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere" / "cache"))
    monkeypatch.setattr(tracking, "MlflowStore", StoreInArtifacts)
    monkeypatch.setattr(run_artifacts, "read_artifacts", lambda plan: iter(()))
    monkeypatch.setattr(tracking, "_POLL_S", 0.01)
    return tmp_path / "elsewhere"


def test_only_one_component_of_a_path_is_a_name(tmp_path: Path) -> None:
    for name in bad_names(tmp_path):
        assert not is_path_name(name)
        with pytest.raises(ValueError, match="id must be 1 to 100"):
            require_path_name(name, "id")
        for place in (sweep_dir, data_dir):
            with pytest.raises(UserError, match="must be 1 to 100"):
                place(name)
    for name in ("digits", "voc-2012", "a.b_c-0123abcd", "9", "x" * 100):
        assert require_path_name(name, "id") == name


def test_a_bundle_writes_nothing_outside_whatever_its_plan_and_journal_say(
    home_of_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_sweep(num_trials=4)
    write_events(plan, whole_sweep(plan))
    bundle = tmp_path / "x.bundle.zip"
    write_bundle(plan.id, bundle)
    plain, lines = json.loads(plan.to_json()), journal_path(plan).read_bytes().splitlines()
    before = list_files(tmp_path, home_of_bundle)
    dice = random.Random(16)
    bad = bad_names(tmp_path / "outside")
    for key in PATHS_OF_PLANS:
        for name in bad:
            with pytest.raises(ValueError, match=rf"{'.'.join(key)} must be 1 to 100 letters"):
                SweepPlan.from_json(json.dumps(replaced(plain, key, name)))
    # Only some of them in a whole bundle, which takes longer.
    paths = [(key, name) for key in PATHS_OF_PLANS for name in bad]
    others = [(key, name) for key in text_fields(plain) if key not in PATHS_OF_PLANS for name in bad]
    for number, (key, name) in enumerate([*dice.sample(paths, _NUM_PAIRS), *dice.sample(others, _NUM_PAIRS)]):
        monkeypatch.setenv("ORCHESTRATOR_HOME", str(home_of_bundle / f"plan{number}"))
        rewrite(bundle, {"plan.json": json.dumps(replaced(plain, key, name)).encode()})
        assert not (is_shown(bundle) and key in PATHS_OF_PLANS)
    rewrite(bundle, {"plan.json": plan.to_json().encode()})
    events = [json.loads(line) for line in lines]
    fields = [(number, *key) for number, event in enumerate(events) for key in text_fields(event)]
    for number, (key, name) in enumerate(dice.sample([(key, name) for key in fields for name in bad], _NUM_PAIRS)):
        monkeypatch.setenv("ORCHESTRATOR_HOME", str(home_of_bundle / f"journal{number}"))
        changed = [json.dumps(event, separators=(",", ":")).encode() for event in replaced(events, key, name)]
        rewrite(bundle, {"journal.jsonl": b"".join(line + b"\n" for line in reseal(changed))})
        is_shown(bundle)
    assert list_files(tmp_path, home_of_bundle) == before


def test_a_backup_restores_nothing_outside_whatever_its_plan_says(
    home_of_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_sweep(num_trials=4)
    write_events(plan, whole_sweep(plan))
    journal = journal_path(plan).read_bytes()
    backup = tmp_path / "backup" / plan.id
    backup.mkdir(parents=True)
    (backup / Segment.of(1, journal).name).write_bytes(journal)
    (backup / "plan.json").touch()
    before = list_files(tmp_path, home_of_bundle)
    for number, name in enumerate(bad_names(tmp_path / "outside")[:3]):
        for key in (*PATHS_OF_PLANS, ("parent",)):
            monkeypatch.setenv("ORCHESTRATOR_HOME", str(home_of_bundle / f"{number}-{key[-1]}"))
            (backup / "plan.json").write_text(json.dumps(replaced(json.loads(plan.to_json()), key, name)))
            try:
                restored, _ = restore_sweep(str(backup))
            except REFUSALS:
                continue
            assert key == ("parent",)
            assert load_plan(restored).id == plan.id
    assert list_files(tmp_path, home_of_bundle) == before


def test_a_folder_with_another_kind_of_name_is_no_dataset(home: Path) -> None:
    (home / "data" / "my photos").mkdir(parents=True)
    (home / "data" / "my photos" / "train-labels.parquet").touch()
    (home / "data" / "mine").mkdir()
    (home / "data" / "mine" / "train-labels.parquet").touch()
    assert list(list_stores()) == ["mine"]
    assert find_store("../data/mine") is None
    with pytest.raises(UserError, match="The name of a dataset must be"):
        require_store("../data/mine")


def is_shown(bundle: Path) -> bool:
    """Do what `browse FILE` does before it serves; return whether nothing was refused."""
    try:
        plan = load_plan(unpack_bundle(bundle))
        tracking.sync(plan.id, retry=False)
        data_dir(str(plan.base["data.name"]))
    except REFUSALS:
        return False
    return True


def text_fields(plain: Any, key: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every text, and of every null, which may be a text."""
    if isinstance(plain, dict | list):
        for name, inner in plain.items() if isinstance(plain, dict) else enumerate(plain):
            yield from text_fields(inner, (*key, name))
    elif plain is None or (isinstance(plain, str) and key[-1] != "crc"):
        yield key


def replaced(plain: Any, key: tuple[Any, ...], value: Any) -> Any:
    """Return a copy with another value at a path."""
    copy = json.loads(json.dumps(plain))
    place = copy
    for part in key[:-1]:
        place = place[part]
    place[key[-1]] = value
    return copy


def list_files(folder: Path, except_below: Path) -> set[str]:
    """Return what is in a folder, without the bundle, which the test itself writes."""
    return {str(path) for path in folder.rglob("*") if not path.is_relative_to(except_below)}


def test_a_plan_that_is_ours_still_opens() -> None:
    plan = make_sweep("my.own_space-train-0123abcd", parent="a-00000000/3", storage="/any/where", dataset="mine")
    assert SweepPlan.from_json(plan.to_json()) == plan
