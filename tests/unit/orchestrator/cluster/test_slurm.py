"""Test slurm.sh: by its text, and with programs of Slurm that only note how they were called."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[4]


def test_slurm_starts_one_ray_on_all_nodes_and_passes_the_end_of_its_time_on() -> None:
    text = (ROOT / "cluster" / "slurm.sh").read_text(encoding="utf-8")
    assert "#SBATCH --signal=B:TERM@" in text
    assert """trap 'kill -TERM "$sweep" 2>/dev/null || true' TERM""" in text
    assert "--dashboard-host=127.0.0.1" in text
    assert "umask 077" in text
    (start,) = (line for line in text.splitlines() if "srun --overlap" in line)
    assert '--cpus-per-task="$SLURM_CPUS_PER_TASK"' in start
    assert '--address "$address:$port"' in text


FAKE_SLURM = """#!/usr/bin/env bash
case "${0##*/}" in
  scontrol) echo n1 ;;
  squeue) printf '7.0\n7.batch\n' ;;
  scancel)
    echo "scancel $*" >>"$NOTES"
    echo "scancel: error: Kill job error on job step id 7.0: No error" >&2 # the step has just ended
    exit 1
    ;;
  bash) # node.sh: Ray runs until it is killed, the rest says what it was asked
    shift
    [ "$1" != ray ] || exec sleep 60
    if [ "$1" = python ]; then # as many nodes as it is asked for have to be there
      until [ "$(grep --count ' ray start ' "$NOTES")" -ge "$4" ]; do sleep 0.05; done
      exec sleep "${JOIN_S:-0}"
    fi
    [ "$2" != status ] || exit "${KNOWN:-2}"
    echo "$*" >>"$NOTES"
    [ -n "${TIDY_S:-}" ] || exec sleep "${SWEEP_S:-0}"
    trap 'trap "" TERM; /bin/sleep "$TIDY_S"; echo tidy >>"$NOTES"; exit 130' TERM
    while :; do /bin/sleep 0.1 || true; done
    ;;
  srun)
    [ "${!#}" != -I ] || { echo 10.0.0.1; exit; }
    echo "$*" >>"$NOTES"
    exec sleep "${RAY_S:-60}"
    ;;
esac
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Callable[..., tuple[int, str, list[str]]]:
    """Return a function that runs slurm.sh with programs of Slurm that only note how they were called."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("scontrol", "squeue", "scancel", "srun", "bash"):
        (tools / name).write_text(FAKE_SLURM.replace("#!/usr/bin/env bash", "#!/bin/bash"))
        (tools / name).chmod(0o755)

    def run(*words: str, **environment: str) -> tuple[int, str, list[str]]:
        notes = tmp_path / "notes"
        notes.write_text("")  # there before the first program, as they run at the same time
        settings = {
            "HOME": str(tmp_path),
            "PATH": f"{tools}:{os.environ['PATH']}",
            "NOTES": str(notes),
            "SLURM_JOB_ID": "1207",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_CPUS_PER_TASK": "4",
            "SLURM_SUBMIT_DIR": str(tmp_path),
            **environment,
        }
        script = ["/bin/bash", str(ROOT / "cluster" / "slurm.sh"), *words]
        done = subprocess.run(script, env=settings, capture_output=True, text=True, check=False, timeout=240)
        return done.returncode, done.stderr, notes.read_text().splitlines()

    return run


def test_a_requeued_job_continues_what_it_began(slurm: Callable[..., tuple[int, str, list[str]]]) -> None:
    again, end = {"SLURM_RESTART_COUNT": "1", "KNOWN": "0"}, " --address 10.0.0.1:20070"
    for words, environment, expected in (
        ("sweep voc", {}, "sweep voc --name job-1207"),
        ("sweep voc --name mine", {}, "sweep voc --name mine"),
        ("sweep voc", again, "resume job-1207 --steal-lease"),
        ("sweep voc --name mine", again, "resume mine --steal-lease"),
        ("train voc --name=mine", again, "resume mine --steal-lease"),
        ("sweep voc", {"SLURM_RESTART_COUNT": "1"}, "sweep voc --name job-1207"),
        ("promote", again, "promote --steal-lease"),
        ("data list", again, "data list"),
    ):
        code, err, notes = slurm(*words.split(), **environment)
        assert code == 0, err
        assert [line for line in notes if line.startswith("orchestrator")] == [f"orchestrator {expected}{end}"]
    code, err, _ = slurm("extend", "--trials", "+4", **again)
    assert (code, "may have been added already" in err) == (2, True)


def test_all_ports_of_a_job_are_its_own_and_its_steps_end_at_once(
    slurm: Callable[..., tuple[int, str, list[str]]],
) -> None:
    code, err, notes = slurm("resume")
    assert code == 0, err
    worker, head = sorted((line for line in notes if " ray start " in line), key=lambda line: "--head" in line)
    for option in ("port", "dashboard-port", "ray-client-server-port"):
        assert f"--{option}=2007" in head
        assert f"--{option}=" not in worker
    for option in ("dashboard-agent-listen-port", "metrics-export-port", "runtime-env-agent-port"):
        assert f"--{option}=2007" in head
        assert f"--{option}=2007" in worker
    assert notes[-1] == "scancel --signal=KILL 7.0", "but not the batch script itself"
    assert err == "", "nothing that was ended on purpose looks like a fault"


def test_a_job_ends_when_the_head_of_its_ray_ends(slurm: Callable[..., tuple[int, str, list[str]]]) -> None:
    for slow in ("JOIN_S", "SWEEP_S"):
        code, err, _ = slurm("sweep", "voc", RAY_S="0", **{slow: "600"})
        assert code != 0
        assert "Ray's head on n1 has ended; see its messages above." in err


def test_a_job_that_is_cancelled_waits_for_the_end_of_its_sweep(
    slurm: Callable[..., tuple[int, str, list[str]]], tmp_path: Path
) -> None:
    def cancel() -> None:  # as scancel does: every process of the batch script gets the signal
        notes = tmp_path / "notes"
        while not notes.exists() or "orchestrator sweep" not in notes.read_text():
            time.sleep(0.05)
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                # Ray drains its nodes first, so that it lives longer than this.
                if process.name() in ("bash", "sleep") and process.cmdline() != ["sleep", "60"]:
                    process.terminate()

    thread = threading.Thread(target=cancel)
    thread.start()
    code, err, notes = slurm("sweep", "voc", TIDY_S="2")
    thread.join()
    assert code == 130, err
    assert notes[-2:] == ["tidy", "scancel --signal=KILL 7.0"], "Ray is ended after the sweep"
