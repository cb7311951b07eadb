"""Compare all methods on digit scenes: test mAP over training and scene seeds, rejection, pointing game, seconds.

    python -m benchmarks.digits [--groups main rivals ablations query2label] [--rows ...] [--seeds ...]
                                [--processes 2] [--fresh]
    python -m benchmarks.digits --check 8    # repeat the 8 cheapest rows of an earlier tree, compare every digit

Every row is the first ``start_from`` point of its method in ``search_spaces/digits.yaml`` or ``digits_q2l.yaml``, which
was chosen on scene seed 0 and never on the scenes used here. The scene seed redraws scenes and trunk, the training seed
redraws the single positives. The best epoch by clean validation mAP counts. The test split is opened once per row and
set of scenes, for all training seeds that were asked for, and nothing is chosen by it: ``results/test-ledger.jsonl``
lists the openings.

Raw results go to ``results/digits.jsonl``, one line per run, as each run ends. A run whose settings and git tree of
``training/`` are already in the file is not repeated, so an interrupted benchmark continues where it stopped, and its
parts may run at different times. ``results/digits.md`` is written from all results, with the explanations of
``results/digits_explained.md`` at its end. A report with fewer runs than the last one is written only with ``--fresh``.

``--check N`` is for a tree that should change no result. If N runs of the earlier tree, one per row, come out the same,
``results/digits_checked.json`` records it, and the report uses the earlier tree's runs for this one, and says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from functools import cache
from multiprocessing import get_context
from pathlib import Path

from benchmarks.digits.rows import NUM_SEEDS, ROWS, SCENE_SEEDS, Run
from benchmarks.digits.table import Checked, Result, count_runs, render_report
from orchestrator.promotion.test_set import Registered, open_test_set
from orchestrator.sweep_folder.ledger import read_ledger
from training.config.run import TrainConfig
from training.loop.checkpoint import CheckpointStore
from training.loop.run import TrainingRun
from training.metric_names import (
    TRAIN_REJECTION_LIFT,
    TRAIN_REJECTION_PRECISION,
    TRAIN_REJECTION_RECALL,
    VAL_CENTRE_HIT_RATE,
    VAL_MAP,
    VAL_POINTING_HIT_RATE,
)
from training.preparation import prepare
from training.selection import Protocol

RESULTS = Path(__file__).parents[1] / "results"
DIRTY = "-dirty"
CHECKED = "digits_checked.json"
COMPARED = ("test_mAP", "val_mAP", "best_epoch")
"""Figures that a repeated run must reproduce to the last digit."""


def run_one(run: Run, seeds: Sequence[int], folder: Path) -> Result:
    """Train one run and score its test split.

    Args:
        run: The run.
        seeds: The training seeds of its row on its scenes, which are one opening of the test set.
        folder: Where the test ledger is.

    Seconds are CPU seconds of its one thread, including evaluation on val. Rejection is measured in the last epoch, the
    pointing game in the best one.
    """
    figures = train_and_score(run.config, _register(run, seeds), run.seed, folder)
    return {**vars(run), **figures, "settings": run.settings_hash, "code": code_hash()}


def train_and_score(config: TrainConfig, registered: Registered, seed: int, folder: Path) -> Result:
    """Train a run, and score the test split at its best epoch.

    Args:
        config: All settings of the run.
        registered: What is registered for the opening that the run belongs to.
        seed: The run's training seed.
        folder: Where the test ledger is.
    """
    prepare(config.data)
    with tempfile.TemporaryDirectory() as storage:
        training = TrainingRun(config, storage=storage)
        started = time.process_time()
        while not training.finished:
            training.train_epoch()
            training.save()
        seconds = time.process_time() - started
        best = CheckpointStore(storage).load_best()
    assert best is not None
    opening, scores = open_test_set(registered, {seed: best}, folder)
    assert opening is not None
    return {
        "epochs": training.epoch,
        "test_mAP": next(iter(scores.values())).metrics()["test/mAP"],
        "val_mAP": best["metrics"][VAL_MAP],
        "best_epoch": best["epoch"],
        "cpu_s": seconds,
        "rejection_precision": training.metrics.get(TRAIN_REJECTION_PRECISION),
        "rejection_recall": training.metrics.get(TRAIN_REJECTION_RECALL),
        "rejection_lift": training.metrics.get(TRAIN_REJECTION_LIFT),
        "pointing_hit_rate": best["metrics"].get(VAL_POINTING_HIT_RATE),
        "centre_hit_rate": best["metrics"].get(VAL_CENTRE_HIT_RATE),
        "data_hash": training.identity["data_hash"][:12],
        "opening": opening.n,
    }


def _register(run: Run, seeds: Sequence[int]) -> Registered:
    configs = {seed: Run(run.row, run.scene_seed, seed).config for seed in seeds}
    return Registered(ROWS[run.row].label, str(Protocol()), configs, f"benchmarks.digits {run.row}")


def run_all(runs: Sequence[Run], path: Path, processes: int) -> int:
    """Run what ``path`` does not hold yet, and append each result as its run ends; return how many runs failed.

    Their messages go to stderr.
    """
    # The results of a working tree with changes say nothing about other changes, so they are never reused.
    known = (
        set()
        if code_hash().endswith(DIRTY)
        else {(result["settings"], result["code"]) for result in read_results(path)}
    )
    missing = [run for run in runs if (run.settings_hash, code_hash()) not in known]
    num_failed = 0
    with path.open("a") as file:
        for count, (run, future) in enumerate(_run_each(missing, processes, runs, path.parent), 1):
            heading = f"{count}/{len(missing)} {_name(run)}"
            if error := future.exception():
                num_failed += 1
                print(f"{heading}: {error}", file=sys.stderr)
                continue
            result = future.result()
            file.write(json.dumps(result) + "\n")
            file.flush()
            print(f"{heading}: test mAP {result['test_mAP']:.1f}, {result['cpu_s']:.0f} s", flush=True)
    return num_failed


def _run_each(
    runs: Sequence[Run], processes: int, wanted: Sequence[Run], folder: Path
) -> Iterator[tuple[Run, Future[Result]]]:
    """Run them in parallel, and yield each with its result or error as it ends.

    Args:
        runs: The runs.
        processes: How many at a time.
        wanted: All runs that were asked for, with those whose results are known: what the test sets are opened for.
        folder: Where the test ledger is.
    """
    seeds: dict[tuple[str, int], list[int]] = {}
    for run in wanted:
        seeds.setdefault((run.row, run.scene_seed), []).append(run.seed)
    # Make each set of scenes once, before two processes make it twice.
    for run in {run.scene_seed: run for run in runs}.values():
        prepare(run.config.data)
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        futures = {pool.submit(run_one, run, seeds[run.row, run.scene_seed], folder): run for run in runs}
        for future in as_completed(futures):
            yield futures[future], future


def _name(run: Run) -> str:
    return f"{run.row}, scenes {run.scene_seed}, seed {run.seed}"


def choose_repeats(results: Sequence[Result], wanted: Sequence[Run], num: int) -> list[Result]:
    """Choose the results of an earlier tree for ``--check`` to repeat: the cheapest, at most one per row.

    Args:
        results: All results.
        wanted: Runs to choose from.
        num: How many results to choose at most.

    Returns:
        Results of the earlier tree that has the most results with the present settings; empty if no tree has any.
    """
    theirs = [result for result in results if result["code"] != code_hash() and not result["code"].endswith(DIRTY)]
    theirs = [
        result for result in theirs if result["row"] in ROWS and _run_of(result) in wanted and _has_its_settings(result)
    ]
    if not theirs:
        return []
    tree, _ = Counter(result["code"] for result in theirs).most_common(1)[0]
    cheapest: dict[str, Result] = {}
    for result in sorted(
        (result for result in theirs if result["code"] == tree), key=lambda result: float(result["cpu_s"])
    ):
        cheapest.setdefault(result["row"], result)
    return list(cheapest.values())[:num]


def check_runs(before: Sequence[Result], folder: Path, processes: int) -> bool:
    """Repeat runs of one earlier tree at this one, print how each compares, and record in ``folder`` if all are equal.

    A difference withdraws what an earlier check recorded about that tree.
    """
    expected, repeated, num_different = {_run_of(result): result for result in before}, [], 0
    for run, future in _run_each(list(expected), processes, list(expected), folder):
        if error := future.exception():
            print(f"{_name(run)}: {error}", file=sys.stderr)
            continue
        pairs = {name: (expected[run][name], future.result()[name]) for name in COMPARED}
        differences = [f"{name} was {old}, is {new}" for name, (old, new) in pairs.items() if old != new]
        print(f"{_name(run)}: {'; '.join(differences) or 'equal'}", flush=True)
        num_different += bool(differences)
        if not differences:
            repeated.append({**vars(run), **{name: new for name, (_, new) in pairs.items()}})
    file, trees = folder / CHECKED, {"code": code_hash(), "of": before[0]["code"]}
    if len(repeated) == len(expected):
        rows = sorted(repeated, key=lambda row: list(ROWS).index(row["row"]))
        file.write_text(json.dumps({**trees, "rows": rows, "date": f"{datetime.now(UTC):%Y-%m-%d}"}, indent=1) + "\n")
        return True
    print(
        f"{len(repeated)} of {len(expected)} runs are equal: those of {trees['of']} do not count for {trees['code']}.",
        file=sys.stderr,
    )
    known = read_checked(folder)
    if num_different and known is not None and known["of"] == trees["of"]:
        file.unlink()
    return False


def read_checked(folder: Path) -> Checked | None:
    """Return the last check if it is about this tree."""
    file = folder / CHECKED
    checked: Checked | None = json.loads(file.read_text()) if file.is_file() else None
    return checked if checked is not None and checked["code"] == code_hash() else None


@cache
def code_hash() -> str:
    """Return the git tree of ``training/`` at HEAD, which other commits do not change; marked if there are changes."""
    git = ["git", "-C", str(Path(__file__).parents[2])]
    tree = subprocess.run([*git, "rev-parse", "HEAD:training"], capture_output=True, text=True, check=True).stdout
    changed = subprocess.run(
        [*git, "status", "--porcelain", "training"], capture_output=True, text=True, check=True
    ).stdout
    return tree[:12] + (DIRTY if changed else "")


def read_results(path: Path) -> list[Result]:
    """Return the results in a file; empty if it does not exist."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _wanted(arguments: argparse.Namespace) -> list[Run]:
    """Return the requested runs, those with the lowest training seed first."""
    rows = [
        name
        for name, row in ROWS.items()
        if (name in arguments.rows if arguments.rows else row.group in arguments.groups)
    ]
    runs = [
        Run(name, scene_seed, seed)
        for name in rows
        for seed in (range(NUM_SEEDS[ROWS[name].group]) if arguments.seeds is None else arguments.seeds)
        for scene_seed in arguments.scene_seeds
    ]
    return sorted(runs, key=lambda run: run.seed)


