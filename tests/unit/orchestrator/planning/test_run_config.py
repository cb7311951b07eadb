from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.planning.run_config import change_config, read_config, render_config
from search_spaces.reader import Scalar, SpaceError
from training.config.run import TrainConfig
from training.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("optim.lr", True, "a number"),
        ("optim.lr", "1e-3", "a number"),
        ("optim.batch_size", 16.0, "an integer"),
        ("optim.batch_size", True, "an integer"),
        ("method.correct_gap_bias", 1, "true or false"),
        ("method.correct_gap_bias", "true", "true or false"),
        ("model.weights", 3, "text"),
        ("data.num_train", "50", "an integer"),
    ],
)
def test_no_kind_of_value_passes_for_another(key: str, value: Scalar, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} must be {kind}, but got {key}="):
        TrainConfig.from_flat({key: value})


def test_kind_of_a_setting_whose_default_is_null_is_checked_too() -> None:
    with pytest.raises(ConfigError, match="method.negative_weight must be a number, but got .*=true"):
        TrainConfig.from_flat({"method.name": "wan", "method.negative_weight": True})


def test_whole_numbers_pass_where_a_number_is_meant_and_null_where_it_may() -> None:
    config = TrainConfig.from_flat({"optim.lr": 1, "data.num_train": None, "method.average_decay": None})
    assert config.flatten()["optim.lr"] == 1.0


def test_file_with_dotted_keys_and_file_with_sections_are_the_same_run(tmp_path: Path) -> None:
    dotted = read_config(
        write(tmp_path, "data.name: voc\nmethod.name: em\nmethod.entropy_weight: 2e-1\nloop.epochs: 3\n")
    )
    nested = read_config(
        write(tmp_path, "data: {name: voc}\nmethod:\n  name: em\n  entropy_weight: 0.2\nloop: {epochs: 3}\n")
    )
    assert dotted == nested
    assert dotted == TrainConfig.from_flat(dotted).flatten()
    assert (dotted["method.entropy_weight"], dotted["loop.epochs"]) == (0.2, 3)


def test_rendered_settings_read_back_exactly(tmp_path: Path) -> None:
    settings = TrainConfig.from_flat(
        {
            "data.name": "voc",
            "optim.lr": 1 / 3,
            "optim.weight_decay": 1e-17,
            "model.weights": "a: #b",
            "data.num_train": None,
        }
    ).flatten()
    text = render_config(settings, "line one\n\nline two")
    assert text.startswith("# line one\n#\n# line two\ndata.name: ")
    assert read_config(write(tmp_path, text)) == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"run.yaml:1: the file must be a mapping"),
        ("- a", r"run.yaml:1: the file must be a mapping"),
        (
            "optim.lr: 1e-3\nmethod.tau: .5",
            r"run.yaml:2: method.tau is not a setting .* Did you mean method.cam_threshold",
        ),
        ("optim:\n  lr: 1e-3\n  bs: 4", r"run.yaml:3: optim.bs is not a setting .* Did you mean optim.batch_size"),
        ("optim:\n  lr: 20", r"run.yaml:2: optim.lr must be at most 10"),
        ("optim.lr: [1]", r"run.yaml:1: optim.lr must be a single value"),
        ("optim:\n  lr: {a: 1}", r"run.yaml:2: optim.lr must be a single value"),
        ("method.name: emm", r"run.yaml:1: method.name must be a method, .* Did you mean em\?"),
        ("method.name: 3", r"run.yaml:1: method.name must be text"),
        ("dataset: digits\nmethods: {em: }", r"run.yaml:2: .* search space"),
        ("lr: 1", r"run.yaml:1: lr is not a setting .* Did you mean optim.lr"),
    ],
)
def test_fault_in_a_file_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        read_config(write(tmp_path, text))


def test_flags_change_a_run() -> None:
    config = TrainConfig.from_flat({"data.name": "voc", "optim.lr": 1e-2}).flatten()
    changed = change_config(config, {"optim.lr": "5e-3"}, epochs=2)
    assert (changed["optim.lr"], changed["loop.epochs"]) == (5e-3, 2)
    assert {key for key in config if config[key] != changed[key]} == {"optim.lr", "loop.epochs"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"method.name": "em"}, "cannot change method.name"),
        ({"method.tau": ".5"}, "--set: method.tau .* Did you mean method.cam_threshold"),
        ({"optim.lr": "x"}, "--set: optim.lr must be a number"),
    ],
)
def test_fault_in_a_flag_is_the_users(overrides: dict[str, Scalar], message: str) -> None:
    with pytest.raises(UserError, match=message):
        change_config(TrainConfig().flatten(), overrides)
