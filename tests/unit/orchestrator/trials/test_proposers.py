from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import optuna
import pytest
from optuna.samplers._tpe import sampler as tpe

from orchestrator.errors import OrchestratorError
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.sweep_folder.records import TrialRecord, TrialState
from orchestrator.trials import samplers
from orchestrator.trials.proposers import GridProposer, OptunaProposer, make_proposer
from search_spaces.ranges import Range
from tests.kit.sweeps import make_sweep
from training.metric_names import VAL_MAP

RANGES = {
    "method.spbc_weight": Range(type="float", low=0, high=2),
    "method.reg_weight": Range(type="float", low=0.01, high=1, log=True),
    "method.warmup_epochs": Range(type="int", low=2, high=8),
    "method.cam_normalisation": Range(type="categorical", choices=["per_image", "batch"]),
}
PUBLISHED = {
    "method.spbc_weight": 0.5,
    "method.reg_weight": 0.5,
    "method.warmup_epochs": 3,
    "method.cam_normalisation": "per_image",
}


@pytest.fixture
def plan() -> Callable[..., SweepPlan]:
    def make(**changes: Any) -> SweepPlan:
        settings: dict[str, Any] = {"ranges": RANGES, "startup_trials": 3}
        return make_sweep(**(settings | changes))

    return make


def ended(
    trial: int, params: Mapping[str, Any], *values: float, state: TrialState = TrialState.COMPLETE
) -> TrialRecord:
    metrics = {epoch: {VAL_MAP: value} for epoch, value in enumerate(values, start=1)}
    return TrialRecord(trial, params, "tpe", started_ms=0, state=state, metrics=metrics)


def run(proposer: OptunaProposer, trials: range) -> list[TrialRecord]:
    """Run trials one after the other; every third is pruned, every fourth of the others fails."""
    records = []
    for trial in trials:
        proposal = proposer.propose(trial)
        assert proposal is not None
        state = TrialState.PRUNED if trial % 3 == 2 else TrialState.FAILED if trial % 4 == 3 else TrialState.COMPLETE
        record = ended(
            trial,
            proposal.params,
            50.0,
            80 - 10 * abs(float(proposal.params["method.spbc_weight"] or 0) - 1),
            state=state,
        )
        proposer.learn(record)
        records.append(record)
    return records


def test_start_points_come_first_and_what_they_leave_out_is_drawn(plan: Callable[..., SweepPlan]) -> None:
    proposer = OptunaProposer(plan(start_from=(PUBLISHED, {"method.spbc_weight": 1.5, "loop.seed": 7})))
    first, second = proposer.propose(0), proposer.propose(1)
    assert first is not None
    assert (first.params, first.origin) == (PUBLISHED, "start_from")
    assert second is not None
    assert second.params["method.spbc_weight"] == 1.5
    assert second.params["loop.seed"] == 7
    assert set(second.params) == {*RANGES, "loop.seed"}


def test_origins_tell_start_up_from_tpe_by_trial_number(plan: Callable[..., SweepPlan]) -> None:
    proposer = OptunaProposer(plan(start_from=(PUBLISHED,)))
    proposals = [proposer.propose(trial) for trial in range(5)]
    assert [proposal and proposal.origin for proposal in proposals] == [
        "start_from",
        "startup",
        "startup",
        "tpe",
        "tpe",
    ]


def test_draws_lie_in_their_ranges_and_have_their_types(plan: Callable[..., SweepPlan]) -> None:
    proposer = OptunaProposer(plan())
    for record in run(proposer, range(12)):
        assert all(found.contains(record.params[key]) for key, found in RANGES.items())


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_draws_depend_on_seed_and_trial_number_alone_while_nothing_is_known(
    plan: Callable[..., SweepPlan], sampler: str
) -> None:
    one = plan(sampler=sampler, search_seed=1)
    again, other = SweepPlan(**vars(one)), SweepPlan(**(vars(one) | {"search_seed": 2}))
    draws = [OptunaProposer(one).propose(trial) for trial in range(3)]
    assert draws == [OptunaProposer(again).propose(trial) for trial in range(3)]
    assert draws != [OptunaProposer(other).propose(trial) for trial in range(3)]
    assert len({str(draw) for draw in draws}) == 3


