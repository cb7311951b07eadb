"""Promotes a sweep's winner: K final runs, the decision, then the test split, then the registry.

A promotion is a folder with a plan and a journal like a sweep's. Each step is written to the journal before the next
begins and does nothing twice, so that a promotion that died anywhere is resumed, and one that is over is only read.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import home, sweep_dir, sweeps_dir
from orchestrator.planning.follow_up import make_promotion_plan
from orchestrator.planning.run_config import render_config
from orchestrator.planning.sweep_plan import SweepPlan, trial_config
from orchestrator.promotion.model_card import render_card
from orchestrator.promotion.verdict import SET_UP_KEYS, Decision, Result, Verdict, decide, registered_name
from orchestrator.provenance import UNKNOWN
from orchestrator.redaction import redact
from orchestrator.signals import terminable
from orchestrator.sweep.driver import DEFAULT, FINISHED, INTERRUPTED, SweepOutcome, resume, run_sweep
from orchestrator.sweep.options import DriveOptions
from orchestrator.sweep_folder.checkpoints import delete_checkpoints, trial_uri
from orchestrator.sweep_folder.events import ChampionSet, DriverStarted, Event, PromotionDecided, TestOpened
from orchestrator.sweep_folder.index import list_sweeps, load_plan
from orchestrator.sweep_folder.journal import JOURNAL_FILE, Journal, follow, replay
from orchestrator.sweep_folder.lease import Lease
from orchestrator.sweep_folder.records import TrialRecord, TrialState, best
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.connection import MlflowFailedError, tracking_uri
from orchestrator.tracking.runs import SWEEP_TAG
from training.config.run import PLACE_KEYS, TrainConfig

PROMOTED_DIR = "promoted"
IDENTITY_TAG = "orchestrator.identity"
VALUES_TAG = "orchestrator.values"
REGISTERED_TRIAL = 0
"""The run of the first seed: fixed in advance, never the best of K."""
_LOCK_FILE = ".promotion.lock"
_HASHES = ("data_hash", "weights_hash")


@dataclass(frozen=True)
class PromotionOutcome:
    """What came of a promotion.

    Attributes:
        state: ``FINISHED``, or ``INTERRUPTED`` before all final runs were over; then there is nothing below.
        decision: The verdict, its reason and its marks.
        test: Trial -> test metrics in percent; they decided nothing.
        model: The registered model's name.
        version: ``NAME/VERSION`` of the new champion, if it was promoted.
        config_file: The winner's settings, to be committed.
        reused: Whether all of it was there already.
        keep_weights: Whether the weights of every final run are kept.
        tracking_problem: Why MLflow lacks something, if it does.
    """

    plan: SweepPlan
    records: tuple[TrialRecord, ...]
    state: str
    seconds: float
    decision: Decision | None = None
    test: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    model: str | None = None
    version: str | None = None
    config_file: Path | None = None
    reused: bool = False
    keep_weights: bool = False
    tracking_problem: str | None = None


def promote(
    sweep_id: str,
    options: DriveOptions = DEFAULT,
    *,
    seeds: int = 3,
    workers: int | None = None,
    keep_weights: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> PromotionOutcome:
    """Train a sweep's winner to full length with fresh seeds, decide on it, open the test split, and register it if it
    won.

    The same runs (sweep, winner, seeds, workers) are made once: a promotion that was interrupted goes on, one that is
    over is read.

    Args:
        sweep_id: A finished sweep or training.
        options: How to run the final runs.
        seeds: Number of final runs.
        workers: Ray Train workers of each; None is 1, or as many as the GPUs carry where the sweep's trials use GPUs.
        keep_weights: Keep the best weights of every final run, not of the first seed's alone, once the test figures are
            stored.
        say: Told what is done after the runs.

    Raises:
        UserError: There is no such sweep, it is not finished, or it has no COMPLETE trial; or as
            :func:`orchestrator.sweep.driver.resume`.
        OrchestratorError: Ray or MLflow's store cannot be reached. The promotion can be resumed.
    """
    planned = replace(_plan_promotion(sweep_id, seeds, workers, options.address), keep_weights=keep_weights)
    known = _find_same(planned)
    started = time.monotonic()
    trained = run_sweep(planned, options) if known is None else resume(known.id, options)
    return _conclude(trained, started, say, keep_weights=keep_weights or trained.plan.keep_weights)


def resume_promotion(
    promotion_id: str, options: DriveOptions = DEFAULT, *, say: Callable[[str], None] = lambda text: None
) -> PromotionOutcome:
    """Continue a promotion; one that is finished is only read.

    Raises: as :func:`promote`.
    """
    started = time.monotonic()
    trained = resume(promotion_id, options)
    return _conclude(trained, started, say, keep_weights=trained.plan.keep_weights)


def make_result(plan: SweepPlan, state: SweepState, journal: Path) -> Result:
    """Return the figures of a promotion's final runs, with what they are of."""
    config = _final_config(plan, 0)
    provenance = state.provenance | _changed_hashes(journal)
    identity = {
        "dataset": config.data.name,
        "data_hash": provenance.get("data_hash", UNKNOWN),
        # Without the name of its weights, which may be a file anywhere: their hash says what they are.
        "model": json.dumps(config.model.model_dump(mode="json", exclude={"weights"}), sort_keys=True),
        "weights_hash": provenance.get("weights_hash", UNKNOWN),
        "recipe": config.loop.recipe,
        "select_config_by": str(plan.protocol.select_config_by),
        "select_epoch_by": str(plan.protocol.select_epoch_by),
        "draw_seed": str(config.data.draw_seed),
        "world_size": str(plan.resources.workers),
        **{key: str(config.flatten()[key]) for key in SET_UP_KEYS},
    }
    records = [state.records.get(trial) for trial in range(plan.num_trials)]
    complete = [record if record is not None and record.state is TrialState.COMPLETE else None for record in records]
    return Result(
        plan.id, identity, tuple(None if record is None else record.value(plan.protocol) for record in complete)
    )


