"""Define the events of a journal, and read and write them as lines of JSON.

A line is ``{"event": <name>, "time_ms": <Unix time in ms>, <fields>}``; a field that is None is left out. In a journal
each line also ends with a checksum, see :mod:`.chain`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, get_type_hints

from orchestrator.sweep_folder.records import Cause, TrialState
from orchestrator.sweep_folder.shapes import Shape
from training.config.run import Scalar


class EventError(ValueError):
    """A line that is not an event: broken JSON, or a required field is missing."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """The fields that all events have.

    Attributes:
        time_ms: Unix time in ms; 0 until the journal writes the event.
    """

    time_ms: int = 0


@dataclass(frozen=True)
class SweepPlanned(Event):
    """The plan that the sweep began with, as ``plan.json`` has it."""

    plan: Mapping[str, Any]


@dataclass(frozen=True)
class DriverStarted(Event):
    """A driver starts or resumes the sweep.

    Attributes:
        num_trials: How many trials the sweep should have.
        backup: URI of the journal's backup, if there is one.
    """

    sweep: str
    host: str
    pid: int
    num_trials: int
    provenance: Mapping[str, str]
    backup: str | None = None


@dataclass(frozen=True)
class DriverEnded(Event):
    """A driver ended on its own; missing after a kill.

    Attributes:
        state: ``FINISHED``, ``INTERRUPTED`` or ``FAILED``.
        settled: Whether a later process wrote it, because the driver was killed after its last trial.
    """

    state: str
    settled: bool | None = None


@dataclass(frozen=True)
class SweepExtended(Event):
    """Trials were added, or the limit was raised.

    Attributes:
        num_trials: The new total.
        max_gpu_hours: The new limit; None leaves it as it is.
    """

    num_trials: int
    max_gpu_hours: float | None = None


@dataclass(frozen=True)
class LimitReached(Event):
    """No further trial is handed out, because search and promotion could then take more than the limit.

    Attributes:
        max_gpu_hours: The limit.
        spent: What all trials have taken so far, in the limit's unit.
        reserved: What is kept for the promotion.
        message: Why, as a sentence.
    """

    max_gpu_hours: float
    spent: float
    reserved: float
    message: str


@dataclass(frozen=True)
class SearchOver(Event):
    """A search ends before all its trials have run, because the others are expected to gain too little together.

    Attributes:
        num_started: Trials that have been started; the sweep has no more from now on.
        num_trials: How many it should have had.
        gain: By how many points the others were expected to raise the best score.
        min_gain: Fewer points are not worth them.
        message: Why, as a sentence.
    """

    num_started: int
    num_trials: int
    gain: float
    min_gain: float
    message: str


@dataclass(frozen=True)
class TrialStarted(Event):
    """A trial was handed out, for the first time or again; ``host`` and ``pid`` are the driver's."""

    trial: int
    attempt: int
    params: Mapping[str, Scalar]
    origin: str
    host: str
    pid: int


@dataclass(frozen=True)
class EpochReported(Event):
    """A trial finished an epoch; the first report of an attempt also has ``host`` and the fields after it.

    Attributes:
        device: Model of the GPU (or, without one, of the CPU) that it runs on.
    """

    trial: int
    epoch: int
    metrics: Mapping[str, float]
    host: str | None = None
    pid: int | None = None
    queue_s: float | None = None
    start_s: float | None = None
    device: str | None = None


@dataclass(frozen=True)
class TrialLost(Event):
    """An attempt failed (LOST or OOM), and the trial will be handed out again."""

    trial: int
    cause: Cause
    message: str


@dataclass(frozen=True)
class TrialSetAside(Event):
    """A trial has reached the epoch of the screen, and waits without a process until it continues or ends."""

    trial: int


@dataclass(frozen=True)
class TrialEnded(Event):
    """A trial has ended: COMPLETE, PRUNED, or FAILED with a cause and a message."""

    trial: int
    state: TrialState
    cause: Cause | None = None
    message: str | None = None


@dataclass(frozen=True)
class PromotionDecided(Event):
    """A promotion decided.

    Attributes:
        champion: The champion it was compared with, as NAME/VERSION, if there was one.
        model: Name of the registered model.
    """

    verdict: str
    reason: str
    marks: tuple[str, ...]
    model: str
    champion: str | None = None


@dataclass(frozen=True)
class TestOpened(Event):
    """A promotion evaluated its final runs on the test split.

    Attributes:
        figures: Trial, as text -> metrics.
        epochs: Trial, as text -> the epoch whose weights were evaluated.
        opening, line_hash: Number and sha256 of its line in the test ledger; None if the split has no images, or in
            a journal of a version without a ledger.
        scores: Name of a file of scores per image -> its sha256.
        champion_opening, champion_line_hash: The same for the runs of the champion, if it ran too.
        draw_openings, draw_line_hashes: The same for runs on further label draws: first run of a draw, as text ->
            number or sha256.
    """

    __test__ = False  # not a test class, despite its name

    figures: Mapping[str, Mapping[str, float]]
    epochs: Mapping[str, int]
    opening: int | None = None
    line_hash: str | None = None
    scores: Mapping[str, str] | None = None
    champion_opening: int | None = None
    champion_line_hash: str | None = None
    draw_openings: Mapping[str, int] | None = None
    draw_line_hashes: Mapping[str, str] | None = None


@dataclass(frozen=True)
class ChampionSet(Event):
    """A promotion registered a new champion; ``version`` is NAME/VERSION."""

    version: str


TrialEvent = TrialStarted | EpochReported | TrialLost | TrialSetAside | TrialEnded