def test_a_proposer_rebuilt_from_records_proposes_what_the_first_would_have(plan: Callable[..., SweepPlan]) -> None:
    made = plan(start_from=(PUBLISHED,))
    first = OptunaProposer(made)
    records = run(first, range(14))
    running = first.propose(14)
    assert running is not None
    rebuilt = OptunaProposer(made, [*records, TrialRecord(14, running.params, running.origin, started_ms=0)])
    assert rebuilt.propose(15) == first.propose(15)


def test_a_cut_trial_is_told_as_pruned_with_its_values_and_never_as_finished(plan: Callable[..., SweepPlan]) -> None:
    proposer = OptunaProposer(plan(start_from=(PUBLISHED,)))
    proposer.propose(0)
    proposer.learn(ended(0, PUBLISHED, 40.0, 45.0, state=TrialState.PRUNED))
    rebuilt = OptunaProposer(
        plan(sweep_id="digits-00000002"), [ended(0, PUBLISHED, 40.0, 45.0, state=TrialState.PRUNED)]
    )
    for study in (proposer.study, rebuilt.study):
        (trial,) = study.trials
        assert trial.state is optuna.trial.TrialState.PRUNED
        assert trial.intermediate_values == {1: 40.0, 2: 45.0}
        with pytest.raises(ValueError, match="No trials are completed"):
            study.best_trial  # noqa: B018


def test_a_complete_trial_counts_with_the_value_of_its_chosen_epoch(plan: Callable[..., SweepPlan]) -> None:
    proposer = OptunaProposer(plan(start_from=(PUBLISHED, PUBLISHED)))
    for trial, values in enumerate([(40.0, 60.0, 50.0), (math.nan,)]):
        proposer.propose(trial)
        proposer.learn(ended(trial, PUBLISHED, *values))
    assert [(trial.state.name, trial.value) for trial in proposer.study.trials] == [("COMPLETE", 60.0), ("FAIL", None)]


def test_tpe_looks_where_it_was_good(plan: Callable[..., SweepPlan]) -> None:
    proposer = OptunaProposer(plan(ranges={"method.spbc_weight": RANGES["method.spbc_weight"]}, startup_trials=10))
    weights = [float(record.params["method.spbc_weight"] or 0) for record in run(proposer, range(40))]
    late = [abs(weight - 1) for weight in weights[25:]]
    assert sum(late) / len(late) < 0.35  # an even draw would be 0.5 away


def test_quasi_random_start_up_points_are_spread_and_do_not_depend_on_what_ran(
    plan: Callable[..., SweepPlan],
) -> None:
    made = plan(startup="quasi_random", startup_trials=8, start_from=(PUBLISHED,))
    proposer = OptunaProposer(made)
    records = run(proposer, range(9))
    origins = [proposal.origin for trial in range(9) if (proposal := OptunaProposer(made).propose(trial))]
    assert origins == ["start_from", *["quasi_random"] * 7, "tpe"]
    rebuilt = OptunaProposer(made, records[:5])
    assert [rebuilt.propose(trial) for trial in (5, 6)] == [OptunaProposer(made).propose(trial) for trial in (5, 6)]
    random = OptunaProposer(plan(sweep_id="digits-00000002", sampler="random", startup="quasi_random"))
    drawn = [proposal for trial in range(16) if (proposal := random.propose(trial))]
    assert {proposal.origin for proposal in drawn} == {"quasi_random"}
    for key, found in RANGES.items():
        places = [found.place_of(proposal.params[key]) for proposal in drawn]
        assert 6 <= sum(place < 0.5 for place in places) <= 10, key  # half of them, but for the share of a middle value


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_gaussian_process_looks_where_it_was_good_and_goes_on_after_a_restart(
    plan: Callable[..., SweepPlan],
) -> None:
    made = plan(sampler="gp", ranges={"method.spbc_weight": RANGES["method.spbc_weight"]}, startup_trials=5)
    scores = (55.0, 62.0, 71.0, 79.0, 80.0, 78.0, 70.0, 60.0)
    records = [ended(trial, {"method.spbc_weight": 0.25 * trial}, score) for trial, score in enumerate(scores)]
    proposer = OptunaProposer(made, records)
    proposal = proposer.propose(8)
    assert proposal is not None
    assert proposal.origin == "gp"
    assert abs(float(proposal.params["method.spbc_weight"] or 0) - 1) < 0.6
    assert OptunaProposer(made, records).propose(8) == proposal


