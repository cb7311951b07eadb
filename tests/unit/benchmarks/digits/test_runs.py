"""Test the benchmark on digit scenes: each row is a block of a space, and settings and code identify a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.digits import runs as digits
from benchmarks.digits.rows import ROWS, Row, Run
from benchmarks.digits.runs import read_results, run_all, run_one
from benchmarks.digits.table import QUESTIONS, TITLES, count_runs
from orchestrator.sweep_folder.ledger import read_ledger
from search_spaces.schema import load_space
from training import preparation

TINY = {"data.num_train": 40, "data.num_val": 20, "data.num_test": 20, "loop.epochs": 2}
NO_FIGURES = ("rejection_precision", "rejection_recall", "rejection_lift", "pointing_hit_rate", "centre_hit_rate")


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_a_run_of_its_method(row: str) -> None:
    config = Run(row, 101, 3).config
    block = load_space(ROWS[row].space).methods[ROWS[row].label]
    assert config.method.name == (block.name or ROWS[row].label)
    assert (config.data.scene_seed, config.data.draw_seed, config.loop.seed) == (101, 3, 3)


def test_every_block_of_the_space_has_a_row() -> None:
    later = {"gpr", "mime", "iu", "iun", "bce_ls"}  # in the suite digits-full, whose table takes the place of this one
    assert {row.label for row in ROWS.values() if row.space == "digits"} | later == set(load_space("digits").methods)


def test_ablations_and_query2label_are_their_groups() -> None:
    ablations = {row.label for row in ROWS.values() if row.label.startswith("ignore_") and row.group != "query2label"}
    assert {row.label for row in ROWS.values() if row.group == "ablations"} == ablations - {
        "ignore_oracle",
        "ignore_without_rejection",
    }
    assert {Run(name, 1, 0).config.model.name for name in ROWS if name.startswith("Query2Label")} == {"query2label"}


def test_questions_and_titles_are_of_rows_that_there_are() -> None:
    assert {row for pair in QUESTIONS.values() for row in pair} <= set(ROWS)
    assert {row.group for row in ROWS.values()} == set(TITLES)


def test_settings_tell_runs_apart() -> None:
    others = [Run("IGNORE", scene_seed, seed) for scene_seed, seed in ((102, 0), (101, 1), (102, 1))]
    runs = [*(Run(row, 101, 0) for row in ROWS), *others]
    assert len({run.settings_hash for run in runs}) == len(runs)


def test_a_setting_that_came_later_does_not_invalidate_earlier_results(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Run("assumed negative", 101, 0).settings_hash == "5af3bb8a3702", "as benchmarks/results/digits.jsonl has it"
    row = ROWS["assumed negative"]
    monkeypatch.setitem(ROWS, "assumed negative", Row(row.group, row.label, {"model.frozen_stem": True}))
    assert Run("assumed negative", 101, 0).settings_hash != "5af3bb8a3702"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(preparation, "PRETEXT_EPOCHS", 1)
    for name in ("assumed negative", "IGNORE"):
        row = ROWS[name]
        monkeypatch.setitem(ROWS, name, Row(row.group, row.label, {**row.settings, **TINY}))


def test_a_run_gives_every_column(tiny: None, tmp_path: Path) -> None:
    result = run_one(Run("IGNORE", 5, 1), [0, 1], tmp_path)
    assert (result["row"], result["scene_seed"], result["seed"], result["epochs"]) == ("IGNORE", 5, 1, 2)
    assert 0 < result["test_mAP"] <= 100
    assert 0 <= result["pointing_hit_rate"] <= 100
    assert result["rejection_precision"] is None  # the warm-up is longer than these two epochs
    assert result["cpu_s"] > 0
    json.dumps(result)
    [opening] = read_ledger(tmp_path)
    assert (opening.seeds, opening.draws, opening.method, result["opening"]) == ((0, 1), (0, 1), "ignore", 1)


def test_what_the_file_holds_is_not_run_again(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Run] = []
    opened: list[tuple[int, ...]] = []

    def fake(run: Run, seeds: list[int], folder: Path) -> dict[str, Any]:
        started.append(run)
        assert folder == tmp_path
        opened.append(tuple(seeds))
        if run.scene_seed == 7:
            raise ValueError("no such scenes")
        return {**vars(run), "test_mAP": 50.0, "cpu_s": 1.0, "settings": run.settings_hash, "code": digits.code_hash()}

    monkeypatch.setattr(digits, "run_one", fake)
    monkeypatch.setattr(digits, "prepare", lambda config: None)
    monkeypatch.setattr(digits, "ProcessPoolExecutor", _InThisProcess)
    monkeypatch.setattr(digits, "code_hash", lambda: "abc")
    path = tmp_path / "digits.jsonl"
    first, second, failing = Run("IGNORE", 5, 0), Run("IGNORE", 5, 1), Run("assumed negative", 7, 0)
    assert run_all([first], path, 1) == 0
    assert run_all([first, failing, second], path, 1) == 1
    assert started == [first, failing, second]
    assert opened == [(0,), (0,), (0, 1)], "with the seeds whose results are known"
    assert [result["seed"] for result in read_results(path)] == [0, 1]
    monkeypatch.setattr(digits, "code_hash", lambda: "other-dirty")
    run_all([first], path, 1)
    run_all([first], path, 1)
    assert started[3:] == [first, first]


def test_the_report_is_of_this_code_and_these_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def line(seed: int, score: float, **others: str) -> str:
        run = Run("EM, alpha 0.1", 101, seed)
        figures = {
            "test_mAP": score,
            "cpu_s": 1.0,
            "epochs": 20,
            "settings": run.settings_hash,
            "code": digits.code_hash(),
        }
        return json.dumps(dict.fromkeys(NO_FIGURES) | vars(run) | figures | others)

    lines = [line(0, 10.0), line(0, 60.0), line(1, 20.0, code="other"), line(2, 30.0, settings="other"), line(3, 70.0)]
    (tmp_path / "digits.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(digits, "run_all", lambda runs, path, processes: 0)
    monkeypatch.setattr(sys, "argv", ["digits", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        digits.main()
    assert "| EM, alpha 0.1 | 65.0 +- 7.1 |" in (tmp_path / "digits.md").read_text()


def test_options_choose_rows_and_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Run] = []

    def fake(runs: list[Run], path: Path, processes: int) -> int:
        asked.extend(runs)
        return 0

    monkeypatch.setattr(digits, "run_all", fake)
    monkeypatch.setattr(
        sys,
        "argv",
        ["digits", "--rows", "EM, alpha 0.1", "--seeds", "4", "--scene-seeds", "9", "8", "--out", str(tmp_path)],
    )
    with pytest.raises(SystemExit) as exit_:
        digits.main()
    assert exit_.value.code == 0
    assert asked == [Run("EM, alpha 0.1", 9, 4), Run("EM, alpha 0.1", 8, 4)]
    assert (tmp_path / "digits.md").read_text().startswith("# Methods on digit scenes")


def figures(row: str, seed: int, code: str, *, score: float = 50.0, cpu_s: float = 1.0) -> dict[str, Any]:
    """Return a result with the present settings."""
    run = Run(row, 101, seed)
    known = {"test_mAP": score, "val_mAP": score + 1, "best_epoch": 19, "cpu_s": cpu_s, "epochs": 20}
    return dict.fromkeys(NO_FIGURES) | vars(run) | known | {"settings": run.settings_hash, "code": code}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of results at tree ``new``, with five runs measured at tree ``old``."""
    monkeypatch.setattr(digits, "prepare", lambda config: None)
    monkeypatch.setattr(digits, "ProcessPoolExecutor", _InThisProcess)
    monkeypatch.setattr(digits, "code_hash", lambda: "new")
    lines = [figures("WAN", seed, "old", cpu_s=3.0 - seed) for seed in range(3)] + [
        figures("AN-LS", seed, "old") for seed in range(2)
    ]
    write(tmp_path, [*lines, figures("EPR", 0, "older", cpu_s=0.1), figures("EPR", 1, "x-dirty", cpu_s=0.1)])
    return tmp_path


