"""Kill `prepare` again and again: nothing opens before all is there, and the result is always the same."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kit.pictures import make_source
from training.data.store.reader import open_store
from training.data.store.writer import write_store
from training.errors import StoreError

ROOT = Path(__file__).parents[2]
NUM_TRAIN = 160
_WRITER = f"""
import signal, sys, time
# A shell that starts the tests in the background lets its children ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from tests.kit.pictures import make_source
from training.data.store import writer as store_writer
store_writer.SHARD_IMAGES = 8
source = make_source(Path(sys.argv[1]), num_train={NUM_TRAIN}, write=False)
print("ready", flush=True)
# Slow enough to be killed in the middle, whatever the machine.
wait = lambda done, total: time.sleep(0.03)
store_writer.write_store(source, sys.argv[2], image_size=64, encoding="raw", workers=2, on_progress=wait)
"""


def start(source: Path, out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(source), str(out)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def shards(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.done.json")} if folder.is_dir() else set()


@pytest.mark.slow
def test_killed_again_and_again_it_ends_as_if_written_in_one_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source(tmp_path / "source", num_train=NUM_TRAIN)
    out, stream = tmp_path / "store", random.Random(3)
    done: set[str] = set()
    for _ in range(5):
        process = start(tmp_path / "source", out)
        goal = len(done) + stream.randint(1, 3)
        while len(shards(out)) < goal and process.poll() is None:
            time.sleep(0.001)
        time.sleep(stream.random() * 0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert done < shards(out), "what was whole is kept, and the killed run added to it"
        done = shards(out)
        with pytest.raises(StoreError, match="continues where it stopped"):
            open_store(str(out))
    process = start(tmp_path / "source", out)
    process.communicate(timeout=240)
    assert process.returncode == 0
    assert open_store(str(out)).check() == []
    monkeypatch.setattr("training.data.store.writer.SHARD_IMAGES", 8)
    write_store(source, str(tmp_path / "whole"), image_size=64, encoding="raw")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()
    }


def test_interrupted_it_ends_at_once_and_keeps_what_is_whole(tmp_path: Path) -> None:
    make_source(tmp_path / "source", num_train=NUM_TRAIN)
    out = tmp_path / "store"
    process = start(tmp_path / "source", out)
    while len(shards(out)) < 2:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=240)
    assert process.returncode == -signal.SIGINT
    assert len(shards(out)) >= 2
    assert not (out / "writer.lock").exists()
    assert not list(out.glob("*.partial"))


def test_two_at_once_the_second_names_the_first(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", num_train=NUM_TRAIN)
    out = tmp_path / "store"
    process = start(tmp_path / "source", out)
    while not shards(out):
        time.sleep(0.001)
    with pytest.raises(StoreError, match=f"process {process.pid} on "):
        write_store(source, str(out), image_size=64, encoding="raw")
    process.kill()
    process.communicate()
