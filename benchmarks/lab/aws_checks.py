"""AWS as far as it goes without AWS: cluster.yaml against moto's EC2, up to the first attempt to log in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.lab.world import OUTSIDE, World, copy_checkout, wait_until
from tests.kit import mlflow_service
from tests.kit.mlflow_service import STORAGE, MlflowService

REGION = "eu-central-1"


class Cluster:
    """A user with a checkout, credentials, and programs in place of AWS's that only note how they are called."""

    def __init__(self, world: World) -> None:
        mlflow_service.HOST = OUTSIDE
        self._services = MlflowService(world.folder / "services")
        self._services.start_storage()
        self._home, self._checkout = world.folder / "homes" / "outside", world.folder / "checkout"
        copy_checkout(self._checkout)
        self._home.mkdir()
        (self._home / ".orchestrator.env").touch(mode=0o600)
        self._notes = world.folder / "notes"
        self._tools = world.folder / "tools"
        self._tools.mkdir()
        self._endpoint = f"http://{OUTSIDE}:{self._services.storage_port}"

    def close(self) -> None:
        """Stop moto."""
        self._services.stop()

    def missing_program(self) -> list[str]:
        """Start a cluster without AWS's command line: it is named before anything starts."""
        self._fill_in()
        code, said = self._finish(self._type("cluster up --yes"), 60)
        return [] if code == 2 and "aws is not installed here" in said else [f"{code}: {said[-500:]}"]

    def up(self) -> list[str]:
        """Start a cluster: one head of the file's kind, and a session with it through AWS's Systems Manager."""
        for program in ("aws", "session-manager-plugin"):
            (self._tools / program).write_text(f'#!/bin/sh\necho "{program} $*" >>{self._notes}\nexit 1\n')
            (self._tools / program).chmod(0o755)
        process = self._type("cluster up --yes")
        try:
            wait_until("the first session", lambda: self._notes.exists() or process.poll() is not None, 150)
        finally:
            _, said = self._finish(process, 0)
        machines = [
            machine
            for reservation in self._client("ec2").describe_instances()["Reservations"]
            for machine in reservation["Instances"]
        ]
        kinds = [machine["InstanceType"] for machine in machines]
        if kinds != ["m7i.large"]:
            return [f"the machines are {kinds}: {said[-800:]}"]
        session = self._notes.read_text() if self._notes.exists() else ""
        expected = f"aws ssm start-session --region {REGION} --target {machines[0]['InstanceId']}"
        return [] if expected in session else [f"no session with {machines[0]['InstanceId']}: {session} {said[-500:]}"]

    def _fill_in(self) -> None:
        group = self._client("ec2").create_security_group(GroupName="spml", Description="Ray nodes, among themselves")
        for name in ("spml-head", "spml-worker"):
            self._client("iam").create_instance_profile(InstanceProfileName=name)
        path = self._checkout / "cluster.yaml"
        path.write_text(path.read_text().replace("sg-" + "0" * 17, group["GroupId"]))

    def _client(self, service: str) -> Any:
        import boto3

        keys = (STORAGE["AWS_ACCESS_KEY_ID"], STORAGE["AWS_SECRET_ACCESS_KEY"])
        return boto3.client(
            service, REGION, endpoint_url=self._endpoint, aws_access_key_id=keys[0], aws_secret_access_key=keys[1]
        )

    def _type(self, words: str) -> subprocess.Popen[str]:
        environment = STORAGE | {
            "HOME": str(self._home),
            "PATH": f"{self._tools}:{Path(sys.executable).parent}:/usr/bin:/bin",
            "PYTHONPATH": str(self._checkout),
            "ORCHESTRATOR_HOME": str(self._home / "orchestrator"),
            "AWS_ENDPOINT_URL": self._endpoint,
            "RAY_TMPDIR": str(self._home / "tmp"),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *words.split()],
            cwd=self._checkout,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def _finish(self, process: subprocess.Popen[str], limit_s: float) -> tuple[int, str]:
        try:
            said, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
        return process.returncode, said


PARTS: dict[str, list[str]] = {"aws": ["missing_program", "up"]}
