"""Test that a bundle shows a sweep elsewhere, gives no password away, and opens nothing hostile."""

from __future__ import annotations

import csv
import io
import json
import stat
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.home import sweep_dir
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.results.bundle import unpack_bundle, write_bundle
from orchestrator.sweep_folder.events import TestOpened
from orchestrator.sweep_folder.index import list_sweeps, load_plan
from orchestrator.sweep_folder.journal import JOURNAL_FILE, follow, replay
from orchestrator.sweep_folder.ledger import read_ledger
from orchestrator.sweep_folder.records import leaderboard
from orchestrator.sweep_folder.score_files import scores_file
from orchestrator.tracking import artifacts as run_artifacts
from tests.kit.openings import open_set
from tests.kit.program import run
from tests.kit.sweeps import make_sweep, trial_ended, whole_sweep, write_events

PICTURE = b"\x89PNG not really"


@pytest.fixture
def plan() -> SweepPlan:
    """A finished sweep with a picture that MLflow does not have yet, and a traceback."""
    plan = make_sweep(num_trials=4)
    write_events(plan, whole_sweep(plan))
    put(sweep_dir(plan.id) / "spool" / "t0000" / "cam" / "cat.png", PICTURE)
    put(sweep_dir(plan.id) / "errors" / "t0002.txt", b"Traceback: postgresql://me:hunter2@db/mlflow is away")
    return plan


