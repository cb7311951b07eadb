"""Verbs as Ray jobs: what is sent, what the head is to call, what is remembered here, and how it stands."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orchestrator
import search_spaces
import training
from orchestrator import ray_compat
from orchestrator.cluster.session import quieten
from orchestrator.cluster.token import use_token
from orchestrator.durable import write_whole
from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import home
from orchestrator.provenance import BUILD_FILE, read_build
from orchestrator.redaction import redact
from orchestrator.uris import require_text_without_credentials

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
"""Where `ray dashboard cluster.yaml` puts the head's job server on this machine."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
UNREACHABLE, UNKNOWN = "unreachable", "unknown"
MAX_PACKAGE_BYTES = 10 * 2**20
_GIVEN = "given"
_PACKAGES = (orchestrator, search_spaces, training)
_SOURCES = (".py", ".yaml", ".json", ".txt")
# Where the head keeps sweeps, unless its environment says so: not in the unpacked code, which Ray removes when the job
# has ended.
_HOME = 'export ORCHESTRATOR_HOME="${ORCHESTRATOR_HOME:-$HOME/orchestrator}"'
# Ray's client lets them stand before the address that it is given.
_OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_RESUME = re.compile(r"orchestrator resume ([A-Za-z0-9][A-Za-z0-9._-]*)")
_POLL_S = 1.0
_STOP_S = 60.0
_AGENT_S = 60.0
_NO_AGENT = "No available agent"


@dataclass(frozen=True)
class Job:
    """What is remembered of a job.

    Attributes:
        id: Ray's.
        address: Of the job server.
        words: The verb and what follows it.
        submitted: Unix time in s.
        num_bytes: Of the code that was sent.
    """

    id: str
    address: str
    words: tuple[str, ...]
    submitted: float
    num_bytes: int


@dataclass(frozen=True)
class Package:
    """What is sent to the cluster, in a folder of its own.

    Attributes:
        folder: Holds it.
        words: The verb's words, as they read on the other side.
        files: Of the folder, by name.
        num_bytes: Of all files.
    """

    folder: Path
    words: tuple[str, ...]
    files: tuple[str, ...]
    num_bytes: int


def split_address(words: Sequence[str]) -> tuple[list[str], str | None]:
    """Return a verb's words without ``--address``, and what it says."""
    rest, address, index = [], None, 0
    while index < len(words):
        word = words[index]
        if word == "--address" and index + 1 < len(words):
            address, index = words[index + 1], index + 1
        elif word.startswith("--address="):
            address = word.partition("=")[2]
        else:
            rest.append(word)
        index += 1
    return rest, address


def require_http(address: str) -> str:
    """Return the address of a job server without a slash at its end.

    Raises:
        UserError: It is none, or it holds a password.
    """
    if redact(address) != address:
        raise UserError(
            f"--address must hold no credentials, but got --address={redact(address)}. The token is read from its file."
        )
    if not address.startswith(("http://", "https://")):
        raise UserError(
            f"--address must be that of a job server, but got --address={address}. "
            f"For example: --address {DEFAULT_ADDRESS}, after `ray dashboard cluster.yaml`"
        )
    return address.rstrip("/")


