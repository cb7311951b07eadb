"""Pack a sweep into one file that can be opened on a machine with neither its home nor its MLflow store.

The file is a zip archive of text, pictures and Parquet; nothing in it is code, and nothing is unpickled::

    bundle.json                                   what the archive is
    plan.json  journal.jsonl  space.yaml          the sweep, as in its home
    runs.csv  metrics.csv  configurations.jsonl   for other programs: leaderboard, epochs, settings of every trial
    errors/t0007.txt                              tracebacks
    artifacts/t0007/...                           pictures and per-class tables
    scores/t0000-test.parquet                     scores per image of a promotion's final runs
    test-ledger.jsonl  test-ledger.head           every opening of a test set in the home that it comes from

A bundle can be opened without trusting its author: names that are not listed here or lead out of the folder, links, and
more than 2 GiB of content are refused.
"""

from __future__ import annotations

import codecs
import json
import re
import stat
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from orchestrator.csv_text import write_rows
from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import ERRORS_DIR, PLAN_FILE, SPOOL_DIR, sweep_dir, trial_name
from orchestrator.planning.sweep_plan import SweepPlan, trial_config
from orchestrator.redaction import describe_error, redact
from orchestrator.sweep_folder.chain import reseal
from orchestrator.sweep_folder.index import create_sweep
from orchestrator.sweep_folder.journal import JOURNAL_FILE, JournalError, follow, replay
from orchestrator.sweep_folder.ledger import HEAD_FILE, LEDGER_FILE, ledger_file
from orchestrator.sweep_folder.records import leaderboard
from orchestrator.sweep_folder.score_files import SCORES_DIR, list_scores
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.reading import read_sweep
from training.counts import counted
from training.files import open_whole

SUFFIX = ".bundle.zip"
MAX_BYTES = 2 << 30
_ABOUT_FILE, _SPACE_FILE = "bundle.json", "space.yaml"
_TABLES = ("runs.csv", "metrics.csv", "configurations.jsonl")
_SHOWN = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}"  # longer ones do not fit into a file system
_ARTIFACT = re.compile(rf"artifacts/t\d{{4,}}(/{_SHOWN}){{1,4}}\.(png|parquet|txt|csv|json|yaml)")
_SCORES = re.compile(rf"{SCORES_DIR}/t\d{{4,}}-(val|test)\.parquet")
_LEDGER = (LEDGER_FILE, HEAD_FILE)
_ERROR = re.compile(r"errors/t\d{4,}\.txt")
_FORMAT = 1
_MAX_FILES = 200_000
_CHUNK = 1 << 20
_MAX_TEXT = 16 << 20  # for the members that are read into memory: bundle.json and the plan


def write_bundle(sweep_id: str, out: Path, say: Callable[[str], None] = lambda text: None) -> int:
    """Write a sweep's bundle, without the passwords in URIs and in the environment.

    Args:
        sweep_id: The sweep; it may be running.
        out: The file to write.
        say: Called with a note on anything that is missing from the bundle.

    Returns:
        The number of artifacts in the bundle.

    Raises:
        UserError: The file cannot be written.
    """
    (plan, state), path = read_sweep(sweep_id), sweep_dir(sweep_id) / JOURNAL_FILE
    # A half-written bundle must never have the requested name: open_whole renames it at the end.
    try:
        with open_whole(out) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(_ABOUT_FILE, _describe(plan, state))
            archive.writestr(PLAN_FILE, _redact_json(plan.to_json(), indent=2))
            archive.writestr(JOURNAL_FILE, _redact_journal(path))
            archive.writestr(_SPACE_FILE, redact(plan.space_text))
            for name, text in zip(
                _TABLES, (_runs(plan, state), _metrics(state), _configurations(plan, state)), strict=True
            ):
                archive.writestr(name, text)
            for error in sorted(path for path in (sweep_dir(sweep_id) / ERRORS_DIR).glob("t*.txt") if path.is_file()):
                archive.writestr(f"errors/{error.name}", redact(error.read_text(encoding="utf-8", errors="replace")))
            for file in list_scores(sweep_id).values():
                archive.write(file, f"{SCORES_DIR}/{file.name}", zipfile.ZIP_STORED)
            # The head first: it may be a line behind the ledger, but not ahead of it.
            for file in (ledger_file().with_name(HEAD_FILE), ledger_file()):
                if file.is_file():
                    archive.write(file, file.name)
            num_artifacts = _add_artifacts(archive, plan, say)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror or error}.") from None
    return num_artifacts


