from __future__ import annotations

import io
import time
from dataclasses import replace

import pytest
from rich.console import Console

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep import progress as progress_module
from orchestrator.sweep.progress import Progress, describe_progress, estimate_left_s, render_progress
from orchestrator.sweep_folder.events import Event
from orchestrator.sweep_folder.state import SweepState
from tests.kit.sweeps import START_MS, driver_started, epoch_reported, make_sweep, trial_ended, trial_started


@pytest.fixture
def plan() -> SweepPlan:
    return make_sweep(num_trials=4)


@pytest.fixture
def state(plan: SweepPlan) -> SweepState:
    """Trial 0 complete after 9 s, trial 1 failed after 3 s, trial 2 at epoch 1, trial 3 to come."""
    state = SweepState()
    events: list[Event] = [
        driver_started(plan, 0),
        trial_started(0, 0),
        trial_started(1, 0),
        epoch_reported(0, 1, 3, 60.0),
        epoch_reported(1, 1, 3, 50.0),
        trial_ended(1, 3, "FAILED", "NAN"),
        trial_started(2, 3, 1, **{"method.cam_threshold": 0.71234, "method.warmup_epochs": 2}),
        epoch_reported(0, 2, 6, 72.25),
        epoch_reported(2, 1, 6, 40.0),
        epoch_reported(0, 3, 9, 70.0),
        trial_ended(0, 9),
    ]
    for event in events:
        state.apply(event)
    return state


def test_one_line_says_where_a_sweep_is(plan: SweepPlan, state: SweepState) -> None:
    line = describe_progress(plan, state, START_MS + 65_000)
    assert line.startswith(
        "digits-00000001: 2/4 trials | 1 complete | 1 failed | 1 running | best 72.25 (trial 0, epoch 2) | 1 min 05 s "
        "gone, about "
    )
    assert (
        describe_progress(plan, SweepState(), START_MS, "starting Ray") == "digits-00000001: 0/4 trials | starting Ray"
    )


def test_a_score_of_zero_leads_and_is_shown(plan: SweepPlan) -> None:
    state = SweepState()
    events: list[Event] = [driver_started(plan, 0), trial_started(0, 0), epoch_reported(0, 1, 3, 0.0)]
    for event in events:
        state.apply(event)
    assert "best 0.00 (trial 0, epoch 1)" in describe_progress(plan, state, START_MS + 4_000)
    console = Console(file=io.StringIO(), width=120)
    console.print(render_progress(plan, state, START_MS + 4_000))
    assert "0.00 at 1" in console.file.getvalue()  # type: ignore[attr-defined]


def test_what_is_away_since_time_zero_is_said_after_some_seconds() -> None:
    watched = progress_module._Warning(lambda: "refused", "back", progress_module._AWAY_S)
    assert watched.look(0.0) is None
    assert "refused" in (watched.look(progress_module._AWAY_S + 1) or "")


def test_time_left_is_what_epochs_and_trials_have_taken_so_far(plan: SweepPlan, state: SweepState) -> None:
    # 15 s of trials made 5 epochs; ended trials had 2 on average; one epoch and one trial are to come, on two slots.
    assert estimate_left_s(plan, state, START_MS + 6_000) == pytest.approx(3 * (1 + 2) / 2)
    assert estimate_left_s(plan, SweepState(), START_MS) is None


def test_time_left_counts_down_while_an_epoch_is_under_way(plan: SweepPlan, state: SweepState) -> None:
    # Trial 2 reported at 6 s, and an epoch takes 3 s: those are waited for once, however long it takes in the end.
    left = [estimate_left_s(plan, state, START_MS + seconds * 1000) for seconds in (6, 7, 8, 9, 60)]
    assert left == pytest.approx([4.5, 4.0, 3.5, 3.0, 3.0])


def test_time_left_has_the_start_of_a_trial_that_has_not_reported() -> None:
    # A final run took 30 s to start and 2 s per epoch; the second one has begun to start at 36 s.
    plan, state = make_sweep(num_trials=2, concurrency=1), SweepState()
    events: list[Event] = [driver_started(plan, 0), trial_started(0, 0), epoch_reported(0, 1, 32, start_s=30.0)]
    events += [epoch_reported(0, 2, 34), epoch_reported(0, 3, 36), trial_ended(0, 36), trial_started(1, 36)]
    for event in events:
        state.apply(event)
    left = [estimate_left_s(plan, state, START_MS + seconds * 1000) for seconds in (36, 46, 66, 90)]
    assert left == pytest.approx([36.0, 26.0, 6.0, 6.0])


def test_running_trial_can_lead_and_a_pruned_one_cannot(plan: SweepPlan, state: SweepState) -> None:
    state.apply(epoch_reported(2, 2, 9, 80.0))
    assert "best 80.00 (trial 2, epoch 2)" in describe_progress(plan, state, START_MS)
    state.apply(trial_ended(2, 9, "PRUNED"))
    assert "best 72.25 (trial 0, epoch 2)" in describe_progress(plan, state, START_MS)


