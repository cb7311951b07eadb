"""Gathers what a job sends to the cluster: the code, and the YAML files that the command names."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orchestrator
import search_spaces
import training
from orchestrator.errors import UserError
from orchestrator.provenance import BUILD_FILE, read_build
from orchestrator.redaction import redact
from orchestrator.uris import require_text_without_credentials
from search_spaces.reader import YAML_SUFFIXES

MAX_PACKAGE_BYTES = 10 * 2**20
_GIVEN = "given"
"""The folder for the YAML files that the command names."""
_PACKAGES = (orchestrator, search_spaces, training)
_SOURCES = (".py", ".yaml", ".json", ".txt")
# Sweeps go to a home outside the unpacked code, which Ray deletes when the job ends.
_HOME = 'export ORCHESTRATOR_HOME="${ORCHESTRATOR_HOME:-$HOME/orchestrator}"'


@dataclass(frozen=True)
class Package:
    """What is sent to the cluster.

    Attributes:
        folder: Contains it, and nothing else.
        words: The verb and its arguments, with paths as they are on the cluster.
        files: The names of all files in the folder.
        num_bytes: Their total size.
    """

    folder: Path
    words: tuple[str, ...]
    files: tuple[str, ...]
    num_bytes: int


@contextmanager
def packed(words: Sequence[str]) -> Iterator[Package]:
    """Gather the code and the YAML files that a command names, in a folder that lasts for the ``with`` block.

    Args:
        words: The verb and its arguments.

    Raises:
        UserError: A word or a file holds a password, which Ray would store and show; or the package is too large.
    """
    for word in words:
        if redact(word) != word:
            raise UserError(
                f"A submitted command must hold no credentials, but got {redact(word)}: Ray stores and shows it. "
                "Put them into the nodes' environment: ~/.orchestrator.env"
            )
    with tempfile.TemporaryDirectory(prefix="orchestrator-job-") as name:
        folder = Path(name)
        for package in _PACKAGES:
            _copy_package(Path(str(package.__file__)).parent, folder)
        # The cluster has no git history, so the commit is sent along.
        (folder / "orchestrator" / BUILD_FILE).write_text(json.dumps(read_build(), indent=2) + "\n", encoding="utf-8")
        sent = tuple(_send_file(word, folder) for word in words)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        num_bytes = sum(path.stat().st_size for path in files)
        _require_small(folder, files, num_bytes)
        yield Package(folder, sent, tuple(str(path.relative_to(folder)) for path in files), num_bytes)


def render_entrypoint(words: Sequence[str]) -> str:
    """Return the shell command that the head runs, with a home that outlives the job."""
    # exec leaves a single process, so that a signal to the job reaches the verb once.
    return f"{_HOME}; exec python -m orchestrator {shlex.join(words)}"


def _require_small(folder: Path, files: Sequence[Path], num_bytes: int) -> None:
    if num_bytes <= MAX_PACKAGE_BYTES:
        return
    largest = max(files, key=lambda path: path.stat().st_size)
    raise UserError(
        f"A job can send at most {MAX_PACKAGE_BYTES / 2**20:.0f} MiB of code and settings, but this one has "
        f"{num_bytes / 2**20:.1f} MiB; the largest file is {largest.relative_to(folder)}. Keep data on shared storage."
    )


def _copy_package(source: Path, folder: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.suffix in _SOURCES and path.is_file() and "__pycache__" not in path.parts:
            target = folder / source.name / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _send_file(word: str, folder: Path) -> str:
    """Copy the YAML file that a word names, if any, and return the word with its path on the cluster."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    path = Path(value).expanduser()
    if path.suffix not in YAML_SUFFIXES or not path.is_file():
        return word
    require_text_without_credentials(str(path), path.read_text(encoding="utf-8", errors="replace"), "Ray")
    target = folder / _GIVEN / path.name
    # Two folders may each have a file with this name.
    number = 1
    while target.exists():
        number += 1
        target = folder / _GIVEN / f"{number}-{path.name}"
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, target)
    return f"{option}{equals}{target.relative_to(folder)}"
