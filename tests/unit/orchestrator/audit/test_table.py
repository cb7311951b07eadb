"""Test the audit of a table of results: what it leaves out, changes, makes up or compares wrongly is found."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

import orchestrator
from orchestrator.audit.audit import audit
from orchestrator.audit.subject import Subject
from orchestrator.audit.table import measure_budgets
from orchestrator.errors import UserError
from orchestrator.sweep_folder.rows import make_table
from tests.kit.audited import kinds
from tests.kit.fake_store import FakeStore
from tests.kit.program import run
from tests.kit.promoted import Work, make_work
from training.selection import Protocol, SelectBy


def table_of(path: Path, *works: Work, change: Callable[[dict[str, Any]], dict[str, Any] | None] | None = None) -> Path:
    """Write the test mAPs of promotions as a table."""
    rows = [row for work in works for row in Subject.read(work.promotion.id).rows]
    chosen = [row for row in rows if row["metric"] in ("test/mAP", "val/mAP")]
    changed = [chosen_row if change is None else change(dict(chosen_row)) for chosen_row in chosen]
    kept = [row for row in changed if row is not None]
    if path.suffix == ".parquet":
        pq.write_table(make_table(kept), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(kept[0]))
            writer.writeheader()
            writer.writerows(kept)
    return path


def raise_a_figure(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "value": row["value"] + 0.3} if (row["trial"], row["split"]) == (1, "test") else row


def leave_out_a_seed(row: dict[str, Any]) -> dict[str, Any] | None:
    return None if row["trial"] == 2 else row


def claim_another_method(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "method": "em"}


def make_up_a_run(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "trial": 7, "value": 80.0} if row["trial"] == 2 else row


def name_another_sweep(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "sweep": "elsewhere-0000000f"}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (raise_a_figure, "figure", "test/mAP of digits-promote-0000000b/1 is"),
        (leave_out_a_seed, "seeds", "the table leaves out its run of seed 1003"),
        (claim_another_method, "row", "its method is em, but that of digits-promote-0000000b/0 is ignore"),
        (make_up_a_run, "imputed", "that run does not exist and has no such figure: it was filled in"),
        (name_another_sweep, "missing", "it is not in this home"),
    ],
)
def test_a_cheat_in_a_table_is_found(
    suffix: str, change: Callable[..., Any], kind: str, words: str, work: Work, tmp_path: Path
) -> None:
    honest = table_of(tmp_path / f"honest{suffix}", work)
    assert audit(str(honest)).report.findings == []
    found = audit(str(table_of(tmp_path / f"table{suffix}", work, change=change)))
    assert any(words in str(finding) for finding in found.report.findings if finding.kind == kind), kinds(found)


def test_cells_that_cannot_be_compared_are_found(work: Work, store: FakeStore, tmp_path: Path) -> None:
    same = make_work("other", store=store, method="em")
    assert kinds(audit(str(table_of(tmp_path / "same.csv", work, same)))) == []
    others: dict[str, tuple[dict[str, Any], str]] = {
        "protocol": ({"protocol": Protocol(SelectBy.OBSERVED_VAL, SelectBy.LAST)}, "it mixes 2 protocols"),
        "data": ({"provenance": {"data_hash": "0ther"}}, "it mixes 2 data"),
        "weights": ({"provenance": {"weights_hash": "0ther"}}, "it mixes 2 initial weights"),
        "budget": ({"search_scores": (60.0,) * 8}, "different budgets, in epochs"),
        "seeds": ({"seeds": (1001, 1002)}, "its cells have different numbers of seeds"),
    }
    for number, (name, (changes, words)) in enumerate(others.items()):
        other = make_work(f"{name}{number}", store=store, method=f"em{number}", **changes)
        found = audit(str(table_of(tmp_path / f"{name}.csv", work, other)))
        assert any(words in str(finding) for finding in found.report.findings), (name, kinds(found))


def test_a_table_may_show_one_label_draw_but_not_some_seeds_of_one(
    home: Path, store: FakeStore, tmp_path: Path
) -> None:
    work = make_work(store=store, draws=(1200, 1201))

    def first_draw(row: dict[str, Any]) -> dict[str, Any] | None:
        return row if row["trial"] < 3 else None

    def and_one_more(row: dict[str, Any]) -> dict[str, Any] | None:
        return row if row["trial"] < 4 else None

    assert audit(str(table_of(tmp_path / "a.csv", work, change=first_draw))).report.findings == []
    [finding] = audit(str(table_of(tmp_path / "b.csv", work, change=and_one_more))).report.findings
    assert "the table leaves out its run of seed 1102, 1103, which was planned with the others" in str(finding)


def test_a_table_that_pandas_wrote_is_read(work: Work, tmp_path: Path) -> None:
    frame = orchestrator.read_results(work.promotion.id)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        assert audit(str(tmp_path / name)).report.findings == []


def test_a_best_trial_alone_is_no_result(work: Work, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "leaderboard", work.search.id, "--csv")
    assert code == 0
    whole = tmp_path / "board.csv"
    whole.write_text(out)
    assert audit(str(whole)).report.findings == []
    best = tmp_path / "best.csv"
    best.write_text("\n".join(out.splitlines()[:2]) + "\n")
    [finding] = audit(str(best)).report.findings
    assert (finding.kind, finding.where) == ("luck", work.search.id)
    assert "the best of 4 is too good by luck" in finding.problem


def test_what_is_no_table_is_a_mistake(home: Path, tmp_path: Path) -> None:
    for name, content, words in (
        ("a.csv", "method,score\nem,90\n", "has no figures of runs"),
        ("a.json", "{}", "neither a list of rows nor an object"),
        ("a.parquet", "nothing", "Cannot read the table"),
        ("a.md", "| em | 90 |", "must be a .csv, .json, .parquet file"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=words):
            audit(str(tmp_path / name))
    with pytest.raises(UserError, match="No table at"):
        audit(str(tmp_path / "none.csv"))


def test_a_budget_counts_unfinished_trials_and_names_its_unit() -> None:
    def search(*trials: list[dict[str, float]]) -> Any:
        records = {trial: SimpleNamespace(metrics=dict(enumerate(epochs, 1))) for trial, epochs in enumerate(trials)}
        return SimpleNamespace(state=SimpleNamespace(records=records))

    epoch = {"train/images_forward": 100.0, "train/images_backward": 50.0}
    stopped = search([epoch, epoch], [epoch], [])  # the last trial was stopped before its first epoch
    assert measure_budgets([stopped, search([epoch])]) == ([450.0, 150.0], "images passed forward and backward")
    assert measure_budgets([stopped, search([{}])]) == ([3.0, 1.0], "epochs")
