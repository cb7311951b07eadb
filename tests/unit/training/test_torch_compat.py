"""Check that torch's private names are where torch 2.15 has them, and do what we use them for."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

import training
from training.torch_compat import move_towards, step_unless

ROOT = Path(training.__file__).parents[1]


@pytest.mark.parametrize("name", ["_foreach_sub", "_foreach_mul_", "_foreach_add_", "_foreach_copy_"])
def test_private_name_exists(name: str) -> None:
    assert callable(getattr(torch, name))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_lists_move_towards_their_targets(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    values, targets = ([torch.randn(shape, generator=generator) for shape in ((3,), (2, 4))] for _ in range(2))
    expected = [value + (target - value) * share for value, target in zip(values, targets, strict=True)]
    move_towards(values, targets, torch.tensor(share))
    assert all(torch.equal(value, wanted) for value, wanted in zip(values, expected, strict=True))


def test_counts_are_copied() -> None:
    values, targets = [torch.tensor(3), torch.tensor(4)], [torch.tensor(7), torch.tensor(9)]
    move_towards(values, targets, torch.tensor(0.0))
    assert values == targets


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
def test_a_fused_optimiser_reads_the_skip_flag(kind: Any) -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = kind([parameter], lr=0.1, fused=True)
    parameter.grad = torch.full((3,), torch.nan)
    step_unless(optimizer, torch.tensor(1.0))
    assert torch.equal(parameter, torch.ones(3))
    parameter.grad = torch.ones(3)
    step_unless(optimizer, torch.tensor(0.0))
    assert (parameter < 1).all()


def private_names(path: Path) -> list[str]:
    """Return the private names of torch that a file imports or reads, and assignments to ``__class__``."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            found += [f"{path}: {part}" for part in parts if part.startswith("_")]
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            owner = node.value
            while isinstance(owner, ast.Attribute):
                owner = owner.value
            if isinstance(owner, ast.Name) and owner.id == "torch":
                found.append(f"{path}: torch...{node.attr}")
        if isinstance(node, ast.Attribute) and node.attr == "__class__" and isinstance(node.ctx, ast.Store):
            found.append(f"{path}: assigns __class__")
    return found


def test_no_other_file_uses_private_names_of_torch() -> None:
    files = [path for folder in ("training", "orchestrator", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    assert [found for path in files if path.name != "torch_compat.py" for found in private_names(path)] == []
    assert private_names(ROOT / "training" / "torch_compat.py"), "or the search finds nothing at all"
