"""Test the rule that merges method blocks, and that messages blame the file and line where a key really is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from search_spaces.compose import shipped_methods
from search_spaces.reader import SpaceError
from search_spaces.schema import SearchSpace, load_space

HEAD = "dataset: digits\nbudget: {trials: 2, epochs: 3}\n"


def load(folder: Path, text: str) -> SearchSpace:
    path = folder / "mine.yaml"
    path.write_text(HEAD + text, encoding="utf-8")
    return load_space(path)


def test_shipped_method_is_taken_over_whole(tmp_path: Path) -> None:
    block = load(tmp_path, "use_methods: [asl]\n").methods["asl"]
    assert block.fixed == {"method.gamma_pos": 0.0}
    assert list(block.ranges) == ["method.gamma_neg", "method.clip"]
    assert block.start_from == [{"method.gamma_neg": 4.0, "method.clip": 0.05}]
    assert block.published is None


def test_space_overrides_key_by_key(tmp_path: Path) -> None:
    text = (
        "use_methods: [splc, asl]\nmethods:\n  splc:\n    fixed: {method.margin: 0.5}\n"
        "    ranges: {method.gamma: {type: float, low: 1, high: 3}}\n  asl:\n    fixed: {method.clip: 0.1}\n"
    )
    space = load(tmp_path, text)
    splc, asl = space.methods["splc"], space.methods["asl"]
    assert splc.fixed == {"method.warmup_epochs": 1, "method.margin": 0.5}, "a range ends that gamma is fixed"
    assert list(splc.ranges) == ["method.positive_threshold", "method.gamma"]
    assert list(asl.ranges) == ["method.gamma_neg"], "a fixed key is not searched"
    assert asl.start_from == [{"method.gamma_neg": 4.0}]


def test_null_removes_a_range_and_its_start(tmp_path: Path) -> None:
    block = load(tmp_path, "use_methods: [asl]\nmethods: {asl: {ranges: {method.clip: null}}}\n").methods["asl"]
    assert list(block.ranges) == ["method.gamma_neg"]
    assert block.start_from == [{"method.gamma_neg": 4.0}]


def test_like_starts_from_another_block_without_its_published_settings(tmp_path: Path) -> None:
    text = "methods:\n  em_mine:\n    like: em\n    fixed: {method.entropy_weight: 1.0}\n"
    space = load(tmp_path, "use_methods: [em]\nuse_published: voc\n" + text)
    assert space.methods["em"].published is not None
    mine = space.methods["em_mine"]
    assert (mine.name, mine.fixed, mine.ranges, mine.published) == ("em", {"method.entropy_weight": 1.0}, {}, None)


def test_like_sees_what_the_space_changed(tmp_path: Path) -> None:
    text = (
        "use_methods: [ignore, ignore_without_reg]\nmethods: {ignore: {fixed: {method.gap_decay: 0.9}, epoch_s: 2}}\n"
    )
    block = load(tmp_path, text).methods["ignore_without_reg"]
    assert block.fixed["method.gap_decay"] == 0.9
    assert block.fixed["method.reg_weight"] == 0.0
    assert block.epoch_s == 2


def test_start_completes_every_point_and_the_nearest_one_wins(tmp_path: Path) -> None:
    text = (
        "shared: {start: {optim.lr: 1e-3, optim.batch_size: 8}}\nuse_methods: [asl]\nmethods:\n"
        "  asl:\n    start: {optim.batch_size: 16}\n    start_from: [{method.clip: 0.1}, {optim.lr: 1e-4}]\n"
        "  em: {fixed: {optim.lr: 1e-2}}\n"
    )
    methods = load(tmp_path, text).methods
    common = {"optim.lr": 1e-3, "optim.batch_size": 16, "method.gamma_neg": 4.0, "method.clip": 0.05}
    assert methods["asl"].start_from == [{**common, "method.clip": 0.1}, {**common, "optim.lr": 1e-4}]
    assert methods["em"].start_from == [{"optim.batch_size": 8}], "what the block fixes is no start"


def test_blocks_without_any_of_this_stay_as_they_are(tmp_path: Path) -> None:
    text = "methods:\n  ignore:\n  em: {ranges: {method.entropy_weight: {type: float, low: 0, high: 1}}}\n"
    space = load(tmp_path, text)
    assert space.methods["ignore"].model_dump(exclude_defaults=True) == {}
    assert space.text == HEAD + text


def test_places_are_those_of_the_file_where_a_key_stands(tmp_path: Path) -> None:
    text = (
        "shared: {start: {optim.lr: 1e-3}}\nuse_methods: [asl, ignore, ignore_without_reg]\nuse_published: voc\n"
        "methods:\n  asl:\n    ranges:\n      method.clip: {type: float, low: 0, high: 1}\n"
    )
    space = load(tmp_path, text)
    mine, asl, ignore = (
        str(tmp_path / "mine.yaml"),
        *(Path("search_spaces/methods", name) for name in ("asl.yaml", "ignore.yaml")),
    )

    def line(source: Path, key: str, nth: int = 0) -> str:
        lines = (Path(__file__).parents[3] / source).read_text(encoding="utf-8").splitlines()
        return f"{source}:{[number for number, text in enumerate(lines, 1) if text.strip().startswith(key)][nth]}"

    assert space.place(("methods", "asl", "ranges", "method.clip", "low")) == f"{mine}:9"
    assert space.place(("methods", "asl", "ranges", "method.gamma_neg", "high")) == line(asl, "method.gamma_neg")
    assert space.place(("methods", "asl", "start_from", 0, "method.clip")) == line(asl, "method.clip", 1)
    assert space.place(("methods", "asl", "start_from", 0, "optim.lr")) == f"{mine}:3"
    assert space.place(("methods", "ignore_without_reg", "fixed", "method.gap_decay")) == line(
        ignore, "method.gap_decay"
    )
    assert space.place(("methods", "ignore", "published", "fixed", "optim.lr")) == line(ignore, "optim.lr")
    assert space.place(("budget", "trials")) == f"{mine}:2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("use_methods: [ignroe]\n", r':3: use_methods must name .*, but got "ignroe". Did you mean ignore\?'),
        ("use_methods: ignore\n", r':3: use_methods must be a list .*, but got "ignore"'),
        (
            "use_methods: [em]\nuse_published: vco\n",
            r':4: use_published must name .*, but got "vco". Did you mean voc\? Valid: .*voc',
        ),
        (
            "methods:\n  a:\n    like: ignroe\n",
            r':5: like must be the label of a method block, but got "ignroe". Did you mean ignore\? Valid: ',
        ),
        ("methods:\n  a: {like: b}\n  b: {like: a}\n", r':5: like must not lead back to itself, but got "a"'),
        ("use_methods: []\n", r"methods must be given \(or use_methods: a list of shipped methods\)"),
        ("use_methods: [em]\nmethods: {em: {rangse: {}}}\n", r":4: methods.em.rangse .* Did you mean ranges\?"),
    ],
)
def test_faults_name_the_line_and_the_nearest_word(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpaceError, match=re.escape(str(tmp_path / "mine.yaml")) + ".*" + message):
        load(tmp_path, text)


def test_shipped_methods_do_not_repeat_one_another() -> None:
    """Check that a block does not repeat what it takes over from the block that it is like."""
    methods = shipped_methods()
    for label, (block, _) in methods.items():
        if block.like is not None:
            base = methods[block.like][0]
            assert not [key for key in block.fixed if base.fixed.get(key, ...) == block.fixed[key]], label
            assert not [
                key for key, found in block.ranges.items() if found is not None and base.ranges.get(key) == found
            ], label
