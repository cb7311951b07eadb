"""Test the verb max-batch: what it prints and what it refuses; the probe itself is tested under training/loop."""

from __future__ import annotations

import json

import pytest
import torch

from orchestrator.cli import max_batch as cli_probe
from tests.kit.program import run
from training.config.run import TrainConfig
from training.loop.max_batch import Attempt, MaxBatch


def _find(monkeypatch: pytest.MonkeyPatch, batch_size: int) -> list[tuple[TrainConfig, float | None]]:
    """Make the probe find this; return what it was asked."""
    asked: list[tuple[TrainConfig, float | None]] = []

    def probe(config: TrainConfig, limit_gib: float | None) -> MaxBatch:
        asked.append((config, limit_gib))
        attempts = (Attempt(1, batch_size >= 1, 0.75), Attempt(2, batch_size >= 2, None))
        return MaxBatch(batch_size, 1.0, attempts, 1, 0.3 if batch_size else None)

    monkeypatch.setattr(cli_probe, "_probe", probe)
    return asked


def test_says_what_fits_and_how_to_use_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = _find(monkeypatch, 1)
    words = (
        "max-batch",
        "digits",
        "--method",
        "wan",
        "--set",
        "model.weights=none",
        "--device",
        "cpu",
        "--limit-gib",
        "1",
    )
    code, out, err = run(capsys, *words)
    assert code == 0, err
    [(config, limit_gib)] = asked
    assert (config.method.name, config.model.weights, limit_gib) == ("wan", "none", 1.0)
    assert "running steps of wan at 40 px" in err
    assert [line.split() for line in out.splitlines()[1:3]] == [["1", "fits", "0.75"], ["2", "does", "not", "fit", "?"]]
    assert "Largest batch per worker in 1.00 GiB: 1. Use --set optim.batch_size=N" in out
    assert "A trial with the space's batch of 1 needs 0.30 GiB: 3 fit at a time. Use --concurrency N" in out


def test_says_what_part_of_a_gpu_a_trial_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _find(monkeypatch, 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    code, out, err = run(capsys, "max-batch", "digits")
    assert code == 0, err
    assert "3 fit at a time. Use --set resources.gpus_per_worker=0.33." in out


@pytest.mark.parametrize(("own_gib", "num"), [(None, 0), (0.3, 3), (0.316, 3), (0.32, 2), (0.6, 1), (0.99, 0)])
def test_counts_what_fits_beside_each_other(own_gib: float | None, num: int) -> None:
    assert MaxBatch(8, 1.0, (), 4, own_gib).num_sharing == num


def test_not_even_one_image_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _find(monkeypatch, 0)
    code, out, _ = run(capsys, "max-batch", "digits", "--device", "cpu", "--limit-gib", "1")
    assert code == 1
    assert "Not even one image fits into 1.00 GiB. Use a smaller --set data.image_size" in out


def test_prints_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _find(monkeypatch, 2)
    code, out, _ = run(capsys, "max-batch", "digits", "--device", "cpu", "--limit-gib", "1", "--json")
    found = json.loads(out)
    assert (code, found["batch_size"], found["limit_gib"], found["num_sharing"]) == (0, 2, 1.0, 3)
    assert found["attempts"][1] == {"batch_size": 2, "fits": True, "peak_gib": None}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "cpu"], "--device cpu needs --limit-gib"),
        (["--limit-gib", "4"], "--limit-gib 4 goes with --device cpu"),
        ([], "This machine has no GPU. To measure its CPU memory: --device cpu --limit-gib N"),
        (["--device", "cpu", "--limit-gib", "1", "--set", "optim.batch=4"], "Did you mean optim.batch_size?"),
    ],
)
def test_refuses_what_cannot_be_probed(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = _find(monkeypatch, 1)
    code, _, err = run(capsys, "max-batch", "digits", *words)
    assert (code, asked) == (2, [])
    assert said in " ".join(err.split())
