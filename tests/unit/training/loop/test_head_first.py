"""Test that the trunk rests in the first epochs, bit by bit, and that a resume within or after them changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from tests.kit.scenes import prepare_tiny, tiny_config
from training.config.fit import check_fit
from training.config.run import TrainConfig
from training.errors import ConfigError
from training.loop.run import TrainingRun


def config(**changes: int) -> TrainConfig:
    settings = {"method.name": "em", "model.weights": "pretext", "optim.weight_decay": 1e-3}
    return tiny_config({**settings, "optim.head_first_epochs": 2, "loop.epochs": 4, **changes})


def parts_of(run: TrainingRun) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return copies of the trunk's tensors, and of the others."""
    state = {name: value.clone() for name, value in run.state_dict()["model"].items()}
    trunk = {name: value for name, value in state.items() if name.startswith("trunk.")}
    return trunk, {name: value for name, value in state.items() if name not in trunk}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_trunk_rests_and_then_is_trained_and_a_resume_is_the_same() -> None:
    prepare_tiny()
    run = TrainingRun(config())
    trunk, head = parts_of(run)
    states = []
    for epoch in (1, 2, 3):
        run.train_epoch()
        states.append(copy.deepcopy(run.state_dict()))
        now, others = parts_of(run)
        assert equal(trunk, now) == (epoch <= 2), epoch  # weights and BatchNorm statistics
        assert not equal(head, others)
    for state in states[:2]:
        resumed = TrainingRun(config())
        resumed.load_state_dict(state)
        while resumed.epoch < 3:
            resumed.train_epoch()
        assert equal(resumed.state_dict()["model"], states[-1]["model"])


def test_random_features_are_refused() -> None:
    with pytest.raises(ConfigError, match="would train a head on random features"):
        check_fit(config().with_params({"model.weights": "none"}))
