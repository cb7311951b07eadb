from __future__ import annotations

from pathlib import Path

import pytest

from search_spaces.reader import SpaceError
from search_spaces.schema import load_space, shipped_spaces

HEAD = "dataset: digits\nbudget: {trials: 2, epochs: 3}\n"  # two lines, so that what a test adds starts on the third


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def fault(folder: Path, text: str) -> str:
    with pytest.raises(SpaceError) as caught:
        load_space(write(folder, text))
    return str(caught.value).removeprefix(f"{folder}/")


def test_small_space_has_its_defaults(tmp_path: Path) -> None:
    space = load_space(write(tmp_path, f"# what it is\n#\n#  for\n\n# not this\n{HEAD}methods:\n  ignore:\n"))
    assert space.name == "mine"
    assert space.reference == str(tmp_path / "mine.yaml")
    assert space.header == "what it is\n\n for"
    assert space.text.endswith("ignore:\n")
    assert (space.protocol.select_config_by, space.protocol.select_epoch_by) == ("clean-val", "clean-val")
    assert (space.scheduler.name, space.scheduler.grace_epochs) == ("asha", None)
    assert space.search.sampler == "tpe"
    assert space.methods["ignore"].start_from == []
    assert space.place(("methods", "ignore")) == f"{tmp_path / 'mine.yaml'}:9"


def test_empty_sections_are_as_good_as_none(tmp_path: Path) -> None:
    text = HEAD + "shared:\nsearch:\nmethods:\n  em:\n    fixed:\n    ranges:\n    start_from:\n"
    assert load_space(write(tmp_path, text)).methods["em"].ranges == {}


def test_sections_of_two_spaces_are_not_shared(tmp_path: Path) -> None:
    first, second = (load_space(write(tmp_path, HEAD + "methods: {em: }")) for _ in range(2))
    first.shared.fixed["optim.lr"] = 1.0
    assert second.shared.fixed == {}


def test_numbers_without_a_point_are_numbers(tmp_path: Path) -> None:
    text = (
        HEAD
        + "methods:\n  em:\n    fixed: {optim.lr: 1e-3}\n    ranges: {optim.weight_decay: {type: float, low: 1e-5, "
        "high: 1e-2}}\n"
    )
    block = load_space(write(tmp_path, text)).methods["em"]
    assert block.fixed["optim.lr"] == 0.001
    assert block.ranges["optim.weight_decay"].ends == (1e-5, 1e-2)


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "just words"])
def test_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    assert fault(tmp_path, text).startswith("mine.yaml:1: the file must be a mapping")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mine.yaml:1: methods must be given"),
        ("methods:", "mine.yaml:3: methods must be given (or use_methods"),
        ("methods: [a]", 'mine.yaml:3: methods must be a mapping (key: value), but got ["a"]'),
        ("method: {a: }", "mine.yaml:3: method is not a valid key. Did you mean methods?"),
        ("methods: {a: {ranges: [x]}}", "mine.yaml:3: methods.a.ranges must be a mapping"),
        (
            "methods:\n  a:\n    range: {}",
            "mine.yaml:5: methods.a.range is not a valid key. Did you mean ranges?",
        ),
        (
            "methods:\n  a:\n    fixed:\n      k: [1]",
            "mine.yaml:6: methods.a.fixed.k must be a single value, but got [1]",
        ),
        ("methods: {a: {fixed: {k: .nan}}}", "mine.yaml:3: methods.a.fixed.k must be finite"),
        ("methods: {a: {start_from: {k: 1}}}", "mine.yaml:3: methods.a.start_from must be a list"),
        ("methods: {a: {start_from: [3]}}", "mine.yaml:3: methods.a.start_from.0 must be a mapping"),
        ("methods: {a: {epoch_s: 0}}", "mine.yaml:3: methods.a.epoch_s must be greater than 0"),
        (
            "methods: {a: }\ndefault_method: b",
            'mine.yaml:4: default_method must be the label of a method block, but got "b". Valid: a.',
        ),
        ("methods: {a: }\nscheduler: none", 'mine.yaml:4: scheduler must be a mapping (key: value), but got "none"'),
        (
            "methods: {a: }\nscheduler: {name: ahsa}",
            'mine.yaml:4: scheduler.name must be one of asha, screen, none, but got "ahsa". Did you mean asha?',
        ),
        (
            "methods: {a: }\nscheduler: {reduction_factor: 1}",
            "mine.yaml:4: scheduler.reduction_factor must be greater than 1",
        ),
        (
            "methods: {a: }\nprotocol: {select_epoch_by: published}",
            "mine.yaml:4: protocol.select_epoch_by must be one of clean-val, observed-val",
        ),
        ("methods: {a: }\nsearch: {seed: -1}", "mine.yaml:4: search.seed must be at least 0"),
        (
            "methods: {a: }\nresources: {workers: 2, gpus_per_worker: 0.5}",
            "mine.yaml:4: resources.gpus_per_worker must be a whole number with several workers, because they cannot "
            "share a GPU, but got 0.5. Use 1",
        ),
        (
            "methods: {a: }\nresources: {gpus_per_worker: 1.5}",
            "mine.yaml:4: resources.gpus_per_worker must be a part of one GPU or whole ones, but got 1.5. Use 2",
        ),
        (
            "methods: {a: }\nresources: {workers: true}",
            "mine.yaml:4: resources.workers must be an integer, but got true",
        ),
        ("methods: {a: }\nresources: {workers: '1'}", 'mine.yaml:4: resources.workers must be an integer, but got "1"'),
    ],
)
def test_fault_names_file_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    assert fault(tmp_path, HEAD + text).startswith(message)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            "{type: flaot, low: 0, high: 1}",
            'k.type must be one of float, int, categorical, but got "flaot". Did you mean float?',
        ),
        ("{low: 0, high: 1}", "k.type must be given"),
        ("{type: float, low: 0}", "k.high must be given for type float"),
        (
            "{type: float, low: 1, high: 1}",
            "k.low must be below high, but got low=1, high=1. Put a single value under fixed",
        ),
        ("{type: float, low: 2, high: 1}", "k.low must be below high"),
        ("{type: float, low: 0, high: 1, log: true}", "k.low must be above 0 where log is true, but got low=0"),
        ("{type: float, low: -1, high: 1, log: true}", "k.low must be above 0 where log is true"),
        ("{type: float, low: 0, high: .inf}", "k.high must be finite"),
        ("{type: float, low: '0', high: 1}", 'k.low must be a number, but got "0"'),
        ("{type: float, low: false, high: 1}", "k.low must be a number, but got false"),
        ("{type: float, low: 0, high: 1, log: 1}", "k.log must be true or false, but got 1"),
        (
            "{type: float, low: 0, high: 1, step: 1}",
            "k.step is not a valid key. Valid: type, low, high",
        ),
        ("{type: float, low: 0, high: 1, choices: [1, 2]}", "k.choices must not be given for type float"),
        ("{type: float, low: 0, high: 1, num: 1}", "k.num must be at least 2"),
        ("{type: int, low: 0, high: 2.5}", "k.high must be a whole number for type int, but got high=2.5"),
        ("{type: int, low: 0.0, high: 2}", "k.low must be a whole number for type int"),
        ("{type: categorical}", "k.choices must be at least two values, but got choices=null"),
        ("{type: categorical, choices: []}", "k.choices must be at least two values, but got choices=[]"),
        ("{type: categorical, choices: [a]}", "k.choices must be at least two values"),
        ("{type: categorical, choices: [a, a]}", "k.choices must differ from one another"),
        ("{type: categorical, choices: [a, [b]]}", "k.choices.1 must be a single value"),
        ("{type: categorical, choices: [a, b], low: 0}", "k.low must not be given for type categorical"),
        ("{type: categorical, choices: [a, b], log: true}", "k.log must not be given for type categorical"),
        ("[0, 1]", "k must be a mapping"),
        ("0.5", "k must be a mapping"),
    ],
)
def test_bad_range_names_its_line(tmp_path: Path, found: str, message: str) -> None:
    for block, line in (
        ("shared:\n  ranges:\n    k: {}\nmethods: {{a: }}", 5),
        ("methods:\n  a:\n    ranges:\n      k: {}", 6),
    ):
        where = "shared.ranges." if line == 5 else "methods.a.ranges."
        assert fault(tmp_path, HEAD + block.format(found)).startswith(f"mine.yaml:{line}: {where}{message}")


