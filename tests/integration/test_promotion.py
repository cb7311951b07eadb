"""Test a real promotion: final runs of two gloo workers on Ray Train, MLflow, the registry, and loading the model."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import psutil
import pytest
import torch

import orchestrator
from orchestrator.audit.audit import audit
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.promotion.conclusion import PromotionOutcome
from orchestrator.promotion.promote import promote, resume_promotion
from orchestrator.promotion.verdict import Verdict
from orchestrator.results.suite_files import write_suite_results
from orchestrator.results.suite_record import register
from orchestrator.results.suite_results import read_suite
from orchestrator.suite.plan import SuiteRequest, ask, plan_cells
from orchestrator.suite.run import run_suite
from orchestrator.sweep.options import DriveOptions
from orchestrator.sweep_folder.checkpoints import checkpoint_uri
from orchestrator.sweep_folder.events import EpochReported
from orchestrator.sweep_folder.index import list_sweeps, load_plan
from orchestrator.sweep_folder.journal import follow, replay
from orchestrator.sweep_folder.ledger import read_ledger
from orchestrator.tracking import store as mlflow_store
from orchestrator.tracking.connection import connect
from orchestrator.tracking.registry import find_model
from search_spaces.suite import load_suite
from tests.kit import scenes, sweeps
from training.data.registry import dataset_info
from training.inference.evaluation import restore_model
from training.inference.predictor import Predictor
from training.loop.checkpoint import CheckpointStore

# Ray Train takes 10 to 20 s to start a run, more on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1200)]

T = TypeVar("T")

# Promotes the sweep in argv and says on stdout what came of it.
PROMOTE = """
import sys
from orchestrator.promotion.promote import promote
from orchestrator.sweep.options import DriveOptions
# Somebody may commit to this checkout while a test runs.
options = DriveOptions(allow_changed=True, progress=False)
outcome = promote(sys.argv[1], options, seeds=int(sys.argv[2]), workers=int(sys.argv[3]))
print(outcome.state, outcome.decision.verdict)
"""


def _make_swept(epochs: int) -> SweepPlan:
    """Return a finished sweep over the tiny scenes."""
    scenes.prepare_tiny()
    plan = sweeps.make_sweep(base=scenes.tiny_config({"loop.epochs": epochs}).flatten(), num_trials=4, cap_gib=0.1)
    sweeps.write_events(plan, sweeps.whole_sweep(plan))
    return plan


def _epochs(plan: SweepPlan) -> dict[int, list[int]]:
    """Every epoch in the journal, as often as it occurs."""
    epochs: dict[int, list[int]] = {}
    for event in follow(sweeps.journal_path(plan))[0]:
        if isinstance(event, EpochReported):
            epochs.setdefault(event.trial, []).append(event.epoch)
    return epochs


def _assert_logged(outcome: PromotionOutcome) -> None:
    client = connect()
    for trial in range(outcome.plan.num_trials):
        run_id = mlflow_store.find_trial_run(outcome.plan, trial)
        assert run_id is not None
        history = client.get_metric_history(run_id, "val/mAP")
        assert [point.step for point in history] == list(range(1, outcome.plan.epochs + 1))
        assert client.get_run(run_id).data.metrics["test/mAP"] == outcome.test[trial]["test/mAP"]
        assert {file.path for file in client.list_artifacts(run_id)} >= {"per_class_ap.parquet", "cam"}


def _assert_audited(outcome: PromotionOutcome) -> None:
    """Check that the audit recomputes every figure, and that one opening is behind them."""
    [opening] = read_ledger()
    seeds = outcome.plan.num_trials
    assert (opening.seeds, opening.purpose) == ((1001, 1002)[:seeds], f"promote {outcome.plan.id}")
    found = audit(outcome.plan.id)
    # The tests may run from a checkout with changes, and the sweep was made up.
    others = [
        finding
        for finding in found.report.findings
        if finding.kind not in ("dirty", "commit") and outcome.plan.id in finding.where
    ]
    assert others == []
    # 8 metrics on true and on observed labels on both splits, and two criteria on validation data.
    assert found.report.checked["figures recomputed"] == seeds * (2 * 16 + 2)
    assert found.report.checked["runs in MLflow"] == seeds + 4, "its own and the sweep's"
    frame = orchestrator.read_results(outcome.plan.id)
    figures = frame[frame.metric == "test/mAP"].value.tolist()
    assert figures == [outcome.test[trial]["test/mAP"] for trial in range(seeds)]
    assert frame.images_forward.min() > 0


class _Start(Protocol):
    def __call__(self, plan: SweepPlan, *, seeds: int, workers: int) -> subprocess.Popen[str]: ...


@pytest.fixture
def start() -> Iterator[_Start]:
    """Start a promotion in a process of its own, which ends with the test whatever happens in it."""
    with contextlib.ExitStack() as stack:

        def start(plan: SweepPlan, *, seeds: int, workers: int) -> subprocess.Popen[str]:
            pipe, command = subprocess.PIPE, [sys.executable, "-c", PROMOTE, plan.id, str(seeds), str(workers)]
            driver = stack.enter_context(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True))
            stack.callback(driver.kill)
            return driver

        yield start


def _promotion_of(driver: subprocess.Popen[str]) -> SweepPlan:
    """Wait until a promotion has its folder, and return its plan."""
    return _wait_for(driver, lambda: next((load_plan(entry.id) for entry in list_sweeps(kinds={"promote"})), None))


def _wait_for(driver: subprocess.Popen[str], find: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and driver.poll() is None:
        if (found := find()) is not None:
            return found
        time.sleep(0.01)  # a run of a few epochs is soon over
    raise AssertionError(driver.communicate())


def _wait_for_trial(driver: subprocess.Popen[str], plan: SweepPlan, trial: int) -> None:
    """Wait until a promotion has reported an epoch of a trial."""
    _wait_for(driver, lambda: _epochs(plan).get(trial))


def _kill_a_worker(driver: subprocess.Popen[str]) -> None:
    workers = [
        process
        for process in psutil.Process(driver.pid).children(recursive=True)
        if "RayTrainWorker" in " ".join(process.cmdline())
    ]
    workers[0].kill()


@pytest.mark.parametrize("seeds", [1, pytest.param(2, marks=pytest.mark.long)])
def test_two_workers_to_a_champion_that_gives_the_same_logits(start: _Start, seeds: int) -> None:
    swept = _make_swept(epochs=4)
    driver = start(swept, seeds=seeds, workers=2)
    assert driver.communicate(timeout=1000) == ("FINISHED PROMOTE\n", "")

    # Once more: all of it is there, so this reads.
    outcome = promote(swept.id, DriveOptions(progress=False), seeds=seeds, workers=2)
    assert outcome.reused
    assert outcome.decision is not None
    assert outcome.decision.verdict is Verdict.PROMOTE
    assert _epochs(outcome.plan) == {trial: [1, 2, 3, 4] for trial in range(seeds)}
    assert outcome.tracking_problem is None
    _assert_logged(outcome)

    state = CheckpointStore(f"{checkpoint_uri(outcome.plan)}/t0000").load_best()
    assert state is not None
    config = scenes.tiny_config({"loop.epochs": 4, "loop.seed": 1001})
    images = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = restore_model(config, state, torch.device("cpu"))(
            dataset_info(config.data).scale.normalise(images)
        ).logits
    for word in ("digits", f"{outcome.model}@champion", str(outcome.version)):
        predictor = Predictor.load(find_model(word))
        assert predictor.config == config
        assert torch.equal(predictor.logits(images), expected)
    assert "test/mAP" in (find_model("digits") / "README.md").read_text()

    assert not (sweeps.journal_path(outcome.plan).parent / ".ray").exists()
    _assert_audited(outcome)


@pytest.mark.long
def test_killed_worker_and_killed_driver_lose_and_double_nothing(start: _Start) -> None:
    swept = _make_swept(epochs=8)  # long enough to be killed in between
    driver = start(swept, seeds=2, workers=1)
    plan = _promotion_of(driver)
    _wait_for_trial(driver, plan, 0)
    _kill_a_worker(driver)
    _wait_for_trial(driver, plan, 1)
    driver.kill()
    assert driver.communicate() == ("", "")
    assert start(swept, seeds=2, workers=1).communicate(timeout=1000) == ("FINISHED PROMOTE\n", "")
    outcome = resume_promotion(plan.id, DriveOptions(progress=False))
    assert outcome.reused
    assert _epochs(plan) == {trial: list(range(1, 9)) for trial in (0, 1)}
    records = replay(sweeps.journal_path(plan)).records
    assert [records[trial].attempts for trial in (0, 1)] == [2, 2]
    _assert_logged(outcome)


SUITE = """\
spaces: [digits]
methods: [ignore, em]
budget: {amount: 2, of: ignore}
seeds: 2
race_frac: 0
scheduler: none
fixed: {loop.epochs: 2, data.scene_seed: 770, data.num_train: 64, data.num_val: 40, data.num_test: 40, optim.lr: 3e-3}
contrasts: [{method: ignore, against: em}]
"""


@pytest.mark.long
def test_a_benchmark_gives_two_methods_the_same_images_and_seeds_and_passes_its_audit(tmp_path: Path) -> None:
    scenes.prepare_tiny()
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE)
    asked = ask(load_suite(path), SuiteRequest())
    record = register(asked)
    # Somebody may commit to this checkout while a test runs.
    outcome = run_suite(record, plan_cells(record), DriveOptions(allow_changed=True, progress=False))
    assert (outcome.state, outcome.failed) == ("FINISHED", {})
    found = read_suite(record.id, allow_mixed=True)
    cells = {cell.method: cell for cell in found.cells}
    # 64 images, 2 epochs: six passes of each for IGNORE, and two for EM.
    assert {name: cell.trials for name, cell in cells.items()} == {"ignore": 2, "em": 6}
    assert all(cell.search is not None and cell.search.images == 2 * 2 * 64 * 6 for cell in cells.values())
    assert set(cells["ignore"].scores) == set(cells["em"].scores)
    assert len(cells["em"].scores) == 2
    assert found.contrasts[0].difference is not None
    assert [opening.method for opening in read_ledger()] == ["ignore", "em"]
    write_suite_results(found)
    # The tests may run from a checkout with changes, and among so short runs anybody may win by luck.
    expected = ("dirty", "commit", "changed", "luck")
    assert [finding for finding in audit(record.id).report.findings if finding.kind not in expected] == []
