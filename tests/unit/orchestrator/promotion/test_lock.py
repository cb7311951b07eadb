from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.promotion import promote as promotion
from orchestrator.promotion.lock import promoting
from orchestrator.promotion.promote import promote, resume_promotion
from orchestrator.sweep.driver import SweepOutcome
from orchestrator.sweep.options import DEFAULT, DriveOptions
from orchestrator.sweep_folder.index import list_sweeps
from tests.kit.fake_promotion import Store


def test_a_second_promotion_at_the_same_time_is_told_who_is_at_it(
    swept: SweepPlan, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []

    def train(plan: SweepPlan, options: DriveOptions = DEFAULT) -> SweepOutcome:
        trained = store.train(plan, options)
        said = f"{swept.id} is already being promoted by process {os.getpid()} on"
        with pytest.raises(UserError, match=said):
            promote(swept.id, seeds=2)
        with pytest.raises(UserError, match=said):
            resume_promotion(plan.id)
        refused.append(plan.id)
        return trained

    monkeypatch.setattr(promotion, "run_sweep", train)
    first = promote(swept.id, seeds=2)
    assert refused == [first.plan.id]
    assert len(store.opened) == 2
    assert len(list_sweeps(kinds={"promote"})) == 1
    # Once it has ended, the same command reads its result.
    assert promote(swept.id, seeds=2).plan.id == first.plan.id
    assert store.trained == 1


def test_a_killed_promotion_keeps_nobody_out(home: Path) -> None:
    code = (
        "import sys, time; from orchestrator.promotion.lock import promoting\n"
        "with promoting('digits-00000001'): print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "in\n"
        with pytest.raises(UserError, match=f"by process {holder.pid} on"), promoting("digits-00000001"):
            pass
        with promoting("digits-00000002"):
            holder.kill()
    with promoting("digits-00000001"):
        pass
