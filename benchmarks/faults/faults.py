"""Every kind of death on a real Ray cluster of several raylets, one after another: what was lost, and the time it cost.

    python -m benchmarks.faults.faults [--rounds 3]

Two sweeps run at once, one of a one-worker trial and one of a trial over two nodes, with different code, while actors,
workers, nodes and drivers are killed under them, storage fills up and a checkpoint is cut short. After them trials hang
and run out of memory, MLflow's server and its database go away under a sweep, and at last the head is lost, and a new
cluster goes on from the backup, which had been out of reach for the last epochs. Lost is an epoch that was in the
journal at a fault and is not there, once, in the end; every attempt must go on from the newest checkpoint, and what was
trained once more because that one was of no use is counted. The time is that from the fault to the next epoch of what
it hit. The figures go to ``results/faults.md``.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import psutil

from benchmarks.faults.cluster import FaultCluster
from benchmarks.faults.sweep import FaultSweep
from orchestrator.home import HOME_VARIABLE
from orchestrator.sweep_folder.records import Cause, TrialState
from orchestrator.sweep_folder.restore import restore_sweep
from tests.kit.mlflow_service import MlflowService
from training.metric_names import VAL_MAP

RESULTS = Path(__file__).parents[1] / "results" / "faults.md"
_MANY_EPOCHS = 400
_LONGER_EPOCHS = (
    1200  # ten minutes, for what the most faults hit one after another; what is left of them is over in no time
)
_OFFSET = 100.0
_AWAY_S = 60.0
_TIME_LIMIT_S = 20.0
_NUM_UNCOPIED = 3
_WIDE_TIME_LIMIT_S = 40.0  # two workers take some seconds to start


@dataclass(frozen=True)
class Cost:
    """What one fault cost.

    Attributes:
        seconds: From the fault to the next epoch of what it hit.
        lost: Epochs.
        run_again: Epochs that were known, and trained once more.
        uncopied: Epochs that are missing because no backup had them when the head was lost.
    """

    fault: str
    seconds: float
    lost: int
    run_again: int = 0
    uncopied: int = 0


class Faults:
    """One cluster and its sweeps; every method that is a fault returns when what it hit reports again.

    Args:
        folder: A home of its own is made there.
    """

    def __init__(self, folder: Path) -> None:
        os.environ[HOME_VARIABLE] = str(folder)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        self.folder = folder
        self.costs: list[Cost] = []
        self.sweeps: list[FaultSweep] = []
        self.cluster = FaultCluster()
        # Every worker takes a whole node of two CPUs: smaller ones, handed out anew on all that is free, could leave no
        # two nodes whole.
        self.wide = self._make_sweep("wide-00000001", trials=1, epochs=_MANY_EPOCHS, workers=2, cpus=2)
        self.narrow = self._make_sweep(
            "narrow-00000001", trials=1, epochs=_LONGER_EPOCHS, cpus=2, runs={"offset": _OFFSET}
        )

    def begin(self) -> None:
        """Start both sweeps and wait until all trials report."""
        self.wide.start()
        self.wide.wait_for(lambda: bool(self.wide.reports()), "first epoch")
        self.narrow.start()
        self.narrow.wait_for_progress()

    def kill_trial_actor(self) -> None:
        """A one-worker trial's actor, with -9."""
        self._cost("trial actor killed with -9", self.narrow, self._one_of("trial_narrow", self.narrow).kill)

    def kill_train_worker(self) -> None:
        """A Ray Train worker, with -9."""
        self._cost("Ray Train worker killed with -9", self.wide, self._one_of("RayTrainWorker", self.wide).kill)

    def kill_overseer(self) -> None:
        """The actor that watches over the workers of a trial, with -9."""
        self._cost(
            "actor above Ray Train workers killed with -9", self.wide, self._one_of("train_trial", self.wide).kill
        )

    def kill_node_of_trials(self) -> None:
        """A raylet with a one-worker trial on it."""
        node = self.cluster.node_of(self._one_of("trial_narrow", self.narrow))
        self._cost("raylet killed with a trial on it", self.narrow, lambda: self._replace(node))

    def kill_node_of_wide_trial(self) -> None:
        """One of the two nodes of a trial."""
        node = self.cluster.node_of(self._one_of("RayTrainWorker", self.wide))
        self._cost("a node of a two-node trial killed", self.wide, lambda: self._replace(node))

    def kill_driver(self, times: int) -> None:
        """The driver, with -9, so many times, and resume it; the time is that of the last."""

        def kill() -> None:
            self.narrow.kill_driver()
            self.narrow.start()

        for _ in range(times - 1):
            kill()
            self.narrow.wait_for_progress()
        self._cost(f"driver killed with -9 {'once' if times == 1 else 'twice'}, and resumed", self.narrow, kill)

    def fill_storage(self) -> None:
        """No space on the checkpoint path: the sweep stops, says so, and goes on when there is."""

        def fill() -> None:
            self.narrow.full_file.touch()
            code = self.narrow.wait_for_driver()
            assert code != 0, "a sweep on a full disk must not pass for finished"
            assert "storage must take the checkpoints" in self.narrow.log, self.narrow.log[-2000:]
            self.narrow.full_file.unlink()
            self.narrow.start()

        self._cost("no space on the checkpoint path (ENOSPC), and resumed", self.narrow, fill)

    def cut_checkpoint(self) -> None:
        """The newest checkpoint of a killed sweep is cut short: the one before is used, and it is said."""

        def cut() -> None:
            self.narrow.kill_driver()
            self.narrow.cut_checkpoint(0)
            self.narrow.start()

        self._cost("checkpoint cut short", self.narrow, cut)
        assert "trial 0 goes on from epoch" in self.narrow.log, self.narrow.log[-2000:]

    def finish(self) -> list[str]:
        """Let both sweeps come to their ends, and return what is wrong."""
        faults = [f"{sweep.id}: exit code {code}" for sweep in (self.wide, self.narrow) if (code := sweep.finish())]
        faults += self.wide.check() + self.narrow.check()
        for sweep, offset in ((self.wide, 0.0), (self.narrow, _OFFSET)):
            # All runs of a sweep have the same scores, by its own code.
            wrong = [event for event in sweep.reports() if not offset + 60 < event["metrics"][VAL_MAP] <= offset + 80]
            faults += [f"{sweep.id}: {len(wrong)} epochs are of the other sweep's code"] * bool(wrong)
        lost = self.wide.count_lost() + self.narrow.count_lost()
        run_again = self.wide.count_run_again() + self.narrow.count_run_again()
        self._note(Cost("all of the above on two sweeps at once, each by its own code", 0.0, lost, run_again))
        return faults + [f"placement group {name} is left" for name in self.cluster.wait_for_no_groups()]

    def hang_and_run_out_of_memory(self) -> list[str]:
        """A trial that hangs is ended, one that is out of memory tried once more, and the others are none the worse."""
        return self._hang_and_run_out_of_memory() + self._hang_over_two_nodes()

    def _hang_and_run_out_of_memory(self) -> list[str]:
        ranges = {"method.spbc_weight": {"type": "float", "low": 0, "high": 1, "num": 3}}
        sweep = self._make_sweep(
            "sick-00000001",
            trials=3,
            epochs=3,
            epoch_s=0.1,
            runs={"hang_below": 0.25, "oom_below": 0.75},
            changes={"ranges": ranges, "start_from": [], "sampler": "grid", "time_limit_s": _TIME_LIMIT_S},
        )
        began = time.monotonic()
        sweep.start()
        faults = [f"{sweep.id}: exit code {code}"] if (code := sweep.wait_for_driver()) else []
        faults += sweep.check(failed=2)
        hung, full, well = (sweep.records()[trial] for trial in range(3))
        if (hung.cause, well.state) != (Cause.TIMEOUT, TrialState.COMPLETE):
            faults.append(f"{hung} must have timed out, {well} be complete")
        if (full.cause, full.attempts) != (Cause.OOM, 2):
            faults.append(f"{full} must be OOM at its second attempt")
        fault = f"a trial that hangs (TIMEOUT after {_TIME_LIMIT_S:.0f} s) and one out of memory"
        self._note(Cost(fault, time.monotonic() - began, sweep.count_lost(), sweep.count_run_again()))
        return faults

    def _hang_over_two_nodes(self) -> list[str]:
        """The same of a trial of two workers; three nodes have no room for the next one before its workers' nodes are
        given back.
        """
        sweep = self._make_sweep(
            "stuck-00000001",
            trials=2,
            epochs=3,
            epoch_s=0.1,
            workers=2,
            cpus=2,
            runs={"hang_below": 0.5},
            changes={
                "ranges": {"method.spbc_weight": {"type": "float", "low": 0, "high": 1, "num": 2}},
                "start_from": [],
                "sampler": "grid",
                "concurrency": 1,
                "time_limit_s": _WIDE_TIME_LIMIT_S,
            },
        )
        began = time.monotonic()
        sweep.start()
        faults = [f"{sweep.id}: exit code {code}"] if (code := sweep.wait_for_driver()) else []
        faults += sweep.check(failed=1)
        hung, well = (sweep.records()[trial] for trial in range(2))
        if (hung.cause, hung.last_epoch, well.state) != (Cause.TIMEOUT, 1, TrialState.COMPLETE):
            faults.append(f"{hung} must have timed out after its first epoch, {well} be complete")
        fault = f"a two-worker trial that hangs (TIMEOUT after {_WIDE_TIME_LIMIT_S:.0f} s), and another on its nodes"
        self._note(Cost(fault, time.monotonic() - began, sweep.count_lost(), sweep.count_run_again()))
        return faults + [f"placement group {name} is left" for name in self.cluster.wait_for_no_groups()]

    def lose_mlflow(self) -> list[str]:
        """MLflow's server is killed and comes back, and then its PostgreSQL is restarted: what was reported meanwhile
        is written after.
        """
        sweep = self._make_sweep("logged-00000001", trials=2, epochs=_MANY_EPOCHS, tracking=True)
        # Not under this folder: started by root, PostgreSQL runs as somebody else, who must be able to enter all of its
        # path.
        with tempfile.TemporaryDirectory(prefix="mlflow-service-") as folder:
            service = MlflowService(Path(folder))
            try:
                service.start()
                os.environ |= service.client_environment
                return self._take_mlflow_away(service, sweep)
            finally:
                sweep.end()
                for name in service.client_environment:
                    os.environ.pop(name, None)
                service.stop()

    def _take_mlflow_away(self, service: MlflowService, sweep: FaultSweep) -> list[str]:
        sweep.start()
        sweep.wait_for(lambda: any(sweep.reports()) and sweep.count_logged().total() > 0, "epoch in MLflow")

        def kill_server() -> None:
            service.kill_server()
            time.sleep(_AWAY_S)
            service.start_server()

        for fault, act in (
            (f"MLflow's server killed, and back after {_AWAY_S:.0f} s", kill_server),
            ("PostgreSQL restarted", service.restart_postgres),
        ):
            sweep.remember()
            began = time.monotonic()
            act()
            known = len(sweep.known)
            sweep.wait_for(lambda aim=known: sweep.count_logged().total() > aim, "epoch of afterwards in MLflow")  # type: ignore[misc]
            self._note(Cost(fault, time.monotonic() - began, sweep.count_lost(), sweep.count_run_again()))
        faults = [f"{sweep.id}: exit code {code}"] if (code := sweep.finish()) else []
        return faults + sweep.check() + sweep.check_logged()

    def lose_head(self) -> list[str]:
        """The driver and the head with everything on it are killed with -9: a new cluster, with an empty home, goes on
        from the backup.

        The backup is out of reach for the last epochs. Of these the last is reported again, and those before it are
        missing. What comes after finds another home in the environment.
        """
        self._end_sweeps()
        backup, segments = self.folder / "backup", self.folder / "segments"
        segments.mkdir()
        _point(backup, segments)
        words = ("--backup", str(backup), "--storage", str(self.folder / "storage"))
        sweep = self._make_sweep("restored-00000001", trials=2, epochs=_MANY_EPOCHS, words=words)
        sweep.start()

        def lose() -> None:
            sweep.kill_driver()
            self.cluster.kill_head()
            sweep.remember()
            self.cluster.restart()
            _point(backup, segments)
            os.environ[HOME_VARIABLE] = str(self.folder / "another")
            restore_sweep(str(backup))
            sweep.note_loss()
            sweep.start()

        for _ in range(4):
            sweep.wait_for_progress()
        _point(backup, Path(os.devnull))
        for _ in range(_NUM_UNCOPIED):
            sweep.wait_for_progress()
        self._cost("head lost: a new cluster, and resumed from the backup", sweep, lose)
        faults = [f"{sweep.id}: exit code {code}"] if (code := sweep.finish()) else []
        if sweep.count_uncopied() < (_NUM_UNCOPIED - 1) * sweep.trials:
            faults.append(
                f"{sweep.id}: all but the last of {_NUM_UNCOPIED} epochs must be missing, but {sweep.starts()}"
            )
        return faults + sweep.check()

    def close(self) -> list[str]:
        """End everything, and return what had to be killed."""
        self._end_sweeps()
        return [f"process {title} is left" for title in self.cluster.shutdown()]

    def _make_sweep(self, sweep_id: str, **settings: Any) -> FaultSweep:
        self.sweeps.append(FaultSweep(self.cluster, self.folder, sweep_id, **settings))
        return self.sweeps[-1]

    def _end_sweeps(self) -> None:
        for sweep in self.sweeps:
            sweep.end()

    def _cost(self, fault: str, sweep: FaultSweep, act: Callable[[], None]) -> None:
        sweep.remember()
        run_again = sweep.count_run_again()
        began, before = time.monotonic(), sweep.attempts()
        act()
        sweep.wait_for_next_attempts(before)
        seconds, run_again = time.monotonic() - began, sweep.count_run_again() - run_again
        self._note(Cost(fault, seconds, sweep.count_lost(), run_again, sweep.count_uncopied()))

    def _note(self, cost: Cost) -> None:
        self.costs.append(cost)
        print(cost, flush=True)

    def _one_of(self, word: str, sweep: FaultSweep) -> psutil.Process:
        # A node that died before may have hit this one too, and what is left of that must not be hit again.
        sweep.wait_for_progress()
        found = self.cluster.find(word)
        assert found, f"no process is called {word}"
        return found[0]

    def _replace(self, node: object) -> None:
        self.cluster.kill_node(node)
        self.cluster.add_node()


