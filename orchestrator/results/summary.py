"""Summarises how a sweep is doing, for `status` and for the heading of a leaderboard."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.home import sweep_dir
from orchestrator.planning.recipe import RECIPE_KEY
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.results.opened_test import TestOpenings, find_openings
from orchestrator.results.promotion_spent import split_spent
from orchestrator.results.spending import Spending, sum_spending
from orchestrator.sweep_folder.events import PromotionDecided
from orchestrator.sweep_folder.index import SweepEntry
from orchestrator.sweep_folder.lease import find_holder
from orchestrator.sweep_folder.promotion_report import PromotionReport, make_report
from orchestrator.sweep_folder.records import TrialRecord, TrialState, best
from orchestrator.sweep_folder.spent import Spent
from orchestrator.sweep_folder.state import SweepState
from orchestrator.sweep_folder.waiting import Waiting, read_waiting
from orchestrator.tracking.reading import read_sweep_quickly
from orchestrator.tracking.recall import RecalledSweep
from training.config.marks import find_marks
from training.config.run import Scalar

BROKEN = "BROKEN"
NOT_CONCLUDED = "NOT CONCLUDED"
NO_LABELS = "not available"


@dataclass(frozen=True)
class Heading:
    """What scores refer to; results are comparable only if everything but ``sweep`` is equal.

    Attributes:
        marks: What the method knows that single positives do not say; empty for most (:mod:`training.config.marks`).
    """

    sweep: str
    dataset: str
    method: str
    recipe: str
    metric: str
    select_config_by: str
    select_epoch_by: str
    marks: str


@dataclass(frozen=True)
class TrialSummary:
    """How one trial is doing; ``epoch`` and ``value`` are those that the protocol selects so far."""

    trial: int
    state: str
    last_epoch: int
    epoch: int | None
    value: float | None
    params: dict[str, Scalar]


@dataclass(frozen=True)
class DecisionSummary:
    """What a promotion decided, and under which ``NAME/VERSION`` it registered its model, if it did."""

    verdict: str
    reason: str
    model: str | None
    marks: tuple[str, ...] = ()
    version: str | None = None


@dataclass(frozen=True)
class Source:
    """Where the information on another home's sweep comes from: MLflow's URI, and the time of the last event."""

    mlflow: str
    last_event: str | None


@dataclass(frozen=True)
class SweepSummary:
    """How a sweep is doing.

    Attributes:
        state: What its driver is doing.
        run_s: Time that its drivers have been running.
        trials: State -> number of trials in it.
        best: The leader of the leaderboard, if a trial was completed.
        true_labels: ``not available`` if the dataset has only observed labels; None before the first trial.
        open: The trials that have not ended.
        decision: The decision, if this is a promotion that has decided.
        test: Final run -> metrics in percent on the test split, if this is a promotion that has opened it.
        report: What a promotion chose by, and what its fresh seeds say.
        num_seeds: How many of its final runs are the winner's on the sweep's label draw; the others follow.
        openings: How often the test set of its data was opened, if it was; None for a sweep from another home.
        source: Where the information comes from, if the sweep is not in this home.
        spending: What it has spent, next to what was planned; None for a sweep from another home.
        waiting: What its trials wait for, if a driver runs and they have waited for a while.
        over: Why the search ended before all planned trials had run, if further ones were expected to gain too little.
        parts: What search, race and reported runs have cost, if this is a promotion of this home.
    """

    heading: Heading
    name: str
    kind: str
    state: str
    created: str
    run_s: float
    num_trials: int
    epochs: int
    trials: Mapping[str, int]
    best: TrialSummary | None
    true_labels: str | None
    open: tuple[TrialSummary, ...]
    decision: DecisionSummary | None
    test: Mapping[str, Mapping[str, float]] | None = None
    openings: TestOpenings | None = None
    report: PromotionReport | None = None
    num_seeds: int | None = None
    source: Source | None = None
    spending: Spending | None = None
    waiting: Waiting | None = None
    over: str | None = None
    parts: Mapping[str, Spent] = field(default_factory=dict)

    @property
    def num_ended(self) -> int:
        """Number of trials that have ended, however they ended."""
        return sum(self.trials[state] for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED))

    def to_json(self) -> dict[str, Any]:
        """Return what ``status --json`` prints."""
        plain = asdict(self)
        # Flat, because scripts already rely on this form.
        heading, source, openings = plain.pop("heading"), plain.pop("source"), plain.pop("openings")
        parts = plain.pop("parts")
        del plain["report"], plain["num_seeds"]
        spent = {"spent": parts} if parts else {}
        report = {} if self.report is None else {"report": self.report.to_json()}
        return {**heading, **plain, **report, **spent, "test_openings": openings and openings["num"], **(source or {})}


@dataclass(frozen=True)
class BrokenSweep:
    """A sweep whose files cannot be read."""

    sweep: str
    name: str
    kind: str
    state: str
    created: str
    error: str

    def to_json(self) -> dict[str, Any]:
        """Return what ``status --all --json`` prints."""
        return asdict(self)


def make_heading(plan: SweepPlan) -> Heading:
    """Return what the scores of a plan's trials refer to."""
    return Heading(
        sweep=plan.id,
        dataset=plan.dataset,
        method=plan.method,
        recipe=str(plan.base[RECIPE_KEY]),
        metric=plan.protocol.metric,
        select_config_by=str(plan.protocol.select_config_by),
        select_epoch_by=str(plan.protocol.select_epoch_by),
        marks="; ".join(find_marks(plan.base)),
    )


