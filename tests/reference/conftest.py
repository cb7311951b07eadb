"""Fixtures of the reference tests."""

from __future__ import annotations

import pytest

from tests.kit.scenes import use_one_thread


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    use_one_thread()
