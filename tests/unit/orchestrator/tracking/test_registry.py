"""Test how a user may name a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.tracking import registry
from orchestrator.tracking.registry import RegisteredModel, choose_version

NAME = "digits.resnet_cam.clean-val.clean-val.0123abcd"
OTHER = "digits.resnet_cam.clean-val.last.4567cdef"
MODELS = (
    RegisteredModel(NAME, "digits", {"champion": 3, "before": 2}),
    RegisteredModel("voc.resnet_cam.clean-val.clean-val.89abcdef", "voc", {"champion": 1}),
    RegisteredModel("voc.resnet_cam.clean-val.last.89abcdef", "voc", {}),
)


@pytest.mark.parametrize(
    ("text", "version"),
    [(f"{NAME}@champion", 3), (f"{NAME}@before", 2), (f"{NAME}/1", 1), (NAME, 3), ("digits", 3)],
)
def test_words_for_a_model(text: str, version: int) -> None:
    assert choose_version(text, MODELS) == (NAME, version)


def test_dataset_with_one_champion_among_several_models() -> None:
    assert choose_version("voc", MODELS) == (MODELS[1].name, 1)


def test_dataset_with_two_champions_lists_them() -> None:
    with pytest.raises(UserError, match=f"2 champions: {NAME}@champion, {OTHER}@champion"):
        choose_version("digits", [*MODELS, RegisteredModel(OTHER, "digits", {"champion": 1})])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digit", "Did you mean digits?"),
        (f"{NAME}@winner", "Its aliases: @champion, @before"),
        (f"{NAME}x@champion", "Did you mean"),
        ("somewhere/else", "Champions: "),
        (f"{NAME}/latest", "Did you mean"),
    ],
)
def test_unknown_model_names_the_nearest(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        choose_version(text, MODELS)
    assert message in str(caught.value)


def test_no_champion_yet_names_the_command() -> None:
    with pytest.raises(UserError, match="Make one: orchestrator sweep digits, then orchestrator promote"):
        choose_version("digits", [])


def test_folder_needs_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "answering", lambda *advice: pytest.fail("MLflow was asked"))
    (tmp_path / registry.WEIGHTS_FILE).write_bytes(b"")
    assert registry.find_model(str(tmp_path)) == tmp_path
