"""Builds clusters of machines in namespaces of this one, runs the commands of docs/cluster.md on them, and breaks them.

    python -m benchmarks.lab [PART ...]

Needs root and the Debian packages slurm-wlm, munge, openssh-server, rsync and iproute2; without them it says so and
exits with 0. Nothing that the machines do reaches the outside. The outcomes go to ``results/cluster_lab.md``.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.lab import aws_checks, slurm_checks, ssh_checks, world
from benchmarks.lab.checks import Check, run_check

RESULTS = Path(__file__).parents[1] / "results"
NAME = "cluster_lab"
KINDS: tuple[Any, ...] = (ssh_checks, slurm_checks, aws_checks)
PARTS = [part for kind in KINDS for part in kind.PARTS]


def main() -> int:
    """Run the parts, each in a world of its own; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab", description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one or more of {', '.join(PARTS)}; by default all")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the outcomes")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}. The parts are {', '.join(PARTS)}")
    lines = arguments.results / f"{NAME}.jsonl"
    if world.is_inside():
        return run_inside(arguments.parts[0], lines)
    if (obstacle := world.find_obstacle()) is not None:
        print(f"skipped: {obstacle}")
        return 0
    where = ["--results", str(arguments.results.absolute())]
    codes = [world.enter("benchmarks.lab", [*where, part]) for part in arguments.parts or PARTS]
    lines.with_suffix(".md").write_text(render(read_latest(lines)), encoding="utf-8")
    return max(codes)


def run_inside(part: str, lines: Path) -> int:
    """Run one part in this world; return 1 if anything was wrong."""
    # Not under /tmp, of which each machine has one of its own.
    folder = Path(tempfile.mkdtemp(prefix="spml-lab-", dir="/var/tmp"))
    place = world.World(folder)
    kind = next(kind for kind in KINDS if part in kind.PARTS)
    outcomes: list[Check] = []
    try:
        cluster = kind.Cluster(place)
        try:
            for name in kind.PARTS[part]:
                check: Callable[[], list[str]] = getattr(cluster, name)
                outcomes.append(run_check(part, describe(kind, name), check))
                with lines.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(outcomes[-1])) + "\n")
        finally:
            cluster.close()
    finally:
        place.stop()
    if any(outcome.problem for outcome in outcomes):
        print(f"logs: {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def read_latest(lines: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Return the latest outcome of every check, by its part and name."""
    outcomes = map(json.loads, lines.read_text(encoding="utf-8").splitlines())
    return {(outcome["part"], outcome["name"]): outcome for outcome in outcomes}


def describe(kind: Any, name: str) -> str:
    """Return what a check does, in words."""
    return " ".join((getattr(kind.Cluster, name).__doc__ or name).split())


def render(outcomes: dict[tuple[str, str], dict[str, str]]) -> str:
    """Return the report; checks without an outcome are in it too."""
    rows = ""
    for kind in KINDS:
        for part, names in kind.PARTS.items():
            for name in (describe(kind, each) for each in names):
                found = outcomes.get((part, name), {"day": "", "seconds": "", "problem": "not run yet"})
                rows += f"| {part} | {name} | {found['day']} | {found['seconds']} | {found['problem'] or 'ok'} |\n"
    return (
        "# Clusters of several machines\n\n"
        f"Python {platform.python_version()}, {platform.system()}; machines in namespaces of one machine, joined by a "
        "bridge: Debian's Slurm and OpenSSH, MLflow on PostgreSQL, S3 by moto. Sweeps of digits, 4 trials. Run again: "
        "`make cluster-lab`.\n\n"
        "| part | what was done | day | s | outcome |\n|---|---|---|---|---|\n" + rows
    )


if __name__ == "__main__":
    sys.exit(main())
