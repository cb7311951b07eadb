"""Test that a plan whose method reads CLIP's scores is refused without them, with the command that makes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.datasets.prepared import remember_store
from orchestrator.errors import UserError
from orchestrator.planning.data_fit import check_data
from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.sweep_plan import SweepPlan
from orchestrator.planning.template import fit_template
from search_spaces.reader import Scalar
from search_spaces.schema import load_space
from tests.kit.clip_scores import write_scores
from tests.kit.stores import NAME, make_store


@pytest.fixture
def uri(tmp_path: Path, home: Path) -> str:
    made = make_store(tmp_path)
    remember_store(NAME, made)
    return made


def plan(method: str, **settings: Scalar) -> SweepPlan:
    space = fit_template(load_space("folder"), NAME)
    return make_plan(PlanRequest(space, method=method, overrides=settings, num_cpus=2, num_gpus=0))


@pytest.mark.parametrize("method", ["vlpl", "aevlp"])
def test_scores_must_be_next_to_the_store_and_of_its_data(uri: str, method: str) -> None:
    planned = plan(method)
    command = f"orchestrator data score {NAME} --model clip/ViT-B-16"
    with pytest.raises(UserError, match=f"The method {method} reads the scores of clip/ViT-B-16 for .*{command}"):
        check_data(planned)
    write_scores(uri, data_hash="0ther")
    with pytest.raises(UserError, match=f"are of other data than it has now.*{command}"):
        check_data(planned)
    write_scores(uri)
    check_data(planned)
    check_data(plan(method, **{"method.clip_model": "clip/ViT-B-16/openai"}))
    with pytest.raises(UserError, match="data score mine --model clip/ViT-L-14-336"):
        check_data(plan(method, **{"method.clip_model": "clip/ViT-L-14-336"}))


def test_methods_without_clip_need_none(uri: str) -> None:
    check_data(plan("em"))


def test_digits_are_no_photos(home: Path) -> None:
    made = make_plan(PlanRequest("digits", method="em"))
    base = {**made.base, "method.name": "vlpl", "method.clip_model": "clip/ViT-B-16"}
    with pytest.raises(UserError, match="needs scores of CLIP, which knows photos and not digits"):
        check_data(replace(made, base=base))
