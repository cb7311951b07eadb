from __future__ import annotations

import importlib
import sys

import pytest

from benchmarks.cost.__main__ import MEASUREMENTS, main


def test_a_measurement_is_started_by_its_name_with_its_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in MEASUREMENTS:
        seen: list[list[str]] = []
        module = importlib.import_module(f"benchmarks.cost.{name}")
        monkeypatch.setattr(module, "main", lambda seen=seen: seen.append(sys.argv[1:]))
        monkeypatch.setattr(sys, "argv", ["cost", name, "--quick"])
        main()
        assert seen == [["--quick"]]


def test_an_unknown_measurement_lists_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ([], ["sclae"]):
        monkeypatch.setattr(sys, "argv", ["cost", *words])
        with pytest.raises(SystemExit, match=r"overhead\|scale\|many\|metrics"):
            main()
