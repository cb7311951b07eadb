"""Test how numbers of bytes are shown."""

from __future__ import annotations

from orchestrator.sizes import format_sizes


def test_sizes_are_shown_in_one_unit() -> None:
    assert format_sizes(104_300_000, 96_230_000) == ["104 MB", "96.2 MB"]
    assert format_sizes(2_500_000_000_000) == ["2.5 TB"]
    assert format_sizes(0, 512) == ["0 bytes", "512 bytes"]


def test_different_sizes_are_told_apart() -> None:
    assert format_sizes(12_345_678_901, 12_345_000_000) == ["12.346 GB", "12.345 GB"]
    assert format_sizes(7, 7) == ["7 bytes", "7 bytes"]
