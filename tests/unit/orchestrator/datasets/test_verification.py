from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.datasets import verification as verification_module
from orchestrator.datasets.verification import render_verification, verify_labels
from training.data import table1
from training.data.protocol import split_train_val
from training.data.sources.annotations import Annotations, Fault, Phase
from training.data.table1 import compute_counts


def make_annotations(name: str = "voc", *, observed_only: bool = False) -> Annotations:
    stream = np.random.RandomState(0)

    def phase(num: int) -> Phase:
        labels = stream.rand(num, 4) < 0.4
        labels[:, 0] |= ~labels.any(1)
        ids = tuple(f"{number:03}" for number in range(num))
        return Phase(ids, ids, None if observed_only else labels, labels if observed_only else None)

    return Annotations(
        name, "made up", Path("a folder"), ("a", "b", "c", "d"), {"train": phase(50), "test": phase(20)}, {}
    )


@pytest.fixture
def alike(monkeypatch: pytest.MonkeyPatch) -> Annotations:
    """Return data whose own counts and draws replace the paper's."""
    annotations = make_annotations()
    counts = compute_counts(annotations)
    assert counts.positives_per_image is not None
    monkeypatch.setitem(table1.PAPER, "voc", replace(counts, positives_per_image=round(counts.positives_per_image, 2)))
    digests = verify_labels(annotations).digests
    monkeypatch.setitem(
        verification_module.AUTHORS_DRAWS, "voc", {each.phase: each.sha256 for each in digests if each.of == "draw"}
    )
    monkeypatch.setitem(
        verification_module.OFFICIAL_LABELS, "voc", {each.phase: each.sha256 for each in digests if each.of == "labels"}
    )
    return annotations


def flip(annotations: Annotations, phase: str, row: int, label: int) -> Annotations:
    found = annotations.phases[phase]
    assert found.true is not None
    true = found.true.copy()
    true[row, label] ^= True
    return replace(annotations, phases={**annotations.phases, phase: replace(found, true=true)})


def test_every_figure_is_ticked_where_all_agree(alike: Annotations) -> None:
    verification = verify_labels(alike)
    lines = render_verification(verification)
    assert verification.is_equal
    assert sum(line.endswith("✓") for line in lines) == 9
    assert sum("✓ the authors' own" in line for line in lines) == 2
    assert lines[-1] == "voc: all figures agree with the paper, and the draw with the authors' own."


@pytest.mark.parametrize("phase", ["train", "test"])
def test_each_single_flipped_label_is_a_difference(alike: Annotations, phase: str) -> None:
    for row in range(10):
        verification = verify_labels(flip(alike, phase, row, row % 4))
        assert not verification.is_equal
        assert any(
            "all labels" in line and "✗ the dataset's own is" in line for line in render_verification(verification)
        )


def test_figure_that_differs_shows_by_how_much(alike: Annotations) -> None:
    train, _ = split_train_val(50)
    true = alike.phases["train"].true
    assert true is not None
    verification = verify_labels(flip(alike, "train", int(train[0]), int(np.nonzero(~true[train[0]])[0][0])))
    lines = {line.figure: line.difference for line in verification.figures}
    assert (lines["false negatives"], lines["true negatives"], lines["single positives"]) == ("+1", "-1", "")
    assert any(
        line.startswith("  false negatives") and line.endswith("✗ +1") for line in render_verification(verification)
    )
    assert "differ" in render_verification(verification)[-1]


def test_fault_alone_is_a_difference(alike: Annotations) -> None:
    fault = Fault("Main/cow_train.txt", "names another image", line=7)
    verification = verify_labels(replace(alike, faults=(fault,)))
    assert (verification.is_equal, verification.num_different) == (False, 0)
    assert "  Main/cow_train.txt:7: names another image" in render_verification(verification)
    assert render_verification(verification)[-1] == "voc: 1 fault."


def test_data_without_a_row_in_the_paper_have_no_second_column() -> None:
    verification = verify_labels(make_annotations("birds"))
    assert verification.is_equal
    assert not any("paper" in line or "✓" in line for line in render_verification(verification)[:-1])
    assert "no figures for this dataset" in render_verification(verification)[-1]


def test_observed_labels_alone_are_hashed_as_they_are() -> None:
    annotations = make_annotations("birds", observed_only=True)
    verification = verify_labels(annotations)
    assert [line.key for line in verification.figures if line.computed == "not available"] == [
        "positives_per_image",
        "false_negatives",
        "true_negatives",
    ]
    assert [(digest.of, digest.known) for digest in verification.digests] == [("draw", None)] * 2


def test_report_is_plain_json(alike: Annotations) -> None:
    said = json.loads(json.dumps(verify_labels(alike).to_json()))
    assert (said["equal"], said["seed"], len(said["figures"]), len(said["digests"])) == (True, 1200, 9, 4)


def test_no_line_is_wider_than_a_terminal(alike: Annotations) -> None:
    assert max(len(line) for line in render_verification(verify_labels(alike))[2:]) <= 80


def test_place_and_images_without_a_label_are_named(alike: Annotations) -> None:
    verification = verify_labels(replace(alike, num_unlabelled={"train": 1, "test": 0}), "s3://bucket/voc")
    assert render_verification(verification)[0] == "voc: made up, in s3://bucket/voc"
    assert verification.notes == ("left out of official train, as in the protocol: 1 image without any label",)