def unpack_bundle(file: Path, *, max_bytes: int = MAX_BYTES) -> str:
    """Put a bundle's sweep into this home, with its artifacts where the tracker finds them; return its id.

    Raises:
        UserError: It is not a bundle, or is not safe to open.
    """
    if not file.is_file():
        raise UserError(f"No bundle at {file}. Write one: orchestrator bundle SWEEP")
    try:
        with zipfile.ZipFile(file) as archive:
            members = _check_members(archive, file)
            reader = _Reader(archive, file, max_bytes)
            plan = _read_plan(reader, file)
            # The names and the plan have been checked before the first file is written.
            folder, has_ledger = create_sweep(plan.id, plan.to_json()), ledger_file().exists()
            for info in members:
                target = _target(folder, info.filename)
                if target is not None and not (has_ledger and info.filename in _LEDGER):
                    reader.copy(info, target)
            _check_journal(folder / JOURNAL_FILE, file)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        FileExistsError,
        NotADirectoryError,
    ) as error:
        raise UserError(f"{file} is not a complete file from `orchestrator bundle`: {error}.") from None
    return plan.id


class _Reader:
    """Reads members and counts their bytes while unpacking, because the sizes stated in an archive may be false."""

    def __init__(self, archive: zipfile.ZipFile, file: Path, max_bytes: int) -> None:
        self._archive, self._file, self._left, self._max = archive, file, max_bytes, max_bytes

    def read(self, name: str) -> bytes:
        # The plan is needed before its folder exists, so it is read into memory.
        content = b""
        for chunk in self._chunks(self._archive.getinfo(name)):
            content += chunk
            if len(content) > _MAX_TEXT:
                raise UserError(
                    f"{self._file} is not opened: its {name} is larger than {_MAX_TEXT / 2**20:.0f} MiB, the most that "
                    f"a bundle may have."
                )
        return content

    def copy(self, info: zipfile.ZipInfo, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            for chunk in self._chunks(info):
                out.write(chunk)

    def _chunks(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        with self._archive.open(info) as member:
            while chunk := member.read(_CHUNK):
                self._left -= len(chunk)
                if self._left < 0:
                    raise UserError(f"{self._file} is not opened: it unpacks to more than {self._max / 2**30:g} GiB.")
                yield chunk


def _check_members(archive: zipfile.ZipFile, file: Path) -> list[zipfile.ZipInfo]:
    members = archive.infolist()
    names = Counter(info.filename for info in members)
    # The directory of the archive is checked before anything is unpacked.
    for info in members:
        fault = _find_fault(info, names[info.filename])
        if fault is not None:
            raise UserError(f"{file} is not opened: {info.filename!r} in it {fault}.")
    # Tables and artifacts may be missing, but without these three there is no sweep.
    missing = {_ABOUT_FILE, PLAN_FILE, JOURNAL_FILE} - set(names)
    if missing or len(members) > _MAX_FILES:
        what = f"no {', '.join(sorted(missing))}" if missing else counted(len(members), "file")
        raise UserError(f"{file} is not a file from `orchestrator bundle`: it has {what}.")
    return members


def _find_fault(info: zipfile.ZipInfo, times: int) -> str | None:
    if not _is_known(info.filename):
        return "was not written by `orchestrator bundle`"
    if times > 1:
        return "occurs more than once"
    return None if _is_plain(info) else "is not a plain file"


def _is_known(name: str) -> bool:
    plain = {_ABOUT_FILE, PLAN_FILE, JOURNAL_FILE, _SPACE_FILE, *_TABLES, *_LEDGER}
    return name in plain or any(pattern.fullmatch(name) for pattern in (_ARTIFACT, _ERROR, _SCORES))


def _is_plain(info: zipfile.ZipInfo) -> bool:
    mode = info.external_attr >> 16
    # Other compression methods unpack everything at once, so counting bytes would come too late.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return False
    # Bit 0 means encrypted. A plain file has the type 0 if zipfile's writestr or another system wrote it.
    return not info.is_dir() and not info.flag_bits & 1 and (stat.S_IFMT(mode) in (0, stat.S_IFREG))


def _target(folder: Path, name: str) -> Path | None:
    """Return where a member goes in a sweep's folder; None for the tables, which are for other programs."""
    if name == JOURNAL_FILE or _ERROR.fullmatch(name) or _SCORES.fullmatch(name):
        return folder / name
    # Next to the sweeps, as in the home that it comes from, but never in place of this home's own.
    if name in _LEDGER:
        return folder.parent / name
    return folder / SPOOL_DIR / name.removeprefix("artifacts/") if _ARTIFACT.fullmatch(name) else None


def _read_plan(reader: _Reader, file: Path) -> SweepPlan:
    try:
        about = json.loads(reader.read(_ABOUT_FILE))
        # Read first: a later format may lay out its plan differently.
        if about["format"] != _FORMAT:
            raise ValueError(f"its format is {about['format']}, but this version reads format {_FORMAT}")
        plan = SweepPlan.from_json(reader.read(PLAN_FILE).decode())  # checks the names that become paths
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is not a file from this version of `orchestrator bundle`: {error}") from None
    return plan


def _check_journal(journal: Path, file: Path) -> None:
    # Here, because what follows a journal would wait for its repair.
    try:
        state = replay(journal)
    except JournalError as error:
        raise UserError(f"{file} is not opened: {JOURNAL_FILE} in it is broken in {error.fault}.") from None
    if state.driver_state is None:
        raise UserError(f"{file} is not opened: {JOURNAL_FILE} in it has no events.")


def _add_artifacts(archive: zipfile.ZipFile, plan: SweepPlan, say: Callable[[str], None]) -> int:
    """Add the pictures and tables that MLflow has, and those that have not been written to it yet."""
    names: set[str] = set()
    # What is not yet in MLflow comes first; after a kill the same file may be in both places.
    for name, content in _find_artifacts(plan, say):
        if name not in names and _ARTIFACT.fullmatch(name):
            names.add(name)
            archive.writestr(name, content)
    return len(names)


def _find_artifacts(plan: SweepPlan, say: Callable[[str], None]) -> Iterator[tuple[str, bytes]]:
    spool = sweep_dir(plan.id) / SPOOL_DIR
    for file in sorted(file for file in spool.glob("t*/**/*") if file.is_file()):
        yield f"artifacts/{file.relative_to(spool).as_posix()}", file.read_bytes()
    from orchestrator.tracking.artifacts import read_artifacts

    try:
        for trial, name, content in read_artifacts(plan):
            yield f"artifacts/{trial_name(trial)}/{name}", content
    except OrchestratorError as error:
        say(f"note: the bundle lacks MLflow's pictures and tables: {error}")
    except Exception as error:  # whatever MLflow and its storage raise
        say(f"note: the bundle lacks some of MLflow's pictures and tables: {describe_error(error)}")


def _describe(plan: SweepPlan, state: SweepState) -> str:
    about = {
        "format": _FORMAT,
        "sweep": plan.id,
        "kind": plan.kind,
        "state": state.driver_state,
        "trials": len(state.records),
        "program": metadata.version("spml-orchestrator"),
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return json.dumps(about, indent=2) + "\n"


def _runs(plan: SweepPlan, state: SweepState) -> str:
    # The same rows as the leaderboard verb prints, so that no two tables disagree.
    rows = leaderboard(state.records.values(), plan.protocol)
    tests = {} if state.test is None else state.test.figures
    return _table(
        {**{key: row[key] for key in row if key != "params"}, **tests.get(str(row["trial"]), {}), **row["params"]}
        for row in rows
    )


def _metrics(state: SweepState) -> str:
    records = sorted(state.records.items())
    return _table(
        # The epoch as a whole number, in place of the metric of the same name, which is a float.
        {"trial": trial, **metrics, "epoch": epoch}
        for trial, record in records
        for epoch, metrics in sorted(record.metrics.items())
    )


def _configurations(plan: SweepPlan, state: SweepState) -> str:
    configs = ((trial, trial_config(plan, record.params).flatten()) for trial, record in sorted(state.records.items()))
    return "".join(f"{_redact_json(json.dumps({'trial': trial, **config}))}\n" for trial, config in configs)


def _table(rows: Iterable[dict[str, Any]]) -> str:
    # Rows have different columns: each trial has its own searched settings.
    return write_rows(
        {key: redact(value) if isinstance(value, str) else value for key, value in row.items()} for row in rows
    )


def _redact_journal(path: Path) -> str:
    # Without a last line cut short by a kill, and with checksums that fit the redacted lines.
    lines = path.read_bytes()[: follow(path)[1]].removeprefix(codecs.BOM_UTF8).splitlines()
    return "".join(f"{line.decode()}\n" for line in reseal(_redact_json(line.decode()).encode() for line in lines))


def _redact_json(text: str, indent: int | None = None) -> str:
    """Redact each value separately: in the whole text it would be unclear where a password ends."""
    return json.dumps(_redact_value(json.loads(text)), indent=indent, separators=None if indent else (",", ":"))


def _redact_value(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: _redact_value(inner) for key, inner in value.items()}
    return [_redact_value(inner) for inner in value] if isinstance(value, list) else value
