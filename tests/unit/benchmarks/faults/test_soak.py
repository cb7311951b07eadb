"""Test the soak's schedule: each kind of death comes once before any comes again, and counts if it killed something."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from benchmarks.faults.soak import Soak


class Schedule(Soak):
    """Three kinds of faults; one of them finds nothing to kill the first two times."""

    turns: list[str]

    def _kinds(self) -> dict[str, Callable[[], bool]]:
        self.turns = []

        def kill(kind: str) -> Callable[[], bool]:
            def act() -> bool:
                self.turns.append(kind)
                return kind != "shy" or self.turns.count(kind) > 2

            return act

        return {kind: kill(kind) for kind in ("shy", "node", "head")}

    def _is_possible(self, kind: str) -> bool:
        return True

    def _sleep(self, seconds: float) -> bool:
        return len(self.turns) < 8


def test_a_kind_is_due_until_it_has_killed_something() -> None:
    for seed in range(5):
        sweep = SimpleNamespace(
            id="a",
            start=lambda: None,
            wait_for=lambda *words: None,
            remember=lambda: None,
            attempts=dict,
            reports=list[Any],
        )
        soak = Schedule(cast(Any, None), cast(Any, sweep), cast(Any, sweep), random.Random(seed), 0.0)
        soak.run()
        assert all(soak.deaths.values())
        assert soak.turns[:5].count("shy") == 3, soak.turns
        assert len(set(soak.turns[:5])) == 3
