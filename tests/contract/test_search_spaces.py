"""Test that every shipped search space loads, that its methods plan and train, and that its header is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.planning.follow_up import make_promotion_plan
from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.sweep_plan import SweepPlan, trial_config
from search_spaces.schema import load_space, shipped_spaces
from tests.kit import shipped_plans
from tests.kit.shipped_plans import load, plan_training
from tests.kit.shipped_spaces import ABLATIONS, CLASSES, EACH, FIGURES, SPACES, for_each, methods_of, plan


def test_these_spaces_are_shipped() -> None:
    assert shipped_spaces() == sorted([*SPACES, *FIGURES])


def test_every_space_plans_what_it_planned_before() -> None:
    golden = shipped_plans.read(shipped_plans.PATH.read_text(encoding="utf-8"))
    changed = shipped_plans.differences(golden, shipped_plans.plan_all())
    assert not changed, "\n".join([*changed, "Meant to be so? python -m tests.kit.shipped_plans"])


@for_each([(space,) for space in SPACES])
def test_methods_and_default_are_the_common_ones(space: str) -> None:
    loaded = load(space)
    assert list(loaded.methods) == methods_of(space)
    assert loaded.default_method == "ignore"


@for_each([(space,) for space in SPACES])
def test_header_states_paper_cost_expected_score_and_command(space: str) -> None:
    header = load(space).header
    stated = re.findall(r"^(\w+): +(\S.*)$", header, flags=re.MULTILINE)
    assert [label for label, _ in stated] == ["Paper", "Cost", "Expected", "Command"]
    assert dict(stated)["Command"].startswith(f"orchestrator sweep {space}")
    # One figure of IGNORE is published; it may stand where it was measured and nowhere else.
    assert ("90.1" in header) == (space == "voc_q2l")


@for_each(EACH)
def test_every_range_end_is_a_run(space: str, method: str) -> None:
    made = plan(space, method)
    assert made.ranges
    for key, found in made.ranges.items():
        for value in found.bounds():
            assert trial_config(made, {key: value}).flatten()[key] == value


@for_each(EACH)
def test_every_start_point_is_a_run_within_its_ranges(space: str, method: str) -> None:
    made = plan(space, method)
    assert made.start_from
    for point in made.start_from:
        assert set(point) == set(made.ranges)
        assert all(made.ranges[key].contains(value) for key, value in point.items())
        flat = trial_config(made, point).flatten()
        assert flat == {**made.base, **point}


@for_each(EACH)
def test_every_method_trains_and_is_promoted(space: str, method: str) -> None:
    trained = plan_training(space, method)
    assert trained.base == {**plan(space, method).base, **plan(space, method).start_from[0]}
    promoted = make_promotion_plan(plan(space, method), plan(space, method).start_from[0], seeds=2)
    assert len({trial_config(promoted, point).loop.seed for point in promoted.start_from}) == 2


@for_each(EACH)
def test_plan_survives_its_file(space: str, method: str) -> None:
    made = plan(space, method)
    assert SweepPlan.from_json(made.to_json()) == made


@for_each(EACH)
def test_as_shipped_there_is_nothing_to_warn_about(space: str, method: str) -> None:
    made = plan(space, method)
    assert made.notes == ()
    assert made.scheduler == ("screen" if space == "digits" else "asha")
    assert made.rungs()


@for_each([(space,) for space in SPACES])
def test_method_settings_agree_with_the_dataset(space: str) -> None:
    dataset = load(space).dataset
    assert plan(space, "wan").start_from[0]["method.negative_weight"] == pytest.approx(1 / (CLASSES[dataset] - 1))
    assert plan(space, "ignore_oracle").base["method.rejection"] == "oracle"
    assert plan(space, "ignore_without_rejection").base["method.rejection"] == "none"
    assert plan(space, "ignore").base["method.rejection"] == "gap"
    published = {
        "voc": 1.5,
        "coco": 2.9,
        "nuswide": 1.9,
        "cub": 31.4,
        "l48": 1.6,
    }  # of true positives an image (Cole et al., CVPR 2021)
    assert plan(space, "epr").base["method.expected_positives"] == published.get(
        dataset, 2.5 if dataset == "digits" else 1.5
    )
    assert {method for method in methods_of(space) if plan(space, method).base["model.cam_boost"] != 1} == {
        method for method in methods_of(space) if method.startswith("boostlu")
    }


@for_each([(space,) for space in SPACES])
def test_every_method_searches_the_same_rates_decays_and_batches(space: str) -> None:
    keys = {"optim.lr", "optim.weight_decay", "optim.batch_size"}
    searched = [
        {key: found for key, found in plan(space, method).ranges.items() if key.startswith("optim.")}
        for method in methods_of(space)
    ]
    assert all(found == searched[0] for found in searched)
    assert searched[0].keys() == keys


@for_each([(space, ablation) for space in SPACES for ablation in ABLATIONS])
def test_an_ablation_differs_from_ignore_in_one_setting(space: str, ablation: str) -> None:
    whole, less = plan(space, "ignore"), plan(space, f"ignore_{ablation}")
    first, other = ({**made.base, **made.start_from[0]} for made in (whole, less))
    differing = {key for key in first if first[key] != other[key]} - {
        "method.cam_threshold",
        "method.warmup_epochs",
        "method.gap_decay",
    }
    key = {
        "without_rejection": "method.rejection",
        "without_average_test": "method.use_average_test",
        "without_spbc": "method.spbc_weight",
        "without_reg": "method.reg_weight",
        "weak_view": "method.view",
    }[ablation]
    assert differing == {key}
    assert ablation == "without_rejection" or first | {key: other[key]} == other


@for_each([(space, *scheme) for space in SPACES for scheme in (("r", 0.5), ("ct", 0.2), ("cp", 0.1))])
def test_large_loss_starts_from_boostlus_values(space: str, scheme: str, percent: float) -> None:
    for method in {f"large_loss_{scheme}", f"boostlu_{scheme}"} & set(methods_of(space)):
        made = plan(space, method)
        assert made.base["method.scheme"] == {"r": "LL-R", "ct": "LL-Ct", "cp": "LL-Cp"}[scheme]
        assert made.start_from[0]["method.delta_rel_percent"] == percent
        assert made.base["model.cam_boost"] == (5.0 if method.startswith("boostlu") else 1.0)


@for_each([(space,) for space in SPACES])
def test_recipe_and_model_are_one_for_all_methods_of_a_space(space: str) -> None:
    keys = [key for key in plan(space, "ignore").base if key.startswith(("data.", "model."))] + [
        "loop.recipe",
        "loop.epochs",
    ]
    keys.remove("model.cam_boost")  # what BoostLU is
    keys.remove("model.latent_dim")  # a part of MIME
    methods = [method for method in methods_of(space) if method != "clip_probe"]  # a control, with CLIP's trunk
    settings = {tuple(plan(space, method).base[key] for key in keys) for method in methods}
    assert len(settings) == 1


def test_first_point_of_digits_is_the_measured_recipe() -> None:
    config = trial_config(plan("digits", "ignore"), plan("digits", "ignore").start_from[0])
    assert (config.data.image_size, config.data.num_train, config.data.num_val, config.data.num_test) == (
        40,
        1500,
        500,
        1000,
    )
    assert (config.model.backbone, config.model.weights) == ("digits/resnet12", "pretext")
    assert (config.optim.name, config.optim.schedule, config.optim.lr) == ("adam", "one_cycle", 3e-3)
    assert (config.optim.weight_decay, config.optim.batch_size, config.loop.epochs) == (1e-4, 32, 20)
    method = config.method.model_dump()
    expected = {
        "cam_threshold": 0.5,
        "spbc_weight": 0.5,
        "reg_weight": 0.1,
        "warmup_epochs": 5,
        "gap_decay": 0.95,
        "average_decay": None,
    }
    assert {key: method[key] for key in expected} == expected
    assert method["masked_pass_bn"] == "eval_both"
    assert config.loop.recipe == "digits"


def test_first_points_of_voc_are_the_released_commands() -> None:
    resnet, query = plan("voc", "ignore"), plan("voc_q2l", "ignore")
    for made, spbc_weight, weight_decay in ((resnet, 0.1, 0.0), (query, 0.5, 1e-2)):
        config = trial_config(made, made.start_from[0]).flatten()
        assert (config["optim.lr"], config["optim.weight_decay"], config["optim.batch_size"]) == (
            1e-5,
            weight_decay,
            16,
        )
        assert (config["method.spbc_weight"], config["method.reg_weight"], config["method.cam_threshold"]) == (
            spbc_weight,
            0.5,
            0.8,
        )
        assert (config["loop.epochs"], config["method.warmup_epochs"], config["method.gap_decay"]) == (25, 3, 0.999)
        assert config["data.image_size"] == 448
    assert resnet.base["optim.head_lr_multiplier"] == 10
    assert (query.base["optim.name"], query.base["optim.schedule"]) == ("adamw", "one_cycle")


def test_the_space_in_the_docs_plans_as_they_say(tmp_path: Path) -> None:
    docs = Path(__file__).parents[2] / "docs" / "recipes.md"
    found = re.search(r"```yaml\n(dataset: .*?)```", docs.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert found
    path = tmp_path / "mine.yaml"
    path.write_text(found[1], encoding="utf-8")
    space = load_space(path)
    assert list(space.methods) == ["ignore", "em", "wan", "ignore_low_tau"]
    for method in space.methods:
        made = make_plan(PlanRequest(space, method=method, num_cpus=8, num_gpus=1))
        assert made.start_from[0]["optim.lr"] == 1e-5
    low = make_plan(PlanRequest(space, method="ignore_low_tau", num_cpus=8, num_gpus=1))
    assert (low.base["method.name"], low.base["method.cam_threshold"]) == ("ignore", 0.3)
    assert make_plan(PlanRequest(space, method="em", recipe="published")).base["method.entropy_weight"] == 0.2


def test_the_grid_in_the_docs_has_the_points_that_they_say(tmp_path: Path) -> None:
    docs = Path(__file__).parents[2] / "docs" / "recipes.md"
    (found,) = re.findall(r"```yaml\n([^`]*sampler: grid[^`]*)```", docs.read_text(encoding="utf-8"))
    path = tmp_path / "grid.yaml"
    path.write_text(found, encoding="utf-8")
    made = make_plan(PlanRequest(load_space(path), num_cpus=8, num_gpus=0))
    assert (made.num_trials, made.num_points, made.scheduler, made.start_from) == (12, 12, "none", ())


def test_the_maps_of_fig_2_are_grids_over_both_weights_at_a_fixed_tau() -> None:
    for name in FIGURES:
        found, former = plan(name, "ignore"), plan(name.removesuffix("_fig2"), "ignore")
        assert list(found.ranges) == ["method.spbc_weight", "method.reg_weight"]
        assert (found.num_points, found.num_trials, found.sampler, found.scheduler) == (25, 25, "grid", "none")
        # Everything else is as in the first start point of the dataset's own space.
        base = {**former.base, **former.start_from[0]}
        different = {key for key, value in found.base.items() if value != base.get(key)} - set(found.ranges)
        assert different == set(), name
