from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.planning.settings import merge_settings
from search_spaces.reader import Scalar, SpaceError
from search_spaces.schema import load_space
from tests.kit.merged import Merge


def fault(merge: Merge, old: str, new: str, method: str | None = None) -> str:
    with pytest.raises(SpaceError) as caught:
        merge(old, new, method)
    return str(caught.value).rpartition("/")[2] if "/" not in new else str(caught.value)


def test_what_is_said_later_wins(merge: Merge) -> None:
    found = merge(optim__lr="2e-3")
    assert found.method == "ignore"
    assert found.base["optim.lr"] == 2e-3  # --set over shared
    assert found.base["optim.batch_size"] == 4  # method over shared
    assert found.base["loop.epochs"] == 6  # the budget
    assert found.base["method.spbc_weight"] == 0.5  # the run's own default
    assert list(found.ranges) == ["optim.weight_decay", "method.cam_threshold", "method.warmup_epochs"]


def test_method_block_can_search_what_is_fixed_for_all_and_fix_what_all_search(merge: Merge) -> None:
    assert list(merge(method="em").ranges) == ["optim.lr"]
    assert merge(method="em").base["optim.weight_decay"] == 0.0


def test_set_of_a_searched_key_fixes_it_and_takes_it_out(merge: Merge) -> None:
    found = merge(method__cam_threshold=".7")
    assert found.base["method.cam_threshold"] == 0.7
    assert "method.cam_threshold" not in found.ranges
    # The two points differ in that key only: they have become one.
    assert found.start_from == ({"method.warmup_epochs": 2},)


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("1", 1.0), ("0.5", 0.5)])
def test_set_reads_numbers_as_the_file_does(merge: Merge, text: str, value: float) -> None:
    found = merge(optim__lr=text).base["optim.lr"]
    assert found == value
    assert isinstance(found, float)


def test_set_takes_null_and_truth_values(merge: Merge) -> None:
    found = merge(method__average_decay="null", method__correct_gap_bias="true")
    assert found.base["method.average_decay"] is None
    assert found.base["method.correct_gap_bias"] is True


def test_epochs_and_set_epochs_are_one(merge: Merge) -> None:
    assert merge(epochs=3).epochs == merge(loop__epochs="3").epochs == merge(epochs=3, loop__epochs="3").epochs == 3
    with pytest.raises(UserError, match=r"--epochs is 3, but --set loop\.epochs is 4"):
        merge(epochs=3, loop__epochs="4")


