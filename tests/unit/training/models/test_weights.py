"""Test weights by name, downloaded once, and files that hold no weights. Nothing here uses a network."""

from __future__ import annotations

import hashlib
import pickle
import socket
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from training.config.run import ModelConfig
from training.errors import WeightsError
from training.models import weights
from training.models.backbone import build_trunk

NAMED = ModelConfig(backbone="torchvision/resnet18", weights="IMAGENET1K_V1")


@pytest.fixture(autouse=True)
def _empty_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, torch.Tensor]:
    """Let torchvision find its ResNet-18 weights in a file, whose name holds the hash of its content as theirs do."""
    torch.manual_seed(3)
    state: dict[str, torch.Tensor] = torchvision.models.resnet18(weights=None).state_dict()
    draft = tmp_path / "draft.pth"
    torch.save(state, draft)
    digest = hashlib.sha256(draft.read_bytes()).hexdigest()[:8]
    file = draft.rename(tmp_path / f"resnet18-{digest}.pth")
    monkeypatch.setattr(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value, "url", file.as_uri())
    return state


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record what torchvision downloads, and make the download slow."""
    urls: list[str] = []
    download = torch.hub.download_url_to_file

    def slowly(url: str, *args: Any, **kwargs: Any) -> None:
        urls.append(url)
        time.sleep(0.2)
        download(url, *args, **kwargs)

    monkeypatch.setattr(torch.hub, "download_url_to_file", slowly)
    return urls


def cached_file() -> Path:
    return next((Path(torch.hub.get_dir()) / "checkpoints").iterdir())


def test_named_weights_are_fetched_once_by_however_many_ask(
    published: dict[str, torch.Tensor], fetched: list[str]
) -> None:
    with ThreadPoolExecutor(4) as pool:
        trunks = list(pool.map(lambda _: build_trunk(NAMED), range(4)))
    assert len(fetched) == 1
    assert len({trunk.weights_hash for trunk in trunks}) == 1
    assert all(torch.equal(value, published[name]) for name, value in trunks[0].module.state_dict().items())
    build_trunk(NAMED)
    assert len(fetched) == 1


def test_who_waits_for_the_fetcher_needs_no_network_afterwards(
    published: dict[str, torch.Tensor], fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = threading.Thread(target=build_trunk, args=(NAMED,))
    first.start()
    while not fetched:
        time.sleep(0.01)
    monkeypatch.setattr(weights, "_reach", lambda url: pytest.fail("asked for what another one was fetching"))
    assert build_trunk(NAMED).weights_hash != "none"
    first.join()


def test_fetching_prints_nothing_on_stdout(
    published: dict[str, torch.Tensor], fetched: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    build_trunk(NAMED)
    out, err = capsys.readouterr()
    assert (out, "Downloading" in err) == ("", True)


def test_cached_weights_that_are_cut_short_are_named_with_their_file(
    published: dict[str, torch.Tensor], fetched: list[str]
) -> None:
    build_trunk(NAMED)
    path = cached_file()
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(WeightsError, match=f"The cached file of .* cannot be read: {path}: .* Delete it.") as error:
        build_trunk(NAMED)
    assert "\n" not in str(error.value)
    path.unlink()
    assert build_trunk(NAMED).weights_hash != "none"


@pytest.mark.parametrize("backbone", ["torchvision/resnet18", "timm/resnet10t"])
def test_host_that_never_answers_is_given_up_after_seconds(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    def urlopen(request: Any, timeout: float) -> Any:
        waited.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: pytest.fail("asked on after nobody answered"))
    name = "IMAGENET1K_V1" if backbone.startswith("torchvision") else "default"
    with pytest.raises(WeightsError, match="the download failed: timed out. Either run once on a machine"):
        build_trunk(ModelConfig(backbone=backbone, weights=name))
    assert waited == [5]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_file_that_is_cut_short_is_named(tmp_path: Path, suffix: str, share: float) -> None:
    state, path = torchvision.models.resnet18(weights=None).state_dict(), tmp_path / f"weights{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        WeightsError, match=f"model.weights={path} cannot be read: .*Use a complete .safetensors file"
    ) as error:
        build_trunk(ModelConfig(backbone="torchvision/resnet18", weights=str(path)))
    assert "\n" not in str(error.value)


class Code:
    """An object whose unpickling creates a file, to show that code is not run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_file_with_code_in_it_is_refused_and_not_run(tmp_path: Path) -> None:
    path, made = tmp_path / "weights.pth", tmp_path / "made"
    torch.save({"state_dict": Code(made)}, path)
    with pytest.raises(WeightsError, match=r"cannot be read: .*a \.pth file that holds only tensors") as error:
        build_trunk(ModelConfig(backbone="torchvision/resnet18", weights=str(path)))
    assert not made.exists()
    assert "\n" not in str(error.value)
    with path.open("wb") as file:
        pickle.dump([1, 2], file)
    with pytest.raises(WeightsError, match="cannot be read: |does not hold named tensors"):
        build_trunk(ModelConfig(backbone="torchvision/resnet18", weights=str(path)))


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"state_dict": [1]}])
def test_file_of_something_else_is_named(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=f"model.weights={path} does not hold named tensors"):
        build_trunk(ModelConfig(backbone="torchvision/resnet18", weights=str(path)))


def test_what_a_checkpoint_holds_beside_tensors_is_left_out(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save({"model": state | {"epoch": 3, "note": "ours"}, "optimizer": {"lr": 0.1}}, tmp_path / "weights.pth")
    assert (
        build_trunk(ModelConfig(backbone="torchvision/resnet18", weights=str(tmp_path / "weights.pth"))).weights_hash
        != "none"
    )