def write(folder: Path, results: list[dict[str, Any]]) -> None:
    (folder / "digits.jsonl").write_text("".join(json.dumps(result) + "\n" for result in results))


def run_main(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["digits", "--out", str(folder), "--seeds", "0", "1", "2", *options])
    with pytest.raises(SystemExit) as exit_:
        digits.main()
    return exit_.value.code


def test_a_check_repeats_the_cheapest_run_of_each_row_of_one_tree(folder: Path) -> None:
    wanted = [Run(row, 101, seed) for row in ("WAN", "AN-LS", "EPR") for seed in range(3)]
    results = read_results(folder / "digits.jsonl")
    chosen = [(result["row"], result["seed"]) for result in digits.choose_repeats(results, wanted, 5)]
    assert chosen == [("WAN", 2), ("AN-LS", 0)]
    assert len(digits.choose_repeats(results, wanted, 1)) == 1
    assert [result["seed"] for result in digits.choose_repeats(results, [Run("WAN", 101, 0)], 5)] == [0]
    assert digits.choose_repeats([{**result, "settings": "other"} for result in results], wanted, 5) == []


def test_an_equal_check_makes_an_earlier_tree_count(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(digits, "run_one", lambda run, *args: figures(run.row, run.seed, "new"))
    assert run_main(monkeypatch, folder, "--check", "2") == 0
    said = capsys.readouterr().out
    assert said.startswith(
        ("WAN, scenes 101, seed 2: equal\nAN-LS, scenes 101, seed 0: equal\n", "AN-LS, scenes 101, seed 0: equal\nWAN,")
    )
    checked = json.loads((folder / digits.CHECKED).read_text())
    assert (checked["code"], checked["of"]) == ("new", "old")
    assert [(row["row"], row["seed"], row["test_mAP"], row["best_epoch"]) for row in checked["rows"]] == [
        ("WAN", 2, 50.0, 19),
        ("AN-LS", 0, 50.0, 19),
    ]
    report = (folder / "digits.md").read_text()
    assert count_runs(report) == 5
    assert "2 of the runs at old were repeated at new on" in report
    monkeypatch.setattr(digits, "code_hash", lambda: "newer")
    assert digits.read_checked(folder) is None


def test_a_check_that_differs_leaves_nothing_that_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / digits.CHECKED).write_text(json.dumps({"code": "new", "of": "old", "rows": [], "date": "2026-01-01"}))
    monkeypatch.setattr(
        digits,
        "run_one",
        lambda run, *args: figures(run.row, run.seed, "new", score=50.0 + 1e-13 * (run.row == "WAN")),
    )
    assert run_main(monkeypatch, folder, "--check", "2") == 1
    said = capsys.readouterr()
    assert "WAN, scenes 101, seed 2: test_mAP was 50.0, is 50.0000000000001" in said.out
    assert "AN-LS, scenes 101, seed 0: equal" in said.out
    assert "1 of 2 runs are equal" in said.err
    assert not (folder / digits.CHECKED).exists()
    assert not (folder / "digits.md").exists()


