"""The faults themselves: each kills, fills or cuts something on a real Ray cluster, and waits until the sweep recovers.

Two sweeps with different code run at once, one of a one-worker trial and one of a trial over two nodes, while actors,
workers, nodes and drivers are killed under them, storage fills up and a checkpoint is cut short. After that, trials
hang and run out of memory, and MLflow's server and its database go away under a sweep. Finally the head is lost, and a
new cluster continues from the backup, which was unreachable for the last epochs.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.faults.cluster import FaultCluster
from benchmarks.faults.report import NUM_UNCOPIED, Cost
from benchmarks.faults.sweep import FaultSweep
from orchestrator.home import HOME_VARIABLE
from orchestrator.sweep_folder.records import Cause, TrialState
from orchestrator.sweep_folder.restore import restore_sweep
from tests.kit.mlflow_service import MlflowService
from training.metric_names import VAL_MAP

_MANY_EPOCHS = 400
# Ten minutes of training, because most faults hit this sweep. What is left at the end is trained without a pause.
_LONGER_EPOCHS = 1200
_OFFSET = 100.0
_AWAY_S = 60.0
# From the start of a trial's processes, so that a loaded machine only has to train three epochs of 0.1 s in it.
_TIME_LIMIT_S = 20.0
_WIDE_TIME_LIMIT_S = 40.0  # two workers also have to find each other


class Faults:
    """One cluster and its sweeps; a method that causes a fault returns once what it hit reports again.

    Args:
        folder: Becomes the home of the sweeps.
    """

    def __init__(self, folder: Path) -> None:
        os.environ[HOME_VARIABLE] = str(folder)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        self.folder = folder
        self.costs: list[Cost] = []
        self.sweeps: list[FaultSweep] = []
        self.cluster = FaultCluster()
        # Every worker takes a whole node of two CPUs. Smaller ones, placed again after each fault, could end up on all
        # three nodes and leave no two of them free for the trial over two nodes.
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
        """Kill the actor of a one-worker trial with -9."""
        self._cost("trial actor killed with -9", self.narrow, self._one_of("trial_narrow", self.narrow).kill)

    def kill_train_worker(self) -> None:
        """Kill a Ray Train worker with -9."""
        self._cost("Ray Train worker killed with -9", self.wide, self._one_of("RayTrainWorker", self.wide).kill)

    def kill_overseer(self) -> None:
        """Kill the actor that supervises the workers of a trial with -9."""
        self._cost(
            "actor above Ray Train workers killed with -9", self.wide, self._one_of("train_trial", self.wide).kill
        )

    def kill_node_of_trials(self) -> None:
        """Kill a raylet that a one-worker trial runs on."""
        node = self.cluster.node_of(self._one_of("trial_narrow", self.narrow))
        self._cost("raylet killed with a trial on it", self.narrow, lambda: self._replace(node))

    def kill_node_of_wide_trial(self) -> None:
        """Kill one of the two nodes of a trial."""
        node = self.cluster.node_of(self._one_of("RayTrainWorker", self.wide))
        self._cost("a node of a two-node trial killed", self.wide, lambda: self._replace(node))

    def kill_driver(self, times: int) -> None:
        """Kill the driver with -9 several times, and resume each time; only the last time is measured."""

        def kill() -> None:
            self.narrow.kill_driver()
            self.narrow.start()

        for _ in range(times - 1):
            kill()
            self.narrow.wait_for_progress()
        self._cost(f"driver killed with -9 {'once' if times == 1 else 'twice'}, and resumed", self.narrow, kill)

    def fill_storage(self) -> None:
        """Fill the checkpoint storage: the sweep must stop, say so, and continue once there is space again."""

        def fill() -> None:
            self.narrow.full_file.touch()
            code = self.narrow.wait_for_driver()
            assert code != 0, "a sweep on a full disk must not count as finished"
            assert re.search("checkpoint.*No space left", self.narrow.log), self.narrow.log[-2000:]
            self.narrow.full_file.unlink()
            self.narrow.start()

        self._cost("no space on the checkpoint path (ENOSPC), and resumed", self.narrow, fill)

    def cut_checkpoint(self) -> None:
        """Cut the newest checkpoint of a killed sweep short: the one before must be used, with a message."""

        def cut() -> None:
            self.narrow.kill_driver()
            self.narrow.cut_checkpoint(0)
            self.narrow.start()

        self._cost("checkpoint cut short", self.narrow, cut)
        assert re.search(r"trial 0 \w.* from epoch", self.narrow.log, re.IGNORECASE), self.narrow.log[-2000:]

    def finish(self) -> list[str]:
        """Let both sweeps finish, and return what is wrong."""
        faults = [f"{sweep.id}: exit code {code}" for sweep in (self.wide, self.narrow) if (code := sweep.finish())]
        faults += self.wide.check() + self.narrow.check()
        for sweep, offset in ((self.wide, 0.0), (self.narrow, _OFFSET)):
            # Each sweep's code gives scores in a range of its own, so a score shows whose code computed it.
            wrong = [event for event in sweep.reports() if not offset + 60 < event.metrics[VAL_MAP] <= offset + 80]
            faults += [f"{sweep.id}: {len(wrong)} epochs were computed by the other sweep's code"] * bool(wrong)
        lost = self.wide.count_lost() + self.narrow.count_lost()
        run_again = self.wide.count_run_again() + self.narrow.count_run_again()
        self._note(Cost("all of the above on two sweeps at once, each by its own code", 0.0, lost, run_again))
        return faults + [f"placement group {name} is left" for name in self.cluster.wait_for_no_groups()]

    def hang_and_run_out_of_memory(self) -> list[str]:
        """Let trials hang and run out of memory: the first is stopped, the second tried again, the others unharmed."""
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
        """Let a trial of two workers hang; on three nodes the next one only fits once both nodes are free again."""
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
        """Kill MLflow's server and restart its PostgreSQL: everything reported in between must be written later."""
        sweep = self._make_sweep("logged-00000001", trials=2, epochs=_MANY_EPOCHS, tracking=True)
        # Not in this folder: if root starts PostgreSQL, it runs as another user, who cannot enter root's folders.
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
            sweep.wait_for(lambda aim=known: sweep.count_logged().total() > aim, "later epoch in MLflow")  # type: ignore[misc]
            self._note(Cost(fault, time.monotonic() - began, sweep.count_lost(), sweep.count_run_again()))
        faults = [f"{sweep.id}: exit code {code}"] if (code := sweep.finish()) else []
        return faults + sweep.check() + sweep.check_logged()

    def lose_head(self) -> list[str]:
        """Kill the driver and the head with -9; a new cluster with an empty home must continue from the backup.

        The backup is out of reach for the last epochs: the last of them is reported again, those before are missing.
        Changes the home in the environment, so cause this fault last.
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
        for _ in range(NUM_UNCOPIED):
            sweep.wait_for_progress()
        self._cost("head lost: a new cluster, and resumed from the backup", sweep, lose)
        faults = [f"{sweep.id}: exit code {code}"] if (code := sweep.finish()) else []
        if sweep.count_uncopied() < (NUM_UNCOPIED - 1) * sweep.trials:
            faults.append(
                f"{sweep.id}: all but the last of {NUM_UNCOPIED} epochs must be missing, but {sweep.starts()}"
            )
        return faults + sweep.check()

    def close(self) -> list[str]:
        """Stop everything, and return what had to be killed."""
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
        # The fault before may have hit this sweep too: wait until it has recovered, so as not to kill a leftover.
        sweep.wait_for_progress()
        found = self.cluster.find(word)
        assert found, f"no process is called {word}"
        return found[0]

    def _replace(self, node: object) -> None:
        self.cluster.kill_node(node)
        self.cluster.add_node()


def _point(link: Path, target: Path) -> None:
    """Make a link point elsewhere, atomically."""
    draft = link.with_name(f"{link.name}.draft")
    draft.symlink_to(target)
    draft.replace(link)