def test_final_runs_are_called_runs(plan: SweepPlan, state: SweepState) -> None:
    plan = replace(plan, kind="promote")
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(render_progress(plan, state, START_MS))
    text = console.export_text()
    assert "2/4 runs" in text
    assert "(run 0, epoch 2)" in text
    assert "trial" not in text


@pytest.mark.parametrize("width", [40, 60, 80])
def test_what_sums_up_is_broken_between_its_parts(plan: SweepPlan, state: SweepState, width: int) -> None:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(render_progress(plan, state, START_MS + 10_000, width=width))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert any("best 72.25 (trial 0, epoch 2)" in line for line in lines)


def test_the_table_has_a_row_per_running_trial(plan: SweepPlan, state: SweepState) -> None:
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(render_progress(plan, state, START_MS + 10_000))
    text = console.export_text()
    rows = [line.split() for line in text.splitlines()]
    assert ["2", "1/3", "40.00", "40.00", "at", "1", "cam_threshold", "0.712", "warmup_epochs", "2"] in rows


def test_elsewhere_than_on_a_terminal_it_prints_plain_lines(
    plan: SweepPlan, state: SweepState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "_PLAIN_S", 0.01)
    out = io.StringIO()
    with Progress(plan, state, console=Console(file=out, width=200)) as progress:
        progress.say("Making scenes")
        deadline = time.monotonic() + 60
        while "2/4 trials" not in out.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "Making scenes" in out.getvalue()
    assert "2/4 trials" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_a_line_is_not_wrapped_on_its_way_into_a_file(plan: SweepPlan, state: SweepState) -> None:
    out = io.StringIO()
    Progress(plan, state, console=Console(file=out, width=40)).say("word " * 40)
    assert out.getvalue().count("\n") == 1


def test_on_a_terminal_the_table_is_live_and_wiped_at_the_end(plan: SweepPlan, state: SweepState) -> None:
    out = io.StringIO()
    with Progress(plan, state, console=Console(file=out, width=200, force_terminal=True)) as progress:
        progress.enter_phase("")
    assert "2/4 trials" in out.getvalue()
    assert "\x1b[2K" in out.getvalue()  # erases its lines


def test_what_is_not_to_be_shown_is_not(plan: SweepPlan, state: SweepState) -> None:
    out = io.StringIO()
    with Progress(plan, state, shown=False, console=Console(file=out, force_terminal=True)) as progress:
        progress.enter_phase("")
    assert out.getvalue() == ""


def test_what_is_away_is_told_once_and_once_when_it_is_back(plan: SweepPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "_AWAY_S", 0.0)
    problems = iter([None, "no answer", "no answer", "no answer still", None, None, "no answer"])
    progress = Progress(plan, SweepState(), console=Console(file=io.StringIO(), width=200, force_terminal=True))
    said: list[str] = []
    monkeypatch.setattr(progress, "say", said.append)
    progress.watch("MLflow", lambda: next(problems))
    for _ in range(6):
        progress._render()
    assert said == [
        "MLflow is unavailable (no answer). The sweep continues, and whatever is missing there is written later",
        "MLflow is back",
    ]


def test_what_is_away_for_a_moment_is_not_worth_a_word(plan: SweepPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = iter(["being made", None, None])
    progress = Progress(plan, SweepState(), console=Console(file=io.StringIO(), width=200, force_terminal=True))
    said: list[str] = []
    monkeypatch.setattr(progress, "say", said.append)
    progress.watch("MLflow", lambda: next(problems))
    for _ in range(3):
        progress._render()
    assert said == []


def test_what_is_back_at_the_very_end_is_told(plan: SweepPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "_AWAY_S", 0.0)
    monkeypatch.setattr(progress_module, "_LOOK_S", 0.01)
    problem: list[str | None] = ["no answer"]
    shown = io.StringIO()
    progress = Progress(plan, SweepState(), console=Console(file=shown, width=200))
    progress.watch("MLflow", lambda: problem[0])
    with progress:
        deadline = time.monotonic() + 60
        while "is unavailable" not in shown.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        monkeypatch.setattr(progress_module, "_LOOK_S", 60.0)
        time.sleep(0.05)
        problem[0] = None
    assert shown.getvalue().count("MLflow is unavailable") == 1
    assert shown.getvalue().endswith("MLflow is back\n")


def test_drawing_takes_a_small_share_of_the_time(plan: SweepPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    now, drawn = 0.0, 0

    def render(*_: object, width: int) -> str:
        nonlocal now, drawn
        now, drawn = now + 0.5, drawn + 1
        return f"drawing {drawn}"

    monkeypatch.setattr(progress_module, "render_progress", render)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = Progress(plan, SweepState(), console=Console(file=io.StringIO(), width=200, force_terminal=True))
    assert [progress._render() for _ in range(3)] == ["drawing 1"] * 3
    now += 0.5 / progress_module._DRAWING_SHARE
    assert progress._render() == "drawing 2"
