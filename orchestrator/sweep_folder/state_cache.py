"""Read the state of a long sweep without replaying its journal: keep beside it what it was after so many bytes.

The journal stays the only source of truth. A kept state counts only if the journal still begins with exactly the bytes
that it was made from (SHA-256), and if the code that makes states is the same; what follows is replayed. Whoever may
write there keeps a newer one; if nobody may, everything is replayed. For commands that show a sweep: what resumes,
promotes or audits one replays its journal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.sweep_folder import events, records, state
from orchestrator.sweep_folder.events import Event, from_plain, to_line
from orchestrator.sweep_folder.journal import replay_on, settle_dead, without_collector
from orchestrator.sweep_folder.records import Cause, TrialRecord, TrialState
from orchestrator.sweep_folder.state import SweepState
from training.files import write_whole

CACHE_FILE = "state-cache.json"
_LEAST_BYTES = 1 << 20
"""Less is replayed in a fraction of a second, and not worth a file."""
_RECORD = tuple(field.name for field in fields(TrialRecord))


def replay_quickly(path: Path) -> SweepState:
    """Return the state of a sweep, as :func:`orchestrator.sweep_folder.journal.replay` does.

    Raises:
        JournalError: A complete line is broken, or the file cannot be read.
    """
    kept = _read_kept(path)
    found, known = kept or (SweepState(), 0)
    found, size = replay_on(path, found, known)
    if size - known >= _LEAST_BYTES:
        # On a full disk, or in a home that somebody else may write, the next command replays again.
        with suppress(OSError):
            _keep(path, found, size)
    return settle_dead(path, found)


def _read_kept(path: Path) -> tuple[SweepState, int] | None:
    """Return a state and after how many bytes of the journal it was, or None if none is kept that can be used."""
    try:
        with without_collector():
            kept = json.loads(path.with_name(CACHE_FILE).read_bytes())
            with path.open("rb") as file:
                data = file.read(kept["size"])  # a driver may append meanwhile, but what is there does not change
            digest = hashlib.sha256(data).hexdigest()
            if (kept["code"], kept["size"], kept["sha256"]) != (_hash_code(), len(data), digest):
                return None
            return _load(kept["state"]), kept["size"]
    # Whatever is wrong with it: it is made again.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _keep(path: Path, found: SweepState, size: int) -> None:
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(size)).hexdigest()
    kept = {"code": _hash_code(), "size": size, "sha256": digest, "state": _dump(found)}
    write_whole(path.with_name(CACHE_FILE), json.dumps(kept, separators=(",", ":")))


@cache
def _hash_code() -> str:
    """Return a hash of the code that makes states of events: a state of other code may have another meaning."""
    digest = hashlib.sha256()
    for module in (events, records, state):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()[:16]


def _dump(found: SweepState) -> dict[str, Any]:
    plain = {name: _dump_value(value) for name, value in vars(found).items() if name != "records"}
    return plain | {"records": [_dump_record(record) for record in found.records.values()]}


def _dump_value(value: Any) -> Any:
    if isinstance(value, Event):
        return {"event": json.loads(to_line(value))}
    return sorted(value) if isinstance(value, set) else value


def _dump_record(record: TrialRecord) -> list[Any]:
    values = vars(record) | {"metrics": [[epoch, figures] for epoch, figures in record.metrics.items()]}
    return [values[name] for name in _RECORD]


def _load(plain: dict[str, Any]) -> SweepState:
    loaded = {name: _load_value(value) for name, value in plain.items()}
    loaded["records"] = {row[0]: _load_record(row) for row in plain["records"]}
    loaded["driver_spans"] = tuple(map(tuple, plain["driver_spans"]))
    loaded["handed_out"] = set(plain["handed_out"])
    return SweepState(**loaded)


def _load_value(value: Any) -> Any:
    return from_plain(value["event"]) if isinstance(value, Mapping) and value.keys() == {"event"} else value


def _load_record(row: list[Any]) -> TrialRecord:
    values = dict(zip(_RECORD, row, strict=True))
    values["state"] = TrialState(values["state"])
    values["cause"] = values["cause"] and Cause(values["cause"])
    values["metrics"] = dict(values["metrics"])
    values["spans"], values["devices"] = tuple(map(tuple, values["spans"])), tuple(values["devices"])
    # As in TrialRecord.changed: the constructor would take longer than all of this.
    record = object.__new__(TrialRecord)
    object.__setattr__(record, "__dict__", values)
    return record
