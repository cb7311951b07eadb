from __future__ import annotations

import math
from pathlib import Path

import pytest

from search_spaces.reader import Scalar, SpaceError, parse_scalar, read_document, read_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-3", -3),
        ("1_000", 1000),
        ("017", 17),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("False", False),
        ("on", "on"),
        ("no", "no"),
        ("null", None),
        ("~", None),
        ("'5'", "5"),
        ("1:30", "1:30"),
        ("2001-01-01", "2001-01-01"),
        ("clean-val", "clean-val"),
    ],
)
def test_scalars_read_alike_in_a_file_and_on_the_command_line(text: str, value: Scalar) -> None:
    for read in (parse_scalar(text), read_document(f"key: {text}", "f").data["key"]):
        assert read == value
        assert type(read) is type(value)


@pytest.mark.parametrize(
    "text", ["", "a #b", "a: b", "[1, 2]", "- a", "*a", "&a 3", "!x 3", "{", "%", "s3://bucket/a: b", "\\t"]
)
def test_command_line_values_that_are_no_scalars_stay_text(text: str) -> None:
    assert parse_scalar(text) == text


def test_infinities_are_read_as_numbers() -> None:
    data = read_document("a: .inf\nb: -.inf\nc: .nan", "f").data
    assert data["a"] == math.inf
    assert data["b"] == -math.inf
    assert math.isnan(data["c"])


def test_every_key_and_item_has_its_line() -> None:
    document = read_document("# top\na:\n  b.c: 1\n  d:\n    - x\n    - {e: 2}\n", "f")
    assert document.data == {"a": {"b.c": 1, "d": ["x", {"e": 2}]}}
    assert document.line(("a",)) == 2
    assert document.line(("a", "b.c")) == 3
    assert document.line(("a", "d", 1, "e")) == 6
    assert document.line(("a", "d", 9, "z")) == 4  # the nearest key around it
    assert document.line(("z",)) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"f:3: a is given twice: it is also on line 1"),
        ("a: 1\n\tb: 2", r"f:2: .* Indent with spaces, not tabs"),
        ("a:\n  b: 1\n c: 2", r"f:3: this is not valid YAML"),
        ("a: [1,\n", r"f:2: this is not valid YAML"),
        ("a: b: c", r"f:1: this is not valid YAML"),
        ("a: 1\n---\nb: 2", r"f:2: .*single document"),
        ("a: \x07", r"f: this is not valid YAML: .*special characters"),
        ("a: 1\nb: !!python/name:os.system x", r"f:2: b must be plain data"),
        ("a: 1\nb: !!python/object/apply:os.system [id]", r"f:2: b must be plain data"),
        ("a: 1\nb:\n  c: !!set {x, y}", r"f:3: b.c must be plain data"),
        ("a: 1\nb: !x 2", r"f:2: b must be plain data"),
        ("a: &x [*x]", r"f:1: a.0 must not contain itself"),
        ("a: *x", r"f:1: .*undefined alias"),
        ("a: 1\n<<: {b: 1}", r"f:2: a key of the file must be a word"),
        ("a: 1\n? [b]\n: 2", r"f:2: a key of the file must be a word"),
    ],
)
def test_fault_is_told_with_file_and_line(text: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        read_document(text, "f")


def test_alias_stands_for_what_it_names() -> None:
    assert read_document("a: &x {b: 1}\nc: *x", "f").data == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n"])
def test_empty_file_has_no_data(text: str) -> None:
    assert read_document(text, "f").data is None


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"x\.yaml does not exist"):
        read_text(tmp_path / "x.yaml", "x.yaml")
    with pytest.raises(SpaceError, match=r"folder is a folder\. Name a YAML file"):
        read_text(tmp_path, "folder")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe4")
    with pytest.raises(SpaceError, match=r"latin.yaml: .*UTF-8 .*byte 3"):
        read_text(tmp_path / "latin.yaml", "latin.yaml")


def test_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1")
    assert read_text(tmp_path / "a.yaml", "a.yaml") == "a: 1"


def test_a_bomb_is_refused_with_its_line_and_aliases_in_ordinary_use_are_not(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]" for number in range(1, 30)]
    with pytest.raises(SpaceError, match=r"^f:6: with its aliases written out.*more than 1,000,000 characters"):
        read_document("\n".join(lines), "f")
    mappings = ["a0: &a0 {x: 1}"]
    mappings += [f"a{number}: &a{number} {{l: *a{number - 1}, r: *a{number - 1}}}" for number in range(1, 40)]
    with pytest.raises(SpaceError, match=r"^f:\d\d: with its aliases"):
        read_document("\n".join(mappings), "f")
    long = "a: &a " + "x" * 200_000 + "\nb: [" + "*a, " * 10 + "]\n"
    with pytest.raises(SpaceError, match=r"^f:[12]: with its aliases"):
        read_document(long, "f")
    data = read_document("a: &a [1, 2]\nb: *a\nc: {d: *a, e: *a}\n", "f").data
    assert data == {"a": [1, 2], "b": [1, 2], "c": {"d": [1, 2], "e": [1, 2]}}


def test_deep_nesting_is_refused_with_its_line() -> None:
    for text in ("a:\n  " + "[" * 60 + "]" * 60, "{a: " * 5000):
        with pytest.raises(SpaceError, match=r"^f(:2)?: more than 50 mappings and lists inside each other"):
            read_document(text, "f")
    block = "\n".join(" " * depth + "a:" for depth in range(60))
    with pytest.raises(SpaceError, match=r"^f:5\d: more than 50"):
        read_document(block, "f")
    assert parse_scalar("{a: " * 5000) == "{a: " * 4999 + "{a:"


def test_what_is_too_large_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "huge.yaml").write_text("a: " + "x" * (300 << 10))
    for path in (tmp_path / "huge.yaml", Path("/dev/zero")):
        with pytest.raises(SpaceError, match="^f is larger than 256 KiB"):
            read_text(path, "f")
    with pytest.raises(SpaceError, match="^f is larger"):
        read_document("a" * (300 << 10), "f")
