"""Test the benchmark of the input pipeline: its rows, and its verdicts on the aims."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.pipeline.input_pipeline import (
    PICTURES,
    SIZE,
    STRAIGHT,
    TENSORS,
    Prepared,
    Report,
    ResizedImages,
    StraightforwardImages,
    find_photos,
    interleave,
    load_ours,
    ours,
    prepare_store,
    render_report,
    write_resized,
)
from training.data.store.images import Encoding


def test_rows_give_two_views_and_ours_reads_its_store(tmp_path: Path) -> None:
    files, _ = find_photos(tmp_path)
    resized = write_resized(files, tmp_path / "resized")
    for dataset in (
        StraightforwardImages(files, 4),
        ResizedImages(resized, 4, tensors=True),
        ResizedImages(resized, 4, tensors=False),
    ):
        assert len(dataset) == 4
        weak, strong = dataset[3]
        assert weak.shape == strong.shape == (3, SIZE, SIZE)
        assert weak.dtype == strong.dtype == torch.float32
    prepared = prepare_store(files, 4, tmp_path, "raw")
    assert prepared.gb == pytest.approx(3 * SIZE**2 / 1e6, rel=0.01)
    assert prepared.cpu_ms > 0
    load_ours(prepared.data, normalised=False, num_workers=0)
    load_ours(prepared.data, normalised=True, num_workers=0)


def test_repeats_are_interleaved_and_the_first_round_does_not_count() -> None:
    seen: list[str] = []
    taken = interleave({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 2)
    assert seen == ["a", "b"] * 3
    assert [len(times) for times in taken.values()] == [2, 2]


def test_report_compares_repeat_with_repeat_and_says_what_is_missed(tmp_path: Path) -> None:
    files, photos = find_photos(tmp_path)
    store = prepare_store(files, 2, tmp_path, "raw")
    here = {
        STRAIGHT: [10.0, 20.0, 10.0],
        TENSORS: [6.0, 12.0, 6.0],
        PICTURES: [5.0, 5.0, 5.0],
        ours("raw", True): [2.0, 4.0, 2.5],
    }
    prepared: dict[Encoding, Prepared] = {"raw": Prepared(store.data, 0.602, 8.0)}
    text = render_report(
        Report(photos, here, here, prepared, 0.1, {"Rotate": (0.2, 0.3, 2.0)}, [(100, 500.0, 20.0)], 0.5)
    )
    assert "| 10.00 (10.00 - 20.00) | 100 | 10.00 |" in text
    assert f"| {ours('raw', True)} | 5.0 (aim 5: met) | 3.0 (aim 2: met) | 2.0 |" in text
    assert "| raw | 0.602 | 74 | 8.0 | 125 |" in text
    assert "| 100 | 500 | 20 |" in text
    slow = {**here, ours("raw", True): [9.0, 9.0, 9.0]}
    text = render_report(
        Report(photos, slow, slow, prepared, 0.1, {"Rotate": (0.2, 0.3, 2.0)}, [(100, 500.0, 20.0)], 0.5)
    )
    assert "(aim 5: missed) | 0.7 (aim 2: missed)" in text
