from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from orchestrator.datasets import pictures
from orchestrator.datasets.pictures import draw_sheet, draw_stats
from orchestrator.datasets.sheet import Picture, make_pictures, read_rows, spread_rows
from orchestrator.datasets.stats import LabelStats, count_labels, render_stats, table_of_classes
from orchestrator.errors import UserError
from tests.kit.layouts import make_l48
from training.data.sources.l48 import read_l48
from training.data.split import InMemoryImages, SplitData
from training.data.store.known_labels import all_known
from training.data.store.reader import open_store
from training.data.store.writer import write_store

CLASSES = ("cat", "dog", "mug")
TRUE = [[1, 1, 0], [1, 1, 0], [0, 1, 1], [1, 0, 0]]
OBSERVED = [[1, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0]]


def make_split(name: str, true: list[list[int]] | None) -> SplitData:
    known = None if true is None else torch.tensor(true, dtype=torch.bool)
    images = InMemoryImages(torch.zeros(len(OBSERVED), 3, 8, 8, dtype=torch.uint8))
    return SplitData(name, images, torch.tensor(OBSERVED, dtype=torch.bool), known, None, CLASSES)


@pytest.fixture
def stats() -> LabelStats:
    return count_labels("birds", make_split("train", TRUE), make_split("val", TRUE), 7)


def test_labels_are_counted(stats: LabelStats) -> None:
    assert stats.observed["train"].tolist() == [2, 2, 0]
    assert stats.true["train"] is not None
    assert stats.true["train"].tolist() == [3, 3, 1]
    assert stats.images == {"train": 4, "val": 4, "test": 7}
    assert stats.unlearnable == [2]
    assert stats.pairs(10) == [(0, 1, 2), (1, 2, 1)]


def test_lines_name_what_cannot_be_learnt_and_what_occurs_together(stats: LabelStats) -> None:
    headers, rows = table_of_classes(stats)
    assert headers == ["class", "train observed", "val observed", "train true", "val true"]
    assert rows[2] == ["mug", 0, 0, 1, 1]
    lines = render_stats(stats, 10)
    assert "classes with no learnable positive in train: 1 of 3: mug" in lines
    assert "most often together in train: cat + dog 2, dog + mug 1" in lines


def test_true_labels_that_there_are_not_are_not_available(tmp_path: Path) -> None:
    stats = count_labels("birds", make_split("train", None), make_split("val", None), 0)
    assert table_of_classes(stats)[0] == ["class", "train observed", "val observed"]
    assert "true labels of train and val: not available" in render_stats(stats, 10)
    assert stats.to_json(10)["classes"]["cat"] == {
        "train_observed": 2,
        "val_observed": 2,
        "train_true": None,
        "val_true": None,
    }
    draw_stats(tmp_path / "stats.png", stats)
    assert (tmp_path / "stats.png").stat().st_size > 1000


def test_picture_marks_a_class_with_no_learnable_positive(stats: LabelStats, tmp_path: Path) -> None:
    draw_stats(tmp_path / "stats.png", stats)
    pixels = np.asarray(Image.open(tmp_path / "stats.png").convert("RGB")).reshape(-1, 3)
    assert (pixels == (0xCF, 0x22, 0x2E)).all(1).any()


def test_sheet_shows_the_image_and_its_box_in_the_colour_of_what_is_known(tmp_path: Path) -> None:
    blue = np.zeros((32, 32, 3), np.uint8)
    blue[..., 2] = 200
    boxes = (("dog", 2.0, 2.0, 20.0, 20.0), ("mug", 8.0, 8.0, 30.0, 30.0))
    draw_sheet(
        tmp_path / "sheet.png",
        "birds",
        [Picture("0: a", blue, ("dog",), ("mug",), 2, boxes), Picture("1: b", blue, (), None, 3)],
        CLASSES,
    )
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).reshape(-1, 3)
    for colour in ((0, 0, 200), (0x1A, 0x7F, 0x37), (0xBC, 0x4C, 0x00)):
        assert (pixels == colour).all(1).sum() > 50, colour


def draw(monkeypatch: pytest.MonkeyPatch, path: Path, stats: LabelStats) -> tuple[Figure, str | None]:
    """Return the figure that is drawn, and what is to be told."""
    figures: list[Figure] = []
    monkeypatch.setattr(pictures, "_save", lambda figure, path: figures.append(figure))
    told = draw_stats(path, stats)
    return figures[0], told