@pytest.fixture(autouse=True)
def artifacts(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow has a table, and something that does not belong in a bundle."""

    def read(plan: SweepPlan) -> Iterator[tuple[int, str, bytes]]:
        yield 3, "per_class/val.parquet", b"PAR1"
        yield 3, "model/weights.safetensors", b"weights"

    monkeypatch.setattr(run_artifacts, "read_artifacts", read)


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def test_it_opens_without_the_home_that_it_comes_from(
    plan: SweepPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.bundle.zip"
    assert write_bundle(plan.id, file) == 2
    state = replay(sweep_dir(plan.id) / JOURNAL_FILE)
    events = follow(sweep_dir(plan.id) / JOURNAL_FILE)[0]
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "elsewhere"))
    assert unpack_bundle(file) == plan.id
    assert load_plan(plan.id) == plan
    assert follow(sweep_dir(plan.id) / JOURNAL_FILE)[0] == events
    again = replay(sweep_dir(plan.id) / JOURNAL_FILE)
    assert leaderboard(again.records.values(), plan.protocol) == leaderboard(state.records.values(), plan.protocol)
    spool = sweep_dir(plan.id) / "spool"
    assert sorted(path.relative_to(spool).as_posix() for path in spool.rglob("*") if path.is_file()) == [
        "t0000/cam/cat.png",
        "t0003/per_class/val.parquet",
    ]
    assert (spool / "t0000/cam/cat.png").read_bytes() == PICTURE
    with zipfile.ZipFile(file) as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("metrics.csv").decode())))
        assert len(rows) == sum(len(record.metrics) for record in state.records.values())
        best = next(csv.DictReader(io.StringIO(archive.read("runs.csv").decode())))
        assert (best["rank"], best["trial"], float(best["value"])) == ("1", "3", 80.0)
        configurations = [json.loads(line) for line in archive.read("configurations.jsonl").splitlines()]
        assert [config["trial"] for config in configurations] == [0, 1, 2, 3]
        assert configurations[1]["method.cam_threshold"] == 0.6


def test_runs_of_a_promotion_have_their_test_scores(tmp_path: Path) -> None:
    plan = make_sweep("p-00000004", kind="promote", num_trials=4)
    write_events(plan, [*whole_sweep(plan), TestOpened({"3": {"test/mAP": 61.5}}, {"3": 3})])
    file = tmp_path / "x.bundle.zip"
    write_bundle(plan.id, file)
    with zipfile.ZipFile(file) as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("runs.csv").decode())))
    assert [row["test/mAP"] for row in rows] == ["61.5", "", "", ""]


def test_scores_and_the_ledger_come_along_but_never_replace_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_sweep("p-00000004", kind="promote", num_trials=4)
    opening = open_set()
    opened = TestOpened({"3": {"test/mAP": 61.5}}, {"3": 3}, opening=1, line_hash=opening.hash)
    write_events(plan, [*whole_sweep(plan), opened])
    put(scores_file(plan.id, 3, "test"), b"scores")
    file = tmp_path / "x.bundle.zip"
    write_bundle(plan.id, file)
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "elsewhere"))
    unpack_bundle(file)
    assert read_ledger() == [opening]
    assert scores_file(plan.id, 3, "test").read_bytes() == b"scores"
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "with-its-own"))
    own = open_set(7)
    unpack_bundle(file)
    assert read_ledger() == [own]


def test_no_password_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "from-the-environment")
    plan = make_sweep(num_trials=4, storage="s3://key:hunter2@bucket/x", notes=("abfs://box/x?sas_token=hunter2",))
    events = whole_sweep(plan)
    message = 'said "https://me:hunter2@host/x", and from-the-environment'
    events[8] = trial_ended(2, 5.5, "FAILED", "NAN", message)
    write_events(plan, events)
    put(sweep_dir(plan.id) / "errors" / "t0002.txt", b"postgresql://me:hunter2@db/mlflow key from-the-environment")
    file = tmp_path / "x.bundle.zip"
    write_bundle(plan.id, file)
    with zipfile.ZipFile(file) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist() if not name.startswith("artifacts")}
    assert "***" in texts["plan.json"]
    assert "***" in texts["errors/t0002.txt"]
    for text in texts.values():
        assert "hunter2" not in text
        assert "from-the-environment" not in text


def test_a_store_that_is_away_costs_the_pictures_and_is_said(
    plan: SweepPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(plan: SweepPlan) -> Iterator[tuple[int, str, bytes]]:
        raise OrchestratorError("MLflow's store must answer")

    monkeypatch.setattr(run_artifacts, "read_artifacts", read)
    said: list[str] = []
    assert write_bundle(plan.id, tmp_path / "x.zip", said.append) == 1
    assert "lacks MLflow's pictures and tables" in said[0]


def test_a_file_that_cannot_be_written_is_a_mistake(plan: SweepPlan, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        write_bundle(plan.id, tmp_path / "nowhere" / "x.zip")


@pytest.fixture
def bundle(plan: SweepPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good bundle, and an empty home."""
    file = tmp_path / "x.bundle.zip"
    write_bundle(plan.id, file)
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "elsewhere"))
    return file


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../outside.txt",
        "artifacts/t0000/../../../outside.png",
        "artifacts/t0000/..",
        "artifacts/t0000//x.png",
        "artifacts/t0000/.hidden.png",
        "artifacts/../plan.json",
        "errors/../../x.txt",
        "C:\\outside.txt",
        "artifacts\\t0000\\x.png",
        "artifacts/t0000/x.pkl",
        "artifacts/t0000/x.html",
        "spool/t0000/x.png",
        "lease.json",
        "artifacts/t0000/",
        f"artifacts/t0000/{'x' * 300}.png",
    ],
)
def test_a_name_that_does_not_belong_there_is_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"hostile")
    check_refused(bundle, tmp_path, "was not written by `orchestrator bundle`")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR])
def test_a_link_or_anything_but_a_file_is_refused(bundle: Path, tmp_path: Path, kind: int) -> None:
    info = zipfile.ZipInfo("artifacts/t0000/x.png")
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr(info, b"/etc/passwd")
    check_refused(bundle, tmp_path, "not a plain file")


