"""Record runs of random points on digits, some of them with several training seeds, for ``benchmarks.selection``.

    python -m benchmarks.selection_runs [--points 24] [--repeated 8] [--seeds 4]

Points are drawn from the ranges of EM, the cheapest method of ``search_spaces/digits.yaml`` that is worth tuning. Every
point is trained with the same first seed, as in a sweep, and the first ``--repeated`` ones with further seeds. Scores
are the best clean validation mAP; the test split is not opened. Results are appended to
``results/selection_runs.jsonl``, one line per run; a run that is there is not repeated.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.sweep_plan import trial_config
from orchestrator.trials.proposers import make_proposer
from training.config.run import TrainConfig
from training.loop.run import TrainingRun
from training.metric_names import VAL_MAP
from training.preparation import prepare

RUNS = Path(__file__).parent / "results" / "selection_runs.jsonl"


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=24)
    parser.add_argument("--repeated", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--most", type=int, help="stop after so many runs")
    options = parser.parse_args()
    known = {(run["point"], run["seed"]) for run in read_runs()}
    done = 0
    for point, seed, config in _make_runs(options.points, options.repeated, options.seeds):
        if (point, seed) not in known and done != options.most:
            done += 1
            result = {"point": point, "seed": seed, **_train(config)}
            with RUNS.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(result, flush=True)


def read_runs() -> list[dict[str, Any]]:
    """Return the recorded runs."""
    return [json.loads(line) for line in RUNS.read_text().splitlines()] if RUNS.exists() else []


def _make_runs(num_points: int, num_repeated: int, num_seeds: int) -> Iterator[tuple[int, int, TrainConfig]]:
    plan = replace(make_plan(PlanRequest(space="digits", method="em")), sampler="random", start_from=())
    proposer = make_proposer(plan)
    proposals = [proposer.propose(point) for point in range(num_points)]
    for seed in range(num_seeds):
        for point, proposal in enumerate(proposals):
            if proposal is not None and (seed == 0 or point < num_repeated):
                yield point, seed, trial_config(plan, {**proposal.params, "loop.seed": seed})


def _train(config: TrainConfig) -> dict[str, Any]:
    prepare(config.data)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as storage:
        training = TrainingRun(config, storage=storage)
        scores = []
        while not training.finished:
            training.train_epoch()
            scores.append(training.metrics[VAL_MAP])
    searched = ("method.entropy_weight", "optim.lr", "optim.weight_decay", "optim.batch_size")
    flat = config.flatten()
    return {
        "val_mAP": max(scores),
        "curve": [round(score, 2) for score in scores],
        "cpu_s": round(time.process_time() - started, 1),
        **{key: flat[key] for key in searched},
    }


if __name__ == "__main__":
    main()