def _point(link: Path, target: Path) -> None:
    """Have a link lead elsewhere, from one moment to the next."""
    draft = link.with_name(f"{link.name}.draft")
    draft.symlink_to(target)
    draft.replace(link)


def run_round(folder: Path) -> tuple[list[Cost], list[str]]:
    """Run every fault once, and return the costs and what is wrong, whatever goes wrong."""
    try:
        faults = Faults(folder)
    except Exception as error:
        return [], [_describe(error)]
    wrong: list[str] = []
    try:
        faults.begin()
        faults.kill_trial_actor()
        faults.kill_train_worker()
        faults.kill_overseer()
        faults.kill_node_of_trials()
        faults.kill_driver(1)
        faults.kill_node_of_wide_trial()
        faults.kill_driver(2)
        faults.fill_storage()
        faults.cut_checkpoint()
        wrong += faults.finish()
        wrong += faults.hang_and_run_out_of_memory()
        wrong += faults.lose_mlflow()
        wrong += faults.lose_head()
    except Exception as error:
        wrong.append(_describe(error))
    try:
        wrong += faults.close()
    except Exception as error:
        wrong.append(_describe(error))
    return faults.costs, wrong


def _describe(error: Exception) -> str:
    """Return one line for the report; where it came from goes to the terminal."""
    traceback.print_exception(error)
    return " ".join(f"{type(error).__name__}: {error}".split())


