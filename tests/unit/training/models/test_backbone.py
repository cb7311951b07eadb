"""Test trunks of timm and torchvision, their weights, and the messages without them. Nothing here uses a network."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from training.config.run import ModelConfig
from training.errors import ConfigError, WeightsError
from training.models.backbone import build_trunk, hash_weights
from training.models.registry import build_model

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make every connection fail at once, and the libraries' caches empty."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError("no network in a test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def bare(backbone: str) -> ModelConfig:
    return ModelConfig(backbone=backbone, weights="none")


@pytest.mark.parametrize(
    ("backbone", "num_features"),
    [
        ("torchvision/resnet18", 512),
        ("torchvision/mobilenet_v3_small", 576),
        ("torchvision/shufflenet_v2_x0_5", 1024),
        ("torchvision/regnet_x_400mf", 400),
        ("timm/resnet10t", 512),
        ("timm/mobilenetv3_small_050", 1024),
        ("digits/resnet12", 48),
    ],
)
def test_trunk_gives_a_feature_map_and_the_model_logits(backbone: str, num_features: int) -> None:
    trunk = build_trunk(bare(backbone))
    assert trunk.num_features == num_features
    assert trunk.weights_hash == "none"
    model, _ = build_model(bare(backbone), 7, CPU)
    output = model(torch.zeros(2, 3, 96, 64))
    assert output.logits.shape == (2, 7)
    assert output.cams.shape[:2] == (2, 7)
    torch.testing.assert_close(output.logits, output.cams.mean((2, 3)))


@pytest.mark.parametrize("backbone", ["torchvision/resnet18", "torchvision/regnet_x_400mf", "torchvision/densenet121"])
def test_trunk_of_torchvision_computes_what_its_own_classifier_is_given(backbone: str) -> None:
    import torchvision

    torch.manual_seed(0)
    trunk = build_trunk(bare(backbone)).module.eval()
    torch.manual_seed(0)
    whole = torchvision.models.get_model(backbone.split("/")[1], weights=None).eval()
    classifier = whole.fc if hasattr(whole, "fc") else whole.classifier
    seen: list[Tensor] = []
    classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        whole(images)
        torch.testing.assert_close(trunk(images).mean((2, 3)), seen[0])


@pytest.mark.parametrize(
    "backbone",
    [
        "torchvision/vit_b_16",
        "torchvision/swin_t",
        "timm/vit_tiny_patch16_224",
        "timm/swin_tiny_patch4_window7_224",
        "timm/mixer_s32_224",
    ],
)
def test_transformers_are_refused(backbone: str) -> None:
    with pytest.raises(ConfigError, match=f"must be a CNN with a feature map .*{backbone}") as error:
        build_trunk(bare(backbone))
    assert error.value.key == "model.backbone"


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("torchvision/resnet81", "torchvision/resnet18"),
        ("timm/resnet10", "timm/resnet10t"),
        ("digits/resnet50", "digits/resnet12"),
    ],
)
def test_misspelt_name_suggests_the_nearest(misspelt: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"got {misspelt}|{meant}") as error:
        build_trunk(bare(misspelt))
    assert meant in str(error.value)


@pytest.mark.parametrize(
    ("backbone", "weights"),
    [("torchvision/resnet18", "IMAGENET1K_V1"), ("timm/resnet10t", "c3_in1k"), ("timm/resnet10t", "default")],
)
def test_named_weights_without_a_network_name_both_ways_out_at_once(
    backbone: str, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with pytest.raises(WeightsError) as error:
        build_trunk(ModelConfig(backbone=backbone, weights=weights))
    assert sum(slept) < 10, "the hub's client alone would ask for most of a minute"
    assert "run once on a machine with a network" in str(error.value)
    assert "--set model.weights=FILE" in str(error.value)


def test_named_weights_in_the_cache_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    torch.manual_seed(1)
    pretrained = timm.create_model("resnet10t")
    cached = tmp_path / "model.safetensors"
    save_file(pretrained.state_dict(), cached)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, filename: str(cached))
    trunk = build_trunk(ModelConfig(backbone="timm/resnet10t", weights="c3_in1k"))
    assert torch.equal(trunk.module.state_dict()["conv1.0.weight"], pretrained.state_dict()["conv1.0.weight"])


@pytest.mark.parametrize(
    ("backbone", "valid"),
    [("torchvision/resnet18", "IMAGENET1K_V1"), ("timm/resnet10t", "c3_in1k"), ("digits/resnet12", "pretext")],
)
def test_unknown_name_of_weights_lists_the_known(backbone: str, valid: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"must be one of .*{valid}.* a file or none, but got model.weights=IMAGENET22K"
    ):
        build_trunk(ModelConfig(backbone=backbone, weights="IMAGENET22K"))


def test_pretext_weights_belong_to_the_digits() -> None:
    with pytest.raises(ConfigError, match="pretext exists only for digits/resnet12"):
        build_trunk(ModelConfig(backbone="torchvision/resnet18", weights="pretext"))


def whole_resnet18(seed: int = 1) -> nn.Module:
    import torchvision

    torch.manual_seed(seed)
    model: nn.Module = torchvision.models.resnet18(weights=None)
    return model


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_from_a_file_of_a_whole_classifier(tmp_path: Path, suffix: str, wrapped: bool) -> None:
    state = whole_resnet18().state_dict()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state} if wrapped else state, path)
    else:
        save_file(state, path)
    trunk = build_trunk(ModelConfig(backbone="torchvision/resnet18", weights=str(path)))
    assert all(torch.equal(value, state[name]) for name, value in trunk.module.state_dict().items())
    assert trunk.weights_hash == hash_weights(trunk.module.state_dict()) != "none"


def test_weights_hash_is_of_the_values_not_of_the_file(tmp_path: Path) -> None:
    hashes = []
    for name, seed in (("a.pth", 1), ("b.safetensors", 1), ("c.pth", 2)):
        state = whole_resnet18(seed).state_dict()
        torch.save(state, tmp_path / name) if name.endswith("pth") else save_file(state, tmp_path / name)
        hashes.append(
            build_trunk(ModelConfig(backbone="torchvision/resnet18", weights=str(tmp_path / name))).weights_hash
        )
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("backbone", ["torchvision/resnet34", "torchvision/mobilenet_v3_small"])
def test_weights_of_another_network_do_not_fit(tmp_path: Path, backbone: str) -> None:
    save_file(whole_resnet18().state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match=f"does not fit {backbone}: .* of its tensors are missing"):
        build_trunk(ModelConfig(backbone=backbone, weights=str(tmp_path / "weights.safetensors")))


def test_weights_of_another_width_do_not_fit(tmp_path: Path) -> None:
    state = whole_resnet18().state_dict()
    state["layer4.1.conv2.weight"] = state["layer4.1.conv2.weight"][:, :256].contiguous()
    save_file(state, tmp_path / "narrow.safetensors")
    with pytest.raises(WeightsError, match=r"0 of its tensors are missing and 1 are .*first: layer4.1.conv2.weight"):
        build_trunk(ModelConfig(backbone="torchvision/resnet18", weights=str(tmp_path / "narrow.safetensors")))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_file_that_is_absent_or_no_weights_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    config = ModelConfig(backbone="torchvision/resnet18", weights=str(path))
    with pytest.raises(WeightsError, match=r"The file .*weights.* does not exist"):
        build_trunk(config)
    path.write_bytes(b"no weights at all")
    with pytest.raises(WeightsError, match=r"model.weights=.*weights.* cannot be read"):
        build_trunk(config)


@pytest.mark.parametrize("backbone", ["torchvision/resnet18", "timm/mobilenetv3_small_050"])
def test_frozen_norms_stay_in_eval_mode(backbone: str) -> None:
    model, _ = build_model(ModelConfig(backbone=backbone, weights="none", frozen_bn=True), 3, CPU, distributed=True)
    norms = [module for module in model.train().modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
