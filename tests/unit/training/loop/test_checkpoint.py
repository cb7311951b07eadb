"""Test that checkpoints survive a process that dies at any moment, and storage that loses data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from training.loop.checkpoint import CheckpointStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an empty folder."""
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


class Killed(BaseException):
    """The simulated death of the process."""


def state_of(epoch: int) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "weights": torch.full((1000,), float(epoch)),
        "metrics": {"val/mAP": 1.5 * epoch},
        "nested": [1, (2, "x")],
    }


def best_of(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "model": {"weight": torch.full((10,), float(epoch))}}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def epoch_of(state: dict[str, Any] | None) -> int | None:
    if state is None:
        return None
    whole = state["weights"] if "weights" in state else state["model"]["weight"]
    assert torch.equal(whole, torch.full_like(whole, float(state["epoch"]))), "a state of two epochs"
    return int(state["epoch"])


def test_nothing_is_loaded_of_nothing(folder: Path) -> None:
    store = CheckpointStore(folder / "absent")
    assert store.load_last() is None
    assert store.load_best() is None
    assert store.num_bytes() == 0
    store.delete()
    assert not (folder / "absent").exists()


def test_what_is_saved_is_loaded_with_values_and_types(folder: Path) -> None:
    CheckpointStore(folder).save(state_of(1), 1)
    loaded = CheckpointStore(folder).load_last()
    assert loaded is not None
    assert torch.equal(loaded.pop("weights"), state_of(1)["weights"])
    assert loaded == {key: value for key, value in state_of(1).items() if key != "weights"}


def test_the_last_two_are_kept_and_the_best(folder: Path) -> None:
    store = CheckpointStore(folder)
    for epoch, is_best in [(1, True), (2, True), (3, False), (10, False), (11, False)]:
        store.save(state_of(epoch), epoch, best_of(epoch) if is_best else None)
    kept = ("best-0002.pt", "last-0010.pt", "last-0011.pt")
    assert files(folder) == [name for path in kept for name in (path, f"{path}.done")]
    assert epoch_of(store.load_last()) == 11
    assert epoch_of(store.load_best()) == 2
    assert store.num_bytes() == sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize(("kind", "left"), [("last", "best"), ("best", "last")])
def test_drop_leaves_the_other_kind(folder: Path, kind: Any, left: str) -> None:
    store = CheckpointStore(folder)
    store.save(state_of(1), 1, best_of(1))
    store.drop(kind)
    assert files(folder) == [f"{left}-0001.pt", f"{left}-0001.pt.done"]


def test_delete_takes_everything(folder: Path) -> None:
    store = CheckpointStore(folder / "run")
    store.save(state_of(1), 1)
    store.delete()
    assert not (folder / "run").exists()
    assert store.load_last() is None