def summarise(sweep_id: str, *, with_parts: bool = True) -> SweepSummary:
    """Summarise a sweep in this home; the parts of a promotion are in journals of their own, which take time."""
    plan, state = read_sweep_quickly(sweep_id)
    is_driven = find_holder(sweep_dir(sweep_id)) is not None
    driver = _describe_driver(state.driver_state, is_driven=is_driven)
    # Its runs are done, but a step after them failed or was never taken.
    if plan.kind == "promote" and driver == "FINISHED" and not state.is_concluded:
        driver = NOT_CONCLUDED
    summary = _summarise(plan, state, driver)
    if with_parts and plan.kind in ("promote", "race"):
        summary = replace(summary, parts=split_spent(plan, state))
    return replace(summary, waiting=read_waiting(sweep_dir(sweep_id))) if is_driven else summary


def summarise_recalled(found: RecalledSweep) -> SweepSummary:
    """Summarise a sweep from another home, as far as MLflow knows it."""
    return _summarise(found.plan, found.state, str(found.state.driver_state), make_source(found))


def summarise_entry(entry: SweepEntry) -> SweepSummary | BrokenSweep:
    """Summarise one sweep of a list: a broken file must not hide the other sweeps."""
    try:
        return summarise(entry.id, with_parts=False)
    except OrchestratorError as error:
        return BrokenSweep(entry.id, entry.name, entry.kind, BROKEN, _format_time(entry.created), str(error))


def make_source(found: RecalledSweep) -> Source:
    """Return where a recalled sweep comes from."""
    return Source(found.uri, None if found.reported_ms is None else _format_time(found.reported_ms / 1000))


def _summarise(plan: SweepPlan, state: SweepState, driver: str, source: Source | None = None) -> SweepSummary:
    if state.driver_state == "RUNNING":
        state.end_attempts(round(time.time() * 1000))  # they have run until now
    records = list(state.records.values())
    counts = Counter(record.state for record in records)
    winner, promotion = best(records, plan.protocol), state.promotion
    return SweepSummary(
        heading=make_heading(plan),
        name=plan.name,
        kind=plan.kind,
        state=driver,
        created=_format_time(plan.created),
        # While a driver runs, its time is still growing; after a kill only its last event is known.
        run_s=state.driven_s(time.time() * 1000 if state.driver_state == "RUNNING" else None),
        # The journal has the number after an extension; before the first driver, only the plan has one.
        num_trials=state.total(plan.num_trials),
        epochs=plan.epochs,
        trials={str(trial_state): counts[trial_state] for trial_state in TrialState},
        best=None if winner is None else _summarise_trial(winner, plan),
        true_labels=state.provenance.get("true_labels"),
        open=tuple(_summarise_trial(record, plan) for record in state.open_trials()),
        decision=None if promotion is None else _summarise_decision(promotion, state),
        test=None if state.test is None else state.test.figures,
        report=_make_report(plan, state),
        num_seeds=plan.num_seeds if plan.kind == "promote" else None,
        openings=find_openings(state) if source is None else None,
        source=source,
        spending=sum_spending(plan, state) if source is None and records else None,
        over=state.over_message,
    )


def _make_report(plan: SweepPlan, state: SweepState) -> PromotionReport | None:
    if plan.kind not in ("promote", "race"):
        return None
    return make_report(plan, state.records, None if state.test is None else state.test.figures)


def _summarise_decision(decided: PromotionDecided, state: SweepState) -> DecisionSummary:
    version = None if state.champion is None else state.champion.version
    return DecisionSummary(decided.verdict, decided.reason, decided.model, tuple(decided.marks), version)


def _summarise_trial(record: TrialRecord, plan: SweepPlan) -> TrialSummary:
    return TrialSummary(
        trial=record.trial,
        state=str(record.state),
        last_epoch=record.last_epoch,
        epoch=record.chosen_epoch(plan.protocol),
        value=record.value(plan.protocol),
        params=dict(record.params),
    )


def _describe_driver(journalled: str | None, *, is_driven: bool) -> str:
    # Before the journal's first line and after its last, only the lease shows that a driver is running.
    if not is_driven or journalled == "RUNNING":
        return journalled or "NOT STARTED"
    # The trials are done, but the lease is still held: a promotion decides, opens the test split and registers.
    return "CONCLUDING" if journalled == "FINISHED" else "STARTING"


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
