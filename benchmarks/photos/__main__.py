"""Compare methods on a small set of real photos: ``python -m benchmarks.photos --data NAME --weights FILE --out DIR``.

Every row is a method at the first start point of ``search_spaces/photos.yaml``, with seeds 0 to 4; a seed draws the
single positives, the order of the images and the head. Nothing is searched, so this is not a comparison at equal
tuning: ``orchestrator benchmark`` is for that. The best epoch by clean validation mAP counts, and the test split is
opened once per row for all its seeds (``DIR/test-ledger.jsonl``). Each result is a line of ``DIR/photos.jsonl``; what
is there for this code and these settings is not run again, and ``DIR/photos.md`` is written from all of it.

The data must be prepared under the home (``orchestrator data prepare``); pointing games need a set with boxes, such as
one in COCO's layout.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.digits.runs import code_hash, read_results, train_and_score
from benchmarks.digits.table import Result, conclude_maps, conclude_rejection, render_table
from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.sweep_plan import trial_config
from orchestrator.planning.template import PHOTOS, fit_template
from orchestrator.promotion.test_set import Registered
from search_spaces.schema import SearchSpace, load_space
from training.config.run import PLACE_KEYS, Scalar, TrainConfig
from training.selection import Protocol

SEEDS = range(5)
ROWS = {
    "assumed negative": "assumed_negative",
    "full labels": "full_labels",
    "EM": "em",
    "IGNORE": "ignore",
    "IGNORE without rejection": "ignore_without_rejection",
    "IGNORE with oracle rejection": "ignore_oracle",
    "WAN": "wan",
    "LL-R": "large_loss_r",
    "GR loss": "gr_loss",
    "EM + APL": "em_apl",
    "IGNORE without the average-logit test": "ignore_without_average_test",
    "IGNORE without SPBC": "ignore_without_spbc",
    "IGNORE without regularisation": "ignore_without_reg",
    "IGNORE, loss of the weak view": "ignore_weak_view",
}
"""Row -> label of its block; the order of the runs, so that an interrupted table says the most."""


@dataclass(frozen=True)
class Setup:
    """What all runs share."""

    space: SearchSpace
    weights: str
    out: Path

    def config(self, row: str, seed: int) -> TrainConfig:
        """Return all settings of a run."""
        changes: dict[str, Scalar] = {
            "model.weights": self.weights,
            "data.draw_seed": seed,
            "loop.seed": seed,
        }
        plan = make_plan(PlanRequest(self.space, kind="train", method=ROWS[row], overrides=changes))
        return trial_config(plan, {})

    def hash_settings(self, row: str, seed: int) -> str:
        """Hash what a run's result depends on."""
        flat = {key: value for key, value in self.config(row, seed).flatten().items() if key not in PLACE_KEYS}
        flat["model.weights"] = hashlib.sha256(Path(self.weights).read_bytes()).hexdigest()
        return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:12]


def run_one(setup: Setup, row: str, seed: int) -> Result:
    """Train one run and score its test split; seconds are CPU seconds, with evaluation on val."""
    configs = {other: setup.config(row, other) for other in SEEDS}
    registered = Registered(ROWS[row], str(Protocol()), configs, f"benchmarks.photos {row}")
    return {
        "row": row,
        "scene_seed": 0,  # the set of photos, of which there is one; tables of digits have several
        "seed": seed,
        **train_and_score(configs[seed], registered, seed, setup.out),
        "settings": setup.hash_settings(row, seed),
        "code": code_hash(),
    }


def run_all(setup: Setup, rows: Iterable[str]) -> None:
    """Run what is missing, seed by seed, and write the table after each run."""
    file, wanted = setup.out / "photos.jsonl", list(rows)
    for seed in SEEDS:
        for row in wanted:
            known = {(result["settings"], result["code"]) for result in read_results(file)}
            if (setup.hash_settings(row, seed), code_hash()) in known:
                continue
            result = run_one(setup, row, seed)
            with file.open("a") as lines:
                lines.write(json.dumps(result) + "\n")
            print(f"{row}, seed {seed}: test mAP {result['test_mAP']:.1f}, {result['cpu_s']:.0f} s", flush=True)
            (setup.out / "photos.md").write_text(render(setup, read_results(file)))


def render(setup: Setup, results: list[Result]) -> str:
    """Return the table of the runs of this code, marked as partial until all are there."""
    mine = [result for result in results if result["code"] == code_hash()]
    num = len(ROWS) * len(SEEDS)
    state = "Complete." if len(mine) == num else f"Partial: {len(mine)} of {num} runs."
    said = "\n".join(f"* {line}" for line in [*conclude_maps(mine), *conclude_rejection(mine)])
    return (
        f"# Methods on photos\n\n{state} Data {setup.space.dataset}, {setup.space.shared.fixed['data.image_size']} px, "
        f"{setup.space.shared.fixed['model.backbone']}. Test mAP in %, mean and sample deviation over seeds, which "
        f"draw labels, order and head. Nothing was searched: every method is at its first start point.\n\n"
        f"{render_table(mine, mine)}\n\n{said}\n"
    )


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Name of the prepared dataset.")
    parser.add_argument("--weights", required=True, help="File of the trunk's weights: orchestrator weights import.")
    parser.add_argument("--out", type=Path, required=True, help="Folder of the results.")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        space = fit_template(load_space(PHOTOS), arguments.data)
        run_all(Setup(space, str(Path(arguments.weights).absolute()), arguments.out), arguments.rows)
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