def _plan_promotion(sweep_id: str, seeds: int, workers: int | None, address: str | None = None) -> SweepPlan:
    plan = load_plan(sweep_id)
    if plan.kind == "promote":
        raise UserError(
            f"sweep must be a sweep or a training, but got {sweep_id}, a promotion itself. Go on with it: orchestrator "
            f"resume {sweep_id}"
        )
    if plan.kind == "ablate":
        raise UserError(
            f"sweep must be a sweep or a training, but got {sweep_id}, an ablation: the best of its variants is no "
            f"winner."
        )
    state = replay(sweep_dir(sweep_id) / JOURNAL_FILE)
    num_trials, ended = state.num_trials or plan.num_trials, sum(record.ended for record in state.records.values())
    if ended < num_trials:
        raise UserError(
            f"sweep must be finished, but {ended} of {num_trials} trials of {sweep_id} are. Finish it: orchestrator "
            f"resume {sweep_id}"
        )
    winner = best(state.records.values(), plan.protocol)
    if winner is None:
        raise UserError(
            f"sweep must have a COMPLETE trial, but {sweep_id} has none. See: orchestrator leaderboard {sweep_id}"
        )
    if workers is None:
        workers = _count_workers(plan, int(trial_config(plan, winner.params).optim.batch_size), address)
    return make_promotion_plan(plan, winner.params, seeds=seeds, workers=workers, storage=plan.storage)


def _count_workers(plan: SweepPlan, batch_size: int, address: str | None) -> int:
    """Return as many workers as the GPUs carry, with whole GPUs and the same share of the global batch for each."""
    if not plan.resources.gpus_per_worker:
        return 1
    if address is not None:
        from orchestrator.cluster.size import count_cluster

        num_gpus = count_cluster(address)["num_gpus"]
    else:
        import torch

        num_gpus = torch.cuda.device_count()
    most = int(num_gpus / math.ceil(plan.resources.gpus_per_worker))
    return max((workers for workers in range(1, most + 1) if batch_size % workers == 0), default=1)


def _find_same(planned: SweepPlan) -> SweepPlan | None:
    """Return the latest promotion of the same runs, unless one of them failed: that is worth another try."""
    for entry in list_sweeps(kinds={"promote"}):
        try:
            plan = load_plan(entry.id)
        except OrchestratorError:
            continue  # of another version; it cannot be of the same runs
        if _runs_of(plan) == _runs_of(planned):
            records = replay(sweep_dir(plan.id) / JOURNAL_FILE).records.values()
            return None if any(record.state is TrialState.FAILED for record in records) else plan
    return None


def _runs_of(plan: SweepPlan) -> tuple[Any, ...]:
    return plan.parent, plan.base, plan.start_from, plan.resources, plan.protocol


