"""A report as a whole: what it says, and that its page is sound, safe and the same every time."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report import parameter_figures
from orchestrator.report.cost_figures import draw_timeline
from orchestrator.report.document import Report, Table
from orchestrator.report.findings import describe_openings
from orchestrator.report.in_mlflow import log_report
from orchestrator.report.openings import Openings
from orchestrator.report.parameter_figures import (
    MIN_TRIALS,
    compute_effects,
    draw_importance,
    draw_responses,
    draw_tau,
)
from orchestrator.report.published_section import make_published_section
from orchestrator.report.search_figures import draw_learning_curves, draw_survival
from orchestrator.report.statistics import importance
from orchestrator.report.svg import drawing, inline_svg, write_svg
from orchestrator.report.sweep_report import make_sweep_report
from orchestrator.report.view import TAU, SweepView, measure_noise
from orchestrator.report.weights_figure import draw_weights
from orchestrator.report.write import write_report
from orchestrator.sweep_folder.index import create_sweep
from orchestrator.sweep_folder.records import TrialState
from orchestrator.tracking.tracker import sync
from tests.kit.openings import open_set
from tests.kit.report_page import check_page
from tests.kit.search_journal import search_events, search_plan, search_state
from tests.kit.shipped_plans import plan_sweep
from tests.kit.sweeps import write_events

SEEDS = (80.0, 80.4, 80.1, 80.5, 80.0)
EVIL = "<script>alert('x')</script>"


def make_report(num_trials: int, name: str = "plain", **changes: Any) -> Report:
    plan = search_plan(num_trials, dataset=name, **changes)
    view = SweepView(plan, search_state(plan, message=name), measure_noise(SEEDS, "search-promote-1"))
    return make_sweep_report(view)


@pytest.fixture(autouse=True, scope="module")
def _few_forests() -> Iterator[None]:
    """Grow 3 forests and not 30: their statistics have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parameter_figures, "importance", partial(importance, num_repeats=3))
        yield


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a search whose dataset and error messages are attacks."""
    folder = tmp_path_factory.mktemp("report")
    files = write_report(make_report(24, name=EVIL), folder)
    names = {file.relative_to(folder).as_posix() for file in files}
    assert {"report.html", "report.md", "tables.tex", "tables/leaderboard.csv", "tables/tau.parquet"} <= names
    assert {"figures/weights.svg", "figures/timeline.svg"} <= names
    assert all(len(file.read_bytes()) < 500_000 for file in files)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_runs_nothing_but_its_own_script_and_fetches_nothing(page: str) -> None:
    parsed = check_page(page)
    assert EVIL not in page
    assert EVIL in "".join(parsed.text), "it is shown as the name that it is"


def test_every_figure_has_a_name_a_description_and_its_numbers(page: str) -> None:
    figures = page.split("<figure")[1:]
    assert len(figures) == 11
    for figure in figures:
        assert re.search(r'<svg class="plot" role="img"[^>]*aria-labelledby="(\w+)-t \1-d"><title', figure)
        assert len(re.findall(r"<desc[^>]*>(.{40,})</desc>", figure)) == 1
        assert "<details><summary>" in figure
        assert "<td" in figure
    # Colours follow the page, which has a dark side, and no figure brings its own ground.
    assert "var(--blue,#0072b2)" in page
    assert 'fill="#ffffff"' not in page
    assert "prefers-color-scheme: dark" in page
    assert 'lang="en"' in page


def test_the_first_screen_says_what_was_found() -> None:
    report = make_report(54)
    text = "\n".join(report.findings)
    winner = r"Trial \d+ won with 8\d\.\d\d % val/mAP at epoch \d of 6: tau 0\.\d+, SPBC weight"
    assert re.match(winner, report.findings[0])
    assert "the 5 final runs of search-promote-1 (deviation 0.23, 95 % interval 0.14 to 0.67)" in text
    assert re.search(r"Tau: from 0\.3\d* to 0\.\d+ the score changes by \d+\.\d\d points, best near 0\.[67]", text)
    assert "SPBC weight: no effect seen" in text
    assert "Of the other settings, none has an effect" in text
    assert "54 trials started: 34 complete, 16 pruned, 4 failed." in text
    assert "Failed: 4 NAN." in text
    assert "As far as this home knows, the test split was never opened for this sweep." in text
    assert "points too high (winner's curse); from the sweep alone, its mean over seeds lies between" in text
    assert report.facts[0][0].startswith("best score, trial ")
    assert report.facts[1] == ("seed deviation", "0.23 points")


def test_the_foot_of_a_page_says_how_often_its_test_set_was_opened() -> None:
    plan = search_plan(12)
    state = search_state(plan)
    assert not [line for line in make_sweep_report(SweepView(plan, state)).footer if "test ledger" in line]
    for number in (1, 2):
        open_set(number, data_hash=state.provenance.get("data_hash", ""))
    footer = make_sweep_report(SweepView(plan, state)).footer
    assert "From the test ledger, when this was made: openings of the test set: 2." in footer


def test_without_a_promotion_the_noise_is_not_known() -> None:
    plan = search_plan(12)
    text = "\n".join(make_sweep_report(SweepView(plan, search_state(plan))).findings)
    assert f"not known yet: `orchestrator promote {plan.id}` tells" in text
    assert "winner's curse" not in text


def test_a_sweep_of_nothing_and_of_one_trial_has_a_report(tmp_path: Path) -> None:
    for num_trials in (0, 1):
        report = make_report(num_trials)
        assert report.findings
        write_report(report, tmp_path, ["tex", "csv", "parquet"])
    assert make_report(0).findings[0].startswith("No trial is complete yet")


def test_a_training_and_an_ablation_have_no_winner() -> None:
    plan = search_plan(1, kind="train", ranges={})
    report = make_sweep_report(SweepView(plan, search_state(plan)))
    assert report.findings[0].startswith("The run scored ")
    assert len(report.findings) == 2, "and what it cost"
    points = tuple({"loop.seed": seed} for _ in range(2) for seed in (1, 2, 3))
    variants = ("ignore", "ignore_without_reg")
    plan = search_plan(6, kind="ablate", ranges={}, variants=variants, start_from=points, scheduler="none")
    report = make_sweep_report(SweepView(plan, search_state(plan)))
    assert re.match(r"ignore has a mean of \d\d\.\d\d % over 3 seeds\.", report.findings[0])
    assert re.match(r"ignore_without_reg: [+-]\d+\.\d\d points from that \(deviation", report.findings[1])
    assert next(report.tables()).name == "ablation"


def test_tables_are_written_without_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.report.write.write_svg", None)
    report = make_report(24)
    names = {table.name for table in report.tables()}
    assert len(names) == sum(1 for _ in report.tables()), "each table has a file of its own"
    files = write_report(report, tmp_path, ["csv", "tex"])
    assert {file.stem for file in files} == names | {"tables"}


def test_equal_sweeps_give_equal_bytes() -> None:
    texts = []
    for _ in range(2):
        plan = search_plan(24)
        view = SweepView(plan, search_state(plan))
        figures = [draw_timeline(view), draw_survival(view)]
        with drawing():
            texts.append([write_svg(figure.draw()) for figure in figures if figure])
    assert texts[0] == texts[1]
    assert len(texts[0]) == 2


def test_what_is_set_aside_at_a_screen_is_shown_as_that() -> None:
    plan = search_plan(8, scheduler="screen", keep=3)
    state = search_state(plan)
    state.records[7] = state.records[7].changed(state=TrialState.SET_ASIDE, set_aside_after=1)
    view = SweepView(plan, state)
    survival, timeline = draw_survival(view), draw_timeline(view)
    assert survival is not None
    assert timeline is not None
    told = "The dotted line is the screen: after epoch 2, the best 3 of all continue; 1 trial set aside there."
    assert survival.description.endswith(told)
    with drawing():
        assert "set aside" in inline_svg(write_svg(timeline.draw()), "timeline", "Timeline", "")
    assert "set aside" in [row[0] for row in timeline.table.rows]


def test_thousands_of_trials_are_thinned() -> None:
    plan = search_plan(2000)
    view = SweepView(plan, search_state(plan))
    figures = [draw_learning_curves(view), draw_timeline(view), draw_responses(view, compute_effects(view))]
    for figure in figures:
        assert figure is not None
        with drawing():
            text = inline_svg(write_svg(figure.draw()), figure.name, figure.title, figure.description)
        assert len(text) < 250_000, figure.name
        assert len(figure.table.rows) <= 200, figure.name


def test_what_acts_only_in_some_trials_is_judged_by_these() -> None:
    plan = replace(search_plan(36, scheduler="none"), acts_when={TAU: {"optim.batch_size": [16, 32]}})
    state = search_state(plan)
    for trial, record in list(state.records.items()):
        if record.params["optim.batch_size"] == 64:
            params = {key: value for key, value in record.params.items() if key != TAU}
            state.records[trial] = record.changed(params=params)
    view = SweepView(plan, state)
    (trials, points), tau = view.points, view.parameters[0]
    rows = view.acting(tau)
    assert (tau.key, len(trials)) == (TAU, len(view.comparable.scores)), "no trial is left out as a whole"
    assert MIN_TRIALS <= len(rows) < len(trials)
    assert all(points[row, 0] == 0.5 for row in range(len(trials)) if row not in rows)
    effects = compute_effects(view)
    assert [effect.parameter.key for effect in effects] == [each.key for each in view.parameters]
    for figure in (draw_responses(view, effects), draw_importance(view), draw_tau(view, effects), draw_weights(view)):
        assert figure is not None
        with drawing():
            figure.draw()
        if figure.name in ("responses", "importance"):
            assert "In some trials, cam_threshold did not act" in figure.description


def test_a_grid_is_a_map_of_what_was_measured() -> None:
    plan = search_plan(40, sampler="grid", scheduler="none")
    weights = draw_weights(SweepView(plan, search_state(plan)))
    assert weights is not None
    assert weights.table.columns[-1].name == "val/mAP (%)"
    assert len(weights.table.rows) == 37, "one cell per trial that did not fail"


def test_published_scores_stand_beside_ours_with_what_differs() -> None:
    voc = plan_sweep("voc", "em", "common")
    [table] = make_published_section(voc).parts
    assert isinstance(table, Table)
    assert [row[2] for row in table.rows] == [88.674, 89.09]
    assert table.rows[0][3:5] == (0.077, 5)
    assert "loop.epochs 10 there, 25 here" in str(table.rows[0][5])
    assert make_published_section(replace(voc, dataset="digits")).parts == ()


def test_the_page_is_in_the_run_of_its_sweep_in_mlflow(home: Path, empty_store: Path) -> None:
    plan = search_plan(6)
    create_sweep(plan.id, plan.to_json())
    write_events(plan, search_events(plan))
    assert log_report(plan.id) is None
    assert not (home / "mlflow.db").exists(), "without a run there is nothing to add to"
    shutil.copy(empty_store, home / "mlflow.db")
    assert sync(plan.id)
    assert log_report(plan.id) is None
    (page,) = (home / "artifacts").rglob("report.html")
    assert plan.id in page.read_text(encoding="utf-8")
    assert 'href="tables/' not in page.read_text(encoding="utf-8"), "there is no file beside it"
    assert str(log_report("nothing-00000001")).startswith("No sweep 'nothing-00000001' in ")


def test_a_test_split_that_nobody_opened_is_said_once() -> None:
    never = "By the ledger of this home, the test split of this data was never opened."
    assert describe_openings(Openings(of_data=0)) == never
    text = describe_openings(Openings(of_data=2))
    assert text == f"{never.replace('never opened.', 'opened 2 times in all.')} It was never opened for this sweep."
