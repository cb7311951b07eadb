from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.home import sweep_dir, sweeps_dir
from orchestrator.sweep_folder.events import SweepPlanned
from orchestrator.sweep_folder.index import (
    PlanError,
    create_sweep,
    find_sweep,
    list_broken,
    list_sweeps,
    load_plan,
    repair_plan,
    require_free_name,
)
from orchestrator.sweep_folder.lease import Lease
from tests.kit.sweeps import make_sweep, whole_sweep, write_events


def make_folder(sweep_id: str, created: float, kind: str = "sweep") -> str:
    name = sweep_id.rpartition("-")[0]
    create_sweep(sweep_id, json.dumps({"id": sweep_id, "name": name, "kind": kind, "created": created}))
    return sweep_id


def test_plan_is_written_once_and_read_back() -> None:
    folder = create_sweep("a-00000001", "{}")
    assert folder == sweep_dir("a-00000001")
    assert [path.name for path in folder.iterdir()] == ["plan.json"]
    assert (folder / "plan.json").read_text() == "{}"
    with pytest.raises(UserError, match="Sweep a-00000001 already exists in "):
        create_sweep("a-00000001", "other")
    assert (folder / "plan.json").read_text() == "{}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_home_is_the_users_mistake(home: Path) -> None:
    home.chmod(0o500)
    with pytest.raises(UserError, match="ORCHESTRATOR_HOME"):
        create_sweep("a-00000001", "{}")


def test_home_that_is_a_file_is_the_users_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="ORCHESTRATOR_HOME"):
        create_sweep("a-00000001", "{}")


def test_find_takes_an_id_a_name_or_nothing() -> None:
    older = make_folder("a-00000002", created=1)
    newer = make_folder("a-00000001", created=2)
    other = make_folder("b-00000003", created=3, kind="train")
    assert find_sweep(older) == older
    assert find_sweep("a") == newer
    assert find_sweep() == other
    assert find_sweep(kinds={"sweep"}) == newer
    assert find_sweep(other, kinds={"sweep"}) == other
    assert [entry.id for entry in list_sweeps()] == [other, newer, older]


def test_find_names_the_nearest_and_the_command_that_lists() -> None:
    make_folder("digits-00000001", created=1)
    with pytest.raises(
        UserError, match=r"No sweep 'digts' in .*\. Did you mean digits\? List them: `orchestrator status --all`"
    ):
        find_sweep("digts")
    with pytest.raises(UserError, match="The latest is digits-00000001"):
        find_sweep("quite-different")


def test_find_without_any_sweep_says_how_to_start_one() -> None:
    with pytest.raises(UserError, match="orchestrator sweep digits"):
        find_sweep()


@pytest.mark.parametrize("name", ["..", "../sweeps/a-00000001", "a-00000001/", "*"])
def test_find_does_not_leave_the_sweeps_folder(name: str) -> None:
    make_folder("a-00000001", created=1)
    with pytest.raises(UserError, match="No sweep "):
        find_sweep(name)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"name": "x"}', '{"name": "x", "kind": "sweep", "created": "soon"}']
)
def test_folder_with_a_broken_plan_hides_no_other(text: str) -> None:
    good = make_folder("a-00000001", created=1)
    create_sweep("b-00000002", text)
    (sweeps_dir() / "c-00000003").mkdir()  # as a kill before the plan leaves it
    assert find_sweep() == good
    # By its id it is found, so that reading it can say what is wrong with it; so it is by a name that no other has.
    assert find_sweep("b-00000002") == find_sweep("b") == "b-00000002"
    assert [(entry.id, entry.name) for entry in list_broken()] == [("b-00000002", "b")]
    with pytest.raises(PlanError, match=f"Cannot read the plan of b-00000002, {sweep_dir('b-00000002')}/plan.json: "):
        load_plan("b-00000002")
    with pytest.raises(PlanError, match="Restore the file from a copy, or from MLflow"):
        repair_plan("b-00000002")


def test_a_plan_that_is_lost_or_damaged_is_written_again_from_the_journal() -> None:
    plan = make_sweep("mine-00000001")
    path = sweep_dir(plan.id) / "plan.json"
    write_events(plan, [SweepPlanned(json.loads(plan.to_json())), *whole_sweep(plan)])
    assert repair_plan(plan.id) is None
    for damage in ("", "[" * 100_000, plan.to_json()[:-30], plan.to_json().replace(plan.id, "other-00000002"), None):
        path.unlink()
        if damage is not None:
            path.write_text(damage)
        assert [entry.id for entry in list_broken()] == ([] if damage and "other" in damage else [plan.id])
        with pytest.raises(PlanError, match="The journal has it: `orchestrator resume mine-00000001` writes it again"):
            load_plan(plan.id)
        assert repair_plan(plan.id) == path
        assert load_plan(plan.id) == plan


def test_files_of_somebody_else_among_the_sweeps_are_ignored(home: Path) -> None:
    good = make_folder("a-00000001", created=1)
    foreign = {
        "notes.txt": "to do",
        "plan.json": '{"name": "x", "kind": "sweep", "created": 5}',
        "data/readme.md": "mine",
        "rockets/plan.json": "[" * 100_000,
        "app/plan.json": '{"name": "x", "tier": "gold"}',
        "app/plan.json.d/plan.json": "{}",
    }
    for name, text in foreign.items():
        (sweeps_dir() / name).parent.mkdir(parents=True, exist_ok=True)
        (sweeps_dir() / name).write_text(text)
    (sweeps_dir() / "folder" / "plan.json").mkdir(parents=True)
    (sweeps_dir() / "gone").symlink_to(home / "gone")
    assert [entry.id for entry in list_sweeps()] == [good]
    assert {name: (sweeps_dir() / name).read_text() for name in foreign} == foreign


def test_sweeps_that_are_a_file_are_no_sweeps(home: Path) -> None:
    sweeps_dir().write_text("notes")
    assert list_sweeps() == []
    with pytest.raises(UserError, match="No sweeps in"):
        find_sweep()
    with pytest.raises(UserError, match="ORCHESTRATOR_HOME"):
        create_sweep("a-00000001", "{}")
    assert sweeps_dir().read_text() == "notes"


def test_taken_name_is_refused_and_a_free_one_returned() -> None:
    make_folder("mine-00000001", created=1)
    with pytest.raises(UserError, match="orchestrator resume mine-00000001"):
        require_free_name("mine")
    # A sweep that is running cannot be resumed.
    with Lease(sweep_dir("mine-00000001")), pytest.raises(UserError, match="orchestrator status mine-00000001"):
        require_free_name("mine")
    assert require_free_name("mine-too") == "mine-too"


def test_plan_of_no_sweep_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="No sweeps in "):
        load_plan("a-00000001")


def test_home_that_is_a_file_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "file"))
    for look in (list_sweeps, find_sweep):
        with pytest.raises(UserError, match="home must be a folder, but got .*which is a file. Set ORCHESTRATOR_HOME"):
            look()