def test_tpe_sees_the_best_and_the_latest_of_a_long_sweep(
    plan: Callable[..., SweepPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    split = tpe._split_trials

    def watch(study: Any, trials: Any, num_below: int) -> Any:
        seen.append(sorted(trial.number for trial in trials))
        return split(study, trials, num_below)

    monkeypatch.setattr(tpe, "_split_trials", watch)
    monkeypatch.setattr(samplers, "MOST_RECENT_TRIALS", 10)
    monkeypatch.setattr(samplers, "MOST_GOOD_TRIALS", 2)
    made = plan(ranges={"method.spbc_weight": RANGES["method.spbc_weight"]}, startup_trials=0)
    scores = [50.0, 90.0, 60.0, 80.0, *[55.0] * 26]
    records = [ended(trial, {"method.spbc_weight": 0.05 * trial}, score) for trial, score in enumerate(scores)]
    proposer = OptunaProposer(made, records)
    assert proposer.propose(30)
    # 30 itself is left out, being the one that is asked for.
    assert seen == [[1, 3, *range(21, 30)]]
    assert OptunaProposer(made, records[:10]).propose(10)
    assert seen[1] == list(range(10))
    # 30 stays the latest one that runs until it is one of the older ones, and counts once it has ended.
    for trial in range(31, 43):
        proposal = proposer.propose(trial)
        assert proposal is not None
        proposer.learn(ended(trial, proposal.params, 55.0))
    assert seen[-1] == [1, 3, *range(33, 42)]
    proposer.learn(ended(30, records[0].params, 95.0))
    assert proposer.propose(43)
    assert seen[-1] == [1, 30, *range(34, 43)]
    again = [*records, *(ended(trial, records[0].params, 95.0 if trial == 30 else 55.0) for trial in range(30, 43))]
    assert OptunaProposer(made, again).propose(43)
    assert seen[-1] == seen[-2], "the same after a restart"


CONDITIONED = {
    "method.cam_threshold": Range(type="float", low=0.3, high=0.9),
    "method.reg_weight": RANGES["method.reg_weight"],
    "method.rejection": Range(type="categorical", choices=["gap", "none"]),
    "method.average_decay": Range(type="float", low=0.9, high=0.99),
    "method.use_average_test": Range(type="categorical", choices=[True, False]),
}
ACTS_WHEN: dict[str, dict[str, list[Any]]] = {
    "method.cam_threshold": {"method.rejection": ["gap"]},
    "method.use_average_test": {"method.rejection": ["gap"]},
    "method.average_decay": {"method.rejection": ["gap"], "method.use_average_test": [True]},
}


def expected_keys(params: Mapping[str, Any]) -> set[str]:
    keys = {"method.reg_weight", "method.rejection"}
    if params["method.rejection"] == "gap":
        keys |= {"method.cam_threshold", "method.use_average_test"}
        keys |= {"method.average_decay"} if params["method.use_average_test"] else set()
    return keys


def test_trials_have_only_what_acts_in_them(plan: Callable[..., SweepPlan]) -> None:
    # Start points that give too much, or leave open whether it acts.
    points = ({"method.rejection": "none", "method.cam_threshold": 0.5}, {"method.cam_threshold": 0.4})
    cases = (("random", "random", 12), ("tpe", "quasi_random", 20), ("gp", "random", 10))
    for number, (sampler, startup, num) in enumerate(cases):
        made = plan(
            sweep_id=f"digits-0000000{number}",
            ranges=CONDITIONED,
            acts_when=ACTS_WHEN,
            start_from=points,
            sampler=sampler,
            startup=startup,
            startup_trials=num - 8 if sampler == "tpe" else num - 2,
        )
        proposer = OptunaProposer(made)
        records: list[TrialRecord] = []
        for trial in range(num):
            proposal = proposer.propose(trial)
            assert proposal is not None
            assert proposal.params.keys() == expected_keys(proposal.params), (sampler, proposal)
            assert all(CONDITIONED[key].contains(value) for key, value in proposal.params.items())
            score = 60 + 20 * (proposal.params["method.rejection"] == "gap") - 5 * trial % 3
            records.append(ended(trial, proposal.params, score))
            proposer.learn(records[-1])
        assert {record.params["method.rejection"] for record in records} == {"gap", "none"}, sampler
        assert OptunaProposer(made, records).propose(num) == proposer.propose(num), "the same after a restart"


def test_tpe_models_a_setting_from_the_trials_in_which_it_acts(
    plan: Callable[..., SweepPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[tuple[str, ...], list[int]] = {}
    represent = tpe.TPESampler._get_internal_repr

    def watch(self: Any, trials: Any, space: Any, study: Any) -> Any:
        found = represent(self, trials, space, study)
        seen.setdefault(tuple(space), []).append(len(next(iter(found.values()))))
        return found

    monkeypatch.setattr(tpe.TPESampler, "_get_internal_repr", watch)
    ranges = {key: CONDITIONED[key] for key in ("method.cam_threshold", "method.reg_weight", "method.rejection")}
    when = {"method.cam_threshold": ACTS_WHEN["method.cam_threshold"]}
    none: dict[str, Any] = {"method.reg_weight": 0.1, "method.rejection": "none"}
    gap: dict[str, Any] = {"method.reg_weight": 0.1, "method.rejection": "gap", "method.cam_threshold": 0.5}
    records = [ended(trial, none if trial % 3 else gap, 50.0 + trial) for trial in range(9)]
    running = [TrialRecord(trial, none if trial == 9 else gap, "tpe", started_ms=0) for trial in (9, 10)]
    made = plan(ranges=ranges, acts_when=when, startup_trials=0, start_from=())
    proposer = OptunaProposer(made, [*records, *running])
    seen.clear()
    assert proposer.propose(11)
    assert {keys: sum(counts) for keys, counts in seen.items()} == {
        ("method.rejection", "method.reg_weight"): 11,
        ("method.cam_threshold",): 4,
    }


def test_a_grid_has_no_two_points_that_differ_only_in_what_does_not_act(plan: Callable[..., SweepPlan]) -> None:
    ranges = {key: found for key, found in CONDITIONED.items() if "reg" not in key}
    ranges["method.cam_threshold"] = Range(type="float", low=0.3, high=0.9, num=3)
    ranges["method.average_decay"] = Range(type="float", low=0.9, high=0.99, num=2)
    made = plan(sampler="grid", ranges=ranges, acts_when=ACTS_WHEN)
    proposer = make_proposer(made)
    points = [found.params for trial in range(40) if (found := proposer.propose(trial)) is not None]
    assert len(points) == made.num_points == 3 * (1 + 2) + 1
    assert len({repr(sorted(point.items())) for point in points}) == len(points)
    again = make_proposer(made).propose(7)
    assert again is not None
    assert again.params == points[7]


def test_a_grid_is_every_combination_once_and_then_nothing(plan: Callable[..., SweepPlan]) -> None:
    ranges = {
        "method.reg_weight": Range(type="float", low=0.01, high=1, log=True, num=3),
        "method.warmup_epochs": RANGES["method.warmup_epochs"],
    }
    proposer = make_proposer(plan(sampler="grid", ranges=ranges))
    assert isinstance(proposer, GridProposer)
    proposals = [proposer.propose(trial) for trial in range(21)]
    points = [tuple(proposal.params.values()) for proposal in proposals if proposal]
    assert len(set(points)) == len(points) == 21
    assert points[0] == (0.01, 2)
    assert points[1] == (0.01, 3)
    assert points[-1] == (1.0, 8)
    assert proposer.propose(21) is None


def test_a_plan_without_ranges_has_its_points(plan: Callable[..., SweepPlan]) -> None:
    proposal = make_proposer(plan(ranges={}, start_from=({},), sampler="grid")).propose(0)
    assert proposal is not None
    assert proposal.params == {}


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.RUNNING])
def test_a_range_that_excludes_what_was_tried_is_named(plan: Callable[..., SweepPlan], state: TrialState) -> None:
    edited = plan(ranges={**RANGES, "method.spbc_weight": Range(type="float", low=1, high=2)})
    words = (
        r"Trial 7 of digits-00000001 has method.spbc_weight=0.5, which is not in its range in .*plan\.json \(1 to 2\)"
    )
    with pytest.raises(OrchestratorError, match=words):
        OptunaProposer(edited, [ended(7, PUBLISHED, 50.0, state=state)])
