"""Test the published settings of the shipped spaces: which there are, and that they are their sources' values."""

from __future__ import annotations

import pytest

from orchestrator.planning.sweep_plan import SweepPlan, count_points, trial_config
from tests.kit.shipped_plans import load
from tests.kit.shipped_spaces import CLASSES, SPACES, for_each, methods_of, plan, published

EVERYWHERE = [
    *("assumed_negative", "wan", "em", "an_ls", "epr", "gr_loss", "large_loss_r", "large_loss_ct", "large_loss_cp"),
    *("boostlu_r", "boostlu_ct", "boostlu_cp", "em_apl", "role", "crisp", "aevlp", "vlpl"),
    *("iu", "iun", "bce_ls", "full_labels"),
]
COLE = ["assumed_negative", "an_ls", "wan", "epr", "role", "iu", "iun", "bce_ls", "full_labels"]
"""Methods in the training script of Cole et al."""
ZHANG = ["focal", "asl", "hill", "splc"]
"""Methods in the training scripts of Zhang et al. for COCO and NUS-WIDE."""
PUBLISHED = {
    "voc": ["ignore", *EVERYWHERE],
    "coco": [*EVERYWHERE, *ZHANG],
    "nuswide": [*EVERYWHERE, *ZHANG],
    "cub": EVERYWHERE,
    "voc_q2l": ["ignore", "mime"],
    "coco_q2l": ["plc", "plc_lac", "mime"],
    "nuswide_q2l": ["mime"],
    "cub_q2l": ["plc", "mime"],
}
"""Space -> the methods with published settings, for this dataset and network or for all."""
EACH_PUBLISHED = [(space, method) for space, methods in PUBLISHED.items() for method in methods]
EACH_OF_ZHANG = [(space, method) for space in ("coco", "nuswide") for method in ZHANG]
# A batch of 128, and a decay that says little where the loss is a mean; and no decay at all, which the spaces of
# Query2Label do not search.
OUT_OF_RANGE = {*EACH_OF_ZHANG, *((f"{space}_q2l", "mime") for space in ("voc", "coco", "nuswide", "cub"))}


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
    stopping["aevlp"] = (8 if space in ("voc", "coco") else 10, 1, 2.0)
    stopping |= {f"large_loss_{scheme}": (10, None, 3.0) for scheme in ("r", "ct", "cp")}
    assert rules == {method: stopping.get(method, (10, None, None)) for method in EVERYWHERE}
    multipliers = {method: published(space, method).base["optim.head_lr_multiplier"] for method in EVERYWHERE}
    ten_times = {
        "gr_loss",
        "crisp",
        "aevlp",
        *(method for method in EVERYWHERE if method.startswith(("large_loss", "boostlu"))),
    }
    assert multipliers == {method: 10 if method in ten_times else 1 for method in EVERYWHERE}


@for_each([("voc", 2, -2, 1), ("coco", 10, -8, 1), ("nuswide", 10, -8, 1), ("cub", 10, -8, 1.5)])
def test_gr_loss_is_published_with_the_values_of_each_dataset(
    space: str, slope: float, offset: float, q_neg: float
) -> None:
    keys = ("method.slope_last", "method.offset_last", "method.q_neg")
    assert tuple(published(space, "gr_loss").base[key] for key in keys) == (slope, offset, q_neg)
    # The common search starts from them, and fixes those that it does not search.
    ours = plan(space, "gr_loss")
    assert tuple({**ours.base, **ours.start_from[0]}[key] for key in keys) == (slope, offset, q_neg)


@for_each([("voc", 8, 0.2), ("coco", 16, 0.1), ("nuswide", 16, 0.1), ("cub", 8, 0.01)])
def test_methods_with_clip_are_published_with_the_values_of_their_releases(
    space: str, batch_size: int, alpha: float
) -> None:
    vlpl, aevlp = published(space, "vlpl").base, published(space, "aevlp").base
    keys = ("entropy_weight", "pseudo_weight", "smoothing", "positive_threshold", "clip_model")
    assert [vlpl[f"method.{key}"] for key in keys] == [alpha, 0.7, 0.1, 0.3, "clip/ViT-L-14-336"]
    assert (vlpl["optim.batch_size"], vlpl["optim.lr"]) == (8, 1e-4 if space == "cub" else 1e-5)
    assert (aevlp["optim.batch_size"], aevlp["optim.lr"], aevlp["method.clip_model"]) == (
        batch_size,
        1e-5,
        "clip/ViT-B-16",
    )
    loss = ("least_weight", "most_weight", "top_k", "tile_threshold", "positive_threshold", "reg_weight")
    assert [aevlp[f"method.{key}"] for key in loss] == {
        "voc": [0.4, 0.7, 3, 0.0, 0.5, 0.05],
        "coco": [0.5, 0.7, 3, 0.3, 0.5, 0.001],
        "nuswide": [0.5, 0.7, 3, 0.3, 0.6, 0.001],
        "cub": [0.2, 0.8, 32, 0.005, 0.005, 0.01],
    }[space]


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
    assert published(space, method).base["optim.drop_last"] == (method in [*COLE, "plc", "plc_lac", "mime"])


@for_each([(space,) for space in SPACES])
def test_stem_is_frozen_where_the_releases_freeze_it(space: str) -> None:
    frozen = space.endswith("_q2l") and not space.startswith("digits")
    plans = [plan(space, method) for method in methods_of(space)]
    plans += [published(space, method) for method in PUBLISHED.get(space, [])]
    assert {made.base["model.frozen_stem"] for made in plans} == {frozen}


@for_each(EACH_OF_ZHANG)
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
    assert base["loop.epochs"] == 31
    # Of a mean over batch and classes what 1e-4 is of a sum.
    assert base["optim.weight_decay"] == pytest.approx(1e-4 / (128 * CLASSES[space]))
