"""Damages every file of a sweep's folder in every way, with new seeds, and looks at what the verbs then say.

    python -m benchmarks.faults.corruption [--rounds 10] [--seed 0]

A verb may refuse, with exit code 1 or 2 and a message that names the file. It must not end in a traceback, print a
figure that no trial has reported, or start again because the journal is gone. The figures go to
``results/corruption.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import sys
import tempfile
from datetime import date
from pathlib import Path

from orchestrator.cli import app as cli
from orchestrator.home import HOME_VARIABLE
from tests.kit.damaged_sweep import count_damages, make_damageable, try_damages, without_ray

RESULTS = Path(__file__).parents[1] / "results" / "corruption.md"


def run_program(*words: str) -> tuple[int, str, str]:
    """Run a command in this process; return its exit code, output and errors."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(words)
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 0
    return code, out.getvalue(), err.getvalue()


def run_round(dice: random.Random) -> list[str]:
    """Damage each file once in each way, in a home of its own; return what is wrong."""
    with tempfile.TemporaryDirectory(prefix="corruption-") as home:
        os.environ[HOME_VARIABLE] = home
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        plan = make_damageable()
        with without_ray():
            return list(try_damages(plan, run_program, dice, Path(home) / "sweep.bundle.zip"))


def render_report(rounds: int, seed: int, faults: list[str]) -> str:
    """Return the figures as Markdown."""
    lines = [
        "# Damaged files",
        "",
        f"{date.today()}; {rounds} rounds (seed {seed}). Each round damages every file of a sweep's folder in every "
        f"way of `tests/kit/damage.py`, and runs `status`, `leaderboard`, `bundle`, `extend` and `resume` on it.",
        "",
        "| | |",
        "|---|---|",
        f"| damages | {rounds * count_damages()} |",
        f"| tracebacks, wrong figures, unnamed files, silent fresh starts | {len(faults)} |",
    ]
    return "\n".join([*lines, *(["", *(f"- {fault}" for fault in faults)] if faults else [])]) + "\n"


def main() -> int:
    """Run the rounds, print and write the report, and return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description="Damage every file of a sweep's folder in every way.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)
    faults: list[str] = []
    for number in range(1, arguments.rounds + 1):
        found = run_round(dice)
        faults += [f"round {number}: {fault}" for fault in found]
        print(f"{number}/{arguments.rounds}: {len(found)} faults", flush=True)
    report = render_report(arguments.rounds, arguments.seed, faults)
    print(report)
    RESULTS.write_text(report, encoding="utf-8")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