def _of_these_settings(results: Sequence[Result], scene_seeds: Sequence[int], checked: Checked | None) -> list[Result]:
    """Return the results that have the present settings and this code, or code that was checked to be equal.

    The last result of a repeated run counts.
    """
    trees = {code_hash()} if checked is None else {code_hash(), checked["of"]}
    kept = {}
    for result in results:
        if (
            result["code"] in trees
            and result["row"] in ROWS
            and result["scene_seed"] in scene_seeds
            and _has_its_settings(result)
        ):
            kept[_run_of(result)] = result
    return list(kept.values())


def _run_of(result: Result) -> Run:
    return Run(result["row"], result["scene_seed"], result["seed"])


def _has_its_settings(result: Result) -> bool:
    return bool(_run_of(result).settings_hash == result["settings"])


def _refuse_fewer(num_runs: int, report: Path, fresh: bool) -> None:
    """Raise a ValueError if a report of this many runs would overwrite one of more."""
    before = count_runs(report.read_text()) if report.is_file() else 0
    if num_runs < before and not fresh:
        raise ValueError(
            f"The new {report.name} would have {num_runs} runs, fewer than the {before} of the last one. Run the "
            "others at this tree of training/ too, show with --check N that it reproduces the last one, or overwrite "
            "the report with --fresh"
        )


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", choices=list(NUM_SEEDS), default=list(NUM_SEEDS), help="All by default.")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), help="These rows instead of whole groups.")
    parser.add_argument(
        "--seeds", type=int, nargs="+", help=f"Training seeds; by default this many, from 0: {NUM_SEEDS}."
    )
    parser.add_argument("--scene-seeds", type=int, nargs="+", default=SCENE_SEEDS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--fresh", action="store_true", help="Write the report even if it has fewer runs than the last."
    )
    parser.add_argument(
        "--check", type=int, metavar="N", help="Repeat N of an earlier tree's runs instead, and compare."
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        done = _check(arguments) if arguments.check is not None else _measure(arguments)
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    sys.exit(0 if done else 1)


def _measure(arguments: argparse.Namespace) -> bool:
    """Run the requested runs and write the report; return whether every run succeeded."""
    path, wanted = arguments.out / "digits.jsonl", _wanted(arguments)
    # Refuse before hours of training, not after them.
    had = {_run_of(result) for result in _reported(arguments)}
    _refuse_fewer(len(had | set(wanted)), arguments.out / "digits.md", arguments.fresh)
    num_failed = run_all(wanted, path, arguments.processes)
    return _write_report(arguments) and num_failed == 0


def _check(arguments: argparse.Namespace) -> bool:
    """Repeat runs of an earlier tree and, if all are equal, write the report; return whether they are."""
    if arguments.check < 1:
        raise ValueError(f"--check must be at least 1, the number of runs to repeat, but got --check={arguments.check}")
    if code_hash().endswith(DIRTY):
        raise ValueError(f"training/ has changes that are not committed ({code_hash()}). Commit them before --check")
    results = read_results(arguments.out / "digits.jsonl")
    before = choose_repeats(results, _wanted(arguments), arguments.check)
    if not before:
        raise ValueError("No runs of an earlier tree have the present settings. Run the benchmark without --check")
    if_equal = _of_these_settings(results, arguments.scene_seeds, {"of": before[0]["code"]})
    _refuse_fewer(len(if_equal), arguments.out / "digits.md", arguments.fresh)
    return check_runs(before, arguments.out, arguments.processes) and _write_report(arguments)


def _reported(arguments: argparse.Namespace) -> list[Result]:
    return _of_these_settings(
        read_results(arguments.out / "digits.jsonl"), arguments.scene_seeds, read_checked(arguments.out)
    )


def _write_report(arguments: argparse.Namespace) -> bool:
    """Write the report, unless failed runs leave it fewer runs than the last one; return whether it is written."""
    results, explained, path = _reported(arguments), RESULTS / "digits_explained.md", arguments.out / "digits.md"
    try:
        _refuse_fewer(len(results), path, arguments.fresh)
    except ValueError as error:
        print(error, file=sys.stderr)
        return False
    explanations = explained.read_text() if explained.is_file() else ""
    report = render_report(
        results, {name: row.group for name, row in ROWS.items()}, explanations, read_checked(arguments.out)
    )
    if num_openings := len(read_ledger(arguments.out)):
        report += f"\nOpenings of the test sets in `test-ledger.jsonl`: {num_openings}.\n"
    path.write_text(report)
    print("\n" + report)
    return True


if __name__ == "__main__":
    main()
