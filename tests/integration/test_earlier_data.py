"""Test that data of an earlier version opens: sweep folders, MLflow's store, a prepared dataset, a backup, a bundle."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import pytest

from orchestrator.promotion.final_runs import make_result
from orchestrator.sweep_folder.events import SweepExtended
from orchestrator.sweep_folder.index import load_plan
from orchestrator.sweep_folder.journal import Journal, replay
from orchestrator.tracking.tracker import sync
from tests.kit.program import run

pytestmark = pytest.mark.slow

FIXTURE = Path(__file__).parents[1] / "fixtures" / "earlier"
WRITTEN_AT = "/tmp/fixture/home"
SWEEP, PROMOTION, STOPPED = "old-4ac7ce58", "old-promote-35969cf6", "stopped-a5112872"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(FIXTURE / "earlier.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def earlier(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a copy of the earlier home, as if it had always been there; return the folder above it."""
    folder = tmp_path / "earlier"
    shutil.copytree(unpacked, folder)
    # MLflow stores absolute paths.
    with sqlite3.connect(folder / "home" / "mlflow.db") as database:
        moved = (f"file://{WRITTEN_AT}", (folder / "home").as_uri())
        database.execute("UPDATE experiments SET artifact_location = replace(artifact_location, ?, ?)", moved)
        database.execute("UPDATE runs SET artifact_uri = replace(artifact_uri, ?, ?)", moved)
        database.execute("UPDATE model_versions SET source = replace(source, ?, ?)", moved)
        database.execute("UPDATE model_versions SET storage_location = replace(storage_location, ?, ?)", moved)
    database.close()
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(folder / "home"))
    return folder


def read_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    code, out, err = run(capsys, *words, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_the_sweeps_are_listed(earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {row["sweep"]: (row["kind"], row["state"]) for row in read_json(capsys, "status", "--all")}
    assert found == {
        SWEEP: ("sweep", "FINISHED"),
        PROMOTION: ("promote", "FINISHED"),
        STOPPED: ("sweep", "INTERRUPTED"),
    }


def test_the_leaderboard_is_what_it_was(earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = json.loads((FIXTURE / "leaderboard.json").read_text(encoding="utf-8"))
    found = read_json(capsys, "leaderboard", SWEEP)
    # Later versions say more.
    assert set(found) - set(expected) == {"marks", "over", "spending"}
    assert found.items() >= expected.items()


def test_the_promoted_model_scores_what_it_scored(earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = json.loads((FIXTURE / "evaluate.json").read_text(encoding="utf-8"))
    # The scenes are made first, which is said on stderr.
    code, out, err = run(capsys, "evaluate", "digits", "--split", "val", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["metrics"] == pytest.approx(expected["metrics"], abs=1e-3)


def test_mlflow_gets_scores_and_descriptions_which_earlier_versions_did_not_write_and_nothing_twice(
    earlier: Path,
) -> None:
    count = "SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM params), (SELECT count(*) FROM metrics {})"
    added = "key LIKE 'chosen/%' OR key LIKE 'best/%' OR key IN ('cpu_hours', 'trials_ended')"
    with sqlite3.connect(earlier / "home" / "mlflow.db") as database:
        before = database.execute(count.format("")).fetchone()
        totals = []
        for _ in range(2):
            assert sync(SWEEP)
            assert sync(PROMOTION)
            assert database.execute(count.format(f"WHERE NOT ({added})")).fetchone() == before
            totals.append(database.execute(count.format("")).fetchone())
        assert totals[0] == totals[1] > before
        noted = "SELECT count(*) FROM runs JOIN tags USING (run_uuid) WHERE key = 'mlflow.note.content'"
        assert database.execute(noted).fetchone()[0] >= 2
    database.close()


def test_a_champion_keeps_its_name(earlier: Path) -> None:
    """What identifies a registered model does not change when settings are added."""
    with sqlite3.connect(earlier / "home" / "mlflow.db") as database:
        query = "SELECT value FROM model_version_tags WHERE key = 'orchestrator.identity'"
        (registered,) = database.execute(query).fetchone()
    database.close()
    journal = earlier / "home" / "sweeps" / PROMOTION / "journal.jsonl"
    found = make_result(load_plan(PROMOTION), replay(journal), journal).identity
    assert json.loads(registered).items() <= found.items()


def test_the_prepared_dataset_is_ready(earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = read_json(capsys, "data", "list")
    assert (row["name"], row["state"], row["num_classes"]) == ("pets", "ready", 3)
    assert row["data_hash"] == "3f5a16b94af627a51d8b91034c4fa84f7d773efdc43a6f2c45d2035ad23d43b6"
    assert run(capsys, "data", "stats", "pets")[0] == 0


def test_a_plan_can_be_trained_again(earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned = read_json(capsys, "train", "--from", f"{SWEEP}/2", "--dry-run")
    params = json.loads((FIXTURE / "leaderboard.json").read_text(encoding="utf-8"))["rows"][0]["params"]
    assert params.items() <= planned["base"].items()


def test_a_champion_is_registered_again_after_the_loss_of_the_database(
    earlier: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(empty_store, earlier / "home" / "mlflow.db")
    code, _, err = run(capsys, "evaluate", "digits")
    assert (code, f"Register it again from its weights: orchestrator resume {PROMOTION}" in err) == (2, True), err
    code, out, err = run(capsys, "resume", PROMOTION)
    assert (code, "now digits.resnet_cam" in out) == (0, True), out + err
    test_the_promoted_model_scores_what_it_scored(earlier, capsys)


def test_a_champion_without_weights_is_said_to_be_gone(
    earlier: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(empty_store, earlier / "home" / "mlflow.db")
    shutil.rmtree(earlier / "home" / "sweeps" / PROMOTION / "checkpoints")
    code, out, err = run(capsys, "resume", PROMOTION)
    assert (code, out) == (1, "")
    assert "MLflow has lost it, and it cannot be registered again. The best weights of final run 0 are missing" in err
    assert f"then promote again: `orchestrator promote {SWEEP} --seeds" in err


def test_the_journal_of_an_earlier_version_is_protected_once_this_one_has_written(
    earlier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = earlier / "home" / "sweeps" / STOPPED / "journal.jsonl"
    before = path.read_bytes()
    with Journal.open(path) as journal:
        journal.append(SweepExtended(7))
    assert path.read_bytes().startswith(before)
    assert read_json(capsys, "status", STOPPED)["num_trials"] == 7
    path.write_bytes(path.read_bytes().replace(b'"num_trials":6', b'"num_trials":5', 1))
    code, _, err = run(capsys, "status", STOPPED)
    assert (code, f"{path}:" in err, "does not match its checksum" in err) == (1, True, True)


@pytest.mark.ray
@pytest.mark.long  # half a minute of Ray
def test_an_interrupted_sweep_goes_on_from_its_backup(
    earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commit and the machine differ: the refusal says so, and --allow-changed continues to the end."""
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "new"))
    backup = str(earlier / "backup")
    code, _, err = run(capsys, "resume", "--from", backup)
    assert (code, "--allow-changed" in err) == (2, True), err
    # By default it goes on in the backup that its journal names, a place of the machine that wrote the fixture.
    code, _, err = run(capsys, "resume", STOPPED, "--allow-changed", "--backup", str(tmp_path / "backup"), "--json")
    assert code == 0, err
    summary = read_json(capsys, "status", STOPPED)
    assert (summary["state"], sum(summary["trials"].values())) == ("FINISHED", 6)


def test_a_bundle_opens(earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.results.bundle import unpack_bundle

    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "new"))
    assert unpack_bundle(earlier / "old.bundle.zip") == SWEEP