def test_a_run_that_fails_is_neither_equal_nor_different(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / digits.CHECKED).write_text(json.dumps({"code": "new", "of": "old", "rows": [], "date": "2026-01-01"}))

    def fail(*args: Any) -> dict[str, Any]:
        raise ValueError("no memory")

    monkeypatch.setattr(digits, "run_one", fail)
    assert run_main(monkeypatch, folder, "--check", "2") == 1
    assert json.loads((folder / digits.CHECKED).read_text())["date"] == "2026-01-01"


@pytest.mark.parametrize(
    ("code", "options", "message"),
    [
        ("new", ["--check", "0"], "--check must be at least 1, the number of runs to repeat, but got --check=0"),
        ("new-dirty", ["--check", "1"], "has changes that are not committed (new-dirty). Commit them before --check"),
        (
            "new",
            ["--check", "1", "--rows", "ROLE"],
            "No runs of an earlier tree have the present settings",
        ),
    ],
)
def test_a_check_without_anything_to_compare_is_refused(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: str,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(digits, "code_hash", lambda: code)
    assert run_main(monkeypatch, folder, *options) == 2
    assert message in capsys.readouterr().err


def test_a_report_of_fewer_runs_is_refused_before_they_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[Run] = []

    def fake(runs: list[Run], path: Path, processes: int) -> int:
        started.extend(runs)
        write(folder, [figures(run.row, run.seed, "new") for run in runs])
        return 0

    monkeypatch.setattr(digits, "run_all", fake)
    options = ["--scene-seeds", "101", "--rows", "WAN"]
    assert run_main(monkeypatch, folder, *options, "AN-LS") == 0
    before = (folder / "digits.md").read_text()
    assert count_runs(before) == 6
    write(folder, [])
    started.clear()
    assert run_main(monkeypatch, folder, *options) == 2
    assert "digits.md would have 3 runs, fewer than the 6 of the last one" in capsys.readouterr().err
    assert started == []
    assert (folder / "digits.md").read_text() == before
    assert run_main(monkeypatch, folder, *options, "--fresh") == 0
    assert count_runs((folder / "digits.md").read_text()) == 3


def test_runs_that_failed_do_not_thin_the_report(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "digits.md").write_text("| WAN | 50.0 | 3 |\n")
    monkeypatch.setattr(digits, "run_all", lambda runs, path, processes: len(runs))
    assert run_main(monkeypatch, folder, "--scene-seeds", "101", "--rows", "WAN") == 1
    assert "would have 0 runs, fewer than the 3 of the last one" in capsys.readouterr().err
    assert (folder / "digits.md").read_text() == "| WAN | 50.0 | 3 |\n"


class _InThisProcess:
    """An executor that runs tasks at once, because a spawned process would not see what the test replaced."""

    def __init__(self, *args: object) -> None:
        pass

    def __enter__(self) -> _InThisProcess:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def submit(self, call: Any, *args: Any) -> Any:
        from concurrent.futures import Future

        future: Future[Any] = Future()
        try:
            future.set_result(call(*args))
        except ValueError as error:
            future.set_exception(error)
        return future
