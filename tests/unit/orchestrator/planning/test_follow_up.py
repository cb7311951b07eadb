from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import UserError
from orchestrator.planning.follow_up import FormerRun, make_promotion_plan, make_rerun_plan
from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.run_config import read_config
from orchestrator.planning.sweep_plan import Resources, trial_config
from tests.kit.planned import DIGITS, plan


class TestTrain:
    def test_it_is_the_first_start_point(self) -> None:
        made = make_plan(PlanRequest(DIGITS, kind="train"))
        assert (made.kind, made.name, made.num_trials, made.ranges, made.start_from) == (
            "train",
            "digits-train",
            1,
            {},
            ({},),
        )
        assert made.base == {**plan().base, **plan().start_from[0]}
        assert (made.scheduler, made.num_points) == ("none", 1)

    def test_set_wins_over_the_start_point(self) -> None:
        made = make_plan(
            PlanRequest(
                DIGITS, kind="train", overrides={"method.cam_threshold": ".7"}, epochs=3, method="ignore", name="mine"
            )
        )
        assert (made.base["method.cam_threshold"], made.epochs, made.name) == (0.7, 3, "mine")

    def test_method_is_chosen(self) -> None:
        assert make_plan(PlanRequest(DIGITS, kind="train", method="em")).base["method.entropy_weight"] == 0.2

    def test_run_is_trained_again_as_it_was(self) -> None:
        sweep = plan(method="ignore_oracle")
        config = trial_config(sweep, sweep.start_from[0]).flatten()
        made = make_rerun_plan(PlanRequest(overrides={"loop.seed": "5"}), FormerRun(config, f"{sweep.id}/0", sweep))
        assert made.base == {**config, "loop.seed": 5}
        assert (made.kind, made.method, made.parent, made.protocol) == (
            "train",
            "ignore_oracle",
            f"{sweep.id}/0",
            sweep.protocol,
        )
        assert (made.name, made.dataset, made.start_from) == ("digits-train", "digits", ({},))

    def test_its_text_is_a_file_that_trains_the_same_again(self, tmp_path: Path) -> None:
        first = make_rerun_plan(PlanRequest(), FormerRun(make_plan(PlanRequest(DIGITS, kind="train")).base, "x/0"))
        path = tmp_path / "run.yaml"
        path.write_text(first.space_text, encoding="utf-8")
        assert make_rerun_plan(PlanRequest(), FormerRun(read_config(path), str(path))).base == first.base

    def test_protocol_follows_the_epoch_that_the_file_asks_for(self) -> None:
        base = make_plan(PlanRequest(DIGITS, kind="train")).base
        assert (
            str(
                make_rerun_plan(
                    PlanRequest(), FormerRun({**base, "loop.select_epoch_by": "observed-val"}, "f")
                ).protocol
            )
            == "observed-val x observed-val"
        )
        assert (
            str(make_rerun_plan(PlanRequest(overrides={"loop.select_epoch_by": "last"}), FormerRun(base, "f")).protocol)
            == "clean-val x last"
        )


class TestPromotion:
    def test_winner_runs_once_per_fresh_seed(self) -> None:
        sweep = plan(overrides={"loop.seed": 3})
        made = make_promotion_plan(sweep, {"method.cam_threshold": 0.4}, seeds=3, workers=2)
        seeds = [trial_config(made, point).loop.seed for point in made.start_from]
        assert seeds == [1004, 1005, 1006]
        assert all(trial_config(made, point).flatten()["method.cam_threshold"] == 0.4 for point in made.start_from)
        assert (made.kind, made.parent, made.name, made.num_trials, made.concurrency) == (
            "promote",
            sweep.id,
            "digits-promote",
            3,
            1,
        )
        assert (made.scheduler, made.ranges, made.resources.workers, made.num_points) == ("none", {}, 2, 3)
        assert (made.epochs, made.protocol, made.base) == (sweep.epochs, sweep.protocol, sweep.base)
        assert made.id.startswith("digits-promote-")

    @pytest.mark.parametrize(("workers", "gpus"), [(1, 0.5), (2, 1)])
    def test_ranks_do_not_share_a_gpu(self, workers: int, gpus: float) -> None:
        sweep = dataclasses.replace(plan(), resources=Resources(gpus_per_worker=0.5))
        assert make_promotion_plan(sweep, {}, workers=workers).resources.gpus_per_worker == gpus

    @pytest.mark.parametrize("flags", [{"seeds": 0}, {"workers": 0}])
    def test_none_is_refused(self, flags: dict[str, Any]) -> None:
        with pytest.raises(UserError, match="must be at least 1"):
            make_promotion_plan(plan(), {}, **flags)

    def test_promoting_again_gets_another_id(self) -> None:
        sweep = plan()
        assert make_promotion_plan(sweep, {}).id != make_promotion_plan(sweep, {}).id
