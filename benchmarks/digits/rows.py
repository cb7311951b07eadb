"""Define the rows of the digits benchmark: methods at the first start point of their space, and the runs of each."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.sweep_plan import trial_config
from search_spaces.schema import SearchSpace, load_space
from training.config.run import ADDED_SETTINGS, PLACE_KEYS, Scalar, TrainConfig

SCENE_SEEDS = [101, 102, 103]
Group = Literal["main", "rivals", "ablations", "query2label"]
NUM_SEEDS: dict[Group, int] = {"main": 5, "rivals": 2, "ablations": 2, "query2label": 2}
"""Number of training seeds, counted from 0, for a group's rows on each set of scenes."""


@dataclass(frozen=True)
class Row:
    """A line of a table: a method at the first start point of its space, with these settings changed."""

    group: Group
    label: str
    settings: dict[str, Scalar] = field(default_factory=dict)

    @property
    def space(self) -> str:
        return "digits_q2l" if self.group == "query2label" else "digits"


ROWS: dict[str, Row] = {
    "assumed negative": Row("main", "assumed_negative"),
    "WAN": Row("main", "wan"),
    "IGNORE without rejection": Row("main", "ignore_without_rejection"),
    "IGNORE": Row("main", "ignore"),
    "IGNORE, gap threshold x 1.5": Row("main", "ignore", {"method.gap_threshold_scale": 1.5}),
    "EM, alpha 0.1": Row("main", "em", {"method.entropy_weight": 0.1}),
    "EM, alpha 0.2": Row("main", "em", {"method.entropy_weight": 0.2}),
    "IGNORE with oracle rejection": Row("main", "ignore_oracle"),
    "full labels": Row("main", "full_labels"),
    "AN-LS": Row("rivals", "an_ls"),
    "EPR": Row("rivals", "epr"),
    "focal": Row("rivals", "focal"),
    "ASL": Row("rivals", "asl"),
    "Hill": Row("rivals", "hill"),
    "SPLC": Row("rivals", "splc"),
    "GR loss": Row("rivals", "gr_loss"),
    "LL-R": Row("rivals", "large_loss_r"),
    "LL-Ct": Row("rivals", "large_loss_ct"),
    "LL-Cp": Row("rivals", "large_loss_cp"),
    "BoostLU + LL-R": Row("rivals", "boostlu_r"),
    "BoostLU + LL-Ct": Row("rivals", "boostlu_ct"),
    "BoostLU + LL-Cp": Row("rivals", "boostlu_cp"),
    "EM + APL": Row("rivals", "em_apl"),
    "ROLE": Row("rivals", "role"),
    "CRISP": Row("rivals", "crisp"),
    "PLC": Row("rivals", "plc"),
    "IGNORE without the average-logit test": Row("ablations", "ignore_without_average_test"),
    "IGNORE without SPBC": Row("ablations", "ignore_without_spbc"),
    "IGNORE without regularisation": Row("ablations", "ignore_without_reg"),
    "IGNORE, loss of the weak view": Row("ablations", "ignore_weak_view"),
    "Query2Label, assumed negative": Row("query2label", "assumed_negative"),
    "Query2Label, PLC": Row("query2label", "plc"),
    "Query2Label, PLC + LAC": Row("query2label", "plc_lac"),
    "Query2Label, IGNORE without rejection": Row("query2label", "ignore_without_rejection"),
    "Query2Label, IGNORE": Row("query2label", "ignore"),
    "Query2Label, IGNORE with oracle rejection": Row("query2label", "ignore_oracle"),
    "Query2Label, full labels": Row("query2label", "full_labels"),
}


@dataclass(frozen=True)
class Run:
    """One run: a row with its seeds."""

    row: str
    scene_seed: int
    seed: int

    @property
    def config(self) -> TrainConfig:
        """All settings of the run."""
        row = ROWS[self.row]
        seeds: dict[str, Scalar] = {
            "data.scene_seed": self.scene_seed,
            "data.draw_seed": self.seed,
            "loop.seed": self.seed,
        }
        return trial_config(
            make_plan(PlanRequest(_load(row.space), kind="train", method=row.label, overrides=row.settings | seeds)), {}
        )

    @property
    def settings_hash(self) -> str:
        """Hash of all settings that the result depends on."""
        flat = {
            key: value
            for key, value in self.config.flatten().items()
            if key not in PLACE_KEYS and ADDED_SETTINGS.get(key, ...) != value
        }
        return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:12]


@cache
def _load(space: str) -> SearchSpace:
    return load_space(space)
