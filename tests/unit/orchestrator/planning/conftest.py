from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.planning.settings import Settings, merge_settings
from search_spaces.reader import Scalar
from search_spaces.schema import load_space
from tests.kit.merged import SPACE, Merge


@pytest.fixture
def merge(tmp_path: Path) -> Merge:
    """Merge the space of ``tests.kit.merged`` after replacing a part of its text."""

    def merge_changed(
        old: str = "",
        new: str = "",
        method: str | None = None,
        epochs: int | None = None,
        of: str = "voc",
        **overrides: Scalar,
    ) -> Settings:
        assert old in SPACE
        path = tmp_path / "mine.yaml"
        text = SPACE.replace("dataset: voc", f"dataset: {of}")
        path.write_text(text.replace(old, new, 1) if old else text, encoding="utf-8")
        return merge_settings(
            load_space(path), method, epochs, {key.replace("__", "."): value for key, value in overrides.items()}
        )

    return merge_changed
