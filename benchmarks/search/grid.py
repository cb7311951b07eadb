"""Train the runs of the tables, one after the other in this process, without Ray.

    python -m benchmarks.search.grid --folder FOLDER [--tables ignore em_apl] [--part 0/2]

Every finished run is appended to FOLDER/runs.jsonl with the validation mAP, CPU seconds and images passed of each
epoch. A run that is there already is not repeated, so the command can be stopped at any time and started again.
With ``--part 0/2`` and ``--part 1/2`` two processes share the work. The points come first in the order of their
sequence. As soon as 24 of them are known, the best third of those known so far gets its other seeds before the next
point is begun.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from benchmarks.digits.runs import code_hash
from benchmarks.search.lines import append_line, read_lines
from benchmarks.search.tables import SHARE_REPLICATED, TABLES, TRUNK_SCENES, TableSpec
from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.sweep_plan import trial_config
from training.cache import making
from training.loop.run import TrainingRun
from training.metric_names import TRAIN_IMAGES_BACKWARD, TRAIN_IMAGES_FORWARD, VAL_MAP
from training.metrics import compute_metrics
from training.preparation import prepare

RUNS_FILE = "runs.jsonl"
_FIRST_REPLICATED = 24
_TRUNK_EPOCHS = 8
_TRUNK_SEED = 1000

Line = dict[str, Any]


class _Run(TrainingRun):
    """A run that measures nothing but mAP: its CAMs on val would take longer than its training."""

    def _measure(self, model: Any) -> dict[str, float]:
        return compute_metrics("val", self._scores(self._val, model), self._val.true, self._val.observed)

    def trunk_state(self) -> dict[str, Any]:
        """Return the weights of the trunk."""
        state = self._model.state_dict()
        return {
            name.removeprefix("trunk."): value.contiguous()
            for name, value in state.items()
            if name.startswith("trunk.")
        }


def make_trunk(folder: Path) -> Path:
    """Train the trunk with all labels on scenes of its own, unless the folder has it; return its file."""
    path = folder / "trunk.safetensors"
    with making(path):
        if not path.is_file():
            # A seed of its own: a run with the same one would begin with the head that the trunk was trained with.
            settings = {"data.scene_seed": TRUNK_SCENES, "loop.epochs": _TRUNK_EPOCHS, "loop.seed": _TRUNK_SEED}
            plan = make_plan(PlanRequest("digits", kind="train", method="full_labels", overrides=settings))
            run = _Run(trial_config(plan, {}))
            while not run.finished:
                run.train_epoch()
            save_file(run.trunk_state(), path.with_suffix(".making"))
            path.with_suffix(".making").rename(path)
    return path


def train(spec: TableSpec, config: int, seed: int, trunk: Path) -> Line:
    """Train one run of a table and return its line.

    Seconds are CPU seconds of this process, validation included. On a busy machine they vary by a factor of two or
    three from run to run; the images passed do not.
    """
    point = spec.points[config]
    settings = spec.config(point, seed, str(trunk))
    prepare(settings.data)
    started = time.process_time()
    run = _Run(settings)
    curve: dict[str, list[float]] = {"val_mAP": [], "cpu_s": [], "forward": [], "backward": []}
    set_up_s = time.process_time() - started
    while not run.finished:
        started = time.process_time()
        metrics = run.train_epoch()
        curve["val_mAP"].append(round(metrics[VAL_MAP], 4))
        curve["cpu_s"].append(round(time.process_time() - started, 4))
        curve["forward"].append(metrics[TRAIN_IMAGES_FORWARD])
        curve["backward"].append(metrics[TRAIN_IMAGES_BACKWARD])
    head = {"table": spec.name, "config": config, "seed": seed, "params": point}
    identity = {"data_hash": run.identity["data_hash"][:12], "weights_hash": run.identity["weights_hash"][:12]}
    return {**head, **curve, "set_up_s": round(set_up_s, 3), **identity, "code": code_hash()}


def next_run(spec: TableSpec, lines: Iterable[Line], part: int = 0, parts: int = 1) -> tuple[int, int] | None:
    """Return the configuration and seed to train next, or None if nothing is left.

    Args:
        spec: The table.
        lines: Finished runs of this table.
        part, parts: Only configurations whose number leaves this remainder.
    """
    scores = {(line["config"], line["seed"]): max(line["val_mAP"]) for line in lines}
    first, others = spec.seeds[0], spec.seeds[1:]
    known = {config: value for (config, seed), value in scores.items() if seed == first}
    missing = [config for config in range(spec.num_configs) if config not in known and config % parts == part]
    if len(known) >= min(_FIRST_REPLICATED, spec.num_configs) or not missing:
        best = sorted(known, key=lambda config: (-known[config], config))[: -(-len(known) // SHARE_REPLICATED)]
        for config in sorted(best):
            for seed in others:
                if config % parts == part and (config, seed) not in scores:
                    return config, seed
    return (missing[0], first) if missing else None


def run_table(spec: TableSpec, folder: Path, part: int, parts: int) -> None:
    """Train what a table still lacks."""
    path, trunk = folder / RUNS_FILE, make_trunk(folder)
    while True:
        lines = [line for line in read_lines(path) if line["table"] == spec.name]
        chosen = next_run(spec, lines, part, parts)
        if chosen is None:
            return
        line = train(spec, *chosen, trunk)
        append_line(path, line)
        print(f"{spec.name} {chosen}: {max(line['val_mAP']):.1f}, {sum(line['cpu_s']):.1f} s", flush=True)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="Where the runs and the trunk are kept.")
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--part", default="0/1", help="Which part of the configurations: 0/2, 1/2.")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    part, parts = map(int, arguments.part.split("/"))
    for name in arguments.tables:
        run_table(TABLES[name], arguments.folder, part, parts)


if __name__ == "__main__":
    main()
