"""Test the published scores: their figures, their strict check, and what they say about a run of ours."""

from __future__ import annotations

import re
import statistics

import pytest

from search_spaces.published import (
    PUBLISHED_FILE,
    Score,
    check_published,
    explain_differences,
    find_published,
    load_published,
)
from search_spaces.reader import SpaceError, read_document
from search_spaces.schema import load_space
from training.config.run import check_keys

VALID = PUBLISHED_FILE.read_text(encoding="utf-8")


def test_scores_are_those_of_their_tables() -> None:
    sources = load_published().sources
    found = {
        (name, method, dataset): scores
        for name, source in sources.items()
        for method, row in source.rows.items()
        for dataset, scores in row.items()
    }
    # Spot checks, one for each form and source; sums over a table catch a digit that was mistyped.
    assert found["crisp", "crisp", "nuswide"]["mAP"] == Score(49.996, 0.316)
    assert found["boostlu", "boostlu_r", "cub"]["mAP"] == Score(19.80)
    assert found["ignore_supplement", "ignore", "voc"]["OF1"] == Score(85.3)
    means = {
        name: round(statistics.fmean(s["mAP"].value for (of, _, _), s in found.items() if of == name), 3)
        for name in sources
    }
    assert means == MEANS
    # The only published score of IGNORE is that of the supplement.
    assert {key for key in found if key[1] == "ignore"} == {("ignore_supplement", "ignore", "voc")}


# Over all scores of a source, taken from the papers' tables by other means.
MEANS = {
    "ignore_supplement": 89.667,
    "crisp": 55.686,
    "boostlu": 56.335,
    "large_loss": 55.828,
    "large_loss_linear_init": 57.447,
    "vlpl": 61.389,
    "aevlp": 57.602,
}


def test_scores_in_the_headers_of_spaces_are_published_ones() -> None:
    values = {
        f"{score.value:.1f}"
        for source in load_published().sources.values()
        for row in source.rows.values()
        for scores in row.values()
        for score in scores.values()
    }
    for space in ("voc", "voc_q2l", "coco", "coco_q2l", "nuswide", "nuswide_q2l", "cub", "cub_q2l"):
        expected = load_space(space).header.partition("Expected:")[2].partition("Command:")[0]
        quoted = re.findall(r"(?<![\d.])\d\d\.\d(?!\d)", expected)
        assert [number for number in quoted if number not in values] == [], space


def test_what_was_published_is_found_by_method_dataset_and_network() -> None:
    assert [found.source.where for found in find_published("crisp", "voc")] == ["Table 1"]
    assert {found.metric for found in find_published("ignore", "voc", "query2label")} >= {"mAP", "CF1"}
    assert find_published("ignore", "voc", "resnet_cam") == find_published("ignore", "digits") == []


def test_settings_of_sources_are_settings_of_a_run() -> None:
    for source in load_published().sources.values():
        check_keys(source.settings, "em")


def test_differences_name_the_settings_and_what_the_source_is_known_for() -> None:
    [found] = find_published("crisp", "coco")
    same = dict(found.source.settings)
    assert explain_differences(found.source, same) == found.source.differs
    said = explain_differences(found.source, {**same, "data.image_size": 160, "loop.epochs": 25})
    assert said[:2] == ["data.image_size 448 there, 160 here", "loop.epochs 10 there, 25 here"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "      crisp: {voc",
            "      crips: {voc",
            "crips must be a shipped method or one of others. Did you mean crisp?",
        ),
        ("[89.820, 0.191]", "[89.820]", "must be [mean, deviation], but has 1 numbers"),
        ("cub: 24.89", "cub: 248.9", "must be a score in percent, 0 to 100, but got 248.9"),
        ("CF1: 83.9", "CF2: 83.9", "is not a metric. Did you mean CF1?"),
        ("    runs: 5", "    run: 5", "is not a valid key. Did you mean runs?"),
        ("coco: 73.54", "cocoa: 73.54", "must be a dataset with published scores. Did you mean coco?"),
    ],
)
def test_mistakes_are_named_with_their_line(old: str, new: str, said: str) -> None:
    assert VALID.count(old) >= 1
    text = VALID.replace(old, new, 1)
    line = text[: text.index(new)].count("\n") + 1
    with pytest.raises(SpaceError, match=rf"published.yaml:{line}: ") as caught:
        check_published(read_document(text, "published.yaml"))
    assert re.search(said.replace("[", r"\[").replace("?", r"\?"), str(caught.value)), caught.value