def _conclude(
    trained: SweepOutcome, started: float, say: Callable[[str], None], keep_weights: bool
) -> PromotionOutcome:
    """Decide, open the test split, register: whatever of it the journal does not have yet."""
    plan = trained.plan
    outcome = PromotionOutcome(
        plan,
        trained.records,
        trained.state,
        0.0,
        keep_weights=keep_weights,
        tracking_problem=trained.tracking_problem,
    )
    if trained.state == FINISHED:
        folder = sweep_dir(plan.id)
        try:
            with (
                terminable(),
                Lease(folder) as lease,
                _one_conclusion_at_a_time(),
                Journal.open(folder / JOURNAL_FILE, lease) as journal,
            ):
                outcome = _take_steps(_Steps(plan, journal, say), outcome)
        except MlflowFailedError as error:
            advice = f"Nothing is lost. Continue when MLflow is back: orchestrator resume {plan.id}"
            raise MlflowFailedError(error.problem, advice) from error
        except KeyboardInterrupt:
            outcome = replace(outcome, state=INTERRUPTED)
    return replace(outcome, seconds=time.monotonic() - started)


def _take_steps(steps: _Steps, outcome: PromotionOutcome) -> PromotionOutcome:
    decision = steps.decide()
    test = steps.open_test()
    version = steps.register(decision, test) if decision.verdict is Verdict.PROMOTE else None
    config_file = _write_config(outcome.plan, decision)
    if steps.taken and not outcome.keep_weights:
        steps.drop_weights()
    return replace(
        outcome,
        decision=decision,
        test=test,
        model=steps.name,
        version=version,
        config_file=config_file,
        reused=not steps.taken,
    )


class _Steps:
    """The steps after the final runs; each is taken unless the journal says that it was.

    Attributes:
        taken: Whether any step had to be taken.
    """

    def __init__(self, plan: SweepPlan, journal: Journal, say: Callable[[str], None]) -> None:
        self._plan, self._journal, self._state, self._say = plan, journal, journal.state, say
        self._result = make_result(plan, journal.state, journal.path)
        self.name = registered_name(self._result.identity)
        self.taken = False

    def decide(self) -> Decision:
        """Decide against the champion there is; again if that was deposed before a PROMOTE could be carried out."""
        from orchestrator.tracking.registry import find_champion, find_other_champions

        known = self._state.promotion
        if known is not None and (known.verdict != Verdict.PROMOTE or self._state.champion is not None):
            return _read_decision(known)
        champion = find_champion(self.name)
        against = None if champion is None else str(champion)
        ours = champion is not None and champion.tags.get(SWEEP_TAG) == self._plan.id
        if known is not None and (ours or against == known.champion):
            return _read_decision(known)
        others = [] if champion else find_other_champions(self._result.identity["dataset"], self.name)
        decision = decide(
            self._result,
            None if champion is None else _read_result(str(champion), champion.tags),
            [_read_result(str(other), other.tags) for other in others],
        )
        self._append(
            PromotionDecided(
                str(decision.verdict), decision.reason, tuple(decision.marks), model=self.name, champion=against
            )
        )
        return decision

    def open_test(self) -> dict[int, dict[str, float]]:
        """Open the test split for every final run that has weights, once; return trial -> figures."""
        if self._state.test is None:
            from training.inference.evaluation import evaluate_test

            self._check_data()
            states = {
                trial: self._load_best(trial)
                for trial, record in self._state.records.items()
                if record.state is TrialState.COMPLETE
            }
            self._say(f"Opening the test split, once, for {len(states)} final runs")
            figures = {
                str(trial): evaluate_test(_final_config(self._plan, trial), state) for trial, state in states.items()
            }
            self._append(TestOpened(figures, epochs={str(trial): state["epoch"] for trial, state in states.items()}))
            self._sync()
        assert self._state.test is not None
        return {int(trial): dict(metrics) for trial, metrics in self._state.test.figures.items()}

    def register(self, decision: Decision, test: Mapping[int, Mapping[str, float]]) -> str:
        """Register the first seed's run, fixed in advance, and make it champion; return ``NAME/VERSION``."""
        if self._state.champion is not None:
            return self._state.champion.version
        from orchestrator.tracking.registry import register_version, set_champion
        from orchestrator.tracking.store import find_trial_run
        from training.data.registry import dataset_info
        from training.inference.predictor import save_model

        self._say(f"Registering the run of the first seed as {self.name}@champion")
        run_id = find_trial_run(self._plan, REGISTERED_TRIAL) if self._sync() else None
        if run_id is None:
            raise OrchestratorError(
                f"MLflow at {redact(tracking_uri())} does not have all final runs yet, and a model is registered with "
                f"its run. Nothing is lost. Continue when MLflow is back: orchestrator resume {self._plan.id}"
            )
        config, state = _final_config(self._plan, REGISTERED_TRIAL), self._load_best(REGISTERED_TRIAL)
        card = render_card(
            self.name, self._plan, config, state["classes"], self._state.provenance, self._result, decision, test
        )
        tags = {
            SWEEP_TAG: self._plan.id,
            IDENTITY_TAG: json.dumps(self._result.identity),
            VALUES_TAG: json.dumps(self._result.values),
        }
        with tempfile.TemporaryDirectory(prefix="model-") as folder:
            save_model(Path(folder), config, state, dataset_info(config.data).scale, card)
            version = register_version(self.name, config.data.name, run_id, Path(folder), tags)
        set_champion(version)
        self._append(ChampionSet(str(version)))
        self._sync()
        return str(version)

    def drop_weights(self) -> None:
        """Delete the weights of all runs but the first seed's: their figures are stored, and
        nobody reads them again.
        """
        for trial in self._state.records:
            if trial != REGISTERED_TRIAL:
                with suppress(OSError):  # it costs disk, not the promotion
                    delete_checkpoints(self._plan, trial)

    def _check_data(self) -> None:
        """Make sure that the test split is that of the data the runs were trained on, made again if the cache was
        cleared.
        """
        from training.data.registry import dataset_info
        from training.preparation import prepare

        config = _final_config(self._plan, 0).data
        prepare(config)
        trained_on, there = self._result.identity["data_hash"], dataset_info(config).data_hash
        if trained_on not in (UNKNOWN, there):
            raise OrchestratorError(
                f"test split must belong to the data of the final runs, {trained_on[:12]}, but {config.name} is now "
                f"{there[:12]}. "
                "Bring that data back, then resume"
            )

    def _append(self, event: Event) -> None:
        self._journal.append(event)
        self.taken = True

    def _sync(self) -> bool:
        from orchestrator.tracking.tracker import sync

        return sync(self._plan.id)

    def _load_best(self, trial: int) -> dict[str, Any]:
        from training.loop.checkpoint import CheckpointStore

        uri = trial_uri(self._plan, trial)
        state = CheckpointStore(uri).load_best(self._state.records[trial].chosen_epoch(self._plan.protocol))
        if state is None:
            raise OrchestratorError(
                f"final run {trial} must have its best weights, but there are none that are whole under {uri}."
            )
        return state


