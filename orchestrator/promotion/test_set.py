"""Open a test set: the one door to it. An opening is in the test ledger before the first image is scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.planning.config_hash import hash_config
from orchestrator.provenance import UNKNOWN, read_build
from orchestrator.sweep_folder.ledger import Opening, TestSet, register_opening
from training.config.run import TrainConfig
from training.data.registry import dataset_info
from training.inference.evaluation import score_weights
from training.inference.scores import Scores
from training.inference.test_split import hash_split, load_test_split


@dataclass(frozen=True)
class Registered:
    """A set of runs that is fixed before the test set is opened for any of them.

    Attributes:
        method: The label of the method.
        protocol: How configuration and epoch were chosen.
        configs: Number of a run -> its settings, for all its runs, whether or not one failed. They differ in their
            seeds alone.
        purpose: What it is opened for.
    """

    method: str
    protocol: str
    configs: Mapping[int, TrainConfig]
    purpose: str

    def __post_init__(self) -> None:
        hashes = {hash_config(config.flatten()) for config in self.configs.values()}
        if len(hashes) != 1:
            raise ValueError(
                f"the runs of one opening must differ in their seeds alone, but got {len(hashes)} settings"
            )


def open_test_set(
    registered: Registered, states: Mapping[int, dict[str, Any]], ledger: Path | None = None
) -> tuple[Opening | None, dict[int, Scores]]:
    """Write an opening to the ledger, then score the test set with trained weights.

    Args:
        registered: The runs that the opening is for.
        states: Number of a run in ``registered.configs`` -> its best weights; a run that failed has none.
        ledger: The folder of the ledger; by default the sweeps'.

    Returns:
        The opening, which is an earlier one if the same was opened before, and the scores of each run. A test set
        without images cannot be opened: None, and no scores.

    Raises:
        OrchestratorError: The ledger is damaged or cannot be written; nothing was scored then.
    """
    first, build = next(iter(registered.configs.values())), read_build()
    split = load_test_split(first.data)
    if not len(split):
        return None, {}
    wanted = _describe(registered, first, hash_split(split), build)
    opening = register_opening(wanted, registered.purpose, build.get("dirty", UNKNOWN), ledger)
    # The images are the same for all; only the observed labels depend on the draw.
    splits = {first.data.draw_seed: split}
    scores = {}
    for number, state in states.items():
        config = registered.configs[number]
        draw = config.data.draw_seed
        if draw not in splits:
            splits[draw] = load_test_split(config.data)
        scores[number] = score_weights(config, state, splits[draw])
    return opening, scores


def _describe(registered: Registered, first: TrainConfig, split_hash: str, build: Mapping[str, str]) -> TestSet:
    return TestSet(
        dataset=first.data.name,
        data_hash=dataset_info(first.data).data_hash,
        split_hash=split_hash,
        method=registered.method,
        recipe=str(first.loop.recipe),
        protocol=registered.protocol,
        config_hash=hash_config(first.flatten()),
        seeds=tuple(sorted(config.loop.seed for config in registered.configs.values())),
        draws=tuple(sorted({config.data.draw_seed for config in registered.configs.values()})),
        commit=build.get("commit", UNKNOWN),
        changes=build.get("changes", UNKNOWN),
    )
