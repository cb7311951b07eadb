"""Test the audit: honest work passes, and every planted cheat is found."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import orchestrator
from orchestrator.audit.audit import audit
from orchestrator.home import sweep_dir, sweeps_dir
from orchestrator.sweep_folder.chain import reseal
from orchestrator.sweep_folder.journal import replay
from orchestrator.sweep_folder.ledger import COMPARISON, HEAD_FILE, LEDGER_FILE, read_ledger, register_opening
from orchestrator.sweep_folder.rows import RESULTS_FILE, write_table
from orchestrator.sweep_folder.score_files import scores_file
from tests.kit import sweeps
from tests.kit.audited import kinds
from tests.kit.fake_store import FakeStore
from tests.kit.openings import SET
from tests.kit.program import run
from tests.kit.promoted import Work, make_base, make_scores, make_work
from training.inference.scores import Scores


def rewrite_journal(work: Work, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Change events of a promotion's journal, with checksums that fit, as somebody who knows how would."""
    path = sweeps.journal_path(work.promotion)
    plain = [change(json.loads(line)) for line in path.read_bytes().splitlines()]
    lines = [json.dumps(event, separators=(",", ":")).encode() for event in plain if event is not None]
    path.write_bytes(b"".join(line + b"\n" for line in reseal(lines)))