_TYPES: dict[str, type[Event]] = {
    "sweep_planned": SweepPlanned,
    "driver_started": DriverStarted,
    "driver_ended": DriverEnded,
    "sweep_extended": SweepExtended,
    "limit_reached": LimitReached,
    "search_over": SearchOver,
    "trial_started": TrialStarted,
    "epoch_reported": EpochReported,
    "trial_lost": TrialLost,
    "trial_set_aside": TrialSetAside,
    "trial_ended": TrialEnded,
    "promotion_decided": PromotionDecided,
    "test_opened": TestOpened,
    "champion_set": ChampionSet,
}
_MAX_SHOWN = 80
_NO_EVENT = "not a JSON object with an event"
_NAMES = {kind: name for name, kind in _TYPES.items()}


def to_line(event: Event) -> bytes:
    """Return an event as a line of a journal."""
    # Without fields that are None: most events leave the optional fields empty, and journals grow long.
    plain = {"event": _NAMES[type(event)], **{key: value for key, value in vars(event).items() if value is not None}}
    return json.dumps(plain, separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes) -> Event | None:
    """Return the event of a line, or None if it is from a later version; fields from later versions are ignored.

    Raises:
        EventError: The line is not a JSON object with an event, a required field is missing, or a value is not valid.
    """
    try:
        plain = json.loads(line.decode())  # decoded here, because json would first guess the encoding of bytes
    except (ValueError, RecursionError):
        raise EventError(_NO_EVENT) from None
    return from_plain(plain)


def parse_lines(lines: Sequence[bytes]) -> list[Any] | None:
    """Return the JSON values of lines, parsed in one go, which takes half the time; None if one is not valid alone.

    Only for lines whose checksums are looked at afterwards: two broken lines could look like two whole ones together.
    """
    try:
        found: list[Any] = json.loads((b"[%s]" % b",".join(lines)).decode())
    except (ValueError, RecursionError):
        return None
    return found if len(found) == len(lines) else None


def from_plain(plain: Any) -> Event | None:
    """Return the event of a line that was parsed; as :func:`from_line`.

    Raises:
        EventError: As :func:`from_line`.
    """
    try:
        name = plain.pop("event")
    except (KeyError, AttributeError, TypeError):
        raise EventError(_NO_EVENT) from None
    # A later version may have written to this journal: its additions must not make the sweep unreadable here.
    kind = _TYPES.get(name) if isinstance(name, str) else None
    if kind is None:
        return None
    plain.pop("crc", None)  # of the line, not of the event
    event = _build(name, kind, plain)
    shapes = _SHAPES[kind]
    # Not the fields that the line leaves out: their defaults fit.
    for key, value in plain.items():
        shape = shapes.get(key)
        if shape is not None and type(value) not in shape.always and not shape.fits(value):
            raise EventError(f"event {name} has a value that is not valid: {key} is {_shorten(value)}")
    return event


def _build(name: str, kind: type[Event], plain: dict[str, Any]) -> Event:
    try:
        if not plain["time_ms"]:  # the constructor's default is only for events that are not written yet
            raise EventError(f"event {name} has no time")
        if name in _CONVERT:
            _CONVERT[name](plain)
        # What the constructor does, which takes four times as long: a journal may have 100,000 lines.
        event = object.__new__(kind)
        values = {**_DEFAULTS[kind], **plain}
        if values.keys() != _SHAPES[kind].keys():
            return kind(**plain)
        object.__setattr__(event, "__dict__", values)
        return event
    except KeyError as error:
        raise EventError(f"event {name} lacks the field {error.args[0]}") from None
    # Before ValueError, of which it is a kind: its message is complete.
    except EventError:
        raise
    except ValueError as error:
        raise EventError(f"event {name} has a value that is not valid: {error}") from None
    except TypeError:
        return _from_other_version(name, kind, plain)


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]} ..."


def _from_other_version(name: str, kind: type[Event], plain: dict[str, Any]) -> Event:
    """Build an event field by field; slower, and only for lines that do not have exactly this version's fields."""
    for field in fields(kind):
        if field.name not in plain and field.default is MISSING:
            raise EventError(f"event {name} lacks the field {field.name}")
    return kind(**{field.name: plain[field.name] for field in fields(kind) if field.name in plain})


def _read_driver_started(plain: dict[str, Any]) -> None:
    former = plain.pop("mirror", None)  # the name of the field before `backup`
    plain.setdefault("backup", former)


def _read_trial_lost(plain: dict[str, Any]) -> None:
    plain["cause"] = Cause(plain["cause"])


def _read_trial_ended(plain: dict[str, Any]) -> None:
    plain["state"] = TrialState(plain["state"])
    if plain.get("cause"):
        plain["cause"] = Cause(plain["cause"])


def _read_promotion_decided(plain: dict[str, Any]) -> None:
    if isinstance(plain["marks"], list):
        plain["marks"] = tuple(plain["marks"])


_SHAPES: dict[type[Event], dict[str, Shape]] = {
    kind: {field: Shape.of(hint) for field, hint in get_type_hints(kind).items()} for kind in _TYPES.values()
}


_DEFAULTS: dict[type[Event], dict[str, Any]] = {
    kind: {field.name: field.default for field in fields(kind) if field.default is not MISSING}
    for kind in _TYPES.values()
}


# Only for events with fields that JSON has no type for; all other lines skip this step.
_CONVERT: dict[str, Callable[[dict[str, Any]], None]] = {
    "driver_started": _read_driver_started,
    "trial_lost": _read_trial_lost,
    "trial_ended": _read_trial_ended,
    "promotion_decided": _read_promotion_decided,
}
