"""Test scores of CLIP against NumPy, and where its weights come from. Nothing here uses a network."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.kit.tiny_clip import NAME, install_tiny_clip
from training.errors import ConfigError, WeightsError
from training.models import clip as clip_module
from training.models import weights as weights_module
from training.models.clip import Clip, ClipName, load_clip, score_images

CPU = torch.device("cpu")


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return install_tiny_clip(monkeypatch, tmp_path / "clip")


def load(file: Path | None, name: str = NAME) -> Clip:
    return load_clip(ClipName.parse(name), file, CPU, "Get the file and name it")


def softmax(values: Any) -> Any:
    shifted = np.exp(values - values.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def test_scores_are_softmaxes_of_cosines_of_the_whole_image_and_the_extremes_of_its_tiles(file: Path) -> None:
    clip = load(file)
    images = torch.randint(256, (3, 3, 35, 34), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    texts = clip.encode_texts(["a photo of a cat.", "a photo of a dog.", "nothing"])
    assert torch.allclose(texts.norm(dim=-1), torch.ones(3))
    whole, highest, lowest = score_images(clip, texts, images, num_tiles=4, temperature=0.05)

    def expected(view: Any) -> Any:
        return softmax(clip.encode_images(view).double().numpy() @ texts.double().numpy().T / 0.05)

    # A tile has 35 // 4 = 34 // 4 = 8 px a side.
    tiles = np.stack(
        [expected(images[..., 8 * row : 8 * row + 8, 8 * col : 8 * col + 8]) for row in range(4) for col in range(4)]
    )
    assert np.allclose(whole.numpy(), expected(images), atol=1e-5)
    assert np.allclose(highest.numpy(), tiles.max(0), atol=1e-5)
    assert np.allclose(lowest.numpy(), tiles.min(0), atol=1e-5)
    assert (highest - lowest).max() > 0.05, "the test sees a difference"


def test_a_network_is_loaded_without_a_warning_about_its_initial_weights(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()  # of the making of the file
    load(file)
    assert caplog.messages == []


def test_images_are_resized_and_normalised_as_the_network_was_trained(file: Path) -> None:
    clip = load(file)
    seen: list[torch.Tensor] = []

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(pixels)
        return torch.ones(len(pixels), 4)

    clip.network.encode_image = encode
    clip.encode_images(torch.full((2, 3, 20, 30), 255, dtype=torch.uint8))
    white = (1 - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / torch.tensor([0.26862954, 0.26130258, 0.27577711])
    assert seen[0].shape == (2, 3, 16, 16)
    assert torch.allclose(seen[0], white.view(1, 3, 1, 1).expand_as(seen[0]), atol=1e-5)


def test_the_tag_decides_the_activation(file: Path) -> None:
    images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    quick, other = (load(file, name).encode_images(images) for name in (NAME, f"{NAME}/other"))
    assert not torch.allclose(quick, other, atol=1e-4)


def test_names_that_open_clip_does_not_have(file: Path) -> None:
    for name, message in [
        ("ViT-B-16", "clip/ARCH or clip/ARCH/TAG, such as clip/ViT-B-16, but got ViT-B-16"),
        ("clip/ViT-B-61", "no model ViT-B-61.*Did you mean clip/ViT-B-"),
        ("clip/ViT-B-16/opnai", "clip/ViT-B-16 has weights openai, .*but got clip/ViT-B-16/opnai"),
    ]:
        with pytest.raises(ConfigError, match=message):
            ClipName.parse(name)
    assert str(ClipName.parse("clip/ViT-B-16/openai")) == "clip/ViT-B-16"
    assert str(ClipName.parse(f"{NAME}/other")) == f"{NAME}/other"


def test_files_that_do_not_fit_and_pickles_are_refused(file: Path, tmp_path: Path) -> None:
    state = load_file(file)
    save_file({key: value for key, value in state.items() if key != "visual.proj"}, tmp_path / "less.safetensors")
    (tmp_path / "code.pt").write_bytes(pickle.dumps(ClipName("runs", "code")))
    for bad, message in [
        ("less.safetensors", "does not fit clip/tiny: 1 of its tensors are missing and 0 .*first: visual.proj"),
        ("code.pt", "code.pt cannot be read"),
        ("none.pt", "none.pt does not exist"),
    ]:
        with pytest.raises(WeightsError, match=message):
            load(tmp_path / bad)


def test_hub_that_does_not_answer(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(weights_module, "_reach", unreachable)
    with pytest.raises(WeightsError, match="clip/tiny, weights openai, is not in the cache, and the download failed"):
        load(None)


def test_weights_of_the_hub_are_downloaded_once_and_read_from_its_cache(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(file)

    monkeypatch.setattr(weights_module, "_reach", lambda url: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert torch.equal(load(None).network.visual.proj, load(file).network.visual.proj)
    assert asked == [("nobody/tiny-clip", "open_clip_model.safetensors")]
    monkeypatch.setattr(clip_module, "find_in_hub", lambda repository, names: file)
    load(None)
    assert len(asked) == 1
