from __future__ import annotations

import pytest

from orchestrator.errors import UserError
from orchestrator.planning.layers import FileOrigin, FlagOrigin, Layer, Searched, Setting, layer_settings, make_layer
from orchestrator.planning.settings import merge_settings
from search_spaces.ranges import Range
from search_spaces.reader import SpaceError
from search_spaces.schema import load_space

SPACE = load_space("digits")
FILE = FileOrigin(SPACE, ("shared", "fixed", "optim.name"))
FLAG = FlagOrigin("--set a=2")
RANGE = Searched(Range(type="int", low=1, high=2), FILE)


def test_later_layer_wins_with_its_origin() -> None:
    below, above = Layer({"a": Setting(1, FILE), "b": Setting(1, FILE)}), Layer({"a": Setting(2, FLAG)})
    merged = layer_settings(below, above)
    assert merged.values == {"a": 2, "b": 1}
    assert (merged.fixed["a"].origin, merged.fixed["b"].origin) == (FLAG, FILE)
    assert below.values == {"a": 1, "b": 1}, "the layers stay as they are"
    assert layer_settings() == Layer()


def test_fixing_a_key_ends_its_search_and_a_later_range_begins_it_again() -> None:
    searched, fixed = Layer(ranges={"a": RANGE}), Layer({"a": Setting(1, FILE)})
    assert layer_settings(searched, fixed).ranges == {}
    assert layer_settings(fixed, searched).ranges == {"a": RANGE}
    assert layer_settings(searched, fixed, searched).ranges == {"a": RANGE}
    assert list(layer_settings(Layer(ranges={"b": RANGE}), searched).ranges) == ["b", "a"], "Optuna draws in this order"


def test_origins_say_where_and_raise_the_right_error() -> None:
    assert str(FILE).startswith("search_spaces/digits.yaml:")
    assert str(make_layer(SPACE.shared, FileOrigin(SPACE, ("shared",))).fixed["optim.name"].origin) == str(FILE)
    with pytest.raises(SpaceError, match=r"search_spaces/digits.yaml:\d+: wrong"):
        raise FILE.error("wrong")
    with pytest.raises(UserError, match="^--set: wrong"):
        raise FLAG.error("wrong")


def test_every_setting_that_is_named_has_its_origin() -> None:
    origins = merge_settings(SPACE, "asl", 3, {"optim.name": "sgd"}).origins
    shown = {key: str(origin).rpartition(":")[0] or str(origin) for key, origin in origins.items()}
    assert shown["optim.name"] == '--set optim.name="sgd"'
    assert shown["loop.epochs"] == "--set loop.epochs=3"
    assert shown["method.gamma_pos"] == "search_spaces/methods/asl.yaml"
    assert shown["optim.schedule"] == "search_spaces/digits.yaml"
    assert "method.gamma_neg" not in origins, "it is searched"
