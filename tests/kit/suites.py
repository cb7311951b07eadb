"""A benchmark whose cells have run, made without training."""

from __future__ import annotations

from typing import Any

from orchestrator.results.suite_cells import read_cells
from orchestrator.results.suite_files import write_suite_results
from orchestrator.results.suite_record import Budget, SuiteRecord, make_record, register
from orchestrator.results.suite_results import make_suite_results
from search_spaces.suite import read_suite
from tests.kit.fake_store import FakeStore
from tests.kit.promoted import Work, make_work

TEXT = """\
spaces: [digits]
methods: [ignore, em]
bounds: [full_labels]
budget: {amount: 4, of: ignore}
seeds: 3
contrasts:
  - {method: ignore, against: em}
"""
SKILL = {"ignore": 1.5, "em": 0.8, "full_labels": 3.0}
SEEDS = (5101, 5102, 5103)


def make_suite_record(text: str = TEXT, **budget: Any) -> SuiteRecord:
    """Return a record that is not registered yet."""
    suite = read_suite(text, "mine.yaml", "mine", "mine.yaml")
    budget = {"by": "images", "amount": 4.0, "of": "ignore", **budget}
    return make_record(suite, {"digits": "digits"}, Budget(**budget), {})


def make_cell(record: SuiteRecord, method: str, store: FakeStore, **changes: Any) -> Work:
    """Make what one cell has run."""
    changes = {"seeds": SEEDS, "skill": SKILL[method], "suite": record.id, "method": method, **changes}
    return make_work(f"mine-{method.replace('_', '-')}", store=store, **changes)


def make_suite(store: FakeStore, **changes: Any) -> tuple[SuiteRecord, dict[str, Work]]:
    """Make a benchmark whose cells are done, with its table; changes are to the cell of EM."""
    record = register(make_suite_record())
    work = {method: make_cell(record, method, store, **(changes if method == "em" else {})) for method in SKILL}
    write_suite_results(make_suite_results(record, read_cells(record), allow_mixed=True))
    return record, work
