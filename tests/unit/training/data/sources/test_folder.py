"""Test your own images: the forms of the tables, the kinds of labels, and mistakes."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.kit.folder_texts import faults, write
from tests.kit.layouts import FOLDER_CLASSES, make_folder
from training.data.sources.annotations import Annotations, describe_faults
from training.data.sources.folder import read_folder
from training.errors import NotThisDatasetError


def kinds(annotations: Annotations) -> dict[str, tuple[bool, bool]]:
    """Return split -> whether it has true labels, and whether it has given observed ones."""
    return {name: (phase.true is not None, phase.observed is not None) for name, phase in annotations.phases.items()}


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
        assert re.search(rf"{'all known' if true else 'observed only'} \([^)]*{name}", annotations.layout)


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
    assert observed.phases["train"].observed.tolist() == [[True, False]]
    assert observed.notes[0] == "left out 1 image of observed.csv without an observed label: b.jpg"
    said = faults(read_folder(write(tmp_path / "labels", labels_csv=text)))
    assert said[0].startswith("labels.csv:2: cells of a class must be 1 or 0, but some of 'cat', 'dog' are empty")
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
    assert faults(read_folder(source))[0] == "observed.csv:4: c has no split"


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
    assert annotations.notes[0] == "1 image of train with several observed labels: one of them was drawn (seed 1200)"


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
    assert faults(annotations)[0] == "labels.csv:3: 'catt' is not in classes.txt; did you mean 'cat'?"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "labels.csv: is empty"),
        ("file,cat\na,1\n", "labels.csv:1: must have a column image, but has 'file', 'cat'"),
        ("image,cat,cat\na,1,0\n", "labels.csv:1: must not have a column twice, but has 'cat' more than once"),
        ("image\na\n", "labels.csv:1: must have either one column per class or the column labels, but has image"),
        ("image,labels,cat\na,cat,1\n", "labels.csv:1: must have either one column per class or the column labels"),
        ("image,cat\na,1\na,0\n", "labels.csv:3: 'a' has two rows. Write all its labels in one"),
        ("image,cat\n,1\n", "labels.csv:2: the column image is empty"),
        (
            "image,width\na,640\n",
            "labels.csv:2: cells of a class must be 1 or 0, but 'width' has '640'. Delete columns that are not classes",
        ),
        ("image,cat\na,1,0\n", "labels.csv:2: has 3 cells, but the header has 2"),
        ("image,cat,split\na,1,training\n", "labels.csv:2: split must be one of train, val, test, but is 'training'"),
    ],
)
def test_a_wrong_table_is_a_fault_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    assert faults(read_folder(write(tmp_path / "own", labels_csv=text)))[0].startswith(said)


def test_lists_of_splits_and_rows_must_fit(tmp_path: Path) -> None:
    source = write(tmp_path / "own", labels_csv="image,cat\na,1\nb,0\nc,1\n", train_txt="a\nlost\n", test_txt="a\nb\n")
    annotations = read_folder(source)
    assert faults(annotations) == ["train.txt:2: lost has no row in a table", "test.txt:1: a is also in train.txt"]
    assert "left out 1 image of the tables without a split: c" in annotations.notes[0]
    (source / "labels.csv").write_text("image,cat,split\na,1,train\nb,0,test\nc,1,val\n")
    assert "gives the splits too; keep one" in faults(read_folder(source))[0]


def test_missing_images_are_faults_and_images_without_a_row_a_note(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "own")
    (source / "images" / "train" / "003.jpg").rename(source / "images" / "train" / "other.jpg")
    annotations = read_folder(source, images=True)
    assert [fault.id for fault in annotations.faults] == ["train/003.jpg"]
    assert annotations.notes == ("left out 1 image with no row or no split: images/train/other.jpg",)


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


def test_a_table_reads_the_same_however_a_spreadsheet_writes_it(tmp_path: Path) -> None:
    plain = "image,cat,dog\nä/1.jpg,1,0\nb.jpg,0,1\nc.jpg,1,0\nd.jpg,0,1\ne.jpg,0,1\n"
    forms = {
        "excel": "\ufeff" + plain.replace("\n", "\r\n"),
        "old mac": plain.replace("\n", "\r"),
        "european": plain.replace(",", ";"),
        "hinted": "sep=;\r\n" + plain.replace(",", ";"),
        "tabs": plain.replace(",", "\t"),
        "blanks": plain.replace(",cat,dog", ", cat ,\xa0dog").replace("image", "Image"),
        "quoted": plain.replace("image,cat,dog", '"image","cat","dog"').replace("b.jpg", '"b.jpg"'),
        "separator at the end": plain.replace("\n", ",\n"),
        "empty rows": plain.replace("b.jpg", "\nb.jpg") + ",,\n,,\n",
        "backslashes": plain.replace("ä/", "images\\ä\\"),
        "dots": plain.replace("b.jpg", "./images/b.jpg"),
        "decomposed": plain.replace("ä", "a\u0308"),
        "copied row": plain + "b.jpg,0,1\n",
        "a Mac's twin": plain + "._b.jpg,0,1\n",
    }
    wanted = read_folder(write(tmp_path / "plain", observed_csv=plain)).phases
    for name, text in forms.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "observed.csv").write_bytes(text.encode())
        found = read_folder(folder)
        assert (found.faults, found.classes) == ((), ("cat", "dog")), name
        assert found.phases["train"].ids == wanted["train"].ids, name
        assert np.array_equal(found.phases["train"].observed, wanted["train"].observed), name  # type: ignore[arg-type]
    (tmp_path / "european" / "observed.csv").write_bytes(plain.replace(",", "\t").encode("utf-16"))
    assert read_folder(tmp_path / "european").phases["train"].ids == wanted["train"].ids
    absolute = plain.replace("b.jpg", str(tmp_path / "plain" / "images" / "b.jpg"))
    assert read_folder(write(tmp_path / "plain", observed_csv=absolute)).phases["train"].ids == wanted["train"].ids


def test_lines_are_those_of_the_file_after_blank_lines_and_quoted_ends_of_lines(tmp_path: Path) -> None:
    text = 'image,cat\na,1\n\n"b",0\nc,x\n'
    assert faults(read_folder(write(tmp_path / "own", labels_csv=text)))[0].startswith("labels.csv:5: ")


def test_names_that_differ_only_in_case_or_blanks_are_a_fault_with_both_places(tmp_path: Path) -> None:
    columns = "image,{},dog\na,1,0\nb,0,1\n"
    tables = {"labels_csv": columns.format(" cat"), "observed_csv": columns.format("cat")}
    assert read_folder(write(tmp_path / "blanks", **tables)).faults == ()
    cases: list[tuple[str, dict[str, str]]] = [
        ("observed.csv:1: class 'cat' and 'Cat' of labels.csv:1 ", {**tables, "labels_csv": columns.format("Cat")}),
        (
            "labels.csv:3: class 'hot  dog' and 'hot dog' of labels.csv:2 ",
            {"labels_csv": "image,labels\na,hot dog\nb,hot  dog\n"},
        ),
        ("classes.txt:3: class 'Cat' and 'cat' of classes.txt:1 ", {**tables, "classes_txt": "cat\ndog\nCat\n"}),
    ]
    for number, (said, texts) in enumerate(cases):
        found = read_folder(write(tmp_path / str(number), **texts)).faults
        assert str(found[0]) == f"{said}differ only in case or blanks. Write them in one way"
        assert found[0].is_fatal


def test_what_a_table_means_but_does_not_say_is_asked_for(tmp_path: Path) -> None:
    cases = {
        "image;cat;dog\na;1,5;0\n": "labels.csv:2: cells of a class must be 1 or 0, but 'cat' has '1,5'",
        "filename,cat\na.JPG,1\n": "Rename 'filename', which holds names of images, to image",
        "a.jpg,cat\nb.jpg,dog\n": "Add a first line with the names of the columns, such as: image,labels",
        ",image,cat\n0,a,1\n": "column 1 has no name. Name it, or delete it if it only counts the rows",
        "image,labels\na,cat,dog\n": "has 3 cells, but the header has 2. Put cells that contain ',' in double quotes",
        "image,labels\na,cat;dog\nb,cat|dog\n": "'cat|dog' is not the name of a class: names are separated by ';'",
        "image,labels\na,\"['cat']\"\n": "write lists as cat;dog, without brackets or quotes",
        "image,cat\n/ann/birds/a.jpg,1\n": "'/ann/birds/a.jpg' is not a path inside images/. Write 'a.jpg'",
        "image,cat\nC:\\birds\\x.jpg,1\n": "'C:/birds/x.jpg' is not a path inside images/. Write 'birds/1.jpg' for",
        "image,cat\n": "labels.csv: has a header, but no rows",
    }
    for number, (text, said) in enumerate(cases.items()):
        folder = write(tmp_path / str(number), labels_csv=text)
        (folder / "images").mkdir()
        (folder / "images" / "a.jpg").touch()
        assert said in faults(read_folder(folder))[0]
    for content, said in ((b"image,k\xe4fer\na,1\n", "iconv -f WINDOWS-1252"), (b"i\0m\0", "iconv -f UTF-16LE")):
        (folder / "labels.csv").write_bytes(content)
        assert said in faults(read_folder(folder))[0]


def test_a_cell_is_reported_once_and_after_a_fatal_fault_nothing_that_follows_from_it(tmp_path: Path) -> None:
    rows = "".join(f"{number}.jpg,yes,no\n" for number in range(40))
    annotations = read_folder(write(tmp_path / "own", labels_csv=f"image,cat,dog\n{rows}"), images=True)
    assert len(annotations.faults) == 40 + 1  # one for each row, and the missing folder
    (one, missing) = describe_faults(annotations.faults)
    assert one.endswith("The same for 39 more lines: 3, 4, 5, 6, 7, 8 and 33 more")
    assert missing == "images: the folder is missing, and 40 listed images with it"
    table_broken = read_folder(write(tmp_path / "own", labels_csv=f"picture,cat\n{rows}", train_txt="a\n"), images=True)
    assert (len(table_broken.faults), table_broken.notes) == (40, ())
    assert all("has 3 cells" in fault.why for fault in table_broken.faults)


def test_an_image_of_which_nothing_is_known_is_left_out_and_one_without_a_class_is_kept(tmp_path: Path) -> None:
    text = "image,split,cat,dog,mug\na,train,1,0,0\nb,train,0,0,0\nc,test,0,1,0\n"
    observed = read_folder(write(tmp_path / "observed", observed_csv=text))
    assert observed.phases["train"].ids == ("a",)
    assert observed.notes == (
        "left out 1 image of observed.csv without an observed label: b",
        "2 classes without a positive in train: dog, mug",
    )
    true = read_folder(write(tmp_path / "true", labels_csv=text))
    assert true.phases["train"].ids == ("a", "b")
    assert true.notes[0] == "kept 1 image of train without any class"
    none = read_folder(write(tmp_path / "none", observed_csv="image,cat\na,0\nb,\n"))
    assert faults(none) == ["observed.csv: has no image with a 1"]


def test_images_are_found_under_the_name_that_the_disk_gives_them_and_near_names_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "own", observed_csv="image,cat\nkäfer.jpg,1\n2,1\n3.JPG,1\n._3.JPG,1\n4.jpg,1\n")
    (folder / "images" / "__MACOSX").mkdir(parents=True)
    for name in ("ka\u0308fer.jpg", "2.jpg", "3.jpg", "._2.jpg", "__MACOSX/5.jpg", "Thumbs.db"):
        (folder / "images" / name).touch()
    found = read_folder(folder, images=True)
    assert "images/ka\u0308fer.jpg" in [file for phase in found.phases.values() for file in phase.files]
    assert {fault.id: fault.why.partition("; ")[2] for fault in found.faults} == {
        "2": "did you mean '2.jpg'?",
        "3.JPG": "did you mean '3.jpg'?",
        "4.jpg": "",
    }
    assert found.notes[:2] == (
        "ignored 1 row of observed.csv for files that only a Mac adds (._*)",
        "ignored 2 files that only a Mac adds (._*, __MACOSX)",
    )
    (folder / "images").rename(folder / "Images")
    assert faults(read_folder(folder, images=True))[-1].endswith("4 listed images with it; did you mean 'Images'?")
    for name in ("käfer.jpg", "2", "3.JPG", "4.jpg"):
        (folder / name).touch()
    assert "lies in the folder above: make images/ and move" in faults(read_folder(folder, images=True))[-1]


def test_a_table_of_another_name_is_recognised(tmp_path: Path) -> None:
    cases = {
        "Labels.CSV": "Rename Labels.CSV to labels.csv",
        "labels.xlsx": 'Save labels.xlsx as labels.csv ("CSV UTF-8" in Excel)',
        "birds.csv": "Rename birds.csv to labels.csv if it has all labels of its images, else to observed.csv",
    }
    for name, said in cases.items():
        (tmp_path / name).touch()
        with pytest.raises(NotThisDatasetError) as caught:
            read_folder(tmp_path)
        assert str(caught.value).endswith(said)
        (tmp_path / name).unlink()
