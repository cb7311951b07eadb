"""Compare IGNORE's loss, thresholds, mask and rejection with the plain reference, for every option of its settings."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.kit.scenes import random_batch
from tests.reference.plain_ignore import Array, PlainIgnore, make_mask
from training.config.methods import IgnoreConfig
from training.data.batches import Batch
from training.losses import total_loss
from training.methods.base import Sizes, StepOutput
from training.methods.ignore import Ignore
from training.models.base import ModelOutput
from training.models.batch_norm import GlobalBatchNorm2d, convert_to_global

NUM_CLASSES, SIZE, NUM_IMAGES = 5, 12, 8
SIZES = Sizes(NUM_CLASSES, NUM_IMAGES, num_epochs=4)


class PooledNet(nn.Module):
    """The smallest network whose output map is a CAM: means over 4 x 4 px, 1x1 convolution, global average pooling."""

    def __init__(self, with_norm: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.norm = nn.BatchNorm2d(3) if with_norm else nn.Identity()
        self.head = nn.Conv2d(3, NUM_CLASSES, 1)
        with torch.no_grad():
            self.head.weight.copy_(2 * torch.randn(self.head.weight.shape, generator=generator))
            self.head.bias = nn.Parameter(torch.randn(NUM_CLASSES, generator=generator))
        self.inputs: list[Tensor] = []
        self.outputs: list[ModelOutput] = []

    def forward(self, images: Tensor) -> ModelOutput:
        self.inputs.append(images.detach().clone())
        cams = self.head(nn.functional.avg_pool2d(self.norm(images), 4))
        logits = cams.mean((2, 3))
        if logits.requires_grad:
            logits.retain_grad()
        self.outputs.append(ModelOutput(logits, cams))
        return self.outputs[-1]

    def plain(self, images: Array) -> tuple[Array, Array]:
        """Return logits and CAMs of images (B, 3, 12, 12) in NumPy, without a norm."""
        weight = self.head.weight.detach().double().numpy()[:, :, 0, 0]
        assert self.head.bias is not None
        bias = self.head.bias.detach().double().numpy()
        cams = np.zeros((len(images), NUM_CLASSES, 3, 3))
        for i in range(3):
            for j in range(3):
                pooled = images[:, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean(axis=(2, 3))
                cams[:, :, i, j] = pooled @ weight.T + bias
        return cams.mean(axis=(2, 3)), cams


def make_batch(seed: int, without_positive: int = 0) -> Batch:
    """Return a batch of noise so coarse that means over 4 x 4 px differ."""
    batch = random_batch(NUM_IMAGES, NUM_CLASSES, SIZE, seed, without_positive)
    assert batch.strong is not None
    weak, strong = (
        2 * nn.functional.interpolate(nn.functional.avg_pool2d(x, 2) * 2, scale_factor=2)
        for x in (batch.weak, batch.strong)
    )
    return Batch(batch.index, weak, strong, batch.observed, batch.true)


def plain(config: IgnoreConfig) -> PlainIgnore:
    """Return the reference for a configuration."""
    return PlainIgnore(
        NUM_CLASSES,
        config.spbc_weight,
        config.reg_weight,
        config.warmup_epochs,
        config.gap_decay,
        config.gap_decay if config.average_decay is None else config.average_decay,
        config.correct_gap_bias,
        config.correct_average_bias,
        config.gap_threshold_scale,
        config.use_average_test,
        config.view,
    )


def assert_close(actual: object, expected: object, name: str = "") -> None:
    """Compare single precision with double: sums of a few hundred entries of size 1 differ by about 1e-6."""
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=2e-5, atol=2e-6, err_msg=name)


def array(tensor: Tensor) -> Array:
    """Return a double-precision array."""
    return tensor.detach().double().numpy()


def take_step(method: Ignore, model: nn.Module, batch: Batch, epoch: int) -> StepOutput:
    """Take a step as a run does, without changing the weights."""
    output = method.step(model, batch, epoch)
    method.apply_updates(output, torch.tensor(True))
    return output


# Batches of a run of three epochs: the third has no positive at all, the others have some images without one.
BATCHES = [(1, 0, 0), (1, 1, 2), (2, 2, NUM_IMAGES), (2, 3, 1), (2, 4, 0), (3, 5, 3), (3, 6, 0)]
MaskedPassBn = Literal["train", "batch_stats_no_update", "eval_both"]

OPTIONS: list[dict[str, Any]] = [
    {},
    {"gap_decay": 0.999},
    {"gap_decay": 0.999, "correct_gap_bias": True},
    {"gap_decay": 0.99, "correct_average_bias": True},
    {"gap_decay": 0.99, "average_decay": 0.5, "correct_gap_bias": True, "correct_average_bias": True},
    {"gap_threshold_scale": 1.5},
    {"gap_threshold_scale": 0.4, "correct_gap_bias": True},
    {"cam_threshold": 0.2},
    {"cam_threshold": 0.8, "spbc_weight": 0.1, "reg_weight": 0.0},
    {"cam_normalisation": "batch"},
    {"warmup_epochs": 0},
    {"warmup_epochs": 2},
    {"use_average_test": False},
    {"use_average_test": False, "correct_gap_bias": True},
    {"view": "weak"},
    {"spbc_weight": 0.0},
]


@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda options: ",".join(f"{k}={v}" for k, v in options.items()) or "defaults"
)
def test_steps_equal_the_plain_reference(options: dict[str, Any]) -> None:
    defaults: dict[str, Any] = {"cam_threshold": 0.5, "warmup_epochs": 1, "gap_decay": 0.8, "masked_pass_bn": "train"}
    config = IgnoreConfig(**defaults | options)
    method, model, reference = Ignore(config, SIZES), PooledNet(), plain(config)
    num_rejected = 0
    for epoch, seed, without_positive in BATCHES:
        batch = make_batch(seed, without_positive)
        assert batch.strong is not None
        model.outputs.clear()
        output = take_step(method, model, batch, epoch)
        loss, values = total_loss(output.parts)
        loss.backward()

        observed, weak, strong = array(batch.observed), array(batch.weak), array(batch.strong)
        (logits, cams), (strong_logits, _) = model.plain(weak), model.plain(strong)
        mask = make_mask(cams, observed, config.cam_threshold, config.cam_normalisation, (SIZE, SIZE))
        gap = np.abs(logits - model.plain(weak * mask[:, None])[0])
        rejected = reference.reject(logits, gap, observed, epoch)
        parts = reference.parts(logits, strong_logits, observed, rejected)
        num_rejected += int(rejected.sum())

        for name, value in parts.items():
            assert_close(values[name], value, name)
        assert_close(float(loss.detach()), sum(parts.values()))
        by_weak, by_strong = reference.gradients(logits, strong_logits, observed, rejected)
        assert_close(model.outputs[0].logits.grad, by_weak, "gradient by the weak logits")
        assert_close(model.outputs[1].logits.grad, by_strong, "gradient by the strong logits")
        assert_close(float(method.gap_threshold), reference.gap_threshold)
        assert_close(array(method.average_threshold), reference.average_threshold)
        thresholds = method.thresholds()
        assert thresholds is not None
        gap_threshold, average_threshold = reference.thresholds()
        assert_close(float(thresholds[0]), gap_threshold)
        assert_close(
            array(thresholds[1]), average_threshold if config.use_average_test else np.full(NUM_CLASSES, -np.inf)
        )
        assert int(output.sums["rejected"]) == rejected.sum()
        assert (epoch > config.warmup_epochs) or not rejected.any()
    assert num_rejected > 5, "a reference that rejects nothing shows nothing"


def test_metrics_of_an_epoch_are_those_of_plain_counting() -> None:
    config = IgnoreConfig(cam_threshold=0.6, warmup_epochs=0, gap_decay=0.8)
    method, model, reference = Ignore(config, SIZES), PooledNet(), plain(config)
    totals: dict[str, float] = {}
    hits = rejections = false_negatives = unobserved = empty = masks = 0
    kept = 0.0
    for _, seed, without_positive in BATCHES:
        batch = make_batch(seed, without_positive)
        output = take_step(method, model, batch, epoch=1)
        for name, value in output.sums.items():
            totals[name] = totals.get(name, 0.0) + float(value)
        assert batch.true is not None
        observed, true, weak = array(batch.observed), array(batch.true), array(batch.weak)
        logits, cams = model.plain(weak)
        mask = make_mask(cams, observed, 0.6, "per_image", (SIZE, SIZE))
        rejected = reference.reject(logits, np.abs(logits - model.plain(weak * mask[:, None])[0]), observed, 1)
        missed = (true == 1) & (observed == 0)
        hits, rejections = hits + int((rejected & missed).sum()), rejections + int(rejected.sum())
        false_negatives, unobserved = false_negatives + int(missed.sum()), unobserved + int((observed == 0).sum())
        with_positive = mask[observed.sum(1) > 0]
        masks, empty = masks + len(with_positive), empty + int((with_positive.sum(axis=(1, 2)) == 0).sum())
        kept += float(with_positive.mean(axis=(1, 2)).sum())
    metrics = method.epoch_metrics(totals)
    assert hits > 0
    assert metrics == pytest.approx(
        {
            "train/rejection_precision": hits / rejections,
            "train/rejection_recall": hits / false_negatives,
            "train/rejection_lift": (hits / rejections) / (false_negatives / unobserved),
            "train/rejected_frac": rejections / unobserved,
            "train/mask_kept_frac": kept / masks,
            "train/empty_mask_frac": empty / masks,
            "train/gap_threshold": reference.gap_threshold,
            "train/average_logit_threshold": reference.average_threshold.mean(),
        },
        rel=1e-5,
    )


def test_weak_view_without_regularisation_makes_no_strong_view() -> None:
    config = IgnoreConfig(view="weak", reg_weight=0, cam_threshold=0.5, warmup_epochs=0)
    method, model, batch = Ignore(config, SIZES), PooledNet(), make_batch(1)
    assert not method.needs_strong_view
    without = Batch(batch.index, batch.weak, None, batch.observed, batch.true)
    output = take_step(method, model, without, 1)
    assert len(model.inputs) == 2, "the weak view and the masked one"
    values = total_loss(output.parts)[1]
    with_strong = total_loss(Ignore(config.model_copy(update={"reg_weight": 1.0}), SIZES).step(model, batch, 1).parts)[
        1
    ]
    assert torch.equal(values["spbc"], with_strong["spbc"])
    assert torch.equal(values["ignore"], with_strong["ignore"])
    assert float(values["reg"]) == 0


def test_without_the_average_test_no_average_threshold_is_reported() -> None:
    method, model = Ignore(IgnoreConfig(use_average_test=False, warmup_epochs=0), SIZES), PooledNet()
    sums = {name: float(value) for name, value in take_step(method, model, make_batch(1), 1).sums.items()}
    metrics = method.epoch_metrics(sums)
    assert "train/average_logit_threshold" not in metrics
    assert "train/gap_threshold" in metrics


def test_nothing_rejected_has_a_recall_of_zero_and_no_precision() -> None:
    method, model = Ignore(IgnoreConfig(warmup_epochs=3), SIZES), PooledNet()
    sums = {name: float(value) for name, value in take_step(method, model, make_batch(0), 1).sums.items()}
    metrics = method.epoch_metrics(sums)
    assert metrics["train/rejection_recall"] == metrics["train/rejected_frac"] == 0
    assert "train/rejection_precision" not in metrics
    assert "train/rejection_lift" not in metrics


def test_a_state_that_was_saved_goes_on_as_if_nothing_happened() -> None:
    config = IgnoreConfig(correct_gap_bias=True, correct_average_bias=True, gap_decay=0.9, warmup_epochs=0)
    whole, model = Ignore(config, SIZES), PooledNet()
    for seed in range(3):
        take_step(whole, model, make_batch(seed), 1)
    restored = Ignore(config, SIZES)
    restored.load_state_dict(whole.state_dict())
    last, same = take_step(whole, model, make_batch(9), 1), take_step(restored, model, make_batch(9), 1)
    assert torch.equal(last.sums["rejected"], same.sums["rejected"])
    assert all(torch.equal(value, restored.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_batch_without_positives_leaves_the_gap_threshold_and_has_no_spbc() -> None:
    method, model = Ignore(IgnoreConfig(), SIZES), PooledNet()
    take_step(method, model, make_batch(0), 1)
    before, average = method.gap_threshold.clone(), method.average_threshold.clone()
    output = take_step(method, model, make_batch(1, without_positive=NUM_IMAGES), 1)
    loss, values = total_loss(output.parts)
    assert float(values["spbc"]) == 0
    assert torch.isfinite(loss)
    assert torch.equal(method.gap_threshold, before)
    assert int(method.num_gap_updates) == 1
    assert int(method.num_average_updates) == 2
    assert not torch.equal(method.average_threshold, average), "all images count for the average logit"


class TestRejectionOption:
    def test_none_trains_on_all_entries_with_two_passes(self) -> None:
        config = IgnoreConfig(rejection="none", warmup_epochs=0)
        method, model, reference = Ignore(config, SIZES), PooledNet(), plain(config)
        batch = make_batch(0)
        assert batch.strong is not None
        output = take_step(method, model, batch, 1)
        assert [len(images) for images in model.inputs] == [NUM_IMAGES, NUM_IMAGES]
        nothing = np.zeros((NUM_IMAGES, NUM_CLASSES), bool)
        parts = reference.parts(
            model.plain(array(batch.weak))[0], model.plain(array(batch.strong))[0], array(batch.observed), nothing
        )
        for name, value in total_loss(output.parts)[1].items():
            assert_close(value, parts[name])
        assert method.thresholds() is None
        assert not method.needs_true_labels
        assert method.epoch_metrics({name: float(value) for name, value in output.sums.items()}) == {}

    def test_oracle_rejects_exactly_the_false_negatives_after_the_warmup(self) -> None:
        method, model = Ignore(IgnoreConfig(rejection="oracle", warmup_epochs=1), SIZES), PooledNet()
        batch = make_batch(0)
        assert batch.true is not None
        missed = int(((batch.true > 0) & (batch.observed == 0)).sum())
        assert missed > 0
        assert int(take_step(method, model, batch, 1).sums["rejected"]) == 0
        output = take_step(method, model, batch, 2)
        assert int(output.parts["ignore"].count) == batch.true.numel() - missed
        metrics = method.epoch_metrics({name: float(value) for name, value in output.sums.items()})
        assert (metrics["train/rejection_precision"], metrics["train/rejection_recall"]) == (1, 1)
        assert method.needs_true_labels
        assert method.thresholds() is None
        assert len(model.inputs) == 4, "no masked pass"

    def test_gap_needs_no_true_labels_and_says_nothing_of_precision_without_them(self) -> None:
        method, model = Ignore(IgnoreConfig(warmup_epochs=0, gap_decay=0.5), SIZES), PooledNet()
        batch = make_batch(0)
        output = take_step(method, model, Batch(batch.index, batch.weak, batch.strong, batch.observed, None), 1)
        metrics = method.epoch_metrics({name: float(value) for name, value in output.sums.items()})
        assert "train/rejected_frac" in metrics
        assert "train/rejection_precision" not in metrics
        assert not method.needs_true_labels


class TestMaskedPassBnOption:
    def run(self, mode: MaskedPassBn) -> tuple[PooledNet, Batch, StepOutput]:
        model = PooledNet(with_norm=True).train()
        batch = make_batch(0)
        method = Ignore(IgnoreConfig(masked_pass_bn=mode, warmup_epochs=0, gap_decay=0.0, cam_threshold=0.5), SIZES)
        return model, batch, method.step(model, batch, 1)

    def running(self, images: list[Tensor]) -> tuple[Tensor, Tensor]:
        norm = nn.BatchNorm2d(3).train()
        for batch in images:
            norm(batch)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        return norm.running_mean, norm.running_var

    @pytest.mark.parametrize(("mode", "num_updates"), [("train", 3), ("batch_stats_no_update", 2), ("eval_both", 2)])
    def test_running_statistics_change_by_the_passes_that_the_mode_says(
        self, mode: MaskedPassBn, num_updates: int
    ) -> None:
        model, _, _ = self.run(mode)
        norm = model.norm
        assert isinstance(norm, nn.BatchNorm2d)
        mean, variance = self.running(model.inputs[:num_updates])
        assert torch.equal(norm.num_batches_tracked, torch.tensor(num_updates))  # type: ignore[arg-type]
        torch.testing.assert_close(norm.running_mean, mean)
        torch.testing.assert_close(norm.running_var, variance)
        assert norm.training
        assert norm.track_running_stats

    @pytest.mark.parametrize(("mode", "num_images"), [("train", 3), ("batch_stats_no_update", 3), ("eval_both", 4)])
    def test_passes_of_a_step(self, mode: MaskedPassBn, num_images: int) -> None:
        model, _, _ = self.run(mode)
        assert sum(len(images) for images in model.inputs) == num_images * NUM_IMAGES

    @pytest.mark.parametrize("mode", ["train", "batch_stats_no_update"])
    def test_gap_is_between_two_passes_with_statistics_of_their_batch(self, mode: MaskedPassBn) -> None:
        model, batch, output = self.run(mode)
        gap = (model.outputs[0].logits - model.outputs[2].logits).abs().detach()
        # With a decay of 0 the threshold is the mean gap of this batch's positives.
        torch.testing.assert_close(output.updates["gap_threshold"], gap[batch.observed > 0].mean())
        fresh = PooledNet(with_norm=True).train()
        torch.testing.assert_close(model.outputs[2].logits, fresh(model.inputs[2]).logits)

    def test_eval_both_takes_the_gap_between_two_passes_in_eval_mode(self) -> None:
        model, batch, output = self.run("eval_both")
        masked = model.inputs[2][NUM_IMAGES:]
        assert torch.equal(model.inputs[2][:NUM_IMAGES], batch.weak)
        assert not torch.equal(masked, batch.weak)
        model.eval()
        gap = (model(batch.weak).logits - model(masked).logits).abs().detach()
        torch.testing.assert_close(output.updates["gap_threshold"], gap[batch.observed > 0].mean())
        train_gap = (model.outputs[0].logits - gap).abs()
        assert not torch.allclose(train_gap, gap), "or the test could not tell the modes apart"

    @pytest.mark.parametrize("mode", ["train", "batch_stats_no_update", "eval_both"])
    def test_masked_pass_keeps_no_graph_and_has_no_part_in_the_gradient(self, mode: MaskedPassBn) -> None:
        model, _, output = self.run(mode)
        assert not model.outputs[2].logits.requires_grad
        total_loss(output.parts)[0].backward()
        assert model.outputs[0].logits.grad is not None

    def test_global_batch_norm_has_the_same_modes(self) -> None:
        model = convert_to_global(PooledNet(with_norm=True), torch.device("cpu")).train()
        method = Ignore(IgnoreConfig(masked_pass_bn="batch_stats_no_update"), SIZES)
        method.step(model, make_batch(0), 1)
        norm = model.norm
        assert isinstance(norm, GlobalBatchNorm2d)
        assert norm.num_batches_tracked is not None
        assert int(norm.num_batches_tracked) == 2
