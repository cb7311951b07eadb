"""Test the record of a benchmark: what can be added, and what cannot be changed after the first run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import OrchestratorError, UserError
from orchestrator.results.suite_record import (
    RECORD_FILE,
    Budget,
    find_suite,
    list_suites,
    read_history,
    read_record,
    register,
)
from search_spaces.reader import SpaceError
from tests.kit import sweeps
from tests.kit.suites import TEXT, make_suite_record

pytestmark = pytest.mark.usefixtures("home")


def test_methods_and_seeds_are_added_and_nothing_is_taken_away() -> None:
    first = register(make_suite_record())
    assert register(make_suite_record()) == first, "the same again writes nothing"
    more = register(replace(make_suite_record(), methods=("wan",), seeds=5))
    assert (more.id, more.methods, more.bounds, more.seeds) == (first.id, ("ignore", "em", "wan"), ("full_labels",), 5)
    assert read_record(first.id) == more
    assert [record.seeds for record in read_history(first.id)] == [3, 5]
    with pytest.raises(UserError, match="has 5 seeds, and seeds can be added but not taken away.*--seeds 5"):
        register(make_suite_record())
    with pytest.raises(UserError, match="registered on .* as ignore - em on digits"):
        register(replace(more, contrasts=(("em", "ignore", "digits"),)))
    with pytest.raises(UserError, match="searches digits on digits, and not digits_q2l"):
        register(replace(more, spaces={"digits": "digits_q2l"}))


def test_another_budget_or_setting_is_another_benchmark() -> None:
    ids = {
        make_suite_record().id,
        make_suite_record(amount=5.0).id,
        make_suite_record(TEXT + "race_frac: 0\n").id,
        make_suite_record(TEXT.replace("seeds: 3", "seeds: 4")).id,
    }
    assert len(ids) == 3, "seeds can be added, so they are not part of what it is"
    assert str(Budget("images", 4.0, "ignore")) == "as many images as 4 trials of ignore"
    assert str(Budget("gpu-hours", 2.5)) == "2.5 GPU-hours"


def test_it_is_found_by_its_id_and_by_its_name_unless_a_sweep_has_that() -> None:
    assert (find_suite("mine"), find_suite(None), list_suites()) == (None, None, [])
    record = register(make_suite_record())
    assert find_suite(record.id) == find_suite("mine") == record.id
    assert find_suite("../mine") is None
    sweeps.make_sweep("mine-00000001")
    assert (find_suite("mine"), find_suite(record.id)) == (None, record.id)


def test_a_last_line_that_a_kill_cut_short_is_left_out_and_a_changed_one_is_named() -> None:
    record = register(make_suite_record())
    path: Path = record.folder / RECORD_FILE
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50])
    assert read_record(record.id) == record
    path.write_bytes(whole.replace(b'"seeds"', b'"seads"'))
    with pytest.raises(OrchestratorError, match=r"suite.jsonl:1: not a line that this program wrote"):
        read_record(record.id)


def test_contrasts_of_several_datasets_name_theirs() -> None:
    from orchestrator.results.suite_record import make_record
    from search_spaces.suite import read_suite

    suite = read_suite(TEXT, "mine.yaml", "mine", "mine.yaml")
    with pytest.raises(SpaceError, match=r"mine.yaml:7: contrasts.0.dataset must be given, .* voc, coco"):
        make_record(suite, {"voc": "voc", "coco": "coco"}, Budget("trials", 4), {})
