"""Test the door to the test set: it is the only one, and what goes through it is in the ledger first."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.home import sweeps_dir
from orchestrator.planning.config_hash import hash_config
from orchestrator.promotion import test_set
from orchestrator.promotion.test_set import Registered, open_test_set
from orchestrator.sweep_folder.ledger import LEDGER_FILE, read_ledger
from tests.kit.scenes import prepare_tiny, tiny_config
from tests.kit.stores import make_store, store_config
from training.config.run import DataConfig
from training.data.split import SplitData
from training.inference.test_split import hash_split, load_test_split

ROOT = Path(__file__).parents[4]
DOOR = "orchestrator/promotion/test_set.py"
# Reads the photos of its own that it has just written, as the official phase of a store that has no other.
EXEMPT = {"benchmarks/pipeline/input_pipeline.py"}
INSIDE = {"training/inference/test_split.py"}


def _ways_in(tree: ast.AST) -> Iterator[str]:
    """Yield what a module does to reach a test split."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        if "training.inference.test_split" in {module, *names, *(f"{module}.{name}" for name in names)}:
            yield "imports training.inference.test_split"
        if isinstance(node, ast.Attribute) and node.attr == "test_split":
            yield "calls Store.test_split"
        if isinstance(node, ast.Call) and "read_split" in (
            getattr(node.func, "id", ""),
            getattr(node.func, "attr", ""),
        ):
            yield "calls digits.read_split"
        if isinstance(node, ast.Constant) and node.value == "training.inference.test_split":
            yield "names training.inference.test_split"


def test_nothing_else_in_the_program_or_its_benchmarks_reaches_a_test_split() -> None:
    found = {}
    for folder in ("orchestrator", "training", "search_spaces", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            name = file.relative_to(ROOT).as_posix()
            if ways := set(_ways_in(ast.parse(file.read_text(encoding="utf-8")))):
                found[name] = ways
    # Loads a split that it has checked to be train or val.
    assert found.pop("training/data/registry.py") == {"calls digits.read_split"}
    assert set(found) == {DOOR} | EXEMPT | INSIDE
    assert found[DOOR] == {"imports training.inference.test_split"}


def test_the_opening_is_in_the_ledger_before_anything_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_tiny()
    configs = dict(enumerate(tiny_config({"loop.seed": seed}) for seed in (7, 5)))
    registered = Registered("ignore", "clean-val x clean-val", configs, "a test")

    def die(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(test_set, "score_weights", die)
        with pytest.raises(KeyboardInterrupt):
            open_test_set(registered, {0: {}})
    [line] = read_ledger()
    split = load_test_split(configs[0].data)
    assert (line.seeds, line.draws, line.split_hash) == ((5, 7), (1200,), hash_split(split))
    assert (line.purpose, line.recipe, line.config_hash) == ("a test", "digits", hash_config(configs[1].flatten()))
    opening, scores = open_test_set(registered, {})
    assert (opening, scores) == (line, {})
    (sweeps_dir() / LEDGER_FILE).write_text("edited\n")
    with pytest.raises(OrchestratorError, match="not as it was written"):
        open_test_set(registered, {0: {}})


def test_the_split_is_loaded_once_for_all_runs_of_a_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_tiny()
    draws = (1200, 1200, 7)
    configs = {number: tiny_config({"loop.seed": number, "data.draw_seed": draw}) for number, draw in enumerate(draws)}
    loaded: list[int] = []

    def load(data: DataConfig) -> SplitData:
        loaded.append(data.draw_seed)
        return load_test_split(data)

    monkeypatch.setattr(test_set, "load_test_split", load)
    monkeypatch.setattr(test_set, "score_weights", lambda config, state, split: split)
    _, scores = open_test_set(Registered("ignore", "", configs, "a test"), {number: {} for number in configs})
    assert loaded == [1200, 7]
    assert scores[0] is scores[1] is not scores[2]


def test_runs_of_one_opening_share_all_but_their_seeds() -> None:
    with pytest.raises(ValueError, match="must differ in their seeds alone"):
        Registered("ignore", "", {0: tiny_config(), 1: tiny_config({"optim.lr": 0.1})}, "two settings at once")


def test_a_test_set_without_images_is_not_opened(tmp_path: Path) -> None:
    config = store_config(make_store(tmp_path, num_test=0))
    assert open_test_set(Registered("ignore", "", {0: config}, "nothing"), {0: {}}) == (None, {})
    assert read_ledger() == []


def test_a_test_split_is_the_same_at_any_size_and_with_any_draw(tmp_path: Path) -> None:
    small, large = (store_config(make_store(tmp_path / str(size), image_size=size)) for size in (16, 24))
    large = large.with_params({"data.image_size": 24, "data.draw_seed": 7})
    assert hash_split(load_test_split(small.data)) == hash_split(load_test_split(large.data))
    other = store_config(make_store(tmp_path / "other", num_test=5))
    assert hash_split(load_test_split(small.data)) != hash_split(load_test_split(other.data))
