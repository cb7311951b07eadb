from __future__ import annotations

import dataclasses
import json
import re

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.sweep_plan import Kind, SweepPlan
from orchestrator.sweep_folder.index import create_sweep, list_sweeps, load_plan
from search_spaces.ranges import Range
from tests.kit.planned import DIGITS, plan

KINDS: tuple[Kind, ...] = ("sweep", "train", "ablate")


class TestFile:
    def test_plan_is_found_again(self) -> None:
        made = plan()
        create_sweep(made.id, made.to_json())
        assert load_plan(made.id) == made
        assert [(entry.id, entry.name, entry.kind) for entry in list_sweeps()] == [(made.id, "digits", "sweep")]

    @pytest.mark.parametrize(
        "text",
        ["", "{}", "[]", '{"id": 1', '{"ranges": {}, "protocol": {}, "resources": {}, "start_from": [], "notes": []}'],
    )
    def test_broken_one_is_told(self, text: str) -> None:
        create_sweep("a-00000001", text)
        with pytest.raises(OrchestratorError, match=r"Cannot read the plan of a-00000001"):
            load_plan("a-00000001")

    def test_missing_unknown_and_bad_fields_are_named_with_the_file(self) -> None:
        plain = json.loads(plan().to_json()) | {"id": "a-00000001", "flavour": "mint", "created": "noon"}
        plain["resources"]["tpus"] = 1
        del plain["method"]
        create_sweep("a-00000001", json.dumps(plain))
        with pytest.raises(OrchestratorError, match=r"a-00000001/plan.json") as caught:
            load_plan("a-00000001")
        for words in (
            "method is missing",
            "flavour is unknown",
            "resources.tpus is unknown",
            "created must be a number",
        ):
            assert words in str(caught.value)

    def test_plan_is_read_into_the_same_text(self) -> None:
        for kind in KINDS:
            made = make_plan(PlanRequest(DIGITS, kind=kind))
            read = SweepPlan.from_json(made.to_json())
            assert (read, read.to_json()) == (made, made.to_json())
            assert [type(value) for value in read.base.values()] == [type(value) for value in made.base.values()]

    def test_what_a_plan_leaves_out_has_its_default(self) -> None:
        made = make_plan(PlanRequest(DIGITS, kind="train"))
        plain = json.loads(made.to_json())
        for key in ("epoch_s", "time_limit_s", "parent"):
            del plain[key]
        assert SweepPlan.from_json(json.dumps(plain)) == dataclasses.replace(made, epoch_s=None)

    def test_ranges_keep_their_kind(self) -> None:
        made = SweepPlan.from_json(plan().to_json())
        assert made.ranges["method.reg_weight"] == Range(type="float", low=0.01, high=1.0, log=True)
        assert isinstance(made.ranges["method.warmup_epochs"].low, int)


def test_a_number_that_nothing_can_compute_with_is_named() -> None:
    text = plan().to_json()
    for name in ("created", "base.loop.epochs", "ranges.optim.lr.high", "base.data.num_workers"):
        key = name.removeprefix("base.").rpartition("lr.")[2]
        for number in ("1e400", "NaN", "-Infinity", "1" + "0" * 400):
            changed = re.sub(rf'("{re.escape(key)}": )[\d.e-]+', rf"\g<1>{number}", text)
            with pytest.raises(ValueError, match="must be a number below 1e.300, but got") as refused:
                SweepPlan.from_json(changed)
            assert key in str(refused.value)
