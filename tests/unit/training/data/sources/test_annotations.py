"""Test how faults are told."""

from __future__ import annotations

from training.counts import counted
from training.data.sources.annotations import Fault, describe_faults


def test_faults_of_one_cause_are_one_line_with_a_count_and_the_first_places() -> None:
    broken = [Fault(f"images/{n}.jpg", f"is cut short ({n} bytes left)", id=f"{n}.jpg") for n in range(200_000)]
    rows = [Fault("labels.csv", f"class 'c{n}' of {n}.jpg is odd", line=n, id=f"{n}.jpg") for n in range(2, 5)]
    table = Fault("observed.csv", "is cut in half.", is_fatal=True)
    assert describe_faults([*broken, *rows, *rows, table]) == [
        "observed.csv: is cut in half.",  # first, because the others may follow from it
        "images/0.jpg: is cut short (0 bytes left). The same for 199,999 more files: images/1.jpg, images/2.jpg, "
        "images/3.jpg, images/4.jpg, images/5.jpg, images/6.jpg and 199,993 more",
        "labels.csv:2: class 'c2' of 2.jpg is odd. The same for 2 more lines: 3, 4",
    ]


def test_kinds_of_faults_are_few() -> None:
    kinds = "abcdefghijkl"
    lines = describe_faults(Fault("x", f"is {kind}") for kind in kinds for _ in range(3))
    assert lines[-1] == "and 4 more of 4 other kinds"
    assert len(lines) == 9


def test_numbers_agree_with_their_nouns() -> None:
    assert [counted(1, "image"), counted(1200, "image"), counted(2, "class")] == [
        "1 image",
        "1,200 images",
        "2 classes",
    ]
