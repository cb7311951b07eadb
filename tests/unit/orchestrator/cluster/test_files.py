from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from orchestrator.cluster import files as cluster
from orchestrator.errors import OrchestratorError, UserError

ROOT = Path(__file__).parents[4]
FILES = [ROOT / "cluster.yaml", ROOT / "cluster" / "on-prem.yaml"]


def load(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


@pytest.fixture
def user_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the user an empty HOME with a key to log in with."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def filled_in(path: Path) -> dict[str, Any]:
    """Return a shipped file with the placeholders replaced, as a user does it."""
    text = (
        path.read_text(encoding="utf-8")
        .replace("sg-" + "0" * 17, "sg-0123456789abcdef0")
        .replace("192.0.2.", "10.1.2.")
    )
    document: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return document


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_shipped_file_passes_ray_s_own_schema_and_copies_only_what_is_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    document = cluster.read_cluster(path)
    mounts = document["file_mounts"]
    assert {local for local in mounts.values() if not local.startswith("~") and not Path(local).exists()} == set()
    # What is sent is what the wheel is made of and how it is set up; above all no history, no data, no results.
    ours = {Path(local).name for local in mounts.values() if not local.startswith("~")}
    assert {"orchestrator", "training", "search_spaces", "requirements", "cluster", "pyproject.toml"} <= ours
    assert ours.isdisjoint({".", ".git", ".venv", "data", "sweeps", "artifacts", "mlflow.db"})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_shipped_file_starts_ray_from_the_locked_venv_with_its_token(path: Path) -> None:
    document = load(path)
    assert document["setup_commands"][-1] == "bash ~/spml/cluster/node.sh setup"
    for commands in (document["head_start_ray_commands"], document["worker_start_ray_commands"]):
        assert all(command.startswith("bash ~/spml/cluster/node.sh ray ") for command in commands)
    assert "--dashboard-host=127.0.0.1" in document["head_start_ray_commands"][-1]
    assert document["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_aws_head_runs_no_trials_and_workers_are_spot_machines_that_scale_from_zero() -> None:
    document = load(ROOT / "cluster.yaml")
    head, gpu = (document["available_node_types"][name] for name in ("head", "gpu"))
    assert document["head_node_type"] == "head"
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert (gpu["min_workers"], gpu["max_workers"], document["max_workers"]) == (0, 4, 4)
    assert document["idle_timeout_minutes"] > 0


def test_aws_file_opens_no_port() -> None:
    document = load(ROOT / "cluster.yaml")
    # Without a group of one's own Ray makes one that lets the world in on 22; rules of one's own do not change that.
    assert all(kind["node_config"]["SecurityGroupIds"] for kind in document["available_node_types"].values())
    assert "security_group" not in document["provider"]
    assert "ssm start-session" in document["auth"]["ssh_proxy_command"]
    assert document["auth"]["ssh_proxy_use_node_id"] is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"available_node_typs": {}}, "available_node_typs"),
        ({"head_node_type": "hed"}, "head_node_type"),
        ({"max_workers": "four"}, "max_workers"),
    ],
)
def test_what_ray_would_refuse_is_reported_before_anything_runs(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    with path.open("w") as file:
        YAML(typ="safe", pure=True).dump(load(ROOT / "cluster.yaml") | change, file)
    with pytest.raises(UserError, match=message) as refused:
        cluster.read_cluster(path)
    assert str(path) in str(refused.value)


def test_missing_and_broken_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none.yaml does not exist. Run this in the checkout"):
        cluster.read_cluster(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(UserError, match="broken.yaml:1: this is not valid YAML"):
        cluster.read_cluster(tmp_path / "broken.yaml")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_example_values_are_refused_and_so_are_missing_files(
    path: Path, user_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("shutil.which", lambda program: program)
    with pytest.raises(UserError, match="marked <--"):
        cluster.check_ready(load(path), path.name)
    document = filled_in(path)
    with pytest.raises(UserError, match=r"touch ~/.orchestrator.env && chmod 600"):
        cluster.check_ready(document, path.name, create_token=False)
    assert not (user_home / ".ray").exists(), "a dry run makes nothing"
    with pytest.raises(UserError, match=r"touch ~/.orchestrator.env && chmod 600"):
        cluster.check_ready(document, path.name)
    private = user_home / ".orchestrator.env"
    private.touch(mode=0o644)
    private.chmod(0o644)
    with pytest.raises(UserError, match=r"mode 644. Fix it: chmod 600"):
        cluster.check_ready(document, path.name)
    private.chmod(0o600)
    cluster.check_ready(document, path.name)
    assert stat.S_IMODE((user_home / ".ray" / "auth_token").stat().st_mode) == 0o600
    monkeypatch.chdir(user_home)
    with pytest.raises(UserError, match="Run this in the checkout"):
        cluster.check_ready(document, path.name)


def test_commands_are_ray_s_own() -> None:
    config, aws, on_prem = Path("cluster.yaml"), *map(load, FILES)
    assert str(cluster.render_up(config, aws)) == "ray up cluster.yaml"
    assert str(cluster.render_up(config, aws, yes=True)) == "ray up cluster.yaml --yes"
    assert str(cluster.render_up(config, on_prem)) == "RAY_UP_enable_autoscaler_v2=0 ray up cluster.yaml"
    assert str(cluster.render_down(config, yes=True)) == "ray down cluster.yaml --yes"
    assert str(cluster.render_status(config, aws)) == "ray exec cluster.yaml 'bash ~/spml/cluster/node.sh ray status'"


def test_up_waits_for_the_workers_that_the_file_promises() -> None:
    config, aws, on_prem = Path("c.yaml"), *map(load, FILES)
    assert cluster.render_wait(config, aws, 60) is None, "its workers start with the trials"
    aws["available_node_types"]["gpu"]["min_workers"] = 2
    for document, expected in (
        (aws, "wait 60 2"),
        (on_prem, "wait 60 2 192.0.2.11 192.0.2.12"),
        (on_prem | {"min_workers": 1}, "wait 60 1 192.0.2.11 192.0.2.12"),
    ):
        found = cluster.render_wait(config, document, 60)
        assert found is not None
        assert found.words[-1] == f"bash ~/spml/cluster/node.sh python -m orchestrator.cluster.on_node {expected}"


def test_what_ssh_needs_is_looked_for_before_ray_tries_again_and_again(
    user_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    (user_home / ".orchestrator.env").touch(mode=0o600)
    tools = user_home / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    for program, hint in (("aws", "getting-started-install"), ("session-manager-plugin", "install-plugin")):
        with pytest.raises(UserError, match=f"but {program} is not installed here.*{hint}"):
            cluster.check_ready(filled_in(FILES[0]), "cluster.yaml")
        (tools / program).touch(mode=0o755)
    cluster.check_ready(filled_in(FILES[0]), "cluster.yaml")


@pytest.mark.parametrize(
    ("commands", "status"),
    [
        ([], "ray status"),
        (["ray stop", "ulimit -n 65536; ray start --head"], "ray status"),
        (["ray stop", "export A=1 && ~/venv/bin/ray start --head"], "~/venv/bin/ray status"),
    ],
)
def test_status_is_asked_with_the_ray_that_was_started(commands: list[str], status: str) -> None:
    document = {"head_start_ray_commands": commands}
    assert cluster.render_status(Path("c.yaml"), document).words[-1] == status


@pytest.fixture
def fake_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace Ray by a program that records how it was called; return its records."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    ray = python.with_name("ray")
    ray.write_text('#!/bin/sh\necho "$RAY_AUTH_MODE $@" >> "$NOTES"\n[ "$1" != down ]\n')
    ray.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    return tmp_path / "notes"


def test_ray_is_run_with_its_token_and_its_failure_is_reported(fake_ray: Path) -> None:
    cluster.run_ray(cluster.render_up(Path("cluster.yaml"), load(FILES[0]), yes=True), "Do this")
    assert fake_ray.read_text() == "token up cluster.yaml --yes\n"
    with pytest.raises(OrchestratorError, match="`ray down cluster.yaml` failed: exit code 1, see its output"):
        cluster.run_ray(cluster.render_down(Path("cluster.yaml")), "Do this")


@pytest.mark.parametrize(
    ("last_line", "told"),
    [
        (
            "RuntimeError: Head node of cluster (spml) not found!",
            "failed: RuntimeError: Head node .* Do this",
        ),
        ("botocore.exceptions.NoCredentialsError: Unable to locate credentials", "Unable .*. Run `aws configure`, or"),
    ],
)
def test_a_traceback_of_ray_s_becomes_one_sentence(
    fake_ray: Path, capfd: pytest.CaptureFixture[str], last_line: str, told: str
) -> None:
    ray = fake_ray.parent / "bin" / "ray"
    ray.write_text(
        f"#!/bin/sh\necho a warning >&2\necho 'Traceback (most recent call last):' >&2\n"
        f"echo '  File \"x.py\", line 1' >&2\necho '{last_line}' >&2\nexit 1\n"
    )
    with pytest.raises(OrchestratorError, match=told):
        cluster.run_ray(cluster.RayCommand(["ray", "exec", "cluster.yaml", "ray status"]), "Do this")
    assert capfd.readouterr().err == "a warning\n"


def test_a_head_that_does_not_answer_is_given_up(fake_ray: Path) -> None:
    ray = fake_ray.parent / "bin" / "ray"
    ray.write_text("#!/bin/sh\nexec sleep 600\n")
    with pytest.raises(OrchestratorError, match="`ray exec` failed: it did not end within 0 s. Do this"):
        cluster.run_ray(cluster.RayCommand(["ray", "exec"]), "Do this", timeout_s=0.2)


@pytest.mark.parametrize("name", ["node.sh", "slurm.sh"])
def test_shell_script_parses_and_stops_at_its_first_failure(name: str) -> None:
    path = ROOT / "cluster" / name
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert os.access(path, os.X_OK)
    text = path.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    done = subprocess.run(["bash", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "For example:" in done.stderr


def test_node_runs_what_it_is_given_in_the_venv_with_token_and_environment(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text("secret")
    (home / ".ray" / "auth_token").chmod(0o644)
    (home / ".orchestrator.env").write_text(
        "# a note\n\nMLFLOW_TRACKING_URI=http://mlflow:5000\nMLFLOW_TRACKING_PASSWORD=a&b $HOME;'c=d"
    )
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    command = ["bash", str(ROOT / "cluster" / "node.sh"), "env"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert found["MLFLOW_TRACKING_PASSWORD"] == "a&b $HOME;'c=d"
    assert found["ORCHESTRATOR_HOME"] == str(home / "orchestrator")
    assert found["PATH"].startswith(f"{ROOT / '.venv' / 'bin'}:")
    assert stat.S_IMODE((home / ".ray" / "auth_token").stat().st_mode) == 0o600
    (home / ".orchestrator.env").write_text("MLFLOW_TRACKING_PASSWORD\n")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, "must have lines VARIABLE=value" in done.stderr) == (2, True)


def test_node_set_up_is_the_hashed_lock() -> None:
    lines = (ROOT / "cluster" / "node.sh").read_text(encoding="utf-8").splitlines()
    installs = [line for line in lines if "pip install" in line]
    assert len(installs) == 3
    assert all("--require-hashes" in line or "--no-deps" in line for line in installs)
    assert {
        word.strip('"').removeprefix("$root/") for line in installs for word in line.split() if "/requirements/" in word
    } == {
        "requirements/bootstrap.txt",
        "requirements/run.txt",
    }


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "cluster").iterdir())], ids=lambda path: path.name)
def test_no_file_of_a_cluster_holds_a_secret_or_names_a_registry(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not [
        word
        for word in ("password", "secret_access_key", "index-url", "pypi", "AKIA")
        if word.lower() in text.lower().replace("its user and password", "")
    ]
    assert "0.0.0.0" not in text


def test_a_cluster_file_that_is_a_bomb_is_refused_with_its_line(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]" for number in range(1, 30)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"bomb.yaml:6: with its aliases written out"):
        cluster.read_cluster(tmp_path / "bomb.yaml")