def test_a_name_that_is_there_twice_is_refused(bundle: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(bundle, "a") as archive:
            archive.writestr("journal.jsonl", b"{}")
    check_refused(bundle, tmp_path, "more than once")


def test_more_than_the_cap_is_refused_whatever_the_archive_says_of_its_sizes(bundle: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("artifacts/t0001/bomb.txt", bytes(50 << 20))
    assert bundle.stat().st_size < 1 << 20
    with pytest.raises(UserError, match=r"unpacks to more than 0.0\d+ GiB"):
        unpack_bundle(bundle, max_bytes=10 << 20)
    written = sum(path.stat().st_size for path in (tmp_path / "elsewhere").rglob("*") if path.is_file())
    assert written <= 10 << 20


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_unpacks_in_one_go_is_refused_before_it_is_unpacked(bundle: Path, tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(bundle, "a", method) as archive:
        archive.writestr("artifacts/t0001/bomb.txt", bytes(1 << 20))
    check_refused(bundle, tmp_path, "not a plain file")


def test_a_plan_that_would_fill_the_memory_is_refused(bundle: Path, tmp_path: Path) -> None:
    rewrite(bundle, {"plan.json": bytes(17 << 20)})
    check_refused(bundle, tmp_path, "plan.json is larger than 16 MiB")


def test_a_name_that_is_a_file_and_a_folder_is_refused(bundle: Path) -> None:
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr("artifacts/t0009/x.png", b"a file")
        archive.writestr("artifacts/t0009/x.png/y.png", b"below it")
    with pytest.raises(UserError, match="is not a (complete )?file from `orchestrator bundle`"):
        unpack_bundle(bundle)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bundle.json", b"[]"),
        ("bundle.json", b'{"format": 2}'),
        ("bundle.json", b"\xff"),
        ("plan.json", b"{}"),
        ("plan.json", b"not json"),
    ],
)
def test_what_cannot_be_read_is_refused(bundle: Path, tmp_path: Path, name: str, content: bytes) -> None:
    rewrite(bundle, {name: content})
    check_refused(bundle, tmp_path, "this version")


def test_a_plan_cannot_name_a_folder_elsewhere(bundle: Path, plan: SweepPlan, tmp_path: Path) -> None:
    rewrite(bundle, {"plan.json": plan.to_json().replace(plan.id, "../../outside").encode()})
    check_refused(bundle, tmp_path, r"id must be 1 to 100 letters.*'../../outside'")


def test_a_file_that_is_no_archive_or_cut_short_is_refused(bundle: Path, tmp_path: Path) -> None:
    content = bundle.read_bytes()
    bundle.write_bytes(content[: len(content) // 2])
    check_refused(bundle, tmp_path, "is not a (complete )?file from `orchestrator bundle`")
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr("plan.json", "{}")
    check_refused(bundle, tmp_path, "it has no bundle.json, journal.jsonl")


def test_a_broken_journal_is_refused_at_once_with_its_line(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(bundle) as archive:
        lines = archive.read("journal.jsonl").splitlines(keepends=True)
    unexpected = b'{"event":"trial_ended","time_ms":1,"trial":99,"state":"X"}\n'
    for number, broken in enumerate((b"not json\n", b"{}\n", lines[4], unexpected)):
        rewrite(bundle, {"journal.jsonl": b"".join([*lines[:2], broken, *lines[2:]])})
        monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / f"elsewhere{number}"))
        with pytest.raises(UserError, match=r"not opened: journal.jsonl in it is broken in line 3: "):
            unpack_bundle(bundle)
    for number, empty in enumerate((b"", b"\xff no line ends here")):
        rewrite(bundle, {"journal.jsonl": empty})
        monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / f"empty{number}"))
        with pytest.raises(UserError, match="journal.jsonl in it has no events"):
            unpack_bundle(bundle)


def test_the_verb_says_what_it_wrote_and_what_to_type_next(
    plan: SweepPlan, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "bundle", plan.id)
    assert code == 0
    # Under the home: of a submitted verb, the current folder goes with the job.
    file = home / f"{plan.id}.bundle.zip"
    assert out.startswith(f"{file}: 2 pictures and tables")
    assert f"browse {file}" in out
    assert file.is_file()
    code, _, err = run(capsys, "browse", "missing.bundle.zip")
    assert (code, "No bundle at" in err) == (2, True)


def rewrite(bundle: Path, changed: dict[str, bytes]) -> None:
    """Write the archive again with other content in some members."""
    with zipfile.ZipFile(bundle) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(bundle, "w") as archive:
        for name, content in (members | changed).items():
            archive.writestr(name, content)


def check_refused(bundle: Path, tmp_path: Path, why: str) -> None:
    """Check that it is the user's mistake, and that it left nothing behind."""
    with pytest.raises(UserError, match=why):
        unpack_bundle(bundle)
    assert list_sweeps() == []
    assert not [path for path in tmp_path.rglob("*") if "outside" in path.name or "hostile" in path.name]
