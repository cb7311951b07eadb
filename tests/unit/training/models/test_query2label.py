"""Compare Query2Label's parts with plain formulas, and test what every model must satisfy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.kit.scenes import use_one_thread
from training.config.run import ModelConfig, TrainConfig
from training.errors import ConfigError
from training.loop.optim import build_optimizer
from training.models.batch_norm import masked_pass
from training.models.query2label import Query2Label, sine_positions
from training.models.registry import build_model

CPU = torch.device("cpu")
C = 5


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    use_one_thread()


def build(**changes: Any) -> Query2Label:
    settings: dict[str, Any] = {
        "hidden_dim": 48,
        "feedforward_dim": 32,
        "backbone": "digits/resnet12",
        "weights": "none",
    }
    torch.manual_seed(0)
    model, _ = build_model(ModelConfig(name="query2label", **(settings | changes)), C, CPU)
    assert isinstance(model, Query2Label)
    return model


def images(num: int = 3, height: int = 40, width: int = 40) -> Tensor:
    return torch.randn(num, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("width_px", [40, 28])
@pytest.mark.parametrize("hidden_dim", [48, 24])
@pytest.mark.parametrize("num_encoder_layers", [0, 1])
@pytest.mark.parametrize("decoder_self_attention", [False, True])
def test_output_has_logits_maps_and_an_embedding_per_class(
    width_px: int, hidden_dim: int, num_encoder_layers: int, decoder_self_attention: bool
) -> None:
    model = build(
        hidden_dim=hidden_dim, num_encoder_layers=num_encoder_layers, decoder_self_attention=decoder_self_attention
    )
    logits, cams, embeddings = model(images(width=width_px))[:3]
    assert logits.shape == (3, C)
    assert cams.shape == (3, C, 10, width_px // 4)
    assert embeddings.shape == (3, C, hidden_dim)
    assert model.embedding_dim == hidden_dim


@pytest.mark.parametrize(("height", "width", "dim"), [(3, 3, 8), (2, 5, 12)])
def test_positions_are_the_formula(height: int, width: int, dim: int) -> None:
    found = sine_positions(height, width, dim).reshape(height, width, dim)
    half = dim // 2
    for row in range(height):
        for column in range(width):
            for channel in range(dim):
                place, length = (row, height) if channel < half else (column, width)
                pair = (channel % half) // 2
                angle = 2 * math.pi * (place + 1) / length / 10000 ** (2 * pair / half)
                expected = math.sin(angle) if channel % 2 == 0 else math.cos(angle)
                assert float(found[row, column, channel]) == pytest.approx(expected, abs=1e-5)


def last_attention(model: Query2Label, features: Tensor) -> np.ndarray[Any, Any]:
    """Compute the head-averaged attention (C, HW) of a one-layer decoder on one image, by eq. (1), in loops."""
    attention = model.head.decoder[0].attention
    assert isinstance(attention, nn.MultiheadAttention)
    dim, num_heads = attention.embed_dim, attention.num_heads
    weight, bias = attention.in_proj_weight.numpy().astype(float), attention.in_proj_bias.numpy().astype(float)
    tokens = features[0].reshape(dim, -1).T.numpy().astype(float)
    keys = tokens + sine_positions(features.shape[2], features.shape[3], dim).numpy()
    keys = keys @ weight[dim : 2 * dim].T + bias[dim : 2 * dim]
    queries = model.head.queries.numpy() @ weight[:dim].T + bias[:dim]
    size = dim // num_heads
    mean = np.zeros((C, len(keys)))
    for head in range(num_heads):
        channels = slice(head * size, (head + 1) * size)
        for label in range(C):
            scores = np.exp(keys[:, channels] @ queries[label, channels] / math.sqrt(size))
            mean[label] += scores / scores.sum() / num_heads
    return mean


@torch.no_grad()
@pytest.mark.parametrize("hidden_dim", [48, 24])
def test_map_is_attention_times_the_projected_feature_averaged_over_its_channels(hidden_dim: int) -> None:
    model = build(hidden_dim=hidden_dim, num_encoder_layers=0, num_decoder_layers=1).eval()
    features = model.head.projection(model.trunk(images(1)))
    attention = last_attention(model, features)
    plain = features[0].reshape(hidden_dim, -1).numpy()
    expected = np.zeros((C, 100))
    for label in range(C):
        for channel in range(hidden_dim):
            expected[label] += attention[label] * plain[channel] / hidden_dim
    np.testing.assert_allclose(model(images(1)).cams[0].reshape(C, -1).numpy(), expected, atol=1e-6)


@torch.no_grad()
def test_map_is_of_the_cnn_and_not_of_the_encoder() -> None:
    model = build().eval()
    features = model.trunk(images())
    seen: list[Tensor] = []
    model.head.decoder[-1].register_forward_hook(lambda _, __, outputs: seen.append(outputs[1]))
    cams = model(images()).cams
    torch.testing.assert_close(cams, seen[0].unflatten(2, (10, 10)) * features.mean(1, keepdim=True))
    torch.testing.assert_close(seen[0].sum(2), torch.ones(3, C))


@torch.no_grad()
def test_logits_are_group_wise_linear_in_the_embeddings() -> None:
    model = build().eval()
    output = model(images())
    assert output.embeddings is not None
    for label in range(C):
        expected = output.embeddings[:, label] @ model.head.weight[label] + model.head.bias[label]
        torch.testing.assert_close(output.logits[:, label], expected)


def test_classes_do_not_see_each_other_unless_their_queries_attend() -> None:
    for attend in (False, True):
        model = build(decoder_self_attention=attend).eval()
        before = model(images()).logits
        with torch.no_grad():
            model.head.queries[0] += 1
        changed = (model(images()).logits - before).abs().amax(0) > 1e-6
        assert changed.tolist() == [True] + [attend] * (C - 1)


def test_all_that_is_not_the_trunk_takes_the_heads_learning_rate() -> None:
    flat = {"optim.lr": 1e-3, "optim.head_lr_multiplier": 10.0}
    model = build(frozen_bn=True)
    optimizer = build_optimizer(TrainConfig.from_flat(flat).optim, model)
    trunk, head = optimizer.param_groups
    assert (trunk["lr"], head["lr"]) == pytest.approx((1e-3, 1e-2))
    assert {id(parameter) for parameter in head["params"]} == {id(parameter) for parameter in model.head.parameters()}
    assert len(trunk["params"]) == sum(isinstance(module, nn.Conv2d) for module in model.trunk.modules()), (
        "norms are frozen"
    )


@pytest.mark.parametrize("decoder_self_attention", [False, True])
def test_gradient_reaches_every_parameter(decoder_self_attention: bool) -> None:
    model = build(hidden_dim=24, decoder_self_attention=decoder_self_attention).train()
    model(images()).logits.square().sum().backward()
    assert [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ] == []


def test_no_image_gives_no_row_and_a_gradient_of_zero() -> None:
    model = build(hidden_dim=24).eval()
    logits, cams, embeddings = model(images(0))[:3]
    assert (logits.shape, cams.shape, embeddings.shape) == ((0, C), (0, C, 10, 10), (0, C, 24))
    logits.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    model = build().eval()
    exact = model(images())
    half = model.to(dtype)(images().to(dtype))
    assert half.logits.dtype == dtype
    torch.testing.assert_close(half.logits.float(), exact.logits, atol=0.1, rtol=0.1)
    torch.testing.assert_close(half.cams.float(), exact.cams, atol=1e-4, rtol=0.1)


def test_autocast_gives_logits_in_full_precision_and_finite_gradients() -> None:
    model = build().train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images())
    assert output.logits.dtype == torch.float32
    output.logits.sum().backward()
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_memory_format_does_not_change_the_result() -> None:
    model = build().eval()
    torch.testing.assert_close(model(images().contiguous(memory_format=torch.channels_last)), model(images()))


@pytest.mark.parametrize("mode", ["train", "batch_stats_no_update", "eval_both"])
def test_masked_pass_without_dropout_is_as_of_any_model(mode: Any) -> None:
    model = build(dropout=0.0).train()
    expected = build(dropout=0.0).train(mode != "eval_both")(images()).logits
    with masked_pass(model, mode):
        torch.testing.assert_close(model(images()).logits, expected)
    assert model.training
    assert all(module.training for module in model.modules())


def test_dropout_is_of_train_mode_alone_and_reaches_the_maps() -> None:
    model = build(dropout=0.5, frozen_bn=True).train()
    assert not torch.equal(model(images()).cams, model(images()).cams)
    model.eval()
    assert torch.equal(model(images()).cams, model(images()).cams)


def test_heads_divide_the_width() -> None:
    with pytest.raises(
        ConfigError, match="model.num_heads must be a divisor of model.hidden_dim=48, but got model.num_heads=5"
    ) as error:
        TrainConfig.from_flat({"model.num_heads": 5, "model.hidden_dim": 48})
    assert error.value.key == "model.num_heads"
    with pytest.raises(ConfigError, match="model.hidden_dim must be a multiple of 4, but got model.hidden_dim=50"):
        TrainConfig.from_flat({"model.hidden_dim": 50})
