from __future__ import annotations

import importlib
import subprocess
import sys
import threading
import time

import psutil

from orchestrator.cluster.orphans import HOOK, watch_parent

CHILD = (
    "import time; from orchestrator.cluster.orphans import watch_parent; watch_parent(look_s=0.05); print('up', "
    "flush=True); time.sleep(60)"
)


def test_it_goes_on_while_its_parent_lives_and_ends_with_it() -> None:
    pids = iter([7, 7, 7, 1])
    ended, codes = threading.Event(), list[int]()

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    watch_parent(end, lambda: next(pids), look_s=0.01)
    assert ended.wait(60)
    assert codes == [1]
    assert next(pids, None) is None, "not before it saw another parent"


def test_a_process_whose_parent_is_killed_is_gone() -> None:
    code = (
        f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {CHILD!r}]).pid, flush=True); input()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert parent.stdout.readline() == "up\n"
    time.sleep(0.2)
    assert child.is_running()
    parent.kill()
    parent.communicate()
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running()


def test_ray_finds_it_by_its_name() -> None:
    module, _, name = HOOK.rpartition(".")
    assert getattr(importlib.import_module(module), name) is watch_parent
