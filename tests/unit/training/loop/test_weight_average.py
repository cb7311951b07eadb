"""Compare the averaged weights with their formula, and test when they are the ones that count."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.loop.weight_average import WeightAverage, average_leads, gain_of_average
from training.metric_names import VAL_AVERAGE_GAIN, VAL_MAP, VAL_OBSERVED_MAP
from training.selection import SelectBy

YES, NO = torch.tensor(True), torch.tensor(False)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.precise = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.norm(self.linear(x)))


def disturb(net: Net, step: int) -> None:
    """Change weights and statistics as a training step does."""
    generator = torch.Generator().manual_seed(step)
    net(torch.randn(8, 3, generator=generator))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def test_weights_and_statistics_follow_the_formula_from_their_initial_values() -> None:
    net = Net()
    average = WeightAverage(net, 0.9)
    expected = {name: value.clone() for name, value in net.state_dict().items()}
    for step in range(5):
        disturb(net, step)
        average.update(YES)
        for name, value in net.state_dict().items():
            expected[name] = 0.9 * expected[name] + 0.1 * value if value.is_floating_point() else value.clone()
    found = average.model.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    assert found["norm.num_batches_tracked"] == 5
    assert not torch.equal(found["norm.running_mean"], net.state_dict()["norm.running_mean"])


def test_it_agrees_with_torchs_average_up_to_rounding() -> None:
    net = Net()
    ours = WeightAverage(net, 0.9)
    theirs = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    theirs.n_averaged.fill_(1)  # or it would start from the weights of the first step
    for step in range(5):
        disturb(net, step)
        ours.update(YES)
        theirs.update_parameters(net)
    expected = theirs.module.state_dict()
    for name, value in ours.model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name])


def test_a_step_that_was_not_taken_leaves_it() -> None:
    net = Net()
    average = WeightAverage(net, 0.5)
    disturb(net, 0)
    average.update(YES)
    kept = {name: value.clone() for name, value in average.model.state_dict().items() if value.is_floating_point()}
    disturb(net, 1)
    average.update(NO)
    assert all(torch.equal(average.model.state_dict()[name], value) for name, value in kept.items())


def test_it_has_no_gradient_and_leaves_the_model_its_own() -> None:
    net = Net()
    average = WeightAverage(net, 0.5)
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_loaded_state_is_followed_on() -> None:
    net = Net()
    first = WeightAverage(net, 0.5)
    disturb(net, 0)
    first.update(YES)
    second = WeightAverage(net, 0.5)
    second.model.load_state_dict(first.model.state_dict())
    disturb(net, 1)
    for average in (first, second):
        average.update(YES)
    pairs = zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(
    ("select_by", "gain", "leads"),
    [(SelectBy.CLEAN_VAL, 2.0, True), (SelectBy.OBSERVED_VAL, -3.0, False), (SelectBy.LAST, 2.0, True)],
)
def test_the_better_set_counts_by_what_chooses_the_epoch(select_by: SelectBy, gain: float, leads: bool) -> None:
    averaged, trained = {VAL_MAP: 62.0, VAL_OBSERVED_MAP: 40.0}, {VAL_MAP: 60.0, VAL_OBSERVED_MAP: 43.0}
    found = gain_of_average(averaged, trained, select_by)
    assert found == {VAL_AVERAGE_GAIN: gain}
    assert average_leads(found, select_by) is leads


def test_with_the_last_epoch_the_averaged_set_counts_whatever_it_scores() -> None:
    assert average_leads({VAL_AVERAGE_GAIN: -5.0}, SelectBy.LAST)
    assert gain_of_average({VAL_OBSERVED_MAP: 1.0}, {VAL_OBSERVED_MAP: 2.0}, SelectBy.LAST) == {}
    assert average_leads({}, SelectBy.LAST)


def test_of_equals_the_trained_set_counts() -> None:
    assert not average_leads({VAL_AVERAGE_GAIN: 0.0}, SelectBy.CLEAN_VAL)
