"""Test the benchmark of searchers: its tables, its simulated clock and the schedulers that only it has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.search import __main__ as search_main
from benchmarks.search import grid, report
from benchmarks.search.grid import next_run
from benchmarks.search.lines import read_lines
from benchmarks.search.measure import Cell, Reference, run_task, table_file
from benchmarks.search.measure import Task as MeasuredTask
from benchmarks.search.report import compare, write_report
from benchmarks.search.schedulers import Exempt, Promotion, Relative
from benchmarks.search.searchers import BY_NAME, FULL, SEARCHERS
from benchmarks.search.simulate import Outcome, simulate
from benchmarks.search.stored import StoredCells
from benchmarks.search.table import Objective, Table, cross_validate, read_table, write_table
from benchmarks.search.tables import TABLES
from orchestrator.planning.sweep_plan import SweepPlan

SPEC = TABLES["ignore"]


def line(config: int, seed: int = 0, *, quality: float | None = None, noise: float = 0.0) -> dict[str, Any]:
    """Return a run whose curve rises to a quality that depends on its learning rate."""
    point = SPEC.points[config]
    best = 70 - 20 * (SPEC.plan.ranges["optim.lr"].place_of(point["optim.lr"]) - 0.6) ** 2
    epochs = np.arange(1, SPEC.plan.epochs + 1)
    curve = (best if quality is None else quality) + noise - 3.0 * (SPEC.plan.epochs - epochs)
    passes = {"forward": [100.0] * len(epochs), "backward": [50.0] * len(epochs)}
    head = {"table": "ignore", "config": config, "seed": seed, "params": point}
    identity = {"data_hash": "d", "weights_hash": "w", "code": "c"}
    return {**head, "val_mAP": curve.tolist(), "cpu_s": [0.5] * len(epochs), **passes, **identity}


def lines(num: int = 30) -> list[dict[str, Any]]:
    found = [line(config) for config in range(num)]
    return found + [line(config, seed, noise=0.5 * seed) for config in range(0, num, 3) for seed in (1, 2)]


@pytest.fixture(scope="module")
def objective() -> Objective:
    return Objective(Table.of(SPEC, lines()), "nearest")


def plan(num_trials: int = 9, **changes: Any) -> SweepPlan:
    return replace(FULL.plan(SPEC.plan, num_trials, 3, 0), **changes)


def test_points_cover_the_ranges_evenly_and_a_beginning_is_a_smaller_table() -> None:
    points, ranges = SPEC.points, SPEC.plan.ranges
    assert len(points) == SPEC.num_configs
    assert replace(SPEC, num_configs=40).points == points[:40]
    assert all(found.contains(point[key]) for point in points for key, found in ranges.items())
    for key, found in ranges.items():
        counts = np.histogram([found.place_of(point[key]) for point in points[:64]], bins=2, range=(0, 1))[0]
        assert counts.min() >= 18, key


def test_the_best_third_gets_its_seeds_before_the_next_point() -> None:
    known: list[dict[str, Any]] = []
    assert next_run(SPEC, known) == (0, 0)
    known = [line(config, quality=float(config)) for config in range(24)]
    assert next_run(SPEC, known[:23]) == (23, 0)
    assert next_run(SPEC, known) == (16, 1)
    assert next_run(SPEC, known, part=1, parts=2) == (17, 1)
    known += [line(config, seed) for config in range(16, 24) for seed in (1, 2)]
    assert next_run(SPEC, known) == (24, 0)
    assert next_run(replace(SPEC, num_configs=24), known) is None


def test_finished_runs_are_kept_and_half_lines_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "make_trunk", lambda folder: folder / "trunk")
    trained: list[tuple[int, int]] = []

    def train(spec: object, config: int, seed: int, trunk: Path) -> dict[str, Any]:
        trained.append((config, seed))
        return line(config, seed)

    monkeypatch.setattr(grid, "train", train)
    path = tmp_path / grid.RUNS_FILE
    small = replace(SPEC, num_configs=3)
    path.write_text('{"table": "ignore", "conf')
    grid.run_table(small, tmp_path, 0, 1)
    assert trained == [(0, 0), (1, 0), (2, 0), (max(range(3), key=lambda c: max(line(c)["val_mAP"])), 1), trained[-1]]
    grid.run_table(small, tmp_path, 0, 1)
    assert len(trained) == len(read_lines(path)) == 5


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    path = table_file(tmp_path, "ignore")
    write_table(path, [*lines(12), line(3)])  # a run that two processes have trained counts once
    read, made = read_table("ignore", path), Table.of(SPEC, lines(12))
    assert read.configs == made.configs
    assert np.allclose(read.places, made.places)
    assert all(np.allclose(mine, theirs) for mine, theirs in zip(read.curves, made.curves, strict=True))
    assert read.second_per_pass == pytest.approx(0.5 / (100 + 2 * 50 + 300))
    assert path.stat().st_size < 20_000


def test_truth_is_the_mean_over_seeds_and_the_noise_is_found(objective: Objective) -> None:
    table = objective.table
    assert table.truth[0] == pytest.approx(max(line(0)["val_mAP"]) + 0.5)
    assert table.truth[1] == pytest.approx(max(line(1)["val_mAP"]))
    assert table.seed_deviation == pytest.approx(np.std([0, 0.5, 1], ddof=1))
    assert not table.is_complete


def test_both_ways_to_look_up_know_the_points_of_the_table(objective: Objective) -> None:
    fitted = Objective(objective.table, "fitted")
    for config in (0, 4, 7):
        point = SPEC.points[config]
        assert objective.truth(point) == objective.table.truth[config]
        assert fitted.truth(point) == pytest.approx(objective.table.truth[config], abs=1.0)
    assert np.corrcoef(cross_validate(objective.table, 2), objective.table.truth)[0, 1] > 0.3


def test_a_simulated_sweep_costs_what_its_epochs_take_and_ends_when_its_workers_do(objective: Objective) -> None:
    outcome = simulate(plan(), objective, 0)
    full = 0.5 * SPEC.plan.epochs
    assert outcome.cost == pytest.approx(9 * full)
    assert outcome.wall == pytest.approx(3 * full)
    assert (outcome.recall, len(outcome.costs)) == (1.0, len(outcome.chosen))
    again, other = simulate(plan(), objective, 0), simulate(plan(search_seed=1), objective, 0)
    assert again == outcome != other


def test_with_asha_the_products_pruner_decides(objective: Objective) -> None:
    outcome = simulate(plan(scheduler="asha", grace_epochs=2, reduction_factor=3.0), objective, 0)
    assert 0.2 < outcome.cost / (9 * 0.5 * SPEC.plan.epochs) < 1


def test_a_screen_finishes_the_best_k_and_nothing_else(objective: Objective) -> None:
    outcome = simulate(plan(scheduler="screen", grace_epochs=4, keep=2), objective, 0)
    assert outcome.cost == pytest.approx(0.5 * (9 * 4 + 2 * (SPEC.plan.epochs - 4)))
    # Without crossing curves, the early order is the final one.
    assert outcome.recall >= 1 / 3


def test_promotion_continues_one_in_three_and_always_finishes_one(objective: Objective) -> None:
    changes: dict[str, Any] = {"scheduler": "asha", "grace_epochs": 2, "reduction_factor": 3.0}
    outcome = simulate(plan(**changes), objective, 0, Promotion)
    assert outcome.cost == pytest.approx(0.5 * (9 * 2 + 3 * 4 + 1 * 4))
    single = simulate(plan(2, **changes), objective, 0, Promotion)
    assert single.cost == pytest.approx(0.5 * (2 * 2 + 8))


def test_relative_rungs_count_from_the_end_of_warm_up_and_an_exempt_trial_is_spared() -> None:
    relative, exempt = Relative(plan(reduction_factor=3.0)), Exempt(plan(reduction_factor=3.0))
    for scheduler in (relative, exempt):
        scheduler.started(0, {"method.warmup_epochs": 1})
        scheduler.started(1, {"method.warmup_epochs": 4})
        scheduler.started(2, {"method.warmup_epochs": 1})
    assert not relative.cuts(0, 3, 50.0)
    assert not relative.cuts(1, 3, 40.0)
    assert relative.cuts(1, 6, 40.0)
    assert [exempt.cuts(trial, 3, value) for trial, value in ((0, 50.0), (1, 40.0), (2, 40.0))] == [False, False, True]


def test_every_searcher_can_be_simulated(objective: Objective) -> None:
    for searcher in SEARCHERS:
        if not searcher.is_slow:
            outcome = simulate(searcher.plan(SPEC.plan, 6, 2, 0), objective, 0, searcher.make_scheduler)
            assert outcome.chosen, searcher.name


def test_the_report_has_a_row_for_every_cell_and_says_that_a_table_is_partial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "cross_validate", lambda table: table.truth + 0.1)  # six fits take seconds
    write_table(table_file(tmp_path, "ignore"), lines(20))
    names = [FULL.name, "random, screen at 4, best 3"]
    tasks = [MeasuredTask("ignore", "nearest", name, 6) for name in names]
    cells = [run_task(task, tmp_path, 3) for task in tasks]
    write_report(cells, tmp_path, tmp_path, "What it says.")
    text = (tmp_path / "search.md").read_text()
    assert "PARTIAL: 20 of 300 points" in text
    assert text.count("| random, screen at 4, best 3 |") == 1
    drawn = (tmp_path / "search.svg").read_text()
    assert drawn.startswith("<?xml")
    assert "ignore (PARTIAL: 20 of 300 points), nearest" in drawn
    assert "## ignore (PARTIAL: 20 of 300 points), nearest, 6 trials" in text
    assert set(names) <= set(BY_NAME)


def test_a_table_with_too_few_points_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / grid.RUNS_FILE).write_text("".join(json.dumps(found) + "\n" for found in lines(9)))
    monkeypatch.setattr("sys.argv", ["search", "--pack", f"{tmp_path}/runs", "--tables", f"{tmp_path}"])
    with pytest.raises(SystemExit, match="nothing to measure on"):
        search_main.main()
    assert "ignore has fewer than 24 points" in capsys.readouterr().out
    assert table_file(tmp_path, "ignore").is_file()


def test_finished_cells_are_kept_and_found_again_unless_something_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(table_file(tmp_path, "ignore"), lines(24))
    simulated: list[str] = []

    def run_tasks(tasks: list[MeasuredTask], *how: Any) -> Iterator[Cell]:
        for task in tasks:
            if len(simulated) == 2:
                raise KeyboardInterrupt
            simulated.append(task.searcher)
            yield Cell(
                task.table, task.look_up, task.searcher, task.num_trials, (Outcome([1.0], [2.0], 3.0, 4.0, 5.0),)
            )

    pages: list[list[Cell]] = []
    monkeypatch.setattr(search_main, "run_tasks", run_tasks)
    monkeypatch.setattr(search_main, "write_report", lambda cells, *where: pages.append(cells))
    monkeypatch.setattr(
        search_main, "list_tasks", lambda *of, fast: [MeasuredTask("ignore", "nearest", name, 6) for name in "abc"]
    )
    flags = ["search", "--tables", f"{tmp_path}", "--cells", f"{tmp_path}/cells", "--out", f"{tmp_path}/out"]
    monkeypatch.setattr("sys.argv", flags)
    with pytest.raises(SystemExit, match="nothing to measure on"):
        search_main.main()
    assert "ignore is PARTIAL, 24 of 300 points: left out" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*flags, "--partial"])
    with pytest.raises(KeyboardInterrupt):
        search_main.main()
    cells = tmp_path / "cells" / "cells.jsonl"
    cells.write_text(cells.read_text() + cells.read_text()[:40])  # and the kill cut a third one short
    done, simulated[:] = list(simulated), []
    search_main.main()
    assert (done, simulated) == (["a", "b"], ["c"])
    assert [cell.searcher for cell in pages[0]] == ["a", "b", "c"]
    assert pages[0][0].outcomes == (Outcome([1.0], [2.0], 3.0, 4.0, 5.0),)
    stored = StoredCells(tmp_path / "cells", tmp_path, 30)
    assert stored.find(MeasuredTask("ignore", "nearest", "c", 6)) == pages[0][2]
    assert StoredCells(tmp_path / "cells", tmp_path, 31).find(MeasuredTask("ignore", "nearest", "c", 6)) is None
    write_table(table_file(tmp_path, "ignore"), lines(25))
    assert StoredCells(tmp_path / "cells", tmp_path, 30).find(MeasuredTask("ignore", "nearest", "c", 6)) is None


def test_random_search_is_compared_at_equal_cost() -> None:
    table = Table.of(SPEC, lines())
    objective = Objective(table, "nearest")
    better = Outcome([10.0, 20.0], [objective.median, objective.best], 30.0, 1.0, objective.best, 1.0)
    reference = Reference.of(Cell("ignore", "nearest", FULL.name, 3, (better, better)), objective)
    assert reference.at(5.0).tolist() == [1.0, 1.0]
    assert reference.at(25.0).tolist() == [0.0, 0.0]
    assert reference.cost_of(0.5) == pytest.approx(20.0, abs=0.2)
    assert compare([1.0, 1.0], [0.5, 0.5]) == (0.5, 0.0)
    assert compare([1.0, 1.2, 0.8], [0.5, 0.4, 0.6])[1] > 0
