"""Run the shorter parts of ``make cluster-lab`` where its Debian packages are: Slurm and SSH on two machines each,
and AWS up to the first login.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.lab.world import find_obstacle

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(900)]


@pytest.mark.parametrize("part", ["ssh", "slurm", "aws"])
def test_commands_of_the_documentation(part: str, tmp_path: Path) -> None:
    if (obstacle := find_obstacle()) is not None:
        pytest.skip(obstacle)
    command = [sys.executable, "-m", "benchmarks.lab", "--results", str(tmp_path), part]
    # Not the cache and token of the tests: the machines have their own.
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    done = subprocess.run(
        command, env=clean, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
