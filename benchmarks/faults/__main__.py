"""Causes every kind of fault on a real Ray cluster, one after another, and measures what was lost and the time it cost.

    python -m benchmarks.faults [--rounds 3]

An epoch is lost if it was in the journal at a fault and is not there, exactly once, at the end. Every attempt must
continue from the newest checkpoint; epochs that are trained again because that checkpoint is useless are counted.
The time runs from the fault to the next epoch of what it hit. The report goes to ``results/faults.md``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from benchmarks.faults.faults import Faults
from benchmarks.faults.report import Cost, render_report

RESULTS = Path(__file__).parents[1] / "results" / "faults.md"


def run_round(folder: Path) -> tuple[list[Cost], list[str]]:
    """Cause every fault once; return the costs so far and what is wrong, even if a fault ends in an exception."""
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
    """Return one line for the report, and print the traceback."""
    traceback.print_exception(error)
    return " ".join(f"{type(error).__name__}: {error}".split())


def main() -> int:
    """Run the rounds, print and write the report, and return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description="Cause every kind of fault on a Ray cluster of several raylets."
    )
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
