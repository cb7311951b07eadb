"""Fixtures of the training tests."""

from __future__ import annotations

import pytest

from tests.kit.scenes import prepare_tiny, use_one_thread


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    use_one_thread()


@pytest.fixture(scope="session")
def tiny_scenes(_isolated_environment: None) -> None:
    """Make the tiny scenes once, because that takes seconds."""
    prepare_tiny()
