from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from orchestrator.cluster import job_client, jobs
from orchestrator.cluster.job_client import DEFAULT_ADDRESS
from orchestrator.cluster.job_package import Package, packed
from orchestrator.cluster.jobs import Job, split_address
from orchestrator.errors import OrchestratorError, UserError
from orchestrator.health import Answer
from tests.kit.program import run


@pytest.mark.parametrize(
    ("words", "rest", "address"),
    [
        (["sweep", "digits"], ["sweep", "digits"], None),
        (["sweep", "--address", "auto", "digits"], ["sweep", "digits"], "auto"),
        (["sweep", "digits", "--address=http://h:8265"], ["sweep", "digits"], "http://h:8265"),
        (["sweep", "--address"], ["sweep", "--address"], None),  # for the parser to complain of
    ],
)
def test_address_is_taken_out_of_a_verb_s_words(words: list[str], rest: list[str], address: str | None) -> None:
    assert split_address(words) == (rest, address)


def note(job: Job, home: Path) -> None:
    (home / "jobs").mkdir(exist_ok=True)
    (home / "jobs" / f"{job.id}.json").write_text(json.dumps(vars(job)))


def test_jobs_are_found_by_id_or_as_the_latest(home: Path) -> None:
    with pytest.raises(UserError, match="No job has been submitted from"):
        jobs.find_job(None)
    old, new = (Job(name, "http://h:8265", ("sweep", "digits"), at, 1) for name, at in (("a", 1.0), ("b", 2.0)))
    note(old, home)
    note(new, home)
    (home / "jobs" / "torn.json").write_text("{")
    assert jobs.list_jobs() == [new, old]
    assert jobs.find_job(None) == new
    assert jobs.find_job("a") == old
    with pytest.raises(UserError, match="The latest is b"):
        jobs.find_job("c")
    # At another address, which may know jobs of other homes.
    assert jobs.find_job("a", "http://g:8265/") == replace(old, address="http://g:8265")
    assert jobs.find_job(None, "http://g:8265").id == "b"
    other = jobs.find_job("c", "http://g:8265")
    assert (other.id, other.address, other.words) == ("c", "http://g:8265", ())
    with pytest.raises(UserError, match="must be the URL of a job server"):
        jobs.find_job("a", "g:8265")