def test_honest_work_holds_and_says_what_was_compared(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    for word in (work.search.id, work.promotion.id, work.search.name):
        found = audit(word)
        assert found.report.findings == []
        assert set(found.subjects) == {work.search.id, work.promotion.id}
        checked = found.report.checked
        # 3 runs, 2 splits, 8 metrics on true and on observed labels; two criteria on validation data.
        assert checked["figures recomputed"] == 3 * (2 * 16 + 2)
        assert (checked["files of scores"], checked["runs in MLflow"], checked["final runs"]) == (6, 7, 3)
        assert found.counts == ("openings of the test set of digits: 1",)
    code, out, err = run(capsys, "audit")
    assert code == 0
    assert "0 findings in digits-0000000a, digits-promote-0000000b" in out
    assert "not checked: The data and initial weights of digits-0000000a are not here" in err
    table = sweep_dir(work.promotion.id) / RESULTS_FILE
    assert audit(str(table)).report.findings == []


def edit_journal(work: Work) -> None:
    path = sweeps.journal_path(work.promotion)
    path.write_bytes(path.read_bytes().replace(b'"test/mAP":', b'"test/mAP":9', 1))


def edit_journal_and_seal_it(work: Work) -> None:
    def raise_test(event: dict[str, Any]) -> dict[str, Any]:
        if event["event"] == "test_opened":
            event["figures"]["1"]["test/mAP"] += 1.0
        return event

    rewrite_journal(work, raise_test)


def edit_val_in_journal(work: Work) -> None:
    def raise_val(event: dict[str, Any]) -> dict[str, Any]:
        if event["event"] == "epoch_reported" and event["epoch"] == 2:
            event["metrics"]["val/mAP"] += 1.0
        return event

    rewrite_journal(work, raise_val)


def edit_criterion_in_journal(work: Work) -> None:
    def raise_rate(event: dict[str, Any]) -> dict[str, Any]:
        if event["event"] == "epoch_reported" and event["epoch"] == 2:
            event["metrics"]["val/covering_rate"] += 7.0
        return event

    rewrite_journal(work, raise_rate)


def choose_another_epoch(work: Work) -> None:
    def change(event: dict[str, Any]) -> dict[str, Any]:
        if event["event"] == "test_opened":
            event["epochs"]["0"] = 3
        return event

    rewrite_journal(work, change)


def drop_seed_from_journal(work: Work) -> None:
    def drop(event: dict[str, Any]) -> dict[str, Any] | None:
        if event["event"] == "test_opened":
            for name in ("figures", "epochs"):
                del event[name]["2"]
        return None if event.get("trial") == 2 else event

    rewrite_journal(work, drop)


def drop_test_figures_of_a_seed(work: Work) -> None:
    def drop(event: dict[str, Any]) -> dict[str, Any]:
        if event["event"] == "test_opened":
            del event["figures"]["2"]
        return event

    rewrite_journal(work, drop)


def edit_rows(work: Work) -> None:
    path = sweep_dir(work.promotion.id) / RESULTS_FILE
    rows = pq.read_table(path).to_pylist()
    rows[3]["value"] += 0.5
    write_table(path, rows)


def leave_out_a_row(work: Work) -> None:
    path = sweep_dir(work.promotion.id) / RESULTS_FILE
    write_table(path, pq.read_table(path).to_pylist()[:-1])


def edit_seed_in_rows(work: Work) -> None:
    path = sweep_dir(work.promotion.id) / RESULTS_FILE
    rows = pq.read_table(path).to_pylist()
    write_table(path, [{**row, "training_seed": 7} for row in rows])


def edit_mlflow(work: Work) -> None:
    runs = [run for run in work.store.runs.values() if run.trial == 1 and run.tags["orchestrator.kind"] == "promote"]
    for key in list(work.store.rows):
        if key[0] == runs[0].run_id and key[1] == "test/mAP":
            del work.store.rows[key]
            work.store.rows[(*key[:4], key[4] + 1)] = 1


def edit_curve_in_mlflow(work: Work) -> None:
    for key in list(work.store.rows):
        if key[1:3] == ("val/mAP", 2):
            del work.store.rows[key]
            work.store.rows[(*key[:4], key[4] + 1)] = 1


def edit_chosen_value_in_mlflow(work: Work) -> None:
    for found in work.store.runs.values():
        if found.trial == 1:
            found.tags["chosen.val/mAP"] = "99.9"


def edit_scores(work: Work) -> None:
    path = scores_file(work.promotion.id, 1, "test")
    scores = Scores.read(path)
    scores.logits[:, 0] = torch.where(scores.true[:, 0], 9.0, -9.0)  # type: ignore[index]
    scores.write(path, scores.about)


def edit_labels_of_scores(work: Work) -> None:
    path = scores_file(work.promotion.id, 0, "test")
    scores = Scores.read(path)
    assert scores.true is not None
    scores.true[0] = ~scores.true[0]
    scores.write(path, scores.about)


def leave_out_a_hard_image(work: Work) -> None:
    path = scores_file(work.promotion.id, 0, "test")
    scores = Scores.read(path)
    assert scores.true is not None
    kept = (scores.logits[:-1], scores.true[:-1], scores.observed[:-1])
    Scores("test", scores.ids[:-1], scores.classes, *kept, scores.about).write(path, scores.about)


def remove_scores(work: Work) -> None:
    scores_file(work.promotion.id, 2, "test").unlink()


def remove_only_ledger_line(work: Work) -> None:
    (sweeps_dir() / LEDGER_FILE).write_bytes(b"")


def remove_the_ledger(work: Work) -> None:
    for name in (LEDGER_FILE, HEAD_FILE):
        (sweeps_dir() / name).unlink()


def edit_ledger(work: Work) -> None:
    path = sweeps_dir() / LEDGER_FILE
    path.write_bytes(path.read_bytes().replace(b"1003", b"1004"))


def open_again(work: Work) -> None:
    make_work("again", store=work.store, base=make_base(**{"optim.weight_decay": 0.01}))


def open_again_with_another_seed(work: Work) -> None:
    make_work("more", store=work.store, seeds=(1001, 1002, 1003, 1004))


CHEATS: list[tuple[Callable[[Work], None], str, str]] = [
    (edit_journal, "journal", r"journal.jsonl:\d+: a broken line"),
    (edit_journal_and_seal_it, "figure", r"-0000000b/1: its test/mAP is recorded as .* stored scores give"),
    (edit_val_in_journal, "figure", r"-0000000b/0: its val/mAP is recorded as"),
    (edit_criterion_in_journal, "figure", r"-0000000b/0: its val/covering_rate is recorded as"),
    (choose_another_epoch, "epoch", "the weights of epoch 3 were tested, but the protocol chooses epoch 2"),
    (drop_seed_from_journal, "seeds", "the run of seed 1003 was planned, but was never started"),
    (drop_test_figures_of_a_seed, "seeds", "seed 1003 is complete, but has no figures on the test set"),
    (edit_rows, "rows", r"results.parquet: value of run 0, val/\w+ is .*, but the journal gives"),
    (leave_out_a_row, "rows", "the row of run 2, test/observed_OF1 is missing"),
    (edit_seed_in_rows, "rows", "training_seed of run 0, val/CF1 is 7, but the journal gives 1001"),
    (edit_mlflow, "mlflow", "1 in MLflow: test/mAP is .*, but the journal has"),
    (edit_curve_in_mlflow, "mlflow", "2 in MLflow: val/mAP of epoch 2 is .*, but the journal has"),
    (edit_chosen_value_in_mlflow, "mlflow", "chosen.val/mAP is 99.9"),
    (edit_scores, "scores", "t0001-test.parquet: it is not the file that was written"),
    (edit_scores, "figure", "-0000000b/1: its test/mAP is recorded as"),
    (edit_labels_of_scores, "labels", "images or labels are not those of opening 1"),
    (leave_out_a_hard_image, "labels", "some were changed, added or left out"),
    (remove_scores, "scores", "t0002-test.parquet: it cannot be read"),
    (remove_only_ledger_line, "ledger", r"jsonl:1: .*line 1 is missing"),
    (
        remove_the_ledger,
        "ledger",
        r"jsonl:1: digits-promote-0000000b opened its test set as number 1, but that line is",
    ),
    (edit_ledger, "ledger", r"jsonl:1: .*so it was edited"),
    (open_again, "openings", r"was opened 2 times for ignore .*numbers 1, 2"),
    (open_again_with_another_seed, "openings", r"was opened 2 times for ignore .*numbers 1, 2"),
]


@pytest.mark.parametrize(("cheat", "kind", "words"), CHEATS, ids=lambda value: getattr(value, "__name__", None))
def test_a_planted_cheat_is_found(
    cheat: Callable[[Work], None], kind: str, words: str, work: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    cheat(work)
    found = audit(work.search.id)
    texts = [str(finding) for finding in found.report.findings if finding.kind == kind]
    assert texts, kinds(found)
    with pytest.raises(AssertionError, match=words):
        raise AssertionError("\n".join(texts))
    assert all(finding.fix for finding in found.report.findings), "each says what to do"
    code, out, _ = run(capsys, "audit", work.search.id)
    assert code == 1
    assert f"[{kind}]" in out


@pytest.mark.parametrize(
    ("provenance", "kind", "words"),
    [
        ({"dirty": "true", "changes": "ed17"}, "dirty", "run 0, 1, 2, 3 had code with changes that were not committed"),
        ({"dirty": "true", "changes": "ed17"}, "dirty", "was scored by code with changes that were not committed"),
        ({"commit": "unknown"}, "commit", "the commit of the code of run 0, 1, 2, 3 is unknown"),
        ({"weights_hash": "unknown"}, "inputs", "its weights_hash is unknown"),
    ],
)
def test_work_of_unknown_origin_is_found(
    provenance: dict[str, str], kind: str, words: str, store: FakeStore, home: Path
) -> None:
    work = make_work(store=store, provenance=provenance)
    found = audit(work.search.id)
    assert any(words in str(finding) for finding in found.report.findings if finding.kind == kind)


def test_seeds_of_the_search_are_not_fresh_and_conditions_may_not_change(store: FakeStore, home: Path) -> None:
    work = make_work(store=store, seeds=(0, 1001))
    other = sweeps.driver_started(work.promotion, 20, sweeps.PROVENANCE | {"commit": "decaf", "changes": "none"})
    sweeps.write_events(work.promotion, [other, sweeps.driver_ended(21)])
    texts = "\n".join(str(finding) for finding in audit(work.promotion.id).report.findings)
    assert "seed 0 was already used by digits-0000000a, which chose the configuration by it" in texts
    assert "its drivers had different values of commit: c0ffee, decaf" in texts


def test_a_champion_that_is_scored_again_next_to_a_challenger_is_no_second_look(work: Work) -> None:
    again = replace(SET, split_hash=work.opening.split_hash, recipe=work.opening.recipe, config_hash="champion")
    register_opening(again, f"promote other: {COMPARISON}", "false")
    assert audit(work.promotion.id).report.findings == []
    register_opening(replace(again, config_hash="other"), "promote other", "false")
    assert kinds(audit(work.promotion.id)) == ["openings"]


def test_label_draws_that_were_planned_together_are_no_second_look_but_another_draw_is(
    home: Path, store: FakeStore
) -> None:
    work = make_work(store=store, draws=(1200, 1201, 1202))
    found = audit(work.promotion.id)
    assert (found.report.findings, found.report.checked["final runs"]) == ([], 9)
    assert found.counts == ("openings of the test set of digits: 3",)
    frame = orchestrator.read_results(work.promotion.id)
    tests = frame[frame.metric == "test/mAP"]
    assert tests.draw_seed.tolist() == [1200] * 3 + [1201] * 3 + [1202] * 3
    assert tests.opening.tolist() == [1] * 3 + [2] * 3 + [3] * 3

    # A draw that is left out, and one whose opening is not where the journal has it.
    def drop_a_draw(event: dict[str, Any]) -> dict[str, Any]:
        if event["event"] == "test_opened":
            for trial in ("6", "7", "8"):
                del event["figures"][trial]
            event["draw_openings"]["3"] = 1
        return event

    rewrite_journal(work, drop_a_draw)
    texts = "\n".join(str(finding) for finding in audit(work.promotion.id).report.findings)
    assert "the run of seed 1203 is complete, but has no figures on the test set, as if it had been dropped" in texts
    assert "opened its test set as number 1, but that line is another one" in texts
    lucky = make_work("lucky", store=store, base=make_base(**{"data.draw_seed": 7}), draws=(7,))
    assert "was opened 4 times for ignore" in "\n".join(map(str, audit(lucky.promotion.id).report.findings))


def test_rows_that_are_older_than_the_journal_are_not_a_cheat(work: Work) -> None:
    path = sweep_dir(work.promotion.id) / RESULTS_FILE
    write_table(path, pq.read_table(path).to_pylist()[:-1])
    os.utime(path, (0, 0))
    found = audit(work.promotion.id)
    assert found.report.findings == []
    assert any("is older than its journal, which has 1 more rows" in text for text in found.report.unchecked)


def test_an_unfinished_sweep_is_found(work: Work) -> None:
    plan = sweeps.make_sweep("open-0000000c")
    sweeps.write_events(plan, [sweeps.driver_started(plan, provenance=sweeps.PROVENANCE), sweeps.trial_started(0, 1)])
    assert "unfinished" in kinds(audit(plan.id))


def test_a_winner_that_was_only_lucky_is_found(store: FakeStore, home: Path) -> None:
    fresh = fmean(make_scores("val", seed, 2.0).metrics()["val/mAP"] for seed in (1001, 1002, 1003))
    lucky = make_work("lucky", store=store, skill=2.0, search_scores=[fresh + gain for gain in (9, 15, 8, 2)])
    [finding] = audit(lucky.promotion.id).report.findings
    assert finding.kind == "luck"
    assert f"won in {lucky.search.id} with {fresh + 15:.2f}, but its fresh seeds have {fresh:.2f}" in finding.problem
    assert "Another configuration, which had" in finding.problem
    alone = make_work("alone", store=store, skill=2.0, search_scores=[fresh + 20, fresh - 30, fresh - 60], method="wan")
    [finding] = audit(alone.promotion.id).report.findings
    assert "of its runs lie below" in finding.problem
    # One that is a little worse than its best score, as every winner is, is still the best.
    better = [fresh + gain for gain in (-9, 0.5, -8, -4)]
    usual = make_work("usual", store=store, skill=2.0, search_scores=better, method="em")
    assert audit(usual.promotion.id).report.findings == []


def test_results_are_rows_of_the_chosen_epoch(work: Work) -> None:
    frame = orchestrator.read_results(work.promotion.id)
    maps = frame[frame.metric == "val/mAP"]
    state = replay(sweeps.journal_path(work.promotion))
    assert list(maps.epoch) == [2, 2, 2]
    assert list(maps.value) == [record.metrics[2]["val/mAP"] for record in state.records.values()]
    assert list(frame[frame.split == "test"].opening.unique()) == [1]
    assert list(orchestrator.read_results(sweeps_dir()).sweep.unique()) == [work.search.id, work.promotion.id]
    assert read_ledger()[0].n == 1
