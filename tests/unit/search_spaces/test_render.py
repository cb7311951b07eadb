"""A space that is written out loads to the same space."""

from __future__ import annotations

from pathlib import Path

import pytest

from search_spaces.schema import load_space, shipped_spaces

HEAD = "# Mine.\n\ndataset: digits\nbudget: {trials: 2, epochs: 3}\n"


def test_shipped_spaces_written_out_are_the_same(tmp_path: Path) -> None:
    for name in shipped_spaces():
        space, path = load_space(name), tmp_path / f"{name}.yaml"
        path.write_text(space.text, encoding="utf-8")
        again = load_space(path)
        assert again.model_dump() == space.model_dump(), name
        assert list(again.methods) == list(space.methods)
        for label, block in space.methods.items():
            assert list(again.methods[label].ranges) == list(block.ranges), "Optuna draws in this order"
        assert again.header == space.header
        assert again.text == space.text, "it is complete, and stays as it is"
        assert "use_methods" not in again.text


def test_comments_come_along_once() -> None:
    text = load_space("voc").text
    assert text.startswith(load_space("voc").file_text[:200])
    assert text.count("# the paper's grid: 0.1-0.5") == 1
    assert text.count("The released training script of Cole et al.") == 1
    assert "  # as in the literature, like draw_seed\n" in text


@pytest.mark.parametrize("value", ["'5'", "1e-9", "true", "null", "a b", "'null'", "'a: #b'", "x/y-z.1", "-3", "0.0"])
def test_every_kind_of_value_survives(tmp_path: Path, value: str) -> None:
    path, copy = tmp_path / "mine.yaml", tmp_path / "copy.yaml"
    path.write_text(
        f"{HEAD}use_methods: [em]\nmethods: {{em: {{fixed: {{k: {value}}}, start_from: [{{}}]}}}}\n", encoding="utf-8"
    )
    copy.write_text(load_space(path).text, encoding="utf-8")
    assert load_space(copy).model_dump() == load_space(path).model_dump()
    assert repr(load_space(copy).methods["em"].fixed) == repr(load_space(path).methods["em"].fixed)
