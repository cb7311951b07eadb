"""Test how machines are reached over SSH, with an ssh that runs the command here, in a home per machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from orchestrator.cluster import on_node, on_prem
from orchestrator.cluster.on_prem import OnPrem, find_machines, list_running, require_reachable
from orchestrator.errors import OrchestratorError, UserError
from orchestrator.ray_compat import local_state_file
from tests.kit.program import run

ROOT = Path(__file__).parents[4]
ON_PREM = ROOT / "cluster" / "on-prem.yaml"
# The last two words are user@machine and the command.
SSH = """#!/bin/bash
words=("$@"); machine=${words[-2]#*@}
echo "$machine: ${words[-1]}" >>"$SSH_NOTES"
[ "$machine" != away ] || { echo "ssh: connect to host away port 22: No route to host" >&2; exit 255; }
cd "$SSH_HOMES/$machine" && HOME=$PWD bash -c "${words[-1]}"
"""


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnPrem:
    """Return two machines whose homes are folders here; each has a node.sh that notes what it is asked."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("ssh", SSH), ("rsync", "#!/bin/sh\n")):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    for name in ("head", "worker"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "node.sh").write_text('cat >received; echo "$*" >>asked; echo "stopped 1 sweep"\n')
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("SSH_NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("SSH_HOMES", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "ray"))
    return OnPrem("mine", "head", ("worker",), "me", "~/.ssh/key", None, is_outside=False, prefix="bash ~/node.sh ")


def test_machines_are_those_of_the_file_and_workers_are_reached_through_the_head_from_outside() -> None:
    document = YAML(typ="safe", pure=True).load(ON_PREM.read_text(encoding="utf-8"))
    found = find_machines(document, "bash node.sh ")
    assert found is not None
    assert (found.head, found.workers, found.user) == ("192.0.2.10", ("192.0.2.11", "192.0.2.12"), "ray")
    words = found.ssh("192.0.2.11", "true")
    assert words[-2:] == ["ray@192.0.2.11", "true"]
    assert str(Path("~/.ssh/id_ed25519").expanduser()) in words
    assert not any("ProxyCommand" in word for word in words)
    document["provider"]["external_head_ip"] = "203.0.113.5"
    outside = find_machines(document, "")
    assert outside is not None
    assert outside.ssh("203.0.113.5", "true")[-2] == "ray@203.0.113.5"
    (proxy,) = (word for word in outside.ssh("192.0.2.11", "true") if word.startswith("-oProxyCommand="))
    assert proxy.endswith("-W %h:%p ray@203.0.113.5")
    aws = YAML(typ="safe", pure=True).load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    assert find_machines(aws, "") is None


def test_a_machine_that_cannot_be_reached_is_named_before_anything_starts(
    machines: OnPrem, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_reachable(machines)
    with pytest.raises(OrchestratorError, match=r"away: ssh: connect to host away port 22: No route to host\. Nothing"):
        require_reachable(replace(machines, workers=("worker", "away")))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="ssh is not installed on this machine"):
        require_reachable(machines)


def test_stopping_asks_the_head_first_then_the_workers_and_makes_ray_forget(machines: OnPrem, tmp_path: Path) -> None:
    state = local_state_file("mine")
    state.parent.mkdir(parents=True, exist_ok=True)
    state.touch()
    said: list[str] = []
    on_prem.stop(machines, said.append)
    assert said == ["head: stopped 1 sweep", "worker: stopped 1 sweep"]
    for name in ("head", "worker"):
        assert (tmp_path / name / "asked").read_text() == "python - stop mine\n"
        assert (tmp_path / name / "received").read_text() == on_prem.on_node_source()
    assert [line.partition(":")[0] for line in (tmp_path / "notes").read_text().splitlines()] == ["head", "worker"]
    assert not state.exists()


def test_what_could_not_be_stopped_is_a_failure(machines: OnPrem, tmp_path: Path) -> None:
    (tmp_path / "worker" / "node.sh").write_text("echo 'cannot stop process 7: raylet'; exit 1\n")
    said: list[str] = []
    with pytest.raises(OrchestratorError, match="worker: cannot stop process 7: raylet; away does not answer"):
        on_prem.stop(replace(machines, workers=("worker", "away")), said.append)
    assert said == ["head: stopped 1 sweep"]
    (tmp_path / "worker" / "node.sh").unlink()
    on_prem.stop(machines, said.append)
    assert said[-1] == "worker: not set up, so nothing was stopped"


def test_up_is_refused_while_a_sweep_runs_and_down_shows_what_it_would_run(
    machines: OnPrem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    config = tmp_path / "mine.yaml"
    text = ON_PREM.read_text(encoding="utf-8")
    for old, new in (("192.0.2.10", "head"), ("192.0.2.11, 192.0.2.12", "worker"), ("bash ~/spml/cluster/", "bash ~/")):
        text = text.replace(old, new)
    config.write_text(text)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    (tmp_path / ".orchestrator.env").touch(mode=0o600)
    code, out, _ = run(capsys, "cluster", "down", "--config", str(config), "--dry-run")
    assert (code, out.count("ssh "), "ray@worker 'bash ~/node.sh python - stop" in out) == (0, 2, True)
    (tmp_path / "head" / "node.sh").write_text("echo 'sweep voc --trials 4 (process 7 on head)'\n")
    code, _, err = run(capsys, "cluster", "up", "--config", str(config), "--yes")
    assert (code, "On the head of this cluster runs: sweep voc --trials 4 (process 7 on head)." in err) == (2, True)
    (tmp_path / "head" / "node.sh").unlink()
    assert list_running(machines) == [], "it was never set up"


@pytest.fixture
def pretend(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start a driver, which ends when it is asked, and a process named like one of Ray's, which does not."""
    patient = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    driver = tmp_path / "venv" / "bin" / "orchestrator"
    driver.parent.mkdir(parents=True)
    driver.write_text("import time; print(flush=True); time.sleep(600)\n")
    started = [
        subprocess.Popen([sys.executable, str(driver), "sweep", "voc"], stdout=subprocess.PIPE),
        subprocess.Popen(["raylet", "-c", patient], executable=sys.executable, stdout=subprocess.PIPE),
    ]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    yield started
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_on_a_node_drivers_are_asked_to_end_and_what_is_left_is_killed(
    pretend: list[subprocess.Popen[bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours = [psutil.Process(process.pid) for process in pretend]
    monkeypatch.setattr(on_node, "_others", lambda: [process for process in ours if process.is_running()])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))  # without any Ray
    assert on_node.main(["running"]) == 0
    assert capsys.readouterr().out.startswith(f"sweep voc (process {pretend[0].pid} on ")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    state = local_state_file("mine")
    state.parent.mkdir()
    state.touch()
    assert on_node.main(["stop", "mine"]) == 0
    assert capsys.readouterr().out == "stopped 1 sweep and 1 process of Ray\n"
    assert not any(process.is_running() for process in ours)
    assert not state.exists()


def test_waiting_for_workers_names_those_that_come_and_those_that_do_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def node(number: int, is_head: bool = False) -> dict[str, object]:
        resources = {on_node._HEAD: 1.0} if is_head else {}
        return {
            "NodeID": f"id{number}",
            "NodeManagerAddress": f"10.0.0.{number}",
            "NodeManagerHostname": f"n{number}",
            "Alive": True,
            "Resources": resources,
        }

    looks = iter([[node(1, is_head=True)], [node(1, is_head=True), node(2)]])
    last = [node(1, is_head=True), node(2)]
    monkeypatch.setattr("ray.init", lambda **options: None)
    monkeypatch.setattr("ray.nodes", lambda: next(looks, last))
    monkeypatch.setattr(on_node, "_POLL_S", 0)
    assert on_node.main(["wait", "0.2", "2", "10.0.0.2", "n3"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == ["10.0.0.2 (n2) has joined: 1 of 2 workers", "n3 did not join within 0 min"]
    monkeypatch.setattr("ray.nodes", lambda: last[:1])
    assert on_node.main(["wait", "0", "1"]) == 1
    assert "1 did not join" in capsys.readouterr().out
