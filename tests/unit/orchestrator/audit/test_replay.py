"""Test the replay of recorded curves under other schedulers."""

from __future__ import annotations

import json
import random

import pytest

from orchestrator.audit.replay import replay_sweep
from orchestrator.errors import UserError
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.events import Event
from orchestrator.sweep_folder.journal import replay
from orchestrator.sweep_folder.records import TrialState
from orchestrator.trials.pruner import Pruner
from tests.kit import sweeps
from tests.kit.program import run
from tests.kit.promoted import make_base

EPOCHS = 9


def make_curves(seed: int = 0, num_trials: int = 12, scheduler: str = "none") -> SweepPlan:
    """Record a sweep of random curves; under ASHA its own pruner stops them."""
    base = make_base(**{"loop.epochs": EPOCHS})
    plan = sweeps.make_sweep(f"curves-0000000{seed}", num_trials=num_trials, base=base, scheduler=scheduler)
    draw, pruner = random.Random(seed), Pruner(plan)
    tops = [draw.uniform(50, 80) for _ in range(num_trials)]
    events: list[Event] = [sweeps.driver_started(plan)]
    events += [sweeps.trial_started(trial, 1) for trial in range(num_trials)]
    open_trials = dict.fromkeys(range(num_trials), 0)
    while open_trials:
        trial = draw.choice(list(open_trials))
        epoch = open_trials[trial] = open_trials[trial] + 1
        score = tops[trial] - 20 / epoch + draw.uniform(-3, 3)
        at_s = len(events)
        events.append(sweeps.epoch_reported(trial, epoch, at_s, score))
        cut = epoch < EPOCHS and pruner.cuts(trial, epoch, score)
        if trial == 3 and epoch == 2:
            events.append(sweeps.trial_ended(trial, at_s, "FAILED", "NAN", "loss"))
        elif cut or epoch == EPOCHS:
            events.append(sweeps.trial_ended(trial, at_s, "PRUNED" if cut else "COMPLETE"))
        else:
            continue
        del open_trials[trial]
    sweeps.write_events(plan, [*events, sweeps.driver_ended(len(events))])
    return plan


def test_the_scheduler_of_the_sweep_decides_as_it_did() -> None:
    num_stopped = 0
    for seed in range(5):
        plan = make_curves(seed, scheduler="asha")
        records = replay(sweeps.journal_path(plan)).records
        pruned = {trial: found.last_epoch for trial, found in records.items() if found.state is TrialState.PRUNED}
        found = replay_sweep(plan.id, "asha")
        assert found.stopped == pruned
        others = [record for record in records.values() if record.state is not TrialState.FAILED]
        assert found.epochs == sum(record.last_epoch for record in others)
        assert (found.num_trials, found.full_epochs, found.cut_short) == (len(others), len(others) * EPOCHS, ())
        assert (found.kept, found.regret) == (True, 0.0)
        num_stopped += len(pruned)
    assert num_stopped > 10


def test_whole_curves_are_cut_as_a_scheduler_would_and_the_cost_is_counted() -> None:
    plan = make_curves()
    whole = replay_sweep(plan.id, "none")
    assert (whole.stopped, whole.cost, whole.kept, whole.regret) == ({}, 1.0, True, 0.0)
    asha = replay_sweep(plan.id, "asha", grace_epochs=1, reduction_factor=3)
    assert 0 < len(asha.stopped) < 11
    assert set(asha.stopped.values()) <= {1, 3}
    assert asha.epochs == 11 * EPOCHS - sum(EPOCHS - epoch for epoch in asha.stopped.values())
    later = replay_sweep(plan.id, "asha", grace_epochs=5)
    assert later.cost > asha.cost


def test_the_screen_finishes_the_best_few() -> None:
    plan = make_curves()
    records = replay(sweeps.journal_path(plan)).records
    found = replay_sweep(plan.id, "screen", grace_epochs=2, keep=3)
    best_of_two = {
        trial: max(record.metrics[epoch]["val/mAP"] for epoch in (1, 2)) for trial, record in records.items()
    }
    ranked = sorted((trial for trial in records if trial != 3), key=lambda trial: -best_of_two[trial])
    assert found.stopped == dict.fromkeys(ranked[3:], 2)
    assert found.epochs == 3 * EPOCHS + 8 * 2
    assert found.kept is (found.winner in ranked[:3])
    assert found.chosen in ranked[:3]
    winner, chosen = (records[int(trial or 0)].value(plan.protocol) for trial in (found.winner, found.chosen))
    assert found.regret == pytest.approx((winner or 0) - (chosen or 0))


def test_a_trial_that_the_sweep_had_stopped_has_no_end_to_replay() -> None:
    plan = make_curves(1, scheduler="asha")
    found = replay_sweep(plan.id, "none")
    records = replay(sweeps.journal_path(plan)).records
    pruned = [trial for trial, record in records.items() if record.state is TrialState.PRUNED]
    assert list(found.cut_short) == pruned != []


def test_the_command_says_whether_the_winner_was_kept(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_curves(1, scheduler="asha")
    code, out, err = run(capsys, "replay", plan.id, "--scheduler", "none")
    assert code == 0
    assert "  winner  kept: trial " in out
    assert "would have continued; how they end is not known" in err
    printed = json.loads(run(capsys, "replay", "--scheduler", "screen", "--keep", "1", "--json")[1])
    assert (printed["sweep"], len(printed["stopped"])) == (plan.id, len(printed["stopped"]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grace_epochs": 0}, "--grace must be from 1 to 9"),
        ({"grace_epochs": 10}, "--grace must be from 1 to 9"),
        ({"reduction_factor": 1.0}, "--reduction must be above 1"),
        ({"keep": 0}, "--keep must be at least 1"),
    ],
)
def test_a_setting_out_of_range_is_refused(options: dict[str, float], words: str) -> None:
    plan = make_curves()
    with pytest.raises(UserError, match=words):
        replay_sweep(plan.id, "asha", **options)  # type: ignore[arg-type]
    empty = sweeps.make_sweep("empty-00000001")
    with pytest.raises(UserError, match="has no epoch to replay yet"):
        replay_sweep(empty.id, "asha")