def test_fault_within_a_range_over_several_lines_is_told_at_its_own(tmp_path: Path) -> None:
    text = HEAD + "methods:\n  a:\n    ranges:\n      k:\n        type: float\n        low: 3\n        high: 1\n"
    assert fault(tmp_path, text).startswith("mine.yaml:8: methods.a.ranges.k.low")


def test_first_of_several_faults_in_the_file_is_told(tmp_path: Path) -> None:
    assert fault(tmp_path, "methods: 3\nbudget: {trials: 0, epochs: 1}\ndataset: d").startswith("mine.yaml:1: methods")


def test_key_both_fixed_and_searched(tmp_path: Path) -> None:
    text = HEAD + "methods:\n  a:\n    fixed: {k: 1}\n    ranges:\n      k: {type: float, low: 0, high: 1}\n"
    assert fault(tmp_path, text).startswith("mine.yaml:7: methods.a.ranges.k must be either fixed or searched")


def test_key_given_twice(tmp_path: Path) -> None:
    assert (
        fault(tmp_path, HEAD + "dataset: voc\n")
        == "mine.yaml:3: dataset is given twice: it is also on line 1. Remove one of them."
    )


@pytest.mark.parametrize(
    ("name", "hint"), [("digts", "Did you mean digits?"), ("vocq2l", "Did you mean voc_q2l?"), ("imagenet", "")]
)
def test_unknown_space_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(SpaceError, match="There is no search space called") as caught:
        load_space(name)
    assert all(known in str(caught.value) for known in shipped_spaces())
    assert f"called {name}. {hint} The".replace("  ", " ") in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"nowhere\.yaml does not exist\.$"):
        load_space(tmp_path / "nowhere.yaml")
    with pytest.raises(SpaceError, match=r"Its folder \S+/gone does not exist either\.$"):
        load_space(tmp_path / "gone" / "nowhere.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(SpaceError, match=r"folder\.yaml is a folder\. Name a YAML file\.$"):
        load_space(tmp_path / "folder.yaml")


def test_missing_file_is_answered_with_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, "dataset: voc", "birds.yaml")
    for wrong in ("birds.yml", "brids.yaml"):
        with pytest.raises(SpaceError, match=rf"{wrong} does not exist\. Did you mean {tmp_path}/birds.yaml\?$"):
            load_space(tmp_path / wrong)
    for wrong in ("voc.yml", "voc.yaml", f"{tmp_path}/voc.yaml"):
        with pytest.raises(SpaceError, match=rf"{wrong} does not exist\. The shipped space is called voc, without"):
            load_space(wrong)


def test_shipped_space_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "not: this one", "digits")
    space = load_space("digits")
    assert (space.name, space.reference, space.source) == ("digits", "digits", "search_spaces/digits.yaml")
