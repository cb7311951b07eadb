from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.cluster import job_package, jobs
from orchestrator.cluster.job_package import Package
from orchestrator.cluster.jobs import Job
from tests.kit.program import run

SERVER = "http://127.0.0.1:8265"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[str, ...]]]:
    """Put a job server without Ray in place of the real one; return the addresses and words that it was sent."""
    calls: list[tuple[str, tuple[str, ...]]] = []

    @contextmanager
    def packed(words: Sequence[str]) -> Iterator[Package]:
        yield Package(Path(), tuple(words), (), 0)

    def submit(package: Package, address: str) -> Job:
        calls.append((address, package.words))
        return Job("raysubmit_1", address, package.words, 0.0, 0)

    monkeypatch.setattr(job_package, "packed", packed)
    monkeypatch.setattr(jobs, "submit", submit)
    monkeypatch.setattr(jobs, "follow_log", lambda job, show: ("SUCCEEDED", 0))
    return calls


@pytest.mark.parametrize(
    "words",
    [
        ["sweep", "digits", "--trials", "3"],
        ["train", "digits", "--set", "loop.seed=3"],
        ["ablate", "digits", "--seeds", "2"],
        ["resume", "digits-0a1b2c3d", "--allow-changed"],
        ["extend", "digits", "--trials", "+2"],
        ["promote", "--seeds", "2"],
        ["doctor", "--space", "digits"],
    ],
    ids=lambda words: words[0],
)
def test_a_verb_with_the_address_of_a_job_server_is_submitted_as_it_was_typed(
    capsys: pytest.CaptureFixture[str], sent: list[tuple[str, tuple[str, ...]]], words: list[str]
) -> None:
    code, out, err = run(capsys, *words, "--address", f"{SERVER}/")
    assert (code, "submitted raysubmit_1" in out) == (0, True), err
    assert sent == [(SERVER, (*words, "--address", "auto"))]


@pytest.mark.parametrize("verb", ["sweep", "doctor"])
def test_rays_client_is_refused_with_the_address_that_works(
    capsys: pytest.CaptureFixture[str], sent: list[tuple[str, tuple[str, ...]]], verb: str
) -> None:
    words = ["sweep", "digits"] if verb == "sweep" else ["doctor"]
    for before in ([], ["submit"]):
        code, _, err = run(capsys, *before, *words, "--address", "ray://head:10001")
        assert (code, "--address http://HOST:8265" in err) == (2, True)
    assert sent == []


def test_a_mistake_is_found_before_anything_is_sent(
    capsys: pytest.CaptureFixture[str], sent: list[tuple[str, tuple[str, ...]]]
) -> None:
    code, _, err = run(capsys, "sweep", "no_such_space", "--address", SERVER)
    assert (code, "no_such_space" in err, sent) == (2, True, [])
