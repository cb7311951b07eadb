"""Test your own images: the forms of the tables, the kinds of labels, and mistakes."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.kit.layouts import FOLDER_CLASSES, make_folder
from training.data.sources.annotations import Annotations
from training.data.sources.folder import read_folder
from training.errors import NotThisDatasetError


def faults(annotations: Annotations) -> list[str]:
    return [str(fault) for fault in annotations.faults]


def kinds(annotations: Annotations) -> dict[str, tuple[bool, bool]]:
    """Return split -> whether it has true labels, and whether it has given observed ones."""
    return {name: (phase.true is not None, phase.observed is not None) for name, phase in annotations.phases.items()}


def write(folder: Path, **texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def test_every_form_says_the_same(tmp_path: Path) -> None:
    found: list[Annotations] = []
    for number, (form, suffix, splits) in enumerate(
        product(("columns", "list"), ("csv", "parquet"), ("column", "files"))
    ):
        options: dict[str, Any] = {"form": form, "suffix": suffix, "splits": splits}
        found.append(read_folder(make_folder(tmp_path / str(number), num_val=5, **options), images=True))
    for one in found:
        assert (one.faults, one.notes) == ((), ())
        assert one.classes == FOLDER_CLASSES
        assert {name: phase.files for name, phase in one.phases.items()} == {
            n: p.files for n, p in found[0].phases.items()
        }
        for name, phase in one.phases.items():
            assert np.array_equal(phase.true, found[0].phases[name].true)  # type: ignore[arg-type]
    assert [len(phase) for phase in found[0].phases.values()] == [24, 5, 8]


@pytest.mark.parametrize(
    ("observed_only", "expected"),
    [
        ((), {"train": (True, False), "val": (True, False), "test": (True, False)}),
        (("train",), {"train": (False, True), "val": (True, False), "test": (True, False)}),
        (("val",), {"train": (True, False), "val": (False, True), "test": (True, False)}),
        (True, {"train": (False, True), "val": (False, True), "test": (True, False)}),
        (("train", "val", "test"), {"train": (False, True), "val": (False, True), "test": (False, True)}),
    ],
)
@pytest.mark.parametrize("form", ["columns", "list"])
def test_the_file_says_what_is_known(
    tmp_path: Path, observed_only: Any, expected: dict[str, tuple[bool, bool]], form: Any
) -> None:
    annotations = read_folder(
        make_folder(tmp_path / "own", num_val=5, observed_only=observed_only, form=form), images=True
    )
    assert annotations.faults == ()
    assert kinds(annotations) == expected
    for phase in annotations.phases.values():
        assert phase.observed is None or (phase.observed.sum(1) == 1).all()
    for name, (true, _) in expected.items():
        assert f"{name} {'true' if true else 'observed only'}" in annotations.layout


def test_without_splits_a_fifth_is_drawn_for_test_and_val_is_left_to_the_run(tmp_path: Path) -> None:
    first = read_folder(make_folder(tmp_path / "first", num_val=2, splits="drawn"))
    assert {name: len(phase) for name, phase in first.phases.items()} == {"train": 27, "test": 7}
    second = read_folder(make_folder(tmp_path / "second", num_val=2, splits="drawn"))
    assert first.phases["test"].ids == second.phases["test"].ids
    assert "drawn, a fifth for test (seed 1200)" in first.layout


def test_the_order_of_the_rows_changes_nothing(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "own")
    before = read_folder(source)
    header, *rows = (source / "labels.csv").read_text().splitlines()
    (source / "labels.csv").write_text("\n".join([header, *reversed(rows)]))
    after = read_folder(source)
    assert after.phases["train"].ids == before.phases["train"].ids == tuple(sorted(before.phases["train"].ids))
    assert np.array_equal(after.phases["train"].true, before.phases["train"].true)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["cat;dog", "cat | dog", '"cat,dog"', "dog;cat;"])
def test_names_between_marks(tmp_path: Path, text: str) -> None:
    annotations = read_folder(
        write(tmp_path / "own", labels_csv=f"image,labels,split\na.jpg,{text},train\nb.jpg,,train\n")
    )
    assert annotations.faults == ()
    assert annotations.classes == ("cat", "dog")
    assert annotations.phases["train"].true is not None
    assert annotations.phases["train"].true.tolist() == [[True, True], [False, False]]
    assert "no test images" in annotations.notes[0]


def test_names_of_images_stay_text_and_words_of_truth_are_understood(tmp_path: Path) -> None:
    text = "image,cat,dog,mug\n0001,1,True,1.0\nimages/0002,0,FALSE,0\n"
    phases = read_folder(write(tmp_path / "own", labels_csv=text, train_txt="0001\nimages/0002\n")).phases
    assert phases["train"].ids == ("0001", "0002")
    assert phases["train"].true is not None
    assert phases["train"].true.tolist() == [[True] * 3, [False] * 3]


def test_parquet_of_truth_values_and_numbers(tmp_path: Path) -> None:
    folder = write(tmp_path / "own")
    table = pa.table(
        {"image": ["a", "b"], "split": ["train", "train"], "cat": [True, False], "dog": [0.0, 1.0], "mug": [1, 0]}
    )
    pq.write_table(table, folder / "labels.parquet")
    true = read_folder(folder).phases["train"].true
    assert true is not None
    assert true.tolist() == [[True, False, True], [False, True, False]]


def test_in_observed_an_empty_cell_is_unknown_and_in_labels_a_fault(tmp_path: Path) -> None:
    text = "image,split,cat,dog\na.jpg,train,1,\nb.jpg,train,,0\n"
    observed = read_folder(write(tmp_path / "observed", observed_csv=text))
    assert observed.faults == ()
    assert observed.phases["train"].true is None
    assert observed.phases["train"].observed is not None
    assert observed.phases["train"].observed.tolist() == [[True, False], [False, False]]
    said = faults(read_folder(write(tmp_path / "labels", labels_csv=text)))
    assert said[0].startswith("labels.csv:2: dog of a.jpg must be 1 or 0, but is empty")
    assert len(said) == 2


def test_an_image_in_both_tables_has_true_labels_and_its_own_observed_one(tmp_path: Path) -> None:
    labels = "image,split,cat,dog\na,train,1,1\nb,train,0,1\n"
    source = write(tmp_path / "own", labels_csv=labels, observed_csv="image,cat,dog\na,0,1\nb,0,1\n")
    both = read_folder(source)  # the second table may leave the split to the first
    assert both.faults == ()
    assert kinds(both)["train"] == (True, True)
    assert both.phases["train"].observed is not None
    assert both.phases["train"].observed.tolist() == [[False, True], [False, True]]
    write(source, observed_csv="image,cat,dog\na,0,1\nb,0,1\nc,0,1\n")
    assert faults(read_folder(source))[0] == "observed.csv:4: split must be one of train, val, test, but c has none"


def test_an_observed_label_that_is_not_true_is_a_fault(tmp_path: Path) -> None:
    labels, observed = "image,split,cat,dog\na,train,1,0\n", "image,split,cat,dog\na,train,0,1\n"
    (fault,) = read_folder(write(tmp_path / "own", labels_csv=labels, observed_csv=observed)).faults
    assert (fault.id, fault.why) == ("a", "a has an observed label that is not among its true ones")


def test_of_several_observed_labels_one_is_drawn_and_a_note_says_so(tmp_path: Path) -> None:
    annotations = read_folder(
        write(tmp_path / "own", observed_csv="image,split,labels\na,train,cat;dog;mug\nb,train,cat\n")
    )
    observed = annotations.phases["train"].observed
    assert observed is not None
    assert observed.sum(1).tolist() == [1, 1]
    assert annotations.notes[0] == "1 images of train have several observed labels; one of them was drawn (seed 1200)"


def test_a_split_of_two_kinds_is_a_fault(tmp_path: Path) -> None:
    labels, observed = "image,split,cat,dog\na,train,1,0\n", "image,split,cat,dog\nb,train,0,1\n"
    said = faults(read_folder(write(tmp_path / "own", labels_csv=labels, observed_csv=observed)))
    assert said[0].startswith(
        "labels.csv: must have rows for all images of train or for none of them, but 1 of 2 have none: b. "
        "In train.txt and test.txt, give splits with one kind of labels each"
    )


def test_both_tables_without_splits_name_the_files_that_are_there_and_no_label_that_is_not(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "own", observed_only=["train"], suffix="parquet", splits="drawn")
    found = read_folder(source).faults
    assert {fault.path for fault in found} == {"labels.parquet", "observed.parquet"}
    assert all("must have rows for all" in fault.why and fault.is_fatal for fault in found)


def test_classes_txt_gives_the_order_and_catches_a_misspelt_name(tmp_path: Path) -> None:
    source = write(tmp_path / "own", labels_csv="image,labels\na,dog\nb,catt\n", classes_txt="dog\nzebra\ncat\n")
    annotations = read_folder(source)
    assert annotations.classes == ("dog", "zebra", "cat")
    assert faults(annotations)[0] == "labels.csv: class 'catt' is not in classes.txt; did you mean 'cat'?"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "labels.csv: cannot be read: Empty CSV file"),
        ("file,cat\na,1\n", "labels.csv:1: must have a column image and no column twice, but has file, cat"),
        ("image,cat,cat\na,1,0\n", "labels.csv:1: must have a column image and no column twice"),
        ("image\na\n", "labels.csv:1: must have either a column per class or one column labels, but has image"),
        ("image,labels,cat\na,cat,1\n", "labels.csv:1: must have either a column per class or one column labels"),
        ("image,cat\na,1\na,0\n", "labels.csv:3: a has two rows"),
        ("image,cat\n,1\n", "labels.csv:2: the column image is empty"),
        (
            "image,width\na,640\n",
            "labels.csv:2: cells of the class column 'width' must be 1 or 0, but a has '640'",
        ),
        ("image,cat\na,1,0\n", "labels.csv: cannot be read: CSV parse error"),
        ("image,cat,split\na,1,training\n", "labels.csv:2: split must be one of train, val, test, but a has training"),
    ],
)
def test_a_wrong_table_is_a_fault_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    assert faults(read_folder(write(tmp_path / "own", labels_csv=text)))[0].startswith(said)


def test_lists_of_splits_and_rows_must_fit(tmp_path: Path) -> None:
    source = write(tmp_path / "own", labels_csv="image,cat\na,1\nb,0\nc,1\n", train_txt="a\nlost\n", test_txt="a\nb\n")
    annotations = read_folder(source)
    assert faults(annotations) == ["train.txt:2: lost has no row in a table", "test.txt:1: a is also in train.txt"]
    assert "1 images of the tables are in no split and were left out: c" in annotations.notes[0]
    (source / "labels.csv").write_text("image,cat,split\na,1,train\nb,0,test\nc,1,val\n")
    assert "gives the splits too; keep one" in faults(read_folder(source))[0]


def test_missing_images_are_faults_and_images_without_a_row_a_note(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "own")
    (source / "images" / "train" / "003.jpg").rename(source / "images" / "train" / "other.jpg")
    annotations = read_folder(source, images=True)
    assert [fault.id for fault in annotations.faults] == ["train/003.jpg"]
    assert annotations.notes == (
        "1 images have no row in a table or no split and were left out: images/train/other.jpg",
    )


def test_a_file_that_is_no_parquet_is_a_fault(tmp_path: Path) -> None:
    assert (
        "labels.parquet: cannot be read"
        in faults(read_folder(write(tmp_path / "own", labels_parquet="not parquet")))[0]
    )


def test_a_folder_without_tables_is_refused_with_what_is_needed(tmp_path: Path) -> None:
    (tmp_path / "own" / "images").mkdir(parents=True)
    with pytest.raises(NotThisDatasetError, match=r"for labels\.csv or observed\.csv .* The folder holds images/"):
        read_folder(tmp_path / "own")


def test_it_bears_the_name_it_is_given(tmp_path: Path) -> None:
    assert read_folder(make_folder(tmp_path / "own"), name="birds").name == "birds"
