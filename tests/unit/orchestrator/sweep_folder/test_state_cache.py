from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from orchestrator.sweep_folder import state_cache
from orchestrator.sweep_folder.events import (
    ChampionSet,
    DriverEnded,
    DriverStarted,
    EpochReported,
    Event,
    LimitReached,
    PromotionDecided,
    SearchOver,
    SweepExtended,
    SweepPlanned,
    TestOpened,
    TrialEnded,
    TrialLost,
    TrialSetAside,
    TrialStarted,
)
from orchestrator.sweep_folder.journal import Journal, JournalError, replay, replay_on
from orchestrator.sweep_folder.records import Cause, TrialState
from orchestrator.sweep_folder.state import SweepState
from orchestrator.sweep_folder.state_cache import CACHE_FILE, replay_quickly

EVENTS: list[Event] = [
    SweepPlanned({"id": "a-00000001"}),
    DriverStarted("a-00000001", "here", 1, 3, {"commit": "abc"}, backup="s3://bucket"),
    *(TrialStarted(trial, 1, {"optim.lr": 0.1, "method.rejection": None}, "tpe", "here", 1) for trial in range(3)),
    EpochReported(0, 1, {"val/mAP": 50.0}, host="here", pid=2, queue_s=0.5, start_s=1.5, device="a chip"),
    EpochReported(0, 2, {"val/mAP": 60.0}),
    TrialEnded(0, TrialState.COMPLETE),
    TrialLost(1, Cause.OOM, "no memory"),
    TrialStarted(1, 2, {"optim.lr": 0.1}, "tpe", "here", 1),
    TrialEnded(1, TrialState.FAILED, Cause.OOM, "no memory"),
    EpochReported(2, 1, {"val/mAP": 40.0}),
    TrialSetAside(2),
    LimitReached(2.0, 1.0, 0.5, "enough"),
    DriverEnded("FINISHED"),
    SweepExtended(5, 4.0),
    DriverStarted("a-00000001", "here", 1, 5, {"commit": "abc"}),
    PromotionDecided("PROMOTE", "better", ("mark",), "model", None),
    TestOpened({"0": {"test/mAP": 50.0}}, {"0": 2}, opening=1, line_hash="ff"),
    ChampionSet("model/1"),
    SearchOver(3, 5, 0.25, 0.5, "no more"),
]
LATER: list[Event] = [EpochReported(2, 2, {"val/mAP": 45.0}), TrialEnded(2, TrialState.COMPLETE)]


def append(path: Path, events: list[Event]) -> None:
    with Journal.open(path) as journal:
        for event in events:
            journal.append(event)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(state_cache, "_LEAST_BYTES", 1)
    append(tmp_path / "journal.jsonl", EVENTS)
    return tmp_path / "journal.jsonl"


@pytest.fixture
def offsets(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return from where on a journal was replayed, each time."""
    seen: list[int] = []

    def watch(path: Path, state: SweepState, offset: int) -> tuple[SweepState, int]:
        seen.append(offset)
        return replay_on(path, state, offset)

    monkeypatch.setattr(state_cache, "replay_on", watch)
    return seen


def test_a_kept_state_is_the_replayed_one_in_every_field_and_type(path: Path, offsets: list[int]) -> None:
    replayed, first, second = replay(path), replay_quickly(path), replay_quickly(path)
    assert first == second == replayed
    for field in fields(SweepState):
        assert repr(getattr(second, field.name)) == repr(getattr(replayed, field.name)), field.name
    assert offsets == [0, path.stat().st_size]
    append(path, LATER)
    assert replay_quickly(path) == replay(path)
    assert offsets[2:] == [offsets[1]], "only what was appended is replayed"
    assert replay_quickly(path).records[2].state is TrialState.COMPLETE
    assert offsets[3:] == [path.stat().st_size]


def test_a_kept_state_of_other_bytes_or_other_code_does_not_count(
    path: Path, offsets: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    replay_quickly(path)
    whole, kept = path.read_bytes(), path.with_name(CACHE_FILE)
    state = kept.read_bytes()
    path.write_bytes(whole.replace(b"60.0", b"70.0"))
    with pytest.raises(JournalError, match="checksum"):
        replay_quickly(path)
    # Back to an earlier copy of itself.
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:6]))
    assert replay_quickly(path).records[0].metrics == {1: {"val/mAP": 50.0}}
    path.write_bytes(whole)
    for broken in (
        b"",
        b"{}",
        b"[]",
        state[:-20],
        state.replace(b'"size":', b'"size":1'),
        state.replace(b"50.0", b"x"),
    ):
        kept.write_bytes(broken)
        assert replay_quickly(path) == replay(path), broken[:40]
        assert offsets[-1] == 0
    replay_quickly(path)
    assert offsets[-1] > 0
    monkeypatch.setattr(state_cache, "_hash_code", lambda: "other")
    assert replay_quickly(path) == replay(path)
    assert offsets[-1] == 0


def test_nothing_is_kept_of_a_short_journal_or_in_a_folder_of_others(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_cache, "write_whole", lambda path, text: (_ for _ in ()).throw(PermissionError()))
    assert replay_quickly(path) == replay(path)
    monkeypatch.undo()
    assert replay_quickly(path) == replay(path)
    assert not path.with_name(CACHE_FILE).exists()
    assert replay_quickly(path.with_name("missing.jsonl")) == SweepState()
