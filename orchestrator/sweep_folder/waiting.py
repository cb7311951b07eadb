"""Say, beside the journal, that trials wait for resources: a driver writes it, and `status` reads it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from training.files import write_whole

WAITING_FILE = "waiting.json"


@dataclass(frozen=True)
class Waiting:
    """What trials wait for.

    Attributes:
        num_trials: How many.
        since_ms: When the first of them was handed out.
        what: What they wait for, as part of a sentence.
    """

    num_trials: int
    since_ms: int
    what: str


def write_waiting(folder: Path, waiting: Waiting | None) -> None:
    """Write what trials wait for into a sweep's folder; None removes it. A disk that fails loses nothing but this."""
    path = folder / WAITING_FILE
    with suppress(OSError):
        if waiting is None:
            path.unlink(missing_ok=True)
        else:
            write_whole(path, json.dumps(asdict(waiting)))


def read_waiting(folder: Path) -> Waiting | None:
    """Return what the trials of a running driver wait for, or None."""
    try:
        plain = json.loads((folder / WAITING_FILE).read_text(encoding="utf-8"))
        return Waiting(int(plain["num_trials"]), int(plain["since_ms"]), str(plain["what"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None
