"""Whatever goes wrong while faults are caused, there is a report, and it says what."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.faults import __main__ as faults
from benchmarks.faults.__main__ import run_round
from benchmarks.faults.report import Cost


class Broken:
    """Stands in for the faults; nothing is started."""

    def __init__(self, folder: Path) -> None:
        self.costs = [Cost("trial actor killed with -9", 2.0, 0)]

    def __getattr__(self, name: str) -> Any:
        return lambda *words: []

    def kill_node_of_trials(self) -> None:
        raise psutil.NoSuchProcess(12345)

    def close(self) -> list[str]:
        return ["process raylet is left"]


def test_a_round_that_breaks_keeps_what_it_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(faults, "Faults", Broken)
    costs, wrong = run_round(tmp_path)
    assert [cost.fault for cost in costs] == ["trial actor killed with -9"]
    assert wrong[0].startswith("NoSuchProcess: ")
    assert wrong[1:] == ["process raylet is left"]


def test_an_end_that_breaks_hides_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(self: Broken) -> list[str]:
        raise TimeoutError("no answer\nfrom the head")

    monkeypatch.setattr(Broken, "close", fail)
    monkeypatch.setattr(faults, "Faults", Broken)
    _, wrong = run_round(tmp_path)
    assert [fault.partition(":")[0] for fault in wrong] == ["NoSuchProcess", "TimeoutError"]
    assert wrong[1] == "TimeoutError: no answer from the head"


def test_a_cluster_that_does_not_start_is_in_the_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(folder: Path) -> None:
        raise ConnectionError("no head")

    monkeypatch.setattr(faults, "Faults", refuse)
    monkeypatch.setattr(faults, "RESULTS", tmp_path / "faults.md")
    monkeypatch.setattr(tempfile, "mkdtemp", lambda prefix: str(tmp_path / "round"))
    monkeypatch.setattr(sys, "argv", ["faults", "--rounds", "2"])
    assert faults.main() == 1
    report = (tmp_path / "faults.md").read_text()
    assert "- round 1: ConnectionError: no head" in report
    assert "- round 2: ConnectionError: no head" in report