def _final_config(plan: SweepPlan, trial: int) -> TrainConfig:
    return trial_config(plan, plan.start_from[trial])


def _changed_hashes(journal: Path) -> dict[str, str]:
    """Return as unknown what was not the same for all drivers of a promotion."""
    drivers = [event.provenance for event in follow(journal)[0] if isinstance(event, DriverStarted)]
    return {key: UNKNOWN for key in _HASHES if len({driver.get(key) for driver in drivers}) > 1}


def _read_decision(event: PromotionDecided) -> Decision:
    return Decision(Verdict(event.verdict), event.reason, tuple(event.marks))


def _read_result(name: str, tags: Mapping[str, str]) -> Result:
    return Result(name, json.loads(tags.get(IDENTITY_TAG, "{}")), tuple(json.loads(tags.get(VALUES_TAG, "[]"))))


def _write_config(plan: SweepPlan, decision: Decision) -> Path:
    """Write the winner's settings where they can be committed from."""
    assert plan.parent is not None
    winner = {key: value for key, value in plan.start_from[0].items() if key != "loop.seed"}
    config = trial_config(load_plan(plan.parent), winner).flatten()
    # What is committed from here is read on other machines, where data lie elsewhere.
    config = {key: value for key, value in config.items() if key not in PLACE_KEYS}
    path = home() / PROMOTED_DIR / f"{plan.id}.yaml"
    path.parent.mkdir(exist_ok=True)
    comment = (
        f"Winner of {plan.parent} ({plan.method} on {plan.dataset}, selected by {plan.protocol}).\n"
        f"{decision.verdict}: {decision.reason}.\n"
        f"Train it again: orchestrator train --from {PROMOTED_DIR}/{path.name}"
    )
    path.write_text(render_config(config, comment), encoding="utf-8")
    return path


def _one_conclusion_at_a_time() -> FileLock:
    """Return the lock that keeps two promotions from deciding against the same champion."""
    return FileLock(sweeps_dir() / _LOCK_FILE)