def test_epoch_half_of_the_protocol_is_a_setting_of_the_run(merge: Merge) -> None:
    found = merge("methods:", "protocol: {select_config_by: observed-val, select_epoch_by: last}\nmethods:")
    assert str(found.protocol) == "observed-val x last"
    assert found.base["loop.select_epoch_by"] == "last"
    assert str(merge(loop__select_epoch_by="observed-val").protocol) == "clean-val x observed-val"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("method.tau", ".5", "^--set: method.tau is not .* Did you mean method.cam_threshold"),
        ("tau", ".5", "^--set: tau is not .* Did you mean method.cam_threshold"),
        ("spbc", "1", "Did you mean method.spbc_weight"),
        ("reg", "1", "Did you mean method.reg_weight"),
        ("optim.batchsize", "1", "Did you mean optim.batch_size"),
        (
            "method.cam_threshold",
            "2",
            "^--set: method.cam_threshold must be less than 1, but got method.cam_threshold=2$",
        ),
        ("method.cam_threshold", "high", 'must be a number, but got method.cam_threshold="high"'),
        ("method.cam_threshold", "true", "must be a number, but got method.cam_threshold=true"),
        ("method.warmup_epochs", "2.0", "must be an integer, but got method.warmup_epochs=2.0"),
        ("method.correct_gap_bias", "1", "must be true or false, but got method.correct_gap_bias=1"),
        ("data.num_train", "'50'", 'must be an integer, but got data.num_train="50"'),
        ("optim.lr", ".nan", "optim.lr must be"),
        ("optim.lr", "", "optim.lr must be a number"),
        ("method.name", "em", "Use --method"),
        ("data.name", "coco", "mine.yaml is for voc"),
        ("loop.epochs", "0", "loop.epochs must be at least 1"),
        (
            "loop.select_epoch_by",
            "published",
            "select_epoch_by must be clean-val, last, observed-val, covering-rate or unbiased",
        ),
        ("loop.select_epoch_by", "best", "loop.select_epoch_by must be one of published, clean-val"),
    ],
)
def test_fault_in_a_flag_names_the_flag(merge: Merge, key: str, value: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        merge(**{key.replace(".", "__"): value})


def test_set_may_repeat_what_cannot_change(merge: Merge) -> None:
    assert merge(method__name="ignore", data__name="voc").base == merge().base


def test_unknown_method_names_the_nearest(merge: Merge) -> None:
    with pytest.raises(
        UserError,
        match=r"^--method=ignor is not in .*mine.yaml. Did you mean ignore\? Valid: ignore, em. To see them all: orch",
    ):
        merge(method="ignor")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "method.cam_threshold: {",
            "method.tau: {",
            "mine.yaml:14: method.tau is not a setting of a run with method ignore. Did you mean method.cam",
        ),
        ("optim.lr: 1e-3", "optim.learning_rate: 1", "mine.yaml:5: optim.learning_rate is not a setting of a run"),
        ("optim.lr: 1e-3", "optim.lr: '1e-3'", 'mine.yaml:5: optim.lr must be a number, but got optim.lr="1e-3"'),
        ("optim.lr: 1e-3", "optim.lr: -1", "mine.yaml:5: optim.lr must be greater than 0"),
        ("optim.lr: 1e-3", "optim.name: adm", "mine.yaml:5: optim.name must be one of adam, adamw, sgd"),
        ("optim.lr: 1e-3", "data.name: coco", 'mine.yaml:5: data.name must be that of dataset: voc, but got "coco"'),
        (
            "optim.lr: 1e-3",
            "loop.epochs: 3",
            "mine.yaml:5: loop.epochs does not belong here. Its place is budget.epochs",
        ),
        ("optim.lr: 1e-3", "method.name: em", "mine.yaml:5: method.name cannot be shared"),
        (
            "optim.lr: 1e-3",
            "method.cam_threshold: .5",
            "mine.yaml:5: method.cam_threshold cannot be shared: not every method has it",
        ),
        ("optim.lr: 1e-3", "loop.select_epoch_by: last", "mine.yaml:5: loop.select_epoch_by does not belong here"),
        (
            "optim.weight_decay: {type: float, low: 0.0",
            "loop.seed: {type: int, low: 0, high: 9}\n    optim.weight_decay: {type: float, low: 0.0",
            "mine.yaml:8: loop.seed cannot be searched: trials with different values cannot be compared",
        ),
        (
            "high: 0.1}",
            "high: 1.1}",
            "mine.yaml:8: optim.weight_decay must be at most 1, but got optim.weight_decay=1.1",
        ),
        ("low: 0.3", "low: -0.3", "mine.yaml:14: method.cam_threshold must be at least 0"),
        (
            "type: int, low: 1",
            "type: float, low: 1",
            "mine.yaml:15: method.warmup_epochs must be an integer, but got method.warmup_epochs=1.0",
        ),
        (
            "type: int, low: 1, high: 3",
            "type: categorical, choices: [1, 2, x]",
            'mine.yaml:15: method.warmup_epochs must be an integer, but got method.warmup_epochs="x"',
        ),
        (
            "cam_threshold: 0.6",
            "cam_threshold: 0.95",
            "mine.yaml:18: method.cam_threshold of a start point must be within its range (0.3 to 0.9), but got 0.95",
        ),
        ("cam_threshold: 0.6", "cam_threshold: 6", "mine.yaml:18: method.cam_threshold must be less than 1"),
        ("cam_threshold: 0.6", "camthreshold: 0.6", "mine.yaml:18: method.camthreshold is not a setting of a run"),
        (
            "cam_threshold: 0.6",
            "reg_weight: 0.6",
            "mine.yaml:18: method.reg_weight is fixed at 0.5, so a",
        ),
        (
            "  ignore:",
            "  ignor:",
            "mine.yaml:10: the label of a method block without name: must be a method, but got",
        ),
        (
            "  ignore:",
            "  best:\n    name: ignor",
            'mine.yaml:11: name must be a method, but got "ignor". Did you mean ignore?',
        ),
    ],
)
def test_fault_in_the_file_names_its_line(merge: Merge, old: str, new: str, message: str) -> None:
    assert fault(merge, old, new).startswith(message)


def test_only_the_method_that_runs_is_held_against_its_settings(merge: Merge) -> None:
    broken = "fixed: {optim.weight_decay: 0.0, method.alpha: 1}"
    assert merge("fixed: {optim.weight_decay: 0.0}", broken).method == "ignore"
    assert "mine.yaml:20: method.alpha is not" in fault(merge, "fixed: {optim.weight_decay: 0.0}", broken, "em")


def test_start_point_may_repeat_a_fixed_value(merge: Merge) -> None:
    found = merge("method.cam_threshold: 0.6,", "method.cam_threshold: 0.6, optim.lr: 1e-3,")
    assert found.start_from[1] == {"method.cam_threshold": 0.6, "method.warmup_epochs": 2}


def test_grid_needs_points_for_each_float(merge: Merge) -> None:
    assert "mine.yaml:9: optim.weight_decay: num must be given" in fault(
        merge, "shared:", "search: {sampler: grid}\nshared:"
    )


