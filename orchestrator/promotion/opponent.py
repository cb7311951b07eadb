"""Find the champion that a promotion has to beat, and its settings, before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from orchestrator.errors import OrchestratorError
from orchestrator.home import sweep_dir
from orchestrator.planning.sweep_plan import Params, SweepPlan
from orchestrator.promotion.final_runs import final_config, make_result
from orchestrator.promotion.race import Champion
from orchestrator.promotion.registration import REGISTERED_TRIAL, restore_champions
from orchestrator.promotion.verdict import COMPARED_KEYS, registered_name
from orchestrator.provenance import UNKNOWN
from orchestrator.sweep_folder.index import load_plan
from orchestrator.sweep_folder.journal import JOURNAL_FILE
from orchestrator.sweep_folder.state import SweepState
from orchestrator.tracking.run_tags import SWEEP_TAG
from training.config.run import PLACE_KEYS, Scalar

if TYPE_CHECKING:
    from orchestrator.tracking.registry import ModelVersion

# What a champion takes over from the sweep: places, and what both must share to be compared seed by seed.
_SHARED = {*PLACE_KEYS, "model.weights", "data.draw_seed", "loop.seed"}


def find_opponent(plan: SweepPlan, state: SweepState, final: SweepPlan, say: Callable[[str], None]) -> Champion | None:
    """Return the champion under the conditions of a sweep, or None if there is none, or nobody has its settings.

    Args:
        plan: The sweep.
        state: Its state.
        final: Final runs of any of its trials, which have the same conditions.
        say: Called with what the user should know.

    Raises:
        MlflowFailedError: MLflow does not answer.
    """
    from orchestrator.tracking.registry import find_champion

    identity = make_result(final, state, sweep_dir(plan.id) / JOURNAL_FILE).identity
    # The decision will refuse what cannot be compared.
    if any(identity.get(key, UNKNOWN) == UNKNOWN for key in COMPARED_KEYS):
        return None
    name = registered_name(identity)
    restore_champions(name, say)
    version = find_champion(name)
    if version is None:
        return None
    settings = _read_settings(version)
    if settings is None:
        say(f"The settings of {version} cannot be read, so it takes no part: its recorded scores are compared with")
        return None
    return Champion(str(version), make_point(plan, settings))


def make_point(plan: SweepPlan, settings: Mapping[str, Scalar]) -> Params:
    """Return settings as params of a plan: those that differ from its base, and all of another method."""
    method = settings["method.name"]
    return {
        key: value
        for key, value in settings.items()
        if key not in _SHARED
        and (plan.base.get(key) != value or (key.startswith("method.") and plan.base["method.name"] != method))
    }


def _read_settings(version: ModelVersion) -> Mapping[str, Scalar] | None:
    from orchestrator.tracking.registry import find_model

    try:
        return final_config(load_plan(version.tags.get(SWEEP_TAG, "")), REGISTERED_TRIAL).flatten()
    except OrchestratorError:
        pass  # promoted in another home, whose model MLflow has
    try:
        described = json.loads((find_model(str(version)) / "config.json").read_text(encoding="utf-8"))
        return dict(described["config"])
    except (OrchestratorError, OSError, ValueError, KeyError):
        return None
