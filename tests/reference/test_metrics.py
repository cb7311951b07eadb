"""Compare the metrics with scikit-learn, with cases by hand, and with IGNORE's supplement, Table 2."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, precision_recall_fscore_support
from torch import Tensor

from training import metrics
from training.metrics import MetricAccumulator, average_precision, compute_metrics, threshold_metrics


def labels_of(num: int, num_classes: int, seed: int, rate: float = 0.3) -> Tensor:
    """Return labels whose class 0 has no positive and whose class 1 has only positives."""
    labels = torch.rand(num, num_classes, generator=torch.Generator().manual_seed(seed)) < rate
    labels[:, 0], labels[:, 1] = False, True
    return labels


def scores_of(num: int, num_classes: int, seed: int) -> Tensor:
    return torch.randn(num, num_classes, generator=torch.Generator().manual_seed(seed + 100))


TIES: dict[str, Callable[[Tensor], Tensor]] = {
    "no ties": lambda scores: scores,
    "many ties": lambda scores: (2 * scores).round(),
    "two values": lambda scores: (scores > 0).float(),
    "all equal": torch.zeros_like,
    "saturated sigmoid": lambda scores: (30 * scores).sigmoid(),
}


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize(("num", "seed"), [(1, 0), (2, 1), (37, 2), (400, 3)])
def test_average_precision_equals_scikit_learn(ties: str, num: int, seed: int) -> None:
    scores, labels = TIES[ties](scores_of(num, 8, seed)), labels_of(num, 8, seed)
    expected = [
        average_precision_score(labels[:, c].numpy(), scores[:, c].numpy()) if labels[:, c].any() else 0.0
        for c in range(labels.shape[1])
    ]
    np.testing.assert_allclose(average_precision(scores, labels).numpy(), expected, rtol=1e-12)


def test_average_precision_by_hand() -> None:
    scores = torch.tensor([[0.9], [0.8], [0.7], [0.6]])
    hits_first_and_third = torch.tensor([[True], [False], [True], [False]])
    assert float(average_precision(scores, hits_first_and_third)) == pytest.approx((1 / 1 + 2 / 3) / 2)
    # A hit tied with a miss gets the precision at the end of the tie, 1/2, whatever their order in the split.
    tied = torch.tensor([[0.5], [0.5]])
    for labels in ([[True], [False]], [[False], [True]]):
        assert float(average_precision(tied, torch.tensor(labels))) == pytest.approx(1 / 2)


def test_class_without_positives_counts_zero_and_stays_in_the_mean() -> None:
    logits, true = torch.tensor([[3.0, 1.0], [-3.0, 2.0]]), torch.tensor([[True, False], [False, False]])
    found = compute_metrics("val", logits, true, observed=true)
    assert found["val/mAP"] == 50.0
    assert found["val/observed_mAP"] == 50.0


def test_no_example_and_no_positive_are_no_error() -> None:
    assert average_precision(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.bool)).tolist() == [0, 0, 0]
    found = compute_metrics(
        "val", torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.bool), torch.zeros(4, 3, dtype=torch.bool)
    )
    assert set(found.values()) == {0.0}


@pytest.mark.parametrize(("num", "seed"), [(1, 0), (37, 2), (400, 3)])
@pytest.mark.parametrize("threshold", [0.5, 0.75])
def test_thresholded_metrics_equal_scikit_learn(num: int, seed: int, threshold: float) -> None:
    probs, labels = scores_of(num, 8, seed).sigmoid(), labels_of(num, 8, seed)
    probs[:, 2] = 0.1  # a class that is never chosen
    ours = threshold_metrics(probs, labels, threshold)
    chosen = (probs > threshold).numpy()
    for average, names in (("macro", ("CP", "CR", "CF1")), ("micro", ("OP", "OR", "OF1"))):
        theirs = precision_recall_fscore_support(labels.numpy(), chosen, average=average, zero_division=0)
        for name, value in zip(names, theirs[:3], strict=True):
            assert ours[name] == pytest.approx(100 * value, rel=1e-12), name


def test_thresholded_metrics_by_hand() -> None:
    probs = torch.tensor([[0.9, 0.5], [0.8, 0.2], [0.1, 0.7]])
    labels = torch.tensor([[True, True], [False, False], [True, True]])
    found = threshold_metrics(probs, labels)
    # Class 0: TP 1, chosen 2, positive 2. Class 1: 0.5 is not above the threshold, so TP 1, chosen 1, positive 2.
    expected = {
        "CP": (1 / 2 + 1) / 2,
        "CR": (1 / 2 + 1 / 2) / 2,
        "CF1": (1 / 2 + 2 / 3) / 2,
        "CF1_harm": 2 * 0.75 * 0.5 / (0.75 + 0.5),
        "OP": 2 / 3,
        "OR": 2 / 4,
        "OF1": 4 / 7,
    }
    assert found == pytest.approx({name: 100 * value for name, value in expected.items()})


def test_without_true_labels_there_are_the_metrics_on_observed_ones_alone() -> None:
    logits, observed = torch.tensor([[2.0, -1.0], [0.0, 1.0]]), torch.tensor([[True, False], [False, True]])
    found = compute_metrics("val", logits, None, observed)
    assert set(found) == {f"val/observed_{name}" for name in ("mAP", "CP", "CR", "CF1", "CF1_harm", "OP", "OR", "OF1")}
    assert found["val/observed_mAP"] == 100.0


def test_metrics_on_observed_labels_are_those_on_true_ones_of_the_same_values() -> None:
    logits, labels, other = scores_of(50, 6, 0), labels_of(50, 6, 0), labels_of(50, 6, 1)
    found = compute_metrics("val", logits, labels, other)
    for labels_, prefix in ((labels, "val/"), (other, "val/observed_")):
        values = {f"{prefix}{name}": value for name, value in threshold_metrics(logits.sigmoid(), labels_).items()}
        assert found.items() >= values.items()
        assert found[f"{prefix}mAP"] == pytest.approx(100 * float(average_precision(logits, labels_).mean()))


def test_312_classes_give_as_many_numbers_as_3() -> None:
    # Each of them is a row of MLflow for every epoch of every trial.
    names = []
    for num in (3, 312):
        labels = labels_of(5, num, 1)
        names.append(list(compute_metrics("val", scores_of(5, num, 1), labels, labels)))
    assert names[0] == names[1]
    assert len(names[0]) < 20


def test_threshold_is_the_one_asked_for() -> None:
    logits, labels = scores_of(50, 6, 0), labels_of(50, 6, 0)
    expected = threshold_metrics(logits.sigmoid(), labels, 0.75)
    found = compute_metrics("val", logits, labels, labels, threshold=0.75)
    assert {name: found[f"val/{name}"] for name in expected} == expected
    assert expected["OR"] < compute_metrics("val", logits, labels, labels)["val/OR"]


def test_absent_classes_count_zero_or_are_skipped() -> None:
    logits, labels = scores_of(60, 8, 3), labels_of(60, 8, 3)  # class 0 has no positive
    zero, skip = (compute_metrics("val", logits, labels, labels, absent_classes=how) for how in ("zero", "skip"))
    without = compute_metrics("val", logits[:, 1:], labels[:, 1:], labels[:, 1:])
    for name in ("mAP", "CP", "CR", "CF1", "observed_mAP"):
        assert skip[f"val/{name}"] == pytest.approx(without[f"val/{name}"], rel=1e-12)
        assert zero[f"val/{name}"] == pytest.approx(without[f"val/{name}"] * 7 / 8, rel=1e-12)
    assert skip["val/OP"] == zero["val/OP"], "pooled entries know no classes"
    nothing = torch.zeros_like(labels)
    assert set(compute_metrics("val", logits, nothing, nothing, absent_classes="skip").values()) == {0.0}


@pytest.mark.parametrize("has_true", [True, False])
def test_batch_by_batch_is_all_at_once(has_true: bool) -> None:
    num, sizes = 101, (1, 0, 33, 67)
    logits, labels, observed = (2 * scores_of(num, 8, 0)).round(), labels_of(num, 8, 0), labels_of(num, 8, 1)
    accumulator = MetricAccumulator(8, has_true)
    for rows in torch.arange(num).split(sizes):
        accumulator.update(logits[rows], labels[rows] if has_true else None, observed[rows])
    whole = compute_metrics("test", logits, labels if has_true else None, observed)
    assert accumulator.compute("test") == pytest.approx(whole, rel=1e-12)


def test_accumulator_that_was_given_nothing_has_zeros() -> None:
    assert set(MetricAccumulator(4, True).compute("val").values()) == {0.0}


def test_classes_are_ranked_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = scores_of(50, 8, 0), labels_of(50, 8, 0)
    whole = average_precision(scores, labels)
    for block in (1, 50, 120, 10_000):
        monkeypatch.setattr(metrics, "_BLOCK", block)
        assert torch.equal(average_precision(scores, labels), whole)


def test_zeros_of_both_signs_are_equal_and_infinities_have_their_place() -> None:
    inf = float("inf")
    scores = torch.tensor([[0.0], [-0.0], [-inf], [inf], [-1e-45], [1e-45]])
    labels = torch.tensor([[False], [True], [True], [True], [False], [False]])
    # Descending: inf (hit), 1e-45, the zeros (a hit among two), -1e-45, -inf (hit).
    assert float(average_precision(scores, labels)) == pytest.approx((1 / 1 + 2 / 4 + 3 / 6) / 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scores_of_other_precisions(dtype: torch.dtype) -> None:
    scores, labels = scores_of(80, 5, 0).to(dtype), labels_of(80, 5, 0)
    assert torch.equal(average_precision(scores, labels), average_precision(scores.float(), labels))


def test_names_cost_no_torch() -> None:
    subprocess.run(
        [sys.executable, "-c", "import sys, training.metric_names; assert not {'torch', 'numpy'} & set(sys.modules)"],
        check=True,
    )


# Supplement, Table 2 (VOC, Q2L): CP, CR, CF1, OP, OR, OF1.
TABLE_2 = {
    "EM+APL": (83.7, 82.3, 82.2, 87.3, 83.0, 85.1),
    "PLC+LAC": (84.1, 81.1, 82.1, 87.4, 80.5, 83.8),
    "IGNORE": (83.7, 84.8, 83.9, 83.9, 86.7, 85.3),
}


@pytest.mark.parametrize("method", TABLE_2)
def test_our_definitions_are_those_of_the_supplements_table(method: str) -> None:
    precision, recall, f1, overall_precision, overall_recall, overall_f1 = TABLE_2[method]
    # The table is rounded to .05, and a harmonic mean moves by less than its arguments.
    probs, labels = _counts_with(overall_precision, overall_recall)
    ours = threshold_metrics(probs, labels)
    assert ours["OP"] == pytest.approx(overall_precision, abs=0.01)
    assert ours["OR"] == pytest.approx(overall_recall, abs=0.01)
    assert ours["OF1"] == pytest.approx(overall_f1, abs=0.1)
    # CF1 is a mean of F1 scores: the harmonic mean of CP and CR exceeds it in every row by more than rounding errors.
    assert 2 * precision * recall / (precision + recall) > f1 + 0.1


def _counts_with(precision: float, recall: float) -> tuple[Tensor, Tensor]:
    """Return one class's decisions with a given precision and recall in percent."""
    num_positive = 100_000
    hits = round(num_positive * recall / 100)
    false_alarms = round(hits * (100 - precision) / precision)
    labels = torch.zeros(num_positive + false_alarms, 1, dtype=torch.bool)
    probs = torch.zeros(num_positive + false_alarms, 1)
    labels[:num_positive] = True
    probs[:hits] = probs[num_positive:] = 1.0
    return probs, labels