def render_report(rounds: list[list[Cost]], wrong: list[str]) -> str:
    """Return the figures as Markdown."""
    names = list(dict.fromkeys(cost.fault for costs in rounds for cost in costs))
    lines = [
        "# Faults on a cluster",
        "",
        f"{date.today()}; {os.cpu_count()} CPU cores, {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}; a head "
        "and three raylets of two CPUs each on this machine, token authentication on. Time: from the fault to the next "
        "epoch of every "
        "trial that it hit; an epoch takes 0.5 s. Run again: known epochs that were trained once more. Uncopied: "
        "epochs that are missing "
        f"because the backup was out of reach for the last {_NUM_UNCOPIED} of each trial and more; the last of them is "
        f"reported again.",
        "",
        "| fault | times | epochs lost | run again | uncopied | median s | longest s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        found = [cost for costs in rounds for cost in costs if cost.fault == name]
        seconds = [cost.seconds for cost in found]
        timed = f"{statistics.median(seconds):.1f} | {max(seconds):.1f}" if any(seconds) else "- | -"
        counts = [
            sum(numbers)
            for numbers in zip(*((cost.lost, cost.run_again, cost.uncopied) for cost in found), strict=True)
        ]
        lines.append(f"| {name} | {len(found)} | " + " | ".join(map(str, counts)) + f" | {timed} |")
    return "\n".join([*lines, *(["", *(f"- {fault}" for fault in wrong)] if wrong else [])]) + "\n"


def main() -> int:
    """Run the rounds, print the costs, and return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description="Every kind of death on a Ray cluster of several raylets.")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rounds: list[list[Cost]] = []
    wrong: list[str] = []
    for number in range(1, arguments.rounds + 1):
        folder = Path(tempfile.mkdtemp(prefix="faults-"))
        costs, found = run_round(folder)
        rounds.append(costs)
        wrong += [f"round {number}: {fault}" for fault in found]
        print("\n".join(found), flush=True)
        if not found:
            shutil.rmtree(folder)
    report = render_report(rounds, wrong)
    print(report)
    RESULTS.write_text(report, encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
