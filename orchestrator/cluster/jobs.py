"""Submits verbs as Ray jobs, records them in the home, and follows, reads and stops them."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.job_client import DEFAULT_ADDRESS, calling, require_http
from orchestrator.cluster.job_package import Package, render_entrypoint
from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import home
from orchestrator.sweep_folder.index import KIND_NOUNS, find_entry
from training.files import write_whole

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
UNREACHABLE, UNKNOWN = "unreachable", "unknown"
_RESUME = re.compile(r"orchestrator resume ([A-Za-z0-9][A-Za-z0-9._-]*)")
_POLL_S = 1.0
_STOP_S = 60.0
_AGENT_S = 60.0
_NO_AGENT = "No available agent"


@dataclass(frozen=True)
class Job:
    """A submitted verb, as recorded in the home.

    Attributes:
        id: Ray's id.
        address: The job server's.
        words: The verb and its arguments.
        submitted: Unix time in s.
        num_bytes: The size of what was sent.
    """

    id: str
    address: str
    words: tuple[str, ...]
    submitted: float
    num_bytes: int


def split_address(words: Sequence[str]) -> tuple[list[str], str | None]:
    """Return a verb's words without ``--address``, and its value."""
    # By hand, because the words belong to another verb, whose parser gets them later.
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


def submit(package: Package, address: str) -> Job:
    """Send a package, have the head run its verb, and record the job in the home.

    Raises:
        OrchestratorError: The cluster does not answer, or refuses.
    """
    deadline = time.monotonic() + _AGENT_S
    with calling(address) as client:
        while True:
            try:
                job_id = client.submit_job(
                    entrypoint=render_entrypoint(package.words), runtime_env={"working_dir": str(package.folder)}
                )
                break
            except RuntimeError as error:
                # On a head that has just started, the job server answers before the agent that runs jobs is ready.
                if _NO_AGENT not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)
    job = Job(job_id, address, package.words, time.time(), package.num_bytes)
    # Only once Ray has it: a record of a job that does not exist would be the latest one for every other verb.
    _jobs_dir().mkdir(parents=True, exist_ok=True)
    write_whole(_jobs_dir() / f"{job.id}.json", json.dumps(asdict(job), indent=2) + "\n")
    return job


def list_jobs() -> list[Job]:
    """Return the jobs that were submitted from this home, the latest first."""
    jobs = [job for path in _jobs_dir().glob("*.json") if (job := _read_job(path))]
    return sorted(jobs, key=lambda job: job.submitted, reverse=True)


def find_job(job_id: str | None, address: str | None = None) -> Job:
    """Return the job with an id, or the latest if it is None.

    Args:
        job_id: Its id.
        address: Where its job server is now; None is where it was submitted. With an address, the job may have been
            submitted from another home.

    Raises:
        UserError: There is no such job in this home, or the address is not that of a job server.
    """
    server = None if address is None else require_http(address)
    jobs = list_jobs()
    for job in jobs:
        if job_id in (None, job.id):
            return job if server is None else replace(job, address=server)
    if job_id is not None and server is not None:
        return Job(job_id, server, (), 0.0, 0)
    if job_id is not None and (entry := find_entry(job_id)) is not None:
        raise UserError(f"{job_id} is {KIND_NOUNS[entry.kind]}, not a job. See it: orchestrator status {entry.id}")
    if not jobs:
        raise UserError(f"No job has been submitted from {home()} yet. Submit one: orchestrator submit sweep digits")
    raise UserError(
        f"No job {job_id} was submitted from {home()}. The latest is {jobs[0].id}; list them all: orchestrator jobs"
    )


def default_address() -> str:
    """Return the job server that this home used last, or else the one that `ray dashboard` makes reachable."""
    jobs = list_jobs()
    return jobs[0].address if jobs else DEFAULT_ADDRESS


def render_resume(job: Job) -> str:
    """Return the command that resumes what a stopped job was doing; it names the sweep if the job's words or log do."""
    # The id of a new sweep is not among the words. Its log prints it, in the command that resumes it.
    named = job.words[1:2] if job.words[:1] in (("resume",), ("extend",)) else _RESUME.findall(read_log(job))[-1:]
    sweep = next((word for word in named if not word.startswith("-")), "")
    return f"submit --address {job.address} resume {sweep}".rstrip()


def read_states(jobs: Sequence[Job]) -> dict[str, str]:
    """Return the state of each job by id.

    It is ``unreachable`` if the job's cluster does not answer, and ``unknown`` if that cluster does not know the job.
    """
    states: dict[str, str] = {}
    for address in dict.fromkeys(job.address for job in jobs):
        try:
            with calling(address) as client:
                # Drivers that nobody submitted are listed as well, with None as their submission_id.
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
    """Return the state of a job, and the exit code of its verb once it has ended.

    Raises:
        OrchestratorError: The cluster does not answer, or does not know the job.
    """
    with calling(job.address) as client:
        details = client.get_job_info(job.id)
    return str(details.status.value), details.driver_exit_code


def read_log(job: Job) -> str:
    """Return what a job has printed so far.

    Raises:
        OrchestratorError: As :func:`read_state`.
    """
    with calling(job.address) as client:
        return str(client.get_job_logs(job.id))


def follow_log(job: Job, show: Callable[[str], None]) -> tuple[str, int | None]:
    """Show what a job prints, until it ends; return its state and exit code as :func:`read_state` does.

    Raises:
        OrchestratorError: As :func:`read_state`.
    """

    async def follow(client: JobSubmissionClient) -> None:
        async for lines in client.tail_job_logs(job.id):
            show(lines)

    while True:
        with calling(job.address) as client:
            asyncio.run(follow(client))
        state, code = read_state(job)
        if state in ENDED:
            return state, code
        time.sleep(_POLL_S)  # the log closes a moment before Ray notes that the job has ended


def cancel(job: Job) -> str:
    """Stop a job, wait until it has ended, and return its state.

    Raises:
        OrchestratorError: As :func:`read_state`; or the job does not end.
    """
    with calling(job.address) as client:
        client.stop_job(job.id)
    deadline = time.monotonic() + _STOP_S
    while (state := read_state(job)[0]) not in ENDED:
        if time.monotonic() > deadline:
            raise OrchestratorError(
                f"Job {job.id} is still {state} {_STOP_S:.0f} s after being asked to stop. "
                f"See what it does: orchestrator logs {job.id}"
            )
        time.sleep(_POLL_S)
    return state


def _jobs_dir() -> Path:
    return home() / "jobs"


def _read_job(path: Path) -> Job | None:
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Job(**{**raw, "words": tuple(raw["words"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not one of our files, or cut short
