"""Audit the figures of final runs: compute them again from the stored scores, by other code."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

from orchestrator.audit.findings import Report
from orchestrator.audit.plain_metrics import plain_criteria, plain_metrics
from orchestrator.audit.subject import Subject
from orchestrator.sweep_folder.ledger import Opening
from orchestrator.sweep_folder.score_files import scores_file
from training.inference.scores import Scores

TOLERANCE = 1e-6
"""In percentage points: the same logits give the same figures, up to rounding in double precision."""
VAL_TOLERANCE = 0.05
"""Validation data is scored once in training and once more with the stored weights, perhaps in other batches."""


def audit_figures(subject: Subject, openings: Mapping[int, Opening], report: Report) -> None:
    """Check the figures of every complete final run, of the winner and the champion, against its scores.

    Args:
        subject: A promotion that has opened the test set.
        openings: Number of a run -> its line in the ledger, if that is there.
        report: Where findings go.
    """
    test = subject.state.test
    if test is None:
        return
    if test.scores is None:
        report.skip(f"{subject.id} was promoted by a version that kept no scores, so its figures cannot be recomputed.")
        return
    for trial in (trial for runs in subject.sets for trial in runs.trials):
        if (record := subject.complete.get(trial)) is None:
            continue
        epoch, tested = record.chosen_epoch(subject.plan.protocol), test.epochs.get(str(trial))
        if epoch != tested:
            report.find(
                "epoch",
                f"{subject.id}/{trial}",
                f"the weights of epoch {tested} were tested, but the protocol chooses epoch {epoch}",
                "Promote again",
            )
        val = {} if epoch is None else record.metrics[epoch]
        for split, recorded in (("val", val), ("test", test.figures.get(str(trial), {}))):
            scores = _read(subject, trial, split, test.scores, report) if recorded else None
            if scores is not None:
                _compare(subject, trial, scores, recorded, report)
                _check_labels(subject, trial, scores, openings.get(trial), report)


def _read(subject: Subject, trial: int, split: str, hashes: Mapping[str, str], report: Report) -> Scores | None:
    path = scores_file(subject.id, trial, split)
    restore = f"Restore it from a copy, such as a bundle; or promote again, which is another opening: {subject.id}"
    report.count("files of scores")
    if path.name not in hashes:
        report.find("scores", str(path), f"the journal of {subject.id} does not name it", restore)
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        report.find("scores", str(path), f"it cannot be read ({error.strerror})", restore)
        return None
    if hashlib.sha256(content).hexdigest() != hashes[path.name]:
        report.find("scores", str(path), "it is not the file that was written: its sha256 differs", restore)
    try:
        return Scores.read(path)
    except (OSError, ValueError) as error:
        report.find("scores", str(path), f"it is not a file of scores ({error})", restore)
        return None


def _compare(subject: Subject, trial: int, scores: Scores, recorded: Mapping[str, float], report: Report) -> None:
    true = None if scores.true is None else scores.true.numpy()
    found = plain_metrics(scores.split, scores.logits.numpy(), true, scores.observed.numpy())
    tolerance = VAL_TOLERANCE if scores.split == "val" else TOLERANCE
    # One image that is ranked otherwise in other batches is seen in these, so they may differ by as much.
    ours = plain_criteria(scores.logits.numpy(), scores.observed.numpy()) if scores.split == "val" and recorded else {}
    steps = {name: 100 / len(scores) for name in ours.keys() & recorded.keys()}
    found |= {name: ours[name] for name in steps}
    for name, value in found.items():
        report.count("figures recomputed")
        said = recorded.get(name)
        if said is None or not math.isclose(said, value, rel_tol=0, abs_tol=max(tolerance, steps.get(name, 0))):
            report.find(
                "figure",
                f"{subject.id}/{trial}",
                f"its {name} is recorded as {_shown(said)}, but its stored scores give {value:.4f}",
                f"One of the two was changed. Train it again and compare: orchestrator reproduce {subject.id}/{trial}",
            )


def _check_labels(subject: Subject, trial: int, scores: Scores, opening: Opening | None, report: Report) -> None:
    where = str(scores_file(subject.id, trial, scores.split))
    if len(set(scores.ids)) != len(scores):
        report.find("scores", where, "some images occur more than once", "Restore it from a copy")
    if scores.split == "test" and opening is not None:
        report.count("labels of test sets")
        if scores.labels_hash != opening.split_hash:
            report.find(
                "labels",
                where,
                f"its images or labels are not those of opening {opening.n}: some were changed, added or left out",
                "Restore it from a copy, or promote again, which is another opening",
            )


def _shown(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.4f}"