@contextmanager
def packed(words: Sequence[str]) -> Iterator[Package]:
    """Gather the code and the YAML files that a verb's words name, while this is entered.

    Raises:
        UserError: A word or a file holds a password, which Ray would store and show.
    """
    for word in words:
        if redact(word) != word:
            raise UserError(
                f"a submitted command must hold no credentials, but got {redact(word)}: Ray stores and shows it. "
                "Put them into the environment of the nodes, ~/.orchestrator.env"
            )
    with tempfile.TemporaryDirectory(prefix="orchestrator-job-") as name:
        folder = Path(name)
        for package in _PACKAGES:
            _copy_package(Path(str(package.__file__)).parent, folder)
        # There is no history on the other side to ask for the commit.
        (folder / "orchestrator" / BUILD_FILE).write_text(json.dumps(read_build(), indent=2) + "\n", encoding="utf-8")
        sent = tuple(_send_file(word, folder) for word in words)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        num_bytes = sum(path.stat().st_size for path in files)
        if num_bytes > MAX_PACKAGE_BYTES:
            largest = max(files, key=lambda path: path.stat().st_size)
            raise UserError(
                f"what is submitted must be at most {MAX_PACKAGE_BYTES / 2**20:.0f} MiB, but got "
                f"{num_bytes / 2**20:.1f} MiB; the largest "
                f"file is {largest.relative_to(folder)}. Only code and settings are sent: keep data elsewhere."
            )
        yield Package(folder, sent, tuple(str(path.relative_to(folder)) for path in files), num_bytes)


def render_entrypoint(words: Sequence[str]) -> str:
    """Return the shell command that the head runs: the verb, by the code that was sent, with a home that outlives the
    job.
    """
    # exec: one process, so that a signal is given once.
    return f"{_HOME}; exec python -m orchestrator {shlex.join(words)}"


def submit(package: Package, address: str) -> Job:
    """Send the code, have the head run the verb, and remember the job in the home.

    Raises:
        OrchestratorError: The cluster does not answer or refuses.
    """
    deadline = time.monotonic() + _AGENT_S
    with _calling(address) as client:
        while True:
            try:
                job_id = client.submit_job(
                    entrypoint=render_entrypoint(package.words), runtime_env={"working_dir": str(package.folder)}
                )
                break
            except RuntimeError as error:
                # The server of a head that has just started answers before what it hands the job to.
                if _NO_AGENT not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)
    job = Job(job_id, address, package.words, time.time(), package.num_bytes)
    _jobs_dir().mkdir(parents=True, exist_ok=True)
    write_whole(_jobs_dir() / f"{job.id}.json", json.dumps(asdict(job), indent=2) + "\n")
    return job


def list_jobs() -> list[Job]:
    """Return the jobs that were submitted from this home, the latest first."""
    jobs = [job for path in _jobs_dir().glob("*.json") if (job := _read_job(path))]
    return sorted(jobs, key=lambda job: job.submitted, reverse=True)


def find_job(job_id: str | None) -> Job:
    """Return the job of an id, or the latest.

    Raises:
        UserError: None was submitted from here.
    """
    jobs = list_jobs()
    for job in jobs:
        if job_id in (None, job.id):
            return job
    if not jobs:
        raise UserError(
            f"job must exist, but none was submitted from {home()}. Submit one: orchestrator submit sweep digits"
        )
    raise UserError(
        f"job must be one that was submitted from {home()}, but got {job_id}. The latest is {jobs[0].id}: orchestrator "
        f"jobs"
    )


def default_address() -> str:
    """Return the job server that was submitted to last from this home, else the one of `ray dashboard`."""
    jobs = list_jobs()
    return jobs[0].address if jobs else DEFAULT_ADDRESS


def render_resume(job: Job) -> str:
    """Return the verb that goes on with what a stopped job was doing: with its own sweep, where its words or its log
    name it.
    """
    named = job.words[1:2] if job.words[0] in ("resume", "extend") else _RESUME.findall(read_log(job))[-1:]
    sweep = next((word for word in named if not word.startswith("-")), "")
    return f"submit --address {job.address} resume {sweep}".rstrip()


def read_states(jobs: Sequence[Job]) -> dict[str, str]:
    """Return job -> state; ``unreachable`` where no cluster answers, ``unknown`` where it has
    never heard of the job.
    """
    states: dict[str, str] = {}
    for address in dict.fromkeys(job.address for job in jobs):
        try:
            with _calling(address) as client:
                known = {details.submission_id: str(details.status.value) for details in client.list_jobs()}
        except OrchestratorError:
            known = None
        states |= {
            job.id: UNREACHABLE if known is None else known.get(job.id, UNKNOWN)
            for job in jobs
            if job.address == address
        }
    return states


