"""Every file of a sweep's folder, damaged in every way: a sentence that names it, and never a wrong figure."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.kit.damaged_sweep import make_damageable, try_damages, without_ray
from tests.kit.program import run

pytestmark = pytest.mark.slow


def test_no_damage_raises_or_misleads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_damageable()
    with without_ray():
        faults = list(
            try_damages(plan, lambda *words: run(capsys, *words), random.Random(0), tmp_path / "x.bundle.zip")
        )
    assert not faults, "\n".join(faults)