def test_counts_are_sorted_have_whole_ticks_and_the_diagonal_is_no_count(
    stats: LabelStats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed = np.array([1, 0, 3])
    unsorted = replace(stats, observed={"train": observed, "val": observed})
    figure, told = draw(monkeypatch, tmp_path / "stats.png", unsorted)
    seen, true, together, *_ = figure.axes
    assert told is None
    assert [label.get_text() for label in seen.get_xticklabels()] == ["mug", "cat", "dog"]
    for axes in (seen, true, together):
        assert [label.get_text() for label in axes.get_xticklabels()] == ["mug", "cat", "dog"]
    assert all(float(tick).is_integer() for axes in (seen, true) for tick in axes.get_yticks())
    assert len(together.patches) == len(CLASSES)
    assert "grey: the class itself" in together.get_title()
    counts = together.images[0].get_array()
    assert counts is not None
    assert np.ma.getmaskarray(counts).tolist() == [[True, True, False], [True, True, False], [False, False, True]]


def test_pictures_are_pdf_and_svg_too_and_the_same_each_time(stats: LabelStats, tmp_path: Path) -> None:
    for suffix, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")):
        first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
        draw_stats(first, stats)
        draw_stats(second, stats)
        assert first.read_bytes().startswith(start)
        assert first.read_bytes() == second.read_bytes(), suffix


def test_names_that_no_font_can_write_become_numbers_and_are_told(
    stats: LabelStats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first is in no font of a font's own code points; the others are in fonts that come with Matplotlib.
    names = ("\U0010fffd犬", "$a$_b$", "𝒜lpha")
    figure, told = draw(monkeypatch, tmp_path / "stats.png", replace(stats, classes=names))
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["#0", "$a$_b$", "𝒜lpha"]
    assert told is not None
    assert "the picture shows numbers: #0 \U0010fffd犬. Install a font" in told
    figure.canvas.draw()  # a dollar sign starts no formula, and no glyph is missing, which would be a warning


def test_labels_at_the_edge_of_an_image_do_not_shrink_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(pictures, "_save", lambda figure, path: figures.append(figure))
    pixels = np.zeros((32, 32, 3), np.uint8)
    long = "a name of a class that is longer than the image is wide, by far"
    widths = []
    for name in ("a", long):
        boxes, points = ((name, 15.0, 2.0, 20.0, 9.0), (name, 28.0, 2.0, 30.0, 9.0)), ((name, 31.0, 5.0),)
        draw_sheet(tmp_path / "a.png", "birds", [Picture("0", pixels, (), None, 3, boxes, points)], (name,))
        figures[-1].draw_without_rendering()
        widths.append(figures[-1].axes[0].get_position().width)
    assert widths[0] == widths[1]


def test_sheet_and_terminal_give_the_same_number_of_unknown_labels() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    for hidden in (("cat", "mug"), None):
        picture = Picture("0", pixels, ("dog",), hidden, 8)
        assert "8 unknown" in picture.caption()
        assert any(text.startswith("8 unknown to training") for text, _ in pictures._lines(picture))
    assert ("8 unknown to training, 6 of them truly negative") in [
        text for text, _ in pictures._lines(Picture("0", pixels, ("dog",), ("cat", "mug"), 8))
    ]


def test_known_negatives_are_not_unknown_in_any_count(tmp_path: Path) -> None:
    split = replace(
        make_split("train", None), negative=torch.tensor([[0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1]]).bool()
    )
    stats = count_labels("birds", split, make_split("val", None), 0)
    assert table_of_classes(stats)[0] == ["class", "train observed", "val observed", "train negative"]
    assert [row[-1] for row in table_of_classes(stats)[1]] == [1, 1, 2]
    assert "labels of train: 4 observed positives, 4 known negatives, 4 unknown" in render_stats(stats, 10)
    assert stats.to_json(10)["train_labels"] == {"positives": 4, "negatives": 4, "unknown": 4}
    assert stats.to_json(10)["classes"]["mug"]["train_negative"] == 2
    picture = Picture("0", np.zeros((8, 8, 3), np.uint8), ("dog",), None, 5, negative=("cat", "mug"))
    assert picture.caption() == "observed dog; 2 known negatives (cat, mug); 5 unknown, true labels not available"
    assert ("known negative (2): cat, mug", pictures._GREY) in pictures._lines(picture)
    draw_sheet(tmp_path / "a.svg", "birds", [picture], ("cat", "dog", "mug"))


def test_sheet_of_a_store_has_its_known_negatives(tmp_path: Path) -> None:
    source = read_l48(make_l48(tmp_path / "l48", num_train=2, val=True))
    write_store(source, str(tmp_path / "store"), image_size=16, workers=1)
    store = open_store(str(tmp_path / "store"))
    known = all_known(store.labels("train"))
    data = store.split("train", 0, 0, known)
    drawn = make_pictures(store, data, *store.rows("train", 0, known), range(len(data)))
    assert {(len(each.observed), len(each.negative), each.num_unknown) for each in drawn} == {(1, 2, 1), (0, 2, 2)}
    # The target and the next species are those of its checklist, so that the other two are known to be absent.
    assert all({*each.observed, *each.negative} < set(data.classes) for each in drawn)


def test_caption_says_what_is_observed_true_and_unknown() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    assert (
        Picture("0", pixels, ("dog",), ("cat", "mug"), 2).caption()
        == "observed dog; true but not observed cat, mug; 2 unknown"
    )
    assert Picture("0", pixels, ("dog",), (), 2).caption() == "observed dog; 2 unknown, none of them true"
    assert Picture("0", pixels, (), None, 3).caption() == "observed none; 3 unknown, true labels not available"


def test_rows_are_read_from_numbers_and_spans() -> None:
    assert read_rows(["3,8", "5-7", "8"], 9) == [3, 8, 5, 6, 7]
    assert spread_rows(100, 4) == [0, 25, 50, 75]
    assert spread_rows(3, 12) == [0, 1, 2]


@pytest.mark.parametrize("text", ["9", "-1", "x", "", "5-3", "0-200", "1.5"])
def test_rows_that_there_are_not_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--index must"):
        read_rows([text], 9)
    with pytest.raises(UserError, match="at most 100"):
        read_rows(["0-100"], 1000)
