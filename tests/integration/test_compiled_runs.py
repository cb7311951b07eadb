"""Test ``loop.compile``: a compiled run gives the same results, and resumes in the same way."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from tests.kit.fingerprint import fingerprint, train
from tests.kit.scenes import prepare_tiny, tiny_config

COMPILED = {"loop.compile": True, "loop.epochs": 3}


@pytest.fixture(autouse=True)
def _no_compiler(_isolated_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a backend that traces and differentiates like the default one, but needs no C++ compiler and no minute."""
    prepare_tiny()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.mark.slow
@pytest.mark.parametrize("average", [pytest.param(None, marks=pytest.mark.long), 0.9])
def test_a_compiled_run_learns_the_same_and_is_resumed_bit_for_bit(average: float | None, tmp_path: Path) -> None:
    torch.compiler.reset()
    compiled = tiny_config(COMPILED | {"optim.average_decay": average})
    whole, plain = train(compiled), train(compiled.with_params({"loop.compile": False}))
    frames = torch._dynamo.utils.counters["frames"]
    assert frames["ok"] == frames["total"] > 0, "all of it was compiled"
    for kind in ("model", "average"):
        ours, theirs = (run.state_dict()[kind] or {} for run in (whole, plain))
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)
    train(compiled, tmp_path, stop_after=1)
    assert fingerprint(train(compiled, tmp_path)) == fingerprint(whole)