@pytest.mark.parametrize(
    ("change", "epochs"),
    [
        ({}, 3),
        ({"method__warmup_epochs": "7"}, 7),
        ({"method__rejection": "none"}, 0),
        ({"method__rejection": "oracle"}, 3),
        ({"method": "em"}, 0),
    ],
)
def test_largest_warmup_is_the_end_of_its_range_or_the_fixed_value(
    merge: Merge, change: dict[str, str], epochs: int
) -> None:
    assert merge(**change).largest_warmup() == epochs


def test_at_first_point_nothing_is_left_to_search(merge: Merge) -> None:
    found = merge().at_first_point()
    assert (found.base["method.cam_threshold"], found.base["method.warmup_epochs"]) == (0.5, 2)
    assert found.ranges == {}
    assert found.start_from == ({},)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"data__image_size": 64}, "--set: data.image_size must be 40 for digits, but got data.image_size=64"),
        (
            {"model__backbone": "digits/resnet18"},
            "--set: There is no backbone digits/resnet18. The digits family has only digits/resnet12",
        ),
        (
            {"model__backbone": "torchvision/resnet18"},
            "--set: model.weights=pretext exists only for digits/resnet12 on digits",
        ),
        ({"model__weights": "IMAGENET1K_V1"}, "--set: model.weights must be pretext, a file or none"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused_before_anything_starts(
    flags: dict[str, Scalar], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        merge_settings(load_space("digits"), overrides={key.replace("__", "."): value for key, value in flags.items()})


def test_file_whose_settings_do_not_fit_its_dataset_is_told_its_line(merge: Merge) -> None:
    with pytest.raises(SpaceError, match="mine.yaml:5: data.image_size must be 40 for digits, but got .*=64"):
        merge("    optim.lr: 1e-3", "    data.image_size: 64", of="digits")
    with pytest.raises(
        SpaceError, match="mine.yaml:5: model.weights=pretext exists only for digits/resnet12 on digits"
    ):
        merge("optim.lr: 1e-3", "model.weights: pretext")


def test_short_space_on_digits_has_their_size_and_trunk(merge: Merge) -> None:
    keys = ("data.image_size", "model.backbone", "model.weights")
    digits = (40, "digits/resnet12", "pretext")
    assert tuple(merge(of="digits").base[key] for key in keys) == digits
    with_trunk = merge("    optim.lr: 1e-3", "    model.backbone: digits/resnet12", of="digits")
    assert tuple(with_trunk.base[key] for key in keys) == digits
    # Another trunk keeps its own default weights, and another dataset all defaults.
    other = merge("    optim.lr: 1e-3", "    model.backbone: torchvision/resnet18", of="digits")
    assert tuple(other.base[key] for key in keys) == (40, "torchvision/resnet18", "IMAGENET1K_V1")
    assert merge().base["data.image_size"] == 448


def test_default_that_does_not_fit_blames_what_it_does_not_fit(merge: Merge) -> None:
    with pytest.raises(
        SpaceError, match=r"mine.yaml:5: model.weights must be .*, the default. Give model.weights under shared.fixed."
    ):
        merge("optim.lr: 1e-3", "model.backbone: digits/resnet12")


def test_a_method_of_another_space_of_the_dataset_is_named_with_it() -> None:
    with pytest.raises(
        UserError, match=r"^--method=plc_lac is not in search_spaces/voc.yaml, but in voc_q2l. Use that space\.$"
    ):
        merge_settings(load_space("voc"), "plc_lac")
    with pytest.raises(
        UserError,
        match=r"is not in \S+ Did you mean plc\? Valid: .*, and \d+ more. .* spaces voc$",
    ):
        merge_settings(load_space("voc"), "plc_lca")


def test_fault_in_a_shipped_method_names_its_file_and_one_in_the_space_its_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    head = "dataset: voc\nbudget: {trials: 4, epochs: 6}\nuse_methods: [asl]\n"
    path.write_text(f"{head}search: {{sampler: grid}}\n", encoding="utf-8")
    with pytest.raises(SpaceError, match=r"^search_spaces/methods/asl.yaml:\d+: method.gamma_neg: num must be given"):
        merge_settings(load_space(path))
    path.write_text(f"{head}methods:\n  asl:\n    start: {{method.clip: 0.5}}\n", encoding="utf-8")
    with pytest.raises(
        SpaceError,
        match=r"mine.yaml:6: method.clip of a start point must be within its range \(0 to 0.2\), but",
    ):
        merge_settings(load_space(path))
    path.write_text(f"{head}methods:\n  asl:\n    fixed: {{method.gama: 1}}\n", encoding="utf-8")
    with pytest.raises(SpaceError, match=r"mine.yaml:6: method.gama is not a setting .* Did you mean method.gamma"):
        merge_settings(load_space(path))
