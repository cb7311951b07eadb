"""Test the figures of Table 1, and how a difference is shown."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from training.data.protocol import draw_single_positives, split_train_val
from training.data.sources.annotations import Annotations, Phase
from training.data.table1 import FIGURES, PAPER, Counts, compare, compute_counts, name_class_differences


def phase_of(true: np.ndarray[tuple[int, int], np.dtype[np.bool_]], observed_only: bool = False) -> Phase:
    ids = tuple(str(row) for row in range(len(true)))
    return Phase(ids, ids, None if observed_only else true, draw_single_positives(true) if observed_only else None)


def dataset(**phases: Phase) -> Annotations:
    return Annotations("own", "drawn", Path(), tuple("abcde"), phases, {})


def labels(count: int, seed: int = 0) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    return np.random.default_rng(seed).random((count, 5)) < 0.3


def test_counts_are_those_of_the_draw_made_and_counted() -> None:
    true = labels(100)
    counts = compute_counts(dataset(train=phase_of(true), test=phase_of(labels(30, 1))))
    train, val = split_train_val(100)
    observed = draw_single_positives(true)[train]
    unobserved = ~observed
    assert (counts.classes, counts.train, counts.val, counts.test) == (5, len(train), len(val), 30)
    assert counts.single_positives == observed.sum() < len(train)
    assert counts.false_negatives == (true[train] & unobserved).sum()
    assert counts.true_negatives == (~true[train] & unobserved).sum()
    assert counts.assumed_negatives == unobserved.sum()
    assert counts.positives_per_image == true[train].sum() / len(train)


def test_a_given_val_is_not_drawn() -> None:
    counts = compute_counts(dataset(train=phase_of(labels(20)), val=phase_of(labels(7)), test=phase_of(labels(3))))
    assert (counts.train, counts.val, counts.test) == (20, 7, 3)


def test_observed_only_leaves_what_needs_true_labels_open() -> None:
    counts = compute_counts(dataset(train=phase_of(labels(50), observed_only=True)))
    assert counts.single_positives == labels(50)[split_train_val(50)[0]].any(1).sum()
    assert (counts.false_negatives, counts.true_negatives, counts.positives_per_image) == (None, None, None)
    lines = {line.key: line for line in compare(counts, None)}
    assert lines["false_negatives"].computed == "not available"
    assert {line.equal for line in lines.values()} == {None}


def test_known_negatives_are_not_assumed_and_each_counts_once() -> None:
    true = labels(50)
    absent = ~true & (np.arange(5) < 2)
    phase = replace(phase_of(true), negatives={"range": absent, "checklist": absent & (np.arange(5) < 1)})
    counts, plain = compute_counts(dataset(train=phase)), compute_counts(dataset(train=phase_of(true)))
    known = int(absent[split_train_val(50)[0]].sum())
    assert (counts.known_negatives, counts.assumed_negatives) == (known, plain.assumed_negatives - known)
    assert counts.true_negatives == (plain.true_negatives or 0) - known
    assert {line.key for line in compare(counts, None)} - {line.key for line in compare(plain, None)} == {
        "known_negatives"
    }


def test_a_dataset_without_images_has_counts() -> None:
    assert compute_counts(dataset(train=phase_of(labels(0)))) == Counts(5, 0.0, 0, 0, 0, 0, 0, 0, 0)
    assert compute_counts(dataset()).train == 0


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_figures_agree_with_each_other(name: str) -> None:
    paper = PAPER[name]
    assert paper.assumed_negatives == paper.train * paper.classes - paper.single_positives
    assert paper.false_negatives is not None
    assert paper.assumed_negatives == paper.false_negatives + (paper.true_negatives or 0)
    mean = (paper.single_positives + paper.false_negatives) / paper.train
    lines = compare(replace(paper, positives_per_image=mean), paper)
    assert {line.key: line.equal for line in lines} == dict.fromkeys(FIGURES.keys() - {"known_negatives"}, True)


@pytest.mark.parametrize(
    ("name", "printed", "other"), [("voc", 1.4594, 1.4651), ("coco", 2.9351, 2.9349), ("cub", 31.44, 31.46)]
)
def test_positives_per_image_are_compared_at_the_printed_decimals(name: str, printed: float, other: float) -> None:
    for mean, equal in ((printed, True), (other, False)):
        lines = {line.key: line for line in compare(replace(PAPER[name], positives_per_image=mean), PAPER[name])}
        assert lines["positives_per_image"].equal is equal


@pytest.mark.parametrize("key", [key for key in FIGURES if key != "positives_per_image"])
def test_each_figure_that_differs_by_one_shows(key: str) -> None:
    lines = compare(replace(PAPER["voc"], **{key: asdict(PAPER["voc"])[key] + 1}), PAPER["voc"])
    assert [(line.key, line.difference) for line in lines if not line.equal] == [(key, "+1")]


def test_lines_read_as_the_paper_prints_them() -> None:
    lines = {line.key: (line.computed, line.paper) for line in compare(PAPER["coco"], PAPER["coco"])}
    assert lines["true_negatives"] == ("5,060,122", "5,060,122")
    assert lines["positives_per_image"] == ("2.94", "2.94")


def test_classes_are_named_only_where_the_own_lists_are_known() -> None:
    assert name_class_differences(dataset(train=phase_of(labels(9)))) == []
