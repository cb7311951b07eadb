"""Read the race of a promotion from the records of its runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.records import TrialRecord, TrialState
from orchestrator.trials.racing import race
from training.config.run import Scalar


@dataclass(frozen=True)
class RaceState:
    """A race after some runs.

    Attributes:
        scores: Entrant -> its scores in the order of the blocks, without those of runs that failed or have not ended.
        left: Entrants that are still in the race, by the blocks in which all that were left have ended.
        failed: Entrants with a run that failed.
        missing: Runs to come, as places in the plan's points, in their order.
    """

    scores: Mapping[int, tuple[float, ...]]
    left: tuple[int, ...]
    failed: tuple[int, ...]
    missing: tuple[int, ...]


def read_race(plan: SweepPlan, records: Iterable[TrialRecord]) -> RaceState:
    """Return the state of a race, with entrants by their place in a block."""
    assert plan.choice is not None
    width, num_blocks = plan.choice.num_entrants, plan.choice.blocks
    known = {place_of(plan, record.params): record for record in records}
    # A run that the limit of GPU-hours has stopped says nothing about its entrant.
    stopped = TrialState.PRUNED
    ended = {place: _score(record, plan) for place, record in known.items() if record.ended and record.state != stopped}
    blocks: list[dict[int, float | None]] = []
    left = list(range(width))
    for block in range(num_blocks):
        if any(block * width + entrant not in ended for entrant in left):
            break
        blocks.append({entrant: ended[block * width + entrant] for entrant in left})
        left = race(blocks, num_blocks)
    # Whoever is alone has won: more of its runs would choose nothing.
    over = len(left) < 2 and width > 1
    places = () if over else range(width * num_blocks)
    return RaceState(
        {
            entrant: tuple(
                score for place in range(entrant, width * num_blocks, width) if (score := ended.get(place)) is not None
            )
            for entrant in range(width)
        },
        tuple(left),
        tuple(sorted({place % width for place, score in ended.items() if score is None})),
        tuple(place for place in places if place % width in left and place not in known),
    )


def place_of(plan: SweepPlan, params: Mapping[str, Scalar]) -> int:
    """Return the place of a run among the plan's points, all of which differ."""
    return plan.start_from.index(dict(params))


def _score(record: TrialRecord, plan: SweepPlan) -> float | None:
    return record.value(plan.protocol) if record.state is TrialState.COMPLETE else None
