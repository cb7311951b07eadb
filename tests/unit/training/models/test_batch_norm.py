"""Test BatchNorm: frozen, global, and in the modes of the masked pass.

Two ranks are tested in tests/integration/test_distributed.py.
"""

from __future__ import annotations

import pytest
import torch
from timm.layers import BatchNormAct2d  # type: ignore[attr-defined]
from torch import Tensor, nn

from training.errors import ConfigError
from training.models.base import Network
from training.models.batch_norm import GlobalBatchNorm2d, convert_to_global, freeze, masked_pass

CPU = torch.device("cpu")


def images() -> Tensor:
    return 3 + 2 * torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(0))


class Net(Network, nn.Sequential):
    pass


def net() -> Net:
    torch.manual_seed(0)
    return Net(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), BatchNormAct2d(4))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def test_frozen_norms_of_every_kind_keep_statistics_and_parameters_in_train_mode() -> None:
    model = net()
    freeze(model)
    model.train()
    before = state(model)
    output = model(images())
    output.sum().backward()
    assert changed(model, before) == set()
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == {"0.weight", "0.bias"}
    model.eval()
    torch.testing.assert_close(model(images()), output)


def test_frozen_norm_keeps_its_activation_and_its_keys() -> None:
    model = net()
    keys = list(model.state_dict())
    freeze(model)
    assert list(model.state_dict()) == keys
    assert (model(images()) >= 0).all(), "the second norm ends in a ReLU"


def test_global_norm_of_one_process_is_batch_norm() -> None:
    plain, ours = nn.BatchNorm2d(4), convert_to_global(nn.Sequential(nn.BatchNorm2d(4)), CPU)[0]  # type: ignore[index]
    assert isinstance(ours, GlobalBatchNorm2d)
    for mode in (True, False):
        assert torch.equal(plain.train(mode)(images()), ours.train(mode)(images()))
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in plain.state_dict().items())


def test_global_norm_takes_over_tensors_settings_and_every_place_of_the_plain_one() -> None:
    shared = nn.BatchNorm2d(4, eps=0.1, momentum=0.3).eval()
    fixed = nn.BatchNorm2d(4, affine=False, track_running_stats=False)
    model = nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 1), shared), nn.ReLU(), nn.Sequential(shared, fixed))
    optimised, keys = list(model.parameters()), list(model.state_dict())
    converted = convert_to_global(model, CPU)
    norms = [module for module in converted.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [type(norm) for norm in norms] == [GlobalBatchNorm2d] * 2
    assert converted.get_submodule("0.1") is converted.get_submodule("2.0") is norms[0]
    assert [id(parameter) for parameter in converted.parameters()] == [id(parameter) for parameter in optimised]
    assert list(converted.state_dict()) == keys
    assert (norms[0].eps, norms[0].momentum, norms[0].training) == (0.1, 0.3, False)
    assert norms[0].running_mean is shared.running_mean
    assert norms[1].weight is norms[1].running_mean is None
    assert not norms[1].track_running_stats


def test_global_norm_on_cpu_refuses_kinds_it_cannot_replace() -> None:
    with pytest.raises(ConfigError, match="BatchNormAct2d"):
        convert_to_global(net(), CPU)


def test_global_norm_on_a_gpu_is_torchs_and_keeps_the_activation() -> None:
    converted = convert_to_global(net(), torch.device("cuda"))
    assert isinstance(converted, nn.Sequential)
    assert isinstance(converted[1], nn.SyncBatchNorm)
    assert isinstance(converted[2], nn.SyncBatchNorm)
    assert isinstance(converted[2].act, nn.ReLU)


@pytest.mark.parametrize(
    ("mode", "updated", "batch_statistics"),
    [("train", True, True), ("batch_stats_no_update", False, True), ("eval_both", False, False)],
)
def test_masked_pass(mode: str, updated: bool, batch_statistics: bool) -> None:
    model = net().train()
    before = state(model)
    with masked_pass(model, mode), torch.no_grad():  # type: ignore[arg-type]
        normed = model[1](model[0](images()))
    assert bool(changed(model, before)) == updated
    assert torch.allclose(normed.mean((0, 2, 3)), torch.zeros(4), atol=1e-5) == batch_statistics
    assert model.training
    assert model[1].training


@pytest.mark.parametrize("mode", ["batch_stats_no_update", "eval_both"])
def test_masked_pass_that_fails_leaves_the_model_as_it_was(mode: str) -> None:
    model = net().train()
    with pytest.raises(ZeroDivisionError), masked_pass(model, mode):  # type: ignore[arg-type]
        raise ZeroDivisionError
    assert model.training
    before = state(model)
    model(images())
    assert "1.running_mean" in changed(model, before)


@pytest.mark.parametrize("mode", ["train", "batch_stats_no_update", "eval_both"])
def test_masked_pass_leaves_frozen_norms_frozen(mode: str) -> None:
    model = net()
    freeze(model)
    model.train()
    before = state(model)
    with masked_pass(model, mode):  # type: ignore[arg-type]
        model(images())
    assert changed(model, before) == set()
    assert not model[1].training
