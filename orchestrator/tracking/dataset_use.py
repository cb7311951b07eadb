"""Say in MLflow's terms which dataset a run used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.provenance import UNKNOWN
from orchestrator.redaction import redact

COUNT_PREFIX = "num_"
_NUM_DIGEST = 12


@dataclass(frozen=True)
class DatasetUse:
    """A dataset as a run used it.

    Attributes:
        digest: First digits of its data hash, which a later run can be compared with.
        source: Where it was, as JSON.
        counts: ``num_train``, ``num_classes``, ``num_known_negatives`` and so on.
        context: What it was used for.
    """

    name: str
    digest: str
    source: str
    counts: Mapping[str, int]
    context: str = "training"


def find_dataset(plan: SweepPlan, provenance: Mapping[str, str]) -> DatasetUse | None:
    """Return the dataset of a plan's trials, or None if the driver did not know its hash."""
    data_hash = provenance.get("data_hash", UNKNOWN)
    if data_hash == UNKNOWN:
        return None
    counts = {name: value for name, value in provenance.items() if name.startswith(COUNT_PREFIX) and value.isdecimal()}
    source = {"uri": redact(str(plan.base.get("data.store") or plan.dataset)), "data_hash": data_hash}
    names = ("scene_seed", "split_seed", "draw_seed")
    seeds = {name: str(plan.base.get(f"data.{name}")) for name in names}
    return DatasetUse(
        plan.dataset,
        data_hash[:_NUM_DIGEST],
        json.dumps({**source, **seeds}),
        {name: int(value) for name, value in counts.items()},
    )