def test_logs_cancel_and_jobs_take_the_address_that_their_errors_advise(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    note(Job("a", "http://127.0.0.1:8", ("sweep", "digits"), 1.0, 1), home)
    for words in (("logs",), ("cancel",), ("logs", "unknown"), ("logs", "--follow")):
        code, _, err = run(capsys, *words, "--address", "http://127.0.0.1:9")
        assert code == 1
        assert "No Ray cluster answers at http://127.0.0.1:9" in err
        assert "--address URL" in err
    assert "http://127.0.0.1:9" in run(capsys, "jobs", "--address", "http://127.0.0.1:9")[1]


class StartingCluster:
    """Replaces Ray's client: its server answers before there is an agent that can take a job."""

    refusals: ClassVar[int]
    said: ClassVar[str] = (
        "Request failed with status code 500: No available agent to submit job, please try again later.."
    )

    def __init__(self, address: str) -> None:
        assert address == "http://head:8265"

    def submit_job(self, *, entrypoint: str, runtime_env: dict[str, str]) -> str:
        assert set(runtime_env) == {"working_dir"}  # and no variables, which Ray would show
        type(self).refusals -= 1
        if self.refusals >= 0:
            raise RuntimeError(self.said)
        return "raysubmit_2"


def test_a_head_that_has_just_started_is_waited_for_and_the_job_remembered(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", StartingCluster)
    monkeypatch.setattr(job_client, "ask_server", lambda address, path, timeout_s: Answer(is_up=True))
    monkeypatch.setattr(StartingCluster, "refusals", 2, raising=False)
    monkeypatch.setattr(jobs, "_POLL_S", 0.0)
    with packed(["sweep", "digits"]) as package:
        job = jobs.submit(package, "http://head:8265")
        assert jobs.list_jobs() == [job]
        assert (job.id, job.words, job.num_bytes) == ("raysubmit_2", ("sweep", "digits"), package.num_bytes)
        monkeypatch.setattr(StartingCluster, "refusals", 1)
        monkeypatch.setattr(StartingCluster, "said", "no such package at s3://key:hunter2@bucket")
        with pytest.raises(OrchestratorError, match="no such package at") as refused:
            jobs.submit(package, "http://head:8265")
    assert "hunter2" not in str(refused.value)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Replace the cluster by a stub that takes notes; return the notes."""
    sent: list[tuple[str, ...]] = []

    def submit(package: Package, address: str) -> Job:
        sent.append((address, *package.words))
        return Job("raysubmit_1", address, package.words, 0.0, package.num_bytes)

    monkeypatch.setattr(jobs, "submit", submit)
    monkeypatch.setattr(jobs, "follow_log", lambda job, show: ("FAILED", 2))
    return sent


def test_an_http_address_means_submit(capsys: pytest.CaptureFixture[str], server: list[tuple[str, ...]]) -> None:
    expected = ("http://head:8265", "sweep", "digits", "--trials", "3", "--address", "auto")
    for words in (
        ("sweep", "digits", "--address", "http://head:8265", "--trials", "3"),
        ("submit", "--address", "http://head:8265", "sweep", "digits", "--trials", "3"),
        ("submit", "sweep", "digits", "--trials", "3", "--address=http://head:8265/"),
    ):
        code, out, err = run(capsys, *words)
        assert (code, "submitted raysubmit_1" in out) == (0, True), err
    assert server == [expected] * 3


def test_submit_goes_to_the_forwarded_port_and_keeps_verbs_without_address_as_they_are(
    capsys: pytest.CaptureFixture[str], server: list[tuple[str, ...]]
) -> None:
    assert run(capsys, "submit", "data", "list")[0] == 0
    assert run(capsys, "submit", "status", "--all")[0] == 0
    assert server == [(DEFAULT_ADDRESS, "data", "list"), (DEFAULT_ADDRESS, "status", "--all")]


@pytest.mark.parametrize("place", ["s3://bucket/checkpoints", "/shared/checkpoints", "~/checkpoints"])
def test_places_that_outlive_the_job_are_sent_as_they_are(
    place: str, capsys: pytest.CaptureFixture[str], server: list[tuple[str, ...]]
) -> None:
    assert run(capsys, "submit", "sweep", "digits", "--storage", place)[0] == 0
    assert server == [(DEFAULT_ADDRESS, "sweep", "digits", "--storage", place, "--address", "auto")]


def test_doctor_is_followed_and_exits_as_its_job_does(
    capsys: pytest.CaptureFixture[str], server: list[tuple[str, ...]]
) -> None:
    code, _, err = run(capsys, "doctor", "--address", "http://head:8265")
    assert (code, "raysubmit_1: FAILED" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sweep", "digts"), "Did you mean digits?"),
        (("sweep", "digits", "--trals", "3"), "--trals"),
        (("swep", "digits"), "swep"),
        (
            ("sweep", "digits", "--storage", "checkpoints"),
            "--storage of a submitted verb must be a URI or an absolute path",
        ),
        (("sweep", "digits", "--backup=./backup"), "--backup of a submitted verb must be"),
        (("browse",), "browse cannot be submitted"),
        (("cluster", "up"), "cluster cannot be submitted"),
    ],
)
def test_mistakes_are_found_before_anything_is_sent(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], server: list[tuple[str, ...]]
) -> None:
    code, _, err = run(capsys, "submit", *words)
    assert (code, message in err) == (2, True), err
    assert server == []


def test_dry_run_shows_what_would_be_sent(
    capsys: pytest.CaptureFixture[str], server: list[tuple[str, ...]], home: Path
) -> None:
    code, out, err = run(capsys, "submit", "--dry-run", "sweep", "digits")
    assert (code, server, list(home.iterdir())) == (0, [], [])
    assert "orchestrator/cli/app.py" in out
    assert "python -m orchestrator sweep digits --address auto" in out
    assert "MiB" in err


@pytest.mark.parametrize(
    "verb",
    [("sweep", "digits"), ("resume",), ("promote",), ("train", "digits"), ("extend", "--trials", "+1"), ("doctor",)],
)
def test_ray_s_client_is_refused_with_its_reason(verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        (*verb, "--address", "ray://head:10001"),
        ("submit", "--address=ray://head:10001", *verb),
        ("submit", *verb, "--address=ray://head:10001"),
    ):
        code, _, err = run(capsys, *words)
        assert (code, "Through Ray's client, the sweep would" in err) == (2, True), err


def test_cluster_verbs_show_ray_s_command_and_a_missing_file_is_a_mistake(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(Path(__file__).parents[4])
    code, out, err = run(capsys, "cluster", "up", "--dry-run")
    assert (code, out, "Fill in your own values where it is marked <--" in err) == (2, "ray up cluster.yaml\n", True)
    assert run(capsys, "cluster", "down", "--dry-run", "--yes")[:2] == (0, "ray down cluster.yaml --yes\n")
    code, out, _ = run(capsys, "cluster", "status", "--dry-run", "--config", "cluster/on-prem.yaml")
    assert (code, out) == (0, "ray exec cluster/on-prem.yaml 'bash ~/spml/cluster/node.sh ray status'\n")
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "cluster", "up")
    assert (code, "Run this in the checkout" in err) == (2, True)


def test_jobs_of_a_cluster_that_is_gone_are_listed_as_unreachable(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note(Job("a", "http://127.0.0.1:9", ("sweep", "digits"), 1.0, 1), home)
    code, out, _ = run(capsys, "jobs", "--json")
    assert (code, json.loads(out)[0]["state"]) == (0, "unreachable")
    code, _, err = run(capsys, "logs")
    assert (code, "No Ray cluster answers at http://127.0.0.1:9 (Connection refused). Start one" in err) == (1, True)


@pytest.mark.parametrize(
    ("words", "log", "resumed"),
    [
        (
            ("sweep", "digits"),
            "Interrupted.\nResume with: python -m orchestrator resume a-00000001\n",
            "resume a-00000001",
        ),
        (("sweep", "digits"), "killed before it could say so", "resume"),
        (("resume", "a-00000001", "--allow-changed"), "", "resume a-00000001"),
        (("resume", "--allow-changed"), "", "resume"),
    ],
)
def test_cancel_names_the_sweep_and_the_cluster_that_it_stopped(
    words: tuple[str, ...],
    log: str,
    resumed: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    note(Job("a", "http://h:8555", words, 1.0, 1), home)
    monkeypatch.setattr(jobs, "read_log", lambda job: log)
    monkeypatch.setattr(jobs, "cancel", lambda job: "STOPPED")
    code, out, _ = run(capsys, "cancel")
    assert code == 0
    assert f"orchestrator submit --address http://h:8555 {resumed} " in f"{' '.join(out.split())} "
    monkeypatch.setattr(jobs, "cancel", lambda job: "SUCCEEDED")
    assert "submit" not in run(capsys, "cancel")[1], "there is nothing to go on with"


def test_the_next_job_goes_where_the_last_one_went(home: Path) -> None:
    assert jobs.default_address() == DEFAULT_ADDRESS
    for name, address, at in (("a", "http://old:8265", 1.0), ("b", "http://new:8265", 2.0)):
        note(Job(name, address, ("doctor",), at, 1), home)
    assert jobs.default_address() == "http://new:8265"
