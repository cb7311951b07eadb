"""What every shipped search space promises: it loads, each of its methods plans and trains, and its header says what it
is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.planning.follow_up import make_promotion_plan
from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.planning.sweep_plan import SweepPlan, count_points, trial_config
from search_spaces.schema import load_space, shipped_spaces
from tests.kit import shipped_plans
from tests.kit.shipped_plans import load, plan_sweep, plan_training

SPACES = [
    "coco",
    "coco_q2l",
    "cub",
    "cub_q2l",
    "digits",
    "digits_q2l",
    "folder",
    "nuswide",
    "nuswide_q2l",
    "voc",
    "voc_q2l",
]
ABLATIONS = ["without_rejection", "without_average_test", "without_spbc", "without_reg", "weak_view"]
METHODS = [
    "ignore",
    *(f"ignore_{ablation}" for ablation in ABLATIONS),
    "ignore_oracle",
    *("assumed_negative", "wan", "em", "an_ls", "epr", "focal", "asl", "hill", "splc", "gr_loss"),
    *("large_loss_r", "large_loss_ct", "large_loss_cp", "boostlu_r", "boostlu_ct", "boostlu_cp"),
    *("em_apl", "role", "crisp", "plc", "plc_lac"),
    "full_labels",
]


def fits(space: str, method: str) -> bool:
    """Tell whether a method is in a space: BoostLU needs a model whose logits are the mean of a CAM, LAC one with
    embeddings.
    """
    return method != "plc_lac" if not space.endswith("_q2l") else not method.startswith("boostlu")


EACH = [(space, method) for space in SPACES for method in METHODS if fits(space, method)]
EVERYWHERE = [
    *("assumed_negative", "wan", "em", "an_ls", "epr", "gr_loss", "large_loss_r", "large_loss_ct", "large_loss_cp"),
    *("boostlu_r", "boostlu_ct", "boostlu_cp", "em_apl", "role", "crisp", "full_labels"),
]
COLE = ["assumed_negative", "an_ls", "wan", "epr", "role", "full_labels"]
"""Methods in the training script of Cole et al."""
ZHANG = ["focal", "asl", "hill", "splc"]
"""Methods in the training scripts of Zhang et al. for COCO and NUS-WIDE."""
PUBLISHED = {
    "voc": ["ignore", *EVERYWHERE],
    "coco": [*EVERYWHERE, *ZHANG],
    "nuswide": [*EVERYWHERE, *ZHANG],
    "cub": EVERYWHERE,
    "voc_q2l": ["ignore"],
    "coco_q2l": ["plc", "plc_lac"],
    "cub_q2l": ["plc"],
}
"""Space -> the methods with published settings, for this dataset and network or for all."""
EACH_PUBLISHED = [(space, method) for space, methods in PUBLISHED.items() for method in methods]
# A batch of 128, and a decay that says little where the loss is a mean.
OUT_OF_RANGE = {(space, method) for space in ("coco", "nuswide") for method in ZHANG}
CLASSES = {
    "digits": 10,
    "voc": 20,
    "coco": 80,
    "nuswide": 81,
    "cub": 312,
    "folder": 21,
}  # of a template nobody knows it: 0.05 will do


def for_each(cases: Sequence[tuple[Any, ...]]) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Return one test of a check and its cases: it runs all of them, and reports each one that failed."""

    def decorate(check: Callable[..., None]) -> Callable[[], None]:
        def test() -> None:
            failed = []
            for case in cases:
                try:
                    check(*case)
                except Exception as error:
                    failed.append(f"{case}: {type(error).__name__}: {error}")
            assert cases
            assert not failed, f"{len(failed)} of {len(cases)}:\n" + "\n".join(failed)

        test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
        return test

    return decorate


def plan(space: str, method: str) -> SweepPlan:
    return plan_sweep(space, method, "common")


def published(space: str, method: str) -> SweepPlan:
    return plan_sweep(space, method, "published")


def methods_of(space: str) -> list[str]:
    """List the blocks of a space."""
    return [method for name, method in EACH if name == space]


def test_these_spaces_are_shipped() -> None:
    assert shipped_spaces() == SPACES


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
    assert made.scheduler == "asha"
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
    settings = {tuple(plan(space, method).base[key] for key in keys) for method in methods_of(space)}
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


@for_each([(space,) for space in SPACES])
def test_published_settings_are_there_where_somebody_published_some(space: str) -> None:
    assert {label for label, block in load(space).methods.items() if block.published} == set(PUBLISHED.get(space, []))


@for_each(EACH_PUBLISHED)
def test_every_published_recipe_is_a_run_or_a_grid_of_runs(space: str, method: str) -> None:
    made = published(space, method)
    assert made.base["loop.recipe"] == "published"
    assert (made.scheduler, made.sampler) == ("none", "grid")
    assert trial_config(made, {}).flatten() == made.base
    for key, found in made.ranges.items():
        for value in found.grid():
            assert trial_config(made, {key: value}).flatten()[key] == value
    assert made.num_trials == (count_points(made.ranges, "grid") if made.ranges else 1)
    assert str(made.protocol) == ("clean-val x clean-val" if made.ranges else "published x clean-val")
    assert SweepPlan.from_json(made.to_json()) == made