def test_best_of_an_epoch_is_that_epochs_although_a_killed_process_left_a_newer_one(folder: Path) -> None:
    other = folder / "other"
    CheckpointStore(other).save(state_of(9), 9, best_of(9))
    store = CheckpointStore(folder)
    store.save(state_of(7), 7, best_of(7))
    for path in other.glob("best*"):
        path.rename(folder / path.name)
    assert epoch_of(store.load_best()) == 9
    assert epoch_of(store.load_best(7)) == 7
    assert store.load_best(8) is None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    payload = bytearray(path.read_bytes())
    payload[len(payload) // 2] ^= 1
    path.write_bytes(payload)


@pytest.mark.parametrize("kind", ["last", "best"])
@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        (".pt.done", Path.unlink),
        (".pt.done", lambda path: path.write_text("")),
        (".pt.done", lambda path: path.write_text('{"size": 1}')),
        (".pt", Path.unlink),
        (".pt", cut),
        (".pt", flip_a_bit),
        (".pt", lambda path: path.write_bytes(b"")),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_passed_over(
    folder: Path, kind: str, suffix: str, damage: Callable[[Path], None]
) -> None:
    # Two complete best checkpoints exist only between writing the new one and deleting the old one.
    for epoch in (6, 7):
        other = folder / f"only-{epoch}"
        CheckpointStore(other).save(state_of(epoch), epoch, best_of(epoch))
        for path in other.iterdir():
            path.rename(folder / path.name)
        other.rmdir()
    damage(folder / f"{kind}-0007{suffix}")
    store = CheckpointStore(folder)
    last, best = epoch_of(store.load_last()), epoch_of(store.load_best())
    assert (last, best) == ((6, 7) if kind == "last" else (7, 6))
    assert store.passed_over == (
        ("last-0007.pt",) if kind == "last" and (folder / "last-0007.pt.done").exists() else ()
    )
    store.save(state_of(7), 7, best_of(7))
    kept = ("best-0007.pt", "last-0006.pt", "last-0007.pt")
    assert files(folder) == [name for path in kept for name in (path, f"{path}.done")]
    assert epoch_of(store.load_last()) == epoch_of(store.load_best()) == 7


def test_the_only_checkpoint_damaged_is_none(folder: Path) -> None:
    store = CheckpointStore(folder)
    store.save(state_of(1), 1)
    flip_a_bit(folder / "last-0001.pt")
    assert store.load_last() is None


class DyingFileSystem:
    """A file system that kills its process before the n-th change, renames included."""

    def __init__(self, filesystem: Any, dies: Callable[[], None]) -> None:
        self._filesystem, self._dies = filesystem, dies

    def __getattr__(self, name: str) -> Any:
        return getattr(self._filesystem, name)

    def delete_file(self, path: str) -> None:
        self._dies()
        self._filesystem.delete_file(path)


def test_a_process_that_dies_at_any_moment_of_a_save_leaves_a_whole_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_changes = 0
    while True:
        run = folder / str(num_changes)
        for epoch in (5, 6):
            CheckpointStore(run).save(state_of(epoch), epoch, best_of(epoch))
        left = [num_changes]

        def dies(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Killed

        def replace(source: str, target: str, dies: Callable[[], None] = dies, real: Any = os.replace) -> None:
            dies()
            real(source, target)

        store = CheckpointStore(run)
        with monkeypatch.context() as patch:
            patch.setattr("training.files.os.replace", replace)
            patch.setattr(store, "_fs", DyingFileSystem(store._fs, dies))
            try:
                store.save(state_of(7), 7, best_of(7))
                survived = True
            except Killed:
                survived = False
        assert all(done.with_suffix("").exists() for done in run.glob("*.done")), (
            "the .done file comes last and goes first"
        )
        fresh = CheckpointStore(run)
        last, best = epoch_of(fresh.load_last()), epoch_of(fresh.load_best())
        assert last in (6, 7), f"killed before change {num_changes}"
        assert best is not None
        assert best >= last, "the best weights are never behind the state that names them"
        fresh.save(state_of(8), 8, best_of(8))
        assert len(files(run)) == 6, "what a killed process left is cleared away"
        if survived:
            break
        num_changes += 1
    assert num_changes == 8, "four files written, four deleted"


def test_uri_of_a_file_and_a_folder_are_the_same_storage(folder: Path) -> None:
    CheckpointStore(f"file://{folder}/run").save(state_of(3), 3, best_of(3))
    assert epoch_of(CheckpointStore(folder / "run").load_last()) == 3
    assert epoch_of(CheckpointStore(f"file://{folder}/run").load_best()) == 3


def test_storage_that_is_no_local_disk() -> None:
    store = CheckpointStore("mock:///bucket/run")
    for epoch in (1, 2):
        store.save(state_of(epoch), epoch, best_of(epoch) if epoch == 1 else None)
    assert epoch_of(store.load_last()) == 2
    assert epoch_of(store.load_best()) == 1
    store.delete()
    assert store.load_last() is None


def test_a_checkpoint_never_runs_code(folder: Path) -> None:
    CheckpointStore(folder).save({"epoch": 1, "evil": Killed}, 1)
    with pytest.raises(Exception, match="weights_only"):
        CheckpointStore(folder).load_last()


def test_a_relative_folder_is_taken_from_where_the_store_was_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    store = CheckpointStore("run")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    store.save(state_of(1), 1)
    assert (folder / "run" / "last-0001.pt").is_file()
