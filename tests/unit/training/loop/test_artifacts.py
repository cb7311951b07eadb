"""Test the artifacts of a run: per-class AP as Parquet, CAM pictures as PNG."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from tests.kit.scenes import tiny_config
from training.data.registry import dataset_info, load_split
from training.data.split import SplitData
from training.loop import artifacts
from training.loop.artifacts import NUM_PICTURES, write_cam_sheet, write_per_class_ap
from training.methods.base import Sizes
from training.methods.registry import build_method
from training.metrics import average_precision
from training.models.registry import build_model

CPU = torch.device("cpu")


def scores() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    true = torch.rand(30, 3, generator=generator) < 0.4
    true[:, 2] = False
    return torch.randn(30, 3, generator=generator), true, true & (torch.rand(30, 3, generator=generator) < 0.5)


def test_per_class_ap_is_a_row_a_class_in_percent(tmp_path: Path) -> None:
    logits, true, observed = scores()
    write_per_class_ap(tmp_path / "new" / "ap.parquet", ["a", "b", "c"], logits, true, observed)
    table = pq.read_table(tmp_path / "new" / "ap.parquet")
    assert table.schema == pa.schema([("class", pa.string()), ("ap", pa.float64()), ("observed_ap", pa.float64())])
    assert table["class"].to_pylist() == ["a", "b", "c"]
    assert table["ap"].to_pylist() == pytest.approx((100 * average_precision(logits, true)).tolist())
    assert table["ap"].to_pylist()[2] == 0.0
    assert table["observed_ap"].to_pylist() == pytest.approx((100 * average_precision(logits, observed)).tolist())


def test_ap_is_null_where_true_labels_are_not_available(tmp_path: Path) -> None:
    logits, _, observed = scores()
    write_per_class_ap(tmp_path / "ap.parquet", ["a", "b", "c"], logits, None, observed)
    assert pq.read_table(tmp_path / "ap.parquet")["ap"].to_pylist() == [None, None, None]


@pytest.mark.usefixtures("tiny_scenes")
class TestSheet:
    def draw(self, folder: Path, changes: dict[str, Any] | None = None, data: SplitData | None = None) -> Path:
        config = tiny_config(changes)
        info = dataset_info(config.data)
        model, _ = build_model(config.model, 10, CPU, pretext_file=info.pretext_file)
        split = load_split(config.data, "val") if data is None else data
        write_cam_sheet(
            folder,
            model.eval(),
            build_method(config.method, Sizes(10, 64, 4)),
            config.method,
            split,
            info.scale,
            CPU,
            "digits-0a1b2c3d, trial 3, epoch 7",
        )
        return folder / "cam.png"

    @pytest.mark.parametrize("method", [{}, {"method.rejection": "none"}, {"method.name": "em"}])
    def test_picture_is_there_and_is_not_blank(self, tmp_path: Path, method: dict[str, Any]) -> None:
        with Image.open(self.draw(tmp_path, method)) as image:
            pixels = np.asarray(image.convert("RGB"))
        height, width, _ = pixels.shape
        assert width > NUM_PICTURES * 100
        thirds = [pixels[int(height * place) : int(height * (place + 0.1))] for place in (0.3, 0.55, 0.8)]
        assert all(part.std() > 20 for part in thirds), "a row of pictures is blank"

    def test_titles_show_rejected_labels_where_thresholds_reject(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        titles: list[str] = []
        monkeypatch.setattr(
            "training.loop.artifacts._draw", lambda path, images, heat, mask, shown: titles.extend(shown.columns)
        )
        self.draw(tmp_path)
        assert len(titles) == NUM_PICTURES
        assert all("\nrejected " in title for title in titles)
        titles.clear()
        for method in ({"method.rejection": "none"}, {"method.rejection": "oracle"}, {"method.name": "em"}):
            self.draw(tmp_path, method)
        assert not any("rejected" in title for title in titles)

    def test_names_are_no_formulas_and_those_that_no_font_can_write_are_numbers(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        drawn: list[str] = []
        real = artifacts._draw

        def draw(path: Path, images: Tensor, heat: Tensor, mask: Tensor, captions: artifacts._Captions) -> None:
            drawn.extend([*captions.columns, *captions.classes])
            real(path, images, heat, mask, captions)

        monkeypatch.setattr(artifacts, "_draw", draw)
        split = load_split(tiny_config().data, "val")
        self.draw(tmp_path, data=replace(split, classes=tuple(f"$a${name}$_{{" for name in split.classes)))
        assert "$a$" in drawn[0]
        drawn.clear()
        self.draw(tmp_path, data=replace(split, classes=tuple(f"\U0010fffd{name}" for name in split.classes)))
        assert not [text for text in drawn if "\U0010fffd" in text]
        assert "observed #" in drawn[0]

    def test_sheet_says_what_it_shows_and_whose_it_is(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn: list[Figure] = []
        monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **how: drawn.append(figure))
        self.draw(tmp_path, {"method.cam_threshold": 0.37})
        (figure,) = drawn
        heading = " ".join(str(figure.get_suptitle()).split())
        for said in (
            "digits-0a1b2c3d, trial 3, epoch 7",
            "val images",
            "threshold 0.37",
            "per image",
            "rejected: gap over",
        ):
            assert said in heading
        rows = [" ".join(axes.get_ylabel().split()) for axes in figure.axes if axes.get_ylabel()]
        assert rows == ["image", "CAM of the observed class", "kept where the CAM is over 0.37"]
        titles = [axes.get_title() for axes in figure.axes]
        split = load_split(tiny_config().data, "val")
        observed = [
            split.classes[int(labels.nonzero()[0, 0])]
            for labels in split.observed[split.observed.any(1)][:NUM_PICTURES]
        ]
        assert titles[NUM_PICTURES : 2 * NUM_PICTURES] == [f"CAM of {name}" for name in observed]
        assert all(title.endswith("% kept") for title in titles[2 * NUM_PICTURES :])

    def test_observed_label_is_never_shown_as_rejected(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        titles: list[str] = []
        monkeypatch.setattr(
            "training.loop.artifacts._draw", lambda path, images, heat, mask, shown: titles.extend(shown.columns)
        )
        self.draw(tmp_path)
        for title in titles:
            _, observed, _, rejected = re.split("observed |true |rejected ", " ".join(title.split()))
            assert not set(observed.strip().split(", ")) & set(rejected.split(", "))

    def test_observed_labels_alone_and_no_positive_at_all(self, tmp_path: Path) -> None:
        split = replace(load_split(tiny_config().data, "val"), true=None)
        assert self.draw(tmp_path / "observed", data=split).is_file()
        split = replace(split, observed=torch.zeros_like(split.observed))
        assert not self.draw(tmp_path / "none", data=split).exists()
