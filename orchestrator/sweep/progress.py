"""Show the progress of a running sweep: a live table on a terminal, one plain line every ten seconds elsewhere."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.durations import format_seconds
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.program import name_as_called
from orchestrator.sweep_folder.records import TrialRecord, TrialState
from orchestrator.sweep_folder.state import SweepState
from orchestrator.terminal_text import show_controls
from orchestrator.trials.screen import Screen

_PLAIN_S = 10.0
_LOOK_S = 1.0
_AWAY_S = 5.0  # a database that is being created or locked for a moment is not worth a message
# How much of the driver's time may go into drawing.
_DRAWING_SHARE = 0.05
# Leaves room for the summary on a terminal of 24 lines.
_MAX_ROWS = 12
_BETWEEN = " | "


class Progress:
    """Shows a sweep's progress while the context is active. On a terminal, the live table is removed at the end.

    Args:
        plan: The sweep.
        state: The journal's state, which its writer updates.
        shown: Whether to show progress; what :meth:`say` prints is always shown.
        console: Where to print; None is stderr, so that stdout has only results.
    """

    def __init__(
        self, plan: SweepPlan, state: SweepState, *, shown: bool = True, console: Console | None = None
    ) -> None:
        self._shown = shown
        self._plan, self._state = plan, state
        self._console = console or Console(stderr=True)
        self.enter_phase("starting")
        self._closing = threading.Event()
        self._warnings: list[_Warning] = []
        self._drawn: RenderableType = ""
        self._draw_next = 0.0
        self._live: Live | None = None
        self._thread: threading.Thread | None = None

    def say(self, text: str) -> None:
        """Print a line that stays on the terminal."""
        # As Text, because square brackets in a message are not markup.
        self._console.print(Text(show_controls(name_as_called(text))), soft_wrap=True)

    def watch(self, name: str, find_problem: Callable[[], str | None]) -> None:
        """Report once when a service that the sweep does not wait for is unavailable, and once when it is back.

        Args:
            name: The service.
            find_problem: Returns why it is unavailable, or None; called repeatedly.
        """
        meanwhile = "The sweep continues, and whatever is missing there is written later"
        self.warn_of(
            lambda: (problem := find_problem()) and f"{name} is unavailable ({problem}). {meanwhile}",
            back=f"{name} is back",
            patience_s=_AWAY_S,
        )

    def warn_of(self, find_warning: Callable[[], str | None], back: str, patience_s: float) -> None:
        """Print a warning once when there is one to print, and a line when the reason is gone.

        Args:
            find_warning: Returns the warning, or None; called repeatedly.
            back: Printed when the reason is gone.
            patience_s: How long the reason must last before the warning is printed.
        """
        self._warnings.append(_Warning(find_warning, back, patience_s))

    def enter_phase(self, phase: str) -> None:
        """Show the current activity; an empty text shows the trials again."""
        self._phase, self._phase_began = phase, time.monotonic()

    def __enter__(self) -> Progress:
        if not self._shown:
            return self
        if self._console.is_terminal:
            # Transient: the leaderboard that follows says the same, and better.
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=2, transient=True)
            self._live.start()
        else:
            self._thread = threading.Thread(target=self._print_lines, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        if self._live is not None:
            self._live.stop()
        if self._thread is not None:
            self._thread.join()
        # One last check: a service that came back at the end must not stay reported as unavailable.
        if self._shown:
            self._report_problems()  # a service may have come back while the rest was written to it

    def _report_problems(self) -> None:
        # Checked while drawing, so no extra thread is needed.
        for warning in self._warnings:
            report = warning.look(time.monotonic())
            if report:
                self.say(report)

    def _render(self) -> RenderableType:
        self._report_problems()
        began = time.monotonic()
        if began >= self._draw_next:
            self._drawn = render_progress(
                self._plan, self._state, time.time() * 1000, self._timed_phase(), width=self._console.width
            )
            # Drawing reads every trial. With ten thousand of them it must happen less often, to leave the CPU to
            # the driver.
            self._draw_next = time.monotonic() + (time.monotonic() - began) / _DRAWING_SHARE
        return self._drawn

    def _timed_phase(self) -> str:
        return self._phase and f"{self._phase}, {format_seconds(time.monotonic() - self._phase_began)}"

    def _print_lines(self) -> None:
        shown = time.monotonic()
        # Services are checked every second, but a line in a log file every ten seconds is enough.
        while not self._closing.wait(min(_PLAIN_S, _LOOK_S)):
            self._report_problems()
            if time.monotonic() - shown < _PLAIN_S:
                continue
            shown = time.monotonic()
            self.say(describe_progress(self._plan, self._state, time.time() * 1000, self._timed_phase()))


class _Warning:
    """A warning that is printed once its reason has lasted for a while, and taken back when the reason is gone."""

    def __init__(self, find: Callable[[], str | None], back: str, patience_s: float) -> None:
        self._find, self._back, self._patience_s = find, back, patience_s
        self._since: float | None = None
        self._reported = False

    def look(self, now: float) -> str | None:
        """Return what to print now, or None."""
        warning = self._find()
        if warning is None:
            back, self._since, self._reported = self._reported, None, False
            return self._back if back else None
        # Not `or`: a monotonic clock may be at 0.0.
        self._since = now if self._since is None else self._since
        if self._reported or now - self._since < self._patience_s:
            return None
        self._reported = True
        return warning


def render_progress(
    plan: SweepPlan, state: SweepState, now_ms: float, phase: str = "", *, width: int = 80
) -> RenderableType:
    """Return the live table: a summary on as many lines as it needs, then a row per running trial."""
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    # Only the running trials get a row: the leaderboard has the others once the sweep has ended, or the summary.
    for column in (_unit(plan), "epoch", plan.protocol.metric, "best epoch"):
        table.add_column(column, no_wrap=True)
    table.add_column("params", no_wrap=True, overflow="ellipsis", ratio=1)  # takes the rest of the line
    # A copy, because the driver adds records while this thread reads them.
    running = [record for record in list(state.records.values()) if _is_running(record)]
    for record in running[:_MAX_ROWS]:
        table.add_row(*_row(plan, record))
    return Group(
        Text(show_controls(_fold(_describe_parts(plan, state, now_ms, phase), width))), *([table] if running else [])
    )


def describe_progress(plan: SweepPlan, state: SweepState, now_ms: float, phase: str = "") -> str:
    """Return the summary as one line: trials by state, the best so far, time elapsed and left."""
    return _BETWEEN.join(_describe_parts(plan, state, now_ms, phase))


def _describe_parts(plan: SweepPlan, state: SweepState, now_ms: float, phase: str) -> list[str]:
    records = list(state.records.values())
    count = Counter(record.state for record in records)
    ended = sum(record.ended for record in records)
    parts = [f"{plan.id}: {ended}/{state.total(plan.num_trials)} {_unit(plan)}s"]
    names = {
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "pruned",
        TrialState.FAILED: "failed",
        TrialState.RUNNING: "running",
    }
    if plan.screen_epoch is not None:
        names[TrialState.SET_ASIDE] = f"set aside at epoch {plan.screen_epoch}"
    parts += [f"{count[which]} {name}" for which, name in names.items() if count[which]]
    leader = _find_leader(plan, records)
    if leader is not None:
        parts.append(
            f"best {leader.value(plan.protocol):.2f} ({_unit(plan)} {leader.trial}, epoch "
            f"{leader.chosen_epoch(plan.protocol)})"
        )
    parts.append(phase or _times(plan, state, now_ms))
    return parts


def estimate_left_s(plan: SweepPlan, state: SweepState, now_ms: float) -> float | None:
    """Estimate the seconds left from how long epochs and trials have taken so far; None before the first epoch.

    A running epoch counts in part, so that the estimate also falls between two reports. A trial that has not reported
    yet is expected to start as slowly as the others did; later ones may reuse an actor, and start at once.
    """
    records = list(state.records.values())
    num_epochs = sum(len(record.metrics) for record in records)
    if not num_epochs:
        return None
    ended = [record for record in records if record.ended]
    running = [record for record in records if _is_running(record)]
    epoch_s = sum(record.run_s - record.queue_s - record.start_s for record in records) / num_epochs
    new_trials = max(0, state.total(plan.num_trials) - len(records))
    screen, finals = Screen.of(plan), 0
    # A future trial is expected to last as long as the ended ones; pruned trials shorten that.
    trial_epochs = sum(record.last_epoch for record in ended) / len(ended) if ended else plan.epochs
    goals = [trial_epochs] * len(running)
    if screen is not None:
        before = [screen.is_before(record) for record in running]
        finals = screen.count_finals(records, sum(before) + new_trials)
        trial_epochs = screen.epoch
        goals = [screen.epoch if early else screen.epochs for early in before]
    epochs_left = new_trials * trial_epochs + finals * (plan.epochs - trial_epochs)
    epochs_left += sum(max(1.0, goal - record.last_epoch) for goal, record in zip(goals, running, strict=True))
    # Near the end there are fewer trials than slots, and the idle slots do not speed anything up.
    slots = max(1, min(plan.concurrency, new_trials + len(running) + finals))
    starts = [record.start_s for record in records if record.last_epoch]
    start_s = sum(starts) / len(starts)
    starting_s = sum(start_s for record in running if not record.last_epoch)
    # At most one epoch, or one start, per trial: what takes longer than usual stops the countdown.
    begun_s = sum(
        min(epoch_s if record.last_epoch else start_s, max(0.0, now_ms - record.spans[-1][1]) / 1000)
        for record in running
    )
    return max(0.0, epochs_left * epoch_s + starting_s - begun_s) / slots


def _is_running(record: TrialRecord) -> bool:
    return not record.ended and record.state is not TrialState.SET_ASIDE


def _unit(plan: SweepPlan) -> str:
    return "run" if plan.kind == "promote" else "trial"


def _find_leader(plan: SweepPlan, records: list[TrialRecord]) -> TrialRecord | None:
    """Return the trial that is leading so far. Pruned and failed trials can no longer win."""
    # A first report may score 0.0, so compare with None instead of testing for truth.
    contenders = (TrialState.COMPLETE, TrialState.RUNNING, TrialState.SET_ASIDE)
    scored = [
        (value, -record.trial, record)
        for record in records
        if record.state in contenders and (value := record.value(plan.protocol)) is not None
    ]
    return max(scored, key=lambda entry: entry[:2])[2] if scored else None


def _fold(parts: list[str], width: int) -> str:
    """Join the parts on as few lines as possible, without breaking any of them."""
    lines = parts[:1]
    for part in parts[1:]:
        joined = f"{lines[-1]}{_BETWEEN}{part}"
        lines[-1:] = [joined] if len(joined) <= width else [lines[-1], part]
    return "\n".join(lines)


def _times(plan: SweepPlan, state: SweepState, now_ms: float) -> str:
    gone = format_seconds((now_ms - (state.driver_started_ms or now_ms)) / 1000)
    left = estimate_left_s(plan, state, now_ms)
    return f"{gone} gone, " + ("first epochs under way" if left is None else f"about {format_seconds(left)} left")


def _row(plan: SweepPlan, record: TrialRecord) -> tuple[str, ...]:
    last = record.metrics.get(record.last_epoch, {}).get(plan.protocol.metric)
    chosen = record.chosen_epoch(plan.protocol)
    value = record.value(plan.protocol)
    # The last part of a key is enough within one sweep, and lines are short.
    params = "  ".join(f"{key.rpartition('.')[2]} {_short(value)}" for key, value in record.params.items())
    return (
        str(record.trial),
        f"{record.last_epoch}/{plan.epochs}",
        "" if last is None else f"{last:.2f}",
        "" if value is None else f"{value:.2f} at {chosen}",
        params,
    )


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