@for_each(EACH_PUBLISHED)
def test_data_and_trunk_of_a_published_recipe_are_the_common_ones(space: str, method: str) -> None:
    ours, theirs = plan(space, method).base, published(space, method).base
    changed = {key for key in ours if key.startswith(("data.", "model.")) and ours[key] != theirs[key]}
    assert changed == {
        "ignore": {"data.augment_order"},
        **{key: {"data.normalisation"} for key in ["plc", "plc_lac", *ZHANG]},
    }.get(method, set())


@for_each(EACH_PUBLISHED)
def test_the_common_search_starts_from_the_published_point(space: str, method: str) -> None:
    ours, theirs = plan(space, method), published(space, method)
    points = [{key: value for key, value in point.items() if key not in theirs.ranges} for point in ours.start_from]
    expected = {key: theirs.base[key] for key in ours.ranges if key not in theirs.ranges}
    if method == "wan":  # null in the one, its value in the other
        expected["method.negative_weight"] = 1 / (CLASSES[load(space).dataset] - 1)
    assert (expected in points) == ((space, method) not in OUT_OF_RANGE)
    # Of a grid, one of its points.
    for key, found in theirs.ranges.items():
        assert any(found.contains(point[key]) for point in ours.start_from)


@for_each(
    [
        ("voc", 8, 1e-5, 0.2, 0.02, 5),
        ("coco", 16, 1e-5, 0.1, 0.9, 5),
        ("nuswide", 16, 1e-5, 0.1, 0.2, 4),
        ("cub", 8, 1e-4, 0.01, 0.4, 3),
    ],
)
def test_em_and_em_apl_are_published_with_the_values_of_their_release(
    space: str, batch_size: int, lr: float, alpha: float, beta: float, warmup_epochs: int
) -> None:
    for method in ("em", "em_apl"):
        base = published(space, method).base
        assert (base["optim.batch_size"], base["optim.lr"], base["method.entropy_weight"]) == (batch_size, lr, alpha)
        assert (base["loop.epochs"], base["loop.patience_epochs"], base["optim.head_lr_multiplier"]) == (10, 0, 1)
    assert (base["method.pseudo_weight"], base["method.warmup_epochs"], base["method.negative_proportion"]) == (
        beta,
        warmup_epochs,
        0.9,
    )


@for_each([(space,) for space in ("voc", "coco", "nuswide", "cub")])
def test_lengths_and_stopping_rules_are_the_published_ones(space: str) -> None:
    rules = {
        method: tuple(base[f"loop.{key}"] for key in ("epochs", "patience_epochs", "max_drop_percent"))
        for method in EVERYWHERE
        for base in [published(space, method).base]
    }
    stopping = {"em": (10, 0, None), "em_apl": (10, 0, None), "gr_loss": (8, None, 2.0)}
    stopping |= {f"large_loss_{scheme}": (10, None, 3.0) for scheme in ("r", "ct", "cp")}
    assert rules == {method: stopping.get(method, (10, None, None)) for method in EVERYWHERE}
    multipliers = {method: published(space, method).base["optim.head_lr_multiplier"] for method in EVERYWHERE}
    ten_times = {"gr_loss", "crisp", *(method for method in EVERYWHERE if method.startswith(("large_loss", "boostlu")))}
    assert multipliers == {method: 10 if method in ten_times else 1 for method in EVERYWHERE}


def test_the_second_stage_of_plc_lac_has_a_cycle_of_its_own() -> None:
    base = published("coco_q2l", "plc_lac").base
    assert (
        base["loop.epochs"]
        == 2 * int(str(base["method.first_stage_epochs"]))
        == 2 * int(str(base["optim.cycle_epochs"]))
        == 80
    )
    assert base["loop.patience_epochs"] is None, "it would end the run before the second stage"
    assert published("coco_q2l", "plc").base["loop.patience_epochs"] == 8


@for_each([(space, method) for space in PUBLISHED for method in PUBLISHED[space]])
def test_whole_batches_are_where_their_authors_drop_the_last(space: str, method: str) -> None:
    assert published(space, method).base["optim.drop_last"] == (method in [*COLE, "plc", "plc_lac"])


@for_each([(space,) for space in SPACES])
def test_stem_is_frozen_where_the_releases_freeze_it(space: str) -> None:
    frozen = space.endswith("_q2l") and not space.startswith("digits")
    plans = [plan(space, method) for method in methods_of(space)]
    plans += [published(space, method) for method in PUBLISHED.get(space, [])]
    assert {made.base["model.frozen_stem"] for made in plans} == {frozen}


@for_each([(space, method) for space, method in OUT_OF_RANGE])
def test_losses_of_one_script_are_published_as_it_trains_them(space: str, method: str) -> None:
    base = published(space, method).base
    optim = {
        key: base[f"optim.{key}"]
        for key in ("lr", "head_lr_multiplier", "batch_size", "average_decay", "cycle_epochs", "warm_frac")
    }
    assert optim == {
        "lr": 1e-4,
        "head_lr_multiplier": 1,
        "batch_size": 128,
        "average_decay": 0.9997,
        "cycle_epochs": 80,
        "warm_frac": 0.2,
    }
    assert (base["optim.name"], base["optim.schedule"]) == ("adam", "one_cycle")
    # Both scripts stop after the epoch that they count as 40 or 30 from 0; for COCO, ASL's own authors have the former.
    assert base["loop.epochs"] == (41 if (space, method) == ("coco", "asl") else 31)
    # Of a mean over batch and classes what 1e-4 is of a sum.
    assert base["optim.weight_decay"] == pytest.approx(1e-4 / (128 * CLASSES[space]))


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
