"""Test the files of scores per image."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from training.data.split import InMemoryImages, SplitData
from training.inference.scores import Scores
from training.metrics import compute_metrics


def make_scores(num: int = 7, *, has_true: bool = True, names: tuple[str, ...] = ()) -> Scores:
    """Return scores of random images of three classes."""
    generator = torch.Generator().manual_seed(3)
    true = torch.rand(num, 3, generator=generator) < 0.4
    observed = true & (true.cumsum(1) == 1)
    images = InMemoryImages(torch.zeros(num, 3, 2, 2))
    data = SplitData("val", images, observed, true if has_true else None, None, ("a", "b/c", "id"), names)
    return Scores.of(data, torch.randn(num, 3, generator=generator))


@pytest.mark.parametrize("has_true", [True, False])
def test_what_is_read_is_what_was_written(has_true: bool, tmp_path: Path) -> None:
    scores, path = make_scores(has_true=has_true), tmp_path / "new" / "t0000-val.parquet"
    digest = scores.write(path, {"sweep": "digits-00000001"})
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert scores.write(path, {"sweep": "digits-00000001"}) == digest, "equal scores give equal files"
    again = Scores.read(path)
    assert (again.split, again.ids, again.classes, again.about) == (
        "val",
        scores.ids,
        ("a", "b/c", "id"),
        {"sweep": "digits-00000001"},
    )
    assert torch.equal(again.logits, scores.logits)
    assert torch.equal(again.observed, scores.observed)
    assert (again.true is None) is not has_true
    assert again.metrics() == scores.metrics()
    assert again.metrics() == compute_metrics("val", scores.logits, scores.true, scores.observed)


def test_images_without_names_are_numbered() -> None:
    assert make_scores(2).ids == ("val-00000", "val-00001")
    assert make_scores(2, names=("2008_1", "2008_2")).ids == ("2008_1", "2008_2")


def test_no_image_has_no_figures() -> None:
    assert make_scores(0).metrics() == {}, "0 would look like a result"


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t0000-val.parquet"
    make_scores().write(path, {})
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["logit/a", "logit/b/c", "logit/id"]), path)
    with pytest.raises(ValueError, match="not a file of scores"):
        Scores.read(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="Parquet"):
        Scores.read(path)
