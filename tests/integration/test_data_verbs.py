"""Test the data verbs on real lists and photos, and your own data from the folder to the leaderboard."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.home import sweep_dir
from orchestrator.sweep_folder.journal import JOURNAL_FILE, replay
from tests.kit.layouts import make_folder
from tests.kit.program import run

SHARED = Path(__file__).parents[3] / "shared" / "data"
LISTS = SHARED / "voc2012_ImageSets_Main.tar.xz"
PHOTOS = SHARED / "voc2012_mini"
needs_lists = pytest.mark.skipif(
    not LISTS.is_file(), reason="the real lists of VOC 2012 are not next to the repository"
)
needs_photos = pytest.mark.skipif(
    not PHOTOS.is_dir(), reason="the three real photos of VOC 2012 are not next to the repository"
)
NO_GPU = {
    "gpus_per_worker: 1": "gpus_per_worker: 0",
    "cpus_per_worker: 4": "cpus_per_worker: 1",
    "loop.num_threads: 4": "loop.num_threads: 1",
}
TINY = {"torchvision/resnet50": "torchvision/resnet18", "IMAGENET1K_V1": "none", "image_size: 448": "image_size: 40"}


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """Unpack the real lists, which can be downloaded without the images."""
    with tarfile.open(LISTS) as archive:
        archive.extractall(tmp_path / "lists", filter="data")
    return tmp_path / "lists"


@needs_lists
@pytest.mark.slow
def test_real_voc_lists_give_every_figure_of_the_paper_and_the_authors_draw(
    capsys: pytest.CaptureFixture[str], lists: Path
) -> None:
    code, out, _ = run(capsys, "data", "verify", "voc", "--source", str(lists))
    assert code == 0
    figures = {line[2:28].strip(): line[28:].split() for line in out.splitlines() if line.endswith("✓")}
    assert figures == {
        "classes": ["20", "20", "✓"],
        "positives per train image": ["1.46", "1.46", "✓"],
        "training images": ["4,574", "4,574", "✓"],
        "validation images": ["1,143", "1,143", "✓"],
        "test images": ["5,823", "5,823", "✓"],
        "single positives": ["4,574", "4,574", "✓"],
        "false negatives": ["2,091", "2,091", "✓"],
        "true negatives": ["84,815", "84,815", "✓"],
        "assumed negatives": ["86,906", "86,906", "✓"],
    }
    assert re.findall(r"draw, seed 1200 .*sha256 (\w+)  ✓ the authors' own", out) == [
        "6c3763a26035abe6",
        "d8036dc7413eda64",
    ]


@needs_lists
@pytest.mark.slow
@pytest.mark.parametrize("phase", ["train", "val"])
def test_one_flipped_label_of_the_real_lists_is_found(
    capsys: pytest.CaptureFixture[str], lists: Path, phase: str
) -> None:
    path = next(lists.rglob(f"cow_{phase}.txt"))
    changed, count = re.subn(r" -1$", "  1", path.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1
    path.write_text(changed)
    code, out, _ = run(capsys, "data", "verify", "voc", "--source", str(lists))
    assert code == 1
    official = {"train": "official train", "val": "official test"}[phase]
    assert re.search(rf"all labels +{official} .*✗", out)


@needs_photos
def test_real_photos_have_their_boxes_on_the_sheet(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(capsys, "data", "prepare", "voc", "--source", str(PHOTOS))[0] == 0
    code, out, _ = run(capsys, "data", "show", "voc", "--out", str(tmp_path / "sheet.png"))
    assert code == 0
    assert "0: 2011_000003: observed bottle; true but not observed person; 19 unknown" in out
    assert "1: 2011_000025: observed bus; 19 unknown, none of them true" in out
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).reshape(-1, 3)
    for colour in ((0x1A, 0x7F, 0x37), (0xBC, 0x4C, 0x00)):
        assert (pixels == colour).all(1).sum() > 500


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_data_with_observed_labels_alone_are_searched_to_the_end(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = make_folder(tmp_path / "mine", num_train=40, observed_only=True)
    assert (
        run(capsys, "data", "prepare", "folder", "--source", str(source), "--name", "mugs", "--image-size", "40")[0]
        == 0
    )
    text = (Path(__file__).parents[2] / "search_spaces" / "folder.yaml").read_text()
    for old, new in {
        **NO_GPU,
        **TINY,
        "dataset: folder": "dataset: mugs",
        "data.name: folder": "data.name: mugs",
    }.items():
        assert old in text
        text = text.replace(old, new)
    space = tmp_path / "mugs.yaml"
    space.write_text(text)
    flags = (
        "--trials",
        "2",
        "--epochs",
        "2",
        "--concurrency",
        "1",
        "--set",
        "method.warmup_epochs=1",
        "--set",
        "data.num_workers=0",
    )
    code, out, err = run(capsys, "sweep", str(space), *flags, "--json")
    assert code == 0, err
    board = json.loads(out)
    assert (board["metric"], board["true_labels"]) == ("val/observed_mAP", "not available")
    assert [row["state"] for row in board["rows"]] == ["COMPLETE", "COMPLETE"]
    assert board["rows"][0]["value"] >= board["rows"][1]["value"] > 0
    state = replay(sweep_dir(board["sweep"]) / JOURNAL_FILE)
    metrics = [found for record in state.records.values() for found in record.metrics.values()]
    assert len(metrics) == 4
    # Absent rather than 0 or 100: their values are not known.
    assert not any(
        key in found for found in metrics for key in ("val/mAP", "train/rejection_precision", "train/rejection_recall")
    )
    for verb in ("leaderboard", "status"):
        assert "rejection precision" in run(capsys, verb, board["sweep"])[1]
        assert "not available" in run(capsys, verb, board["sweep"])[1]
