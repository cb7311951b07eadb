from __future__ import annotations

from pathlib import Path

import pytest
from ray.exceptions import RayActorError

from orchestrator.sweep_folder.records import Cause
from orchestrator.trials import deaths
from orchestrator.trials.deaths import MemoryKills, count_memory_kills, describe_death, find_address

KILLED = """The actor died unexpectedly before finishing this task.
\tclass_name: trial_digits-00000001
\tactor_id: 1234
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: \
Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: \
(1) the process was killed by the OOM killer, (2) ray stop.
"""
MEMORY = """The actor died because its node was running low on memory.
Task was killed due to the node running low on memory.
"""


@pytest.mark.parametrize(
    ("error", "message", "cause"),
    [
        (
            RayActorError(error_msg=KILLED),
            "Worker unexpectedly exits with a connection error code 2. End of file.",
            Cause.LOST,
        ),
        (RayActorError(error_msg=MEMORY), "The actor died because its node was running low on memory.", Cause.OOM),
        (None, "its process died", Cause.LOST),
    ],
)
def test_a_death_is_told_in_one_line_with_its_cause(error: Exception | None, message: str, cause: Cause) -> None:
    assert describe_death(error) == (message, cause)


def test_process_that_cannot_begin_is_told_by_what_it_raised() -> None:
    text = (
        "The actor died because of an error raised in its creation task, "
        "\x1b[36mray::trial_a.__init__()\x1b[39m (pid=7)\n"
        "  File \"trial.py\", line 3, in <module>\nModuleNotFoundError: No module named 'training.x'\n"
    )
    assert describe_death(RayActorError(error_msg=text)) == (
        "ModuleNotFoundError: No module named 'training.x'",
        Cause.LOST,
    )
    assert describe_death(ValueError("\x1b[31mkilled\x1b[0m\n")) == ("killed", Cause.LOST)


def test_the_node_of_a_death_is_found_where_ray_names_it() -> None:
    assert find_address("The actor died unexpectedly.\n\tpid: 7\n\tip: 10.0.0.7\nThe actor is dead") == "10.0.0.7"
    assert find_address("The actor died.") is None


@pytest.mark.parametrize(
    ("entry", "file", "text"),
    [
        ("0::/pod/a", "pod/a/memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ("0::/of/the/host", "memory.events", "oom_kill 2\n"),
        ("4:memory:/pod", "memory/pod/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        ("5:cpu:/pod\n4:memory:/of/the/host", "memory/memory.oom_control", "oom_kill 2\n"),
    ],
)
def test_kills_of_the_control_group_are_counted(tmp_path: Path, entry: str, file: str, text: str) -> None:
    own = tmp_path / "cgroup"
    own.write_text(f"{entry}\n")
    assert count_memory_kills(own, tmp_path) is None
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    assert count_memory_kills(own, tmp_path) == 2
    assert count_memory_kills(tmp_path / "none", tmp_path) is None


def test_a_kill_for_memory_counts_once_and_none_before_the_sweep_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deaths, "_this_address", lambda: "10.0.0.1")
    nodes = {"10.0.0.2": "node"}
    monkeypatch.setattr(deaths, "_other_nodes", lambda: nodes)
    there = [5]
    monkeypatch.setattr(deaths, "_ask", lambda node: there[0])
    monkeypatch.setattr(deaths, "_answer", lambda asked: asked)
    here = [3]
    kills = MemoryKills(count_here=lambda: here[0])
    kills.look()
    assert not kills.grew("10.0.0.1")
    assert not kills.grew("10.0.0.2")
    here[0], there[0] = 4, 7
    assert [kills.grew("10.0.0.1") for _ in range(2)] == [True, False]
    assert [kills.grew("10.0.0.2") for _ in range(3)] == [True, True, False]
    nodes.clear()
    here[0], there[0] = 5, 9
    assert not kills.grew("10.0.0.2")
    assert kills.grew(None)
