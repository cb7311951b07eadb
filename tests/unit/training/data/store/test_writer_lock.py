from __future__ import annotations

import time

import psutil
import pytest

from training.data.store.writer_lock import STALE_S, _alive, _myself


def test_a_writer_is_alive_by_its_process_here_and_by_its_beat_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    here = _myself()
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: 12.0)  # the clock was set
    assert _alive(here)
    assert not _alive(here | {"ticks": here["ticks"] + 1})
    # Another container, whose host has the same name.
    elsewhere = here | {"machine": "another container"}
    assert _alive(elsewhere | {"beat": time.time()})
    assert not _alive(elsewhere | {"beat": time.time() - STALE_S - 1})
