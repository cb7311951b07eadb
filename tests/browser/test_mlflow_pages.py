"""Test in a real browser what MLflow shows of a sweep behind the addresses that `browse` prints."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.planning.sweep_plan import SweepPlan
from search_spaces.ranges import Range
from tests.kit import sweeps
from tests.kit.chromium import read_page, require_chromium

pytestmark = [pytest.mark.slow, pytest.mark.long]

KNOWN = sweeps.PROVENANCE | {"data_hash": "5eed" * 16, "num_train": "120", "num_classes": "10"}


@pytest.fixture
def plan(home: Path, empty_store: Path) -> SweepPlan:
    require_chromium()
    shutil.copy(empty_store, home / "mlflow.db")
    plan = sweeps.make_sweep(ranges={"method.cam_threshold": Range(type="float", low=0.3, high=0.9)})
    events = sweeps.whole_sweep(plan)
    events[0], events[14] = sweeps.driver_started(plan, 0, KNOWN), sweeps.driver_started(plan, 20, KNOWN)
    sweeps.write_events(plan, events)
    return plan


@pytest.fixture
def addresses(plan: SweepPlan, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return what `browse` prints, while it serves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    output = tmp_path / "browse.txt"
    command = [sys.executable, "-m", "orchestrator", "browse", plan.id, "--port", str(port)]
    with output.open("w") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as browse:
        try:
            while "Ctrl-C stops it" not in output.read_text():
                assert browse.poll() is None, output.read_text()
                time.sleep(0.2)
            yield dict(line.split(": ", 1) for line in output.read_text().splitlines() if ": http" in line)
        finally:
            browse.send_signal(signal.SIGINT)


def _text(html: str) -> str:
    """Return the words of a page, without its scripts and styles."""
    html = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_the_list_has_the_trials_alone_the_best_first_and_the_sweeps_page_describes_it(
    plan: SweepPlan, addresses: dict[str, str]
) -> None:
    trials = _text(read_page(addresses[f"sweep {plan.id}"]))
    order = [trials.index(name) for name in ("t0003", "t0000 tau 0.5", "t0001 tau 0.6", "t0002")]
    assert order == sorted(order)
    assert "chosen/val/mAP" in trials
    assert "method.cam_threshold" in trials
    assert "digits (5eed5eed5eed)" in trials  # the dataset
    # The mode for trained models: that for language models has judges.
    assert "Judges" not in trials
    assert "Runs" in trials

    own = _text(read_page(addresses["described"]))
    assert "FINISHED: 4 of 3 trials have ended (2 complete, 1 pruned, 1 failed)." in own
    assert f"orchestrator promote {plan.id}" in own
    assert "best/val/mAP" in own
