"""Test CLIP's image network as a trunk, and a linear probe on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.kit.stores import make_store, store_config
from tests.kit.tiny_clip import NAME, install_tiny_clip
from training.config.marks import find_marks
from training.config.run import ModelConfig
from training.errors import ConfigError, WeightsError
from training.loop.run import TrainingRun
from training.models.backbone import build_trunk, check_trunk
from training.models.clip import ClipName, load_clip
from training.models.pixel_scale import IMAGENET


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a file with the weights of a tiny CLIP."""
    return install_tiny_clip(monkeypatch, tmp_path / "clip")


def test_trunk_gives_the_embeddings_that_scores_are_made_of(weights: Path) -> None:
    images = torch.randint(0, 256, (3, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET.mean, IMAGENET.std))
    trunk = build_trunk(ModelConfig(backbone=NAME, weights=str(weights)))
    assert trunk.num_features == 16
    with torch.no_grad():
        found = trunk.module.eval()((images / 255 - mean) / std)
    clip = load_clip(ClipName.parse(NAME), weights, torch.device("cpu"), "")
    assert torch.allclose(found[:, :, 0, 0] / 4, clip.encode_images(images), atol=1e-5)


def test_probe_trains_the_head_alone_and_is_marked(weights: Path, tmp_path: Path) -> None:
    uri = make_store(tmp_path)
    settings = {
        "method.name": "assumed_negative",
        "model.backbone": NAME,
        "model.weights": str(weights),
        "optim.head_first_epochs": 100_000,
        "optim.lr": 1e-2,
    }
    config = store_config(uri, settings)
    assert find_marks(config.flatten()) == ("external: clip",)
    run = TrainingRun(config)
    before = {name: value.clone() for name, value in run.state_dict()["model"].items()}
    first, last = run.train_epoch(), run.train_epoch()
    assert last["train/loss"] < first["train/loss"]
    changed = {name for name, value in run.state_dict()["model"].items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}


def test_what_is_not_there_is_named(weights: Path) -> None:
    check_trunk(ModelConfig(backbone=NAME, weights="openai"))
    check_trunk(ModelConfig(backbone=f"{NAME}/other", weights="other"))
    for backbone, name, said in (
        ("clip/tinny", "openai", "open_clip has no model tinny, but got clip/tinny. Did you mean clip/tiny?"),
        (f"{NAME}/laion", "laion", "clip/tiny has weights openai, other, but got clip/tiny/laion"),
        (NAME, "other", "model.weights must be openai, a file or none for model.backbone=clip/tiny, but got"),
        (f"{NAME}/other", "openai", "model.weights must be other, a file or none for model.backbone=clip/tiny/other"),
    ):
        with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
            check_trunk(ModelConfig(backbone=backbone, weights=name))
    torch.save({"visual.proj": torch.zeros(1)}, weights.with_suffix(".pt"))
    with pytest.raises(WeightsError, match="does not fit clip/tiny"):
        build_trunk(ModelConfig(backbone=NAME, weights=str(weights.with_suffix(".pt"))))
