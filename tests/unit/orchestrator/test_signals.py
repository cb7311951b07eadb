from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from orchestrator.signals import StopSignals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_forces(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert not signals.received
        signal.raise_signal(number)
        assert signals.received
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_where_it_is_allowed_the_first_signal_interrupts() -> None:
    with StopSignals() as signals:
        with pytest.raises(KeyboardInterrupt), signals.interrupting():
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt), signals.interrupting():
            pytest.fail("a signal that came before was forgotten")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_in_another_thread_nothing_is_taken() -> None:
    errors: list[Exception] = []

    def work() -> None:
        try:
            with StopSignals():
                pass
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []


HANGS = """
import ctypes
libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
libc.pthread_mutex_lock(mutex)
print("ready", flush=True)
libc.pthread_mutex_lock(mutex)  # a call that no signal interrupts
"""
IMPORTS = """
import importlib.abc, importlib.util
class Slow(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, self) if name == "slow" else None
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        print("ready", flush=True)
        sys.stdin.readline()  # Python takes the signal here, within the import
        print("imported", flush=True)
sys.meta_path.insert(0, Slow())
import slow
time.sleep(1e6)
"""
UNWINDS = """
try:
    print("ready", flush=True)
    time.sleep(1e6)
finally:
    print("unwound", flush=True)
    threading.Thread(target=time.sleep, args=(1e6,)).start()  # Python's exit would wait for it
"""
CONVERTS = """
try:
    print("ready", flush=True)
    time.sleep(1e6)
except BaseException as error:
    raise ValueError("cannot build the schema") from error
"""
ENDS = """
import atexit
atexit.register(lambda: (print("ready", flush=True), time.sleep(1e6)))
return 7
"""


def start(program: str) -> subprocess.Popen[str]:
    """Start a Python program, and return once it prints "ready"."""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_program_at_every_moment(number: signal.Signals) -> None:
    for body, grace_s, code, said in (
        (HANGS, 0.2, 130, "interrupted\n"),
        (IMPORTS, 60, 130, "imported\ninterrupted\n"),
        (UNWINDS, 60, 130, "interrupted\nunwound\n"),
        (CONVERTS, 60, 130, "interrupted\n"),
        (ENDS, 60, 7, ""),
    ):
        program = f"""
import sys, threading, time
from orchestrator import signals
signals.GRACE_S = {grace_s}
def main():
{textwrap.indent(body, "    ")}
signals.run_program(main)
"""
        process = start(program)
        process.send_signal(number)
        output, _ = process.communicate("\n", timeout=240)
        assert (process.returncode, output) == (code, said), body


@pytest.mark.slow
def test_a_refusal_does_not_wait_for_work_in_the_background_or_abort_in_it() -> None:
    # Python's exit ends daemon threads wherever they are; inside torch that is SIGABRT.
    program = """
import atexit, sys, threading
from orchestrator import background, signals
def main():
    background.in_background(threading.Event().wait)
    atexit.register(print, "Python's own exit")
    print("ready", flush=True)
    sys.exit(2)
signals.run_program(main)
"""
    process = start(program)
    output, _ = process.communicate(timeout=240)
    assert (process.returncode, output) == (2, "")


@pytest.mark.slow
def test_a_forked_process_does_not_end_its_parent() -> None:
    program = """
import os, signal, time
from orchestrator import signals
signals.GRACE_S = 0.2
def main():
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"x")
        time.sleep(1e6)
    os.read(reader, 1)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    time.sleep(1)
    return 3
signals.run_program(main)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=240).returncode == 3


@pytest.mark.slow
def test_while_trials_run_a_signal_in_an_import_stops_them_as_elsewhere() -> None:
    program = f"""
import sys, threading, time
from orchestrator import signals
def main():
    with signals.StopSignals() as stop:
        try:
            with stop.interrupting():
{textwrap.indent(IMPORTS, 16 * " ")}
        except KeyboardInterrupt:
            print("stopped", flush=True)
signals.run_program(main)
"""
    process = start(program)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate("\n", timeout=240)
    assert (process.returncode, output) == (0, "imported\nstopped\n")
