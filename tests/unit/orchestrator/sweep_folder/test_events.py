"""Test events as lines: each is read back as it was, other versions' lines are read, and missing fields are named."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from typing import Any

import pytest

from orchestrator.sweep_folder.events import (
    ChampionSet,
    DriverEnded,
    DriverStarted,
    EpochReported,
    Event,
    EventError,
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
    from_line,
    to_line,
)
from orchestrator.sweep_folder.records import Cause, TrialState

EVENTS: list[Event] = [
    SweepPlanned({"id": "digits-1", "base": {"optim.lr": 1e-3}, "start_from": [{}]}, time_ms=1),
    DriverStarted("digits-1", "h", 1, 3, {"commit": "c"}, backup="s3://bucket/x", time_ms=1),
    DriverStarted("digits-1", "h", 1, 3, {}, time_ms=1),
    DriverEnded("FINISHED", time_ms=1),
    DriverEnded("FINISHED", settled=True, time_ms=1),
    SweepExtended(8, time_ms=1),
    SweepExtended(8, 2.5, time_ms=1),
    LimitReached(2.5, 1.5, 1.0, "no more", time_ms=1),
    SearchOver(9, 24, 0.25, 0.5, "no more", time_ms=1),
    TrialStarted(0, 2, {"optim.lr": 1e-3, "method.warmup": None}, "tpe", "h", 1, time_ms=1),
    EpochReported(0, 1, {"val/mAP": 50.0}, time_ms=1),
    EpochReported(0, 1, {"val/mAP": 50.0}, "h", 7, queue_s=0.5, start_s=1.0, device="H200", time_ms=1),
    TrialLost(0, Cause.OOM, "out of memory", time_ms=1),
    TrialSetAside(0, time_ms=1),
    TrialEnded(0, TrialState.COMPLETE, time_ms=1),
    TrialEnded(0, TrialState.FAILED, Cause.NAN, "loss must be finite", time_ms=1),
    PromotionDecided("KEEP", "not higher", ("a",), "m", champion="m/1", time_ms=1),
    TestOpened({"0": {"test/mAP": 61.5}}, {"0": 2}, time_ms=1),
    ChampionSet("m/2", time_ms=1),
]


def line(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_every_event_comes_back_as_it_was_written() -> None:
    assert [from_line(to_line(event)) for event in EVENTS] == EVENTS
    assert {type(event) for event in EVENTS} == set(Event.__subclasses__())
    for event in EVENTS:
        assert to_line(event).endswith(b"\n")
        assert to_line(event).count(b"\n") == 1


def test_an_event_of_a_later_version_is_passed_over_and_a_later_field_ignored() -> None:
    assert from_line(line(event="of_a_later_version", time_ms=1)) is None
    for event in EVENTS:
        fields = json.loads(to_line(event)) | {"of_a_later_version": [1]}
        assert from_line(line(**fields)) == event


def test_a_missing_field_is_named() -> None:
    for event in EVENTS:
        fields = json.loads(to_line(event))
        required = [field.name for field in dataclasses.fields(event) if field.default is dataclasses.MISSING]
        for name in ["time_ms", *required]:
            short = {key: value for key, value in fields.items() if key != name}
            with pytest.raises(EventError, match=f"event {fields['event']} lacks the field {name}$"):
                from_line(line(**short))


def test_a_value_that_no_version_writes_is_an_error() -> None:
    with pytest.raises(EventError, match="trial_ended has a value that is not valid: 'DONE' is not a valid TrialState"):
        from_line(line(event="trial_ended", time_ms=1, trial=0, state="DONE"))


HUGE = 10**400
NUMBERS = (int, float)
WRONG: tuple[Any, ...] = (None, True, "text", [1], {"a": [1]}, -1, HUGE, 1.5, math.inf, math.nan)


def test_a_value_of_another_kind_is_an_error_and_nothing_else() -> None:
    """Every field of every event, and every value in its mappings, is replaced by what it cannot be."""
    for event in EVENTS:
        fields = json.loads(to_line(event))
        for name in set(fields) - {"event", "plan"}:
            for wrong in WRONG:
                inside = dict.fromkeys(fields[name], wrong) if isinstance(fields[name], dict) else {}
                for value in [wrong, *([inside] if inside else [])]:
                    with contextlib.suppress(EventError):
                        read = from_line(line(**fields | {name: value}))
                        assert isinstance(getattr(read, name), NUMBERS if isinstance(value, float) else type(value))
    for name, wrong in (("epoch", 4.0), ("epoch", True), ("trial", -1), ("epoch", HUGE), ("metrics", {"a": HUGE})):
        fields = json.loads(to_line(EpochReported(0, 1, {"val/mAP": 50.0}, time_ms=1)))
        with pytest.raises(EventError, match=f"has a value that is not valid: {name} is "):
            from_line(line(**fields | {name: wrong}))
    # 1e400 is read as infinity, which is no epoch; a metric may be infinite.
    with pytest.raises(EventError, match="epoch is inf"):
        from_line(to_line(EpochReported(0, 7, {}, time_ms=1)).replace(b":7", b":1e400"))
    assert from_line(to_line(EpochReported(0, 1, {"train/loss": math.inf}, time_ms=1))) is not None


@pytest.mark.parametrize(
    "broken",
    [b"", b'{"event": "epo', b"[1]", b"1", b"{}", b"\x00\x00", b"\xff", b"[" * 100_000, b'{"event":' * 100_000],
)
def test_what_is_not_an_event_is_refused(broken: bytes) -> None:
    with pytest.raises(EventError, match="not a JSON object with an event"):
        from_line(broken)


def test_the_backup_is_read_under_its_former_name() -> None:
    former = to_line(EVENTS[0]).replace(b'"backup"', b'"mirror"')
    assert from_line(former) == EVENTS[0]
    assert b"mirror" not in to_line(EVENTS[0])


def test_what_earlier_versions_wrote_as_null_is_nothing() -> None:
    former = line(event="trial_ended", time_ms=1, trial=0, state="COMPLETE", cause=None, message=None)
    assert from_line(former) == TrialEnded(0, TrialState.COMPLETE, time_ms=1)