def read_state(job: Job) -> tuple[str, int | None]:
    """Return the state of a job, and the exit code of its verb once there is one.

    Raises:
        OrchestratorError: The cluster does not answer or has never heard of it.
    """
    with _calling(job.address) as client:
        details = client.get_job_info(job.id)
    return str(details.status.value), details.driver_exit_code


def read_log(job: Job) -> str:
    """Return what a job has printed so far.

    Raises:
        OrchestratorError: As :func:`read_state`.
    """
    with _calling(job.address) as client:
        return str(client.get_job_logs(job.id))


def follow_log(job: Job, show: Callable[[str], None]) -> tuple[str, int | None]:
    """Pass on what a job prints, as it does, until it ends; return what :func:`read_state` does.

    Raises:
        OrchestratorError: As :func:`read_state`.
    """

    async def follow(client: JobSubmissionClient) -> None:
        async for lines in client.tail_job_logs(job.id):
            show(lines)

    while True:
        with _calling(job.address) as client:
            asyncio.run(follow(client))
        state, code = read_state(job)
        if state in ENDED:
            return state, code
        time.sleep(_POLL_S)  # what was followed has closed before the job's end is noted


def cancel(job: Job) -> str:
    """Have Ray stop a job, and wait until it has; return the state it ended in.

    Raises:
        OrchestratorError: As :func:`read_state`; or it does not end.
    """
    with _calling(job.address) as client:
        client.stop_job(job.id)
    deadline = time.monotonic() + _STOP_S
    while (state := read_state(job)[0]) not in ENDED:
        if time.monotonic() > deadline:
            raise OrchestratorError(
                f"job must end within {_STOP_S:.0f} s, but {job.id} is {state}. Look: orchestrator logs {job.id}"
            )
        time.sleep(_POLL_S)
    return state


@contextmanager
def _calling(address: str) -> Iterator[JobSubmissionClient]:
    """Turn whatever a client of the job server says into one message, with what to do."""
    quieten()
    use_token()
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    ray_compat.quieten_job_client()
    hidden = {name: os.environ.pop(name) for name in _OVERRIDES if name in os.environ}
    try:
        yield JobSubmissionClient(address)
    except AuthenticationError:
        raise OrchestratorError(
            f"the cluster at {address} must know this token, but it refused it. The token is the one in "
            f"~/.ray/auth_token, "
            "RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN: take that of the head."
        ) from None
    except (ConnectionError, requests.exceptions.RequestException):
        raise OrchestratorError(
            f"a job server must answer at {address}, but none does. "
            "Is the cluster up (orchestrator cluster status), and its port here (ray dashboard cluster.yaml)? Another "
            "one: --address URL"
        ) from None
    except RuntimeError as error:
        raise OrchestratorError(
            f"the job server at {address} must do as asked, but it said: {redact(str(error))}"
        ) from None
    finally:
        os.environ.update(hidden)


def _jobs_dir() -> Path:
    return home() / "jobs"


def _read_job(path: Path) -> Job | None:
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Job(**{**raw, "words": tuple(raw["words"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not a note of ours


def _copy_package(source: Path, folder: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.suffix in _SOURCES and path.is_file() and "__pycache__" not in path.parts:
            target = folder / source.name / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _send_file(word: str, folder: Path) -> str:
    """Copy the YAML file that a word names, if it does, and return the word as it reads on the other side."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    path = Path(value).expanduser()
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return word
    require_text_without_credentials(str(path), path.read_text(encoding="utf-8", errors="replace"), "Ray")
    target = folder / _GIVEN / path.name
    number = 1
    while target.exists():
        number += 1
        target = folder / _GIVEN / f"{number}-{path.name}"
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, target)
    return f"{option}{equals}{target.relative_to(folder)}"
