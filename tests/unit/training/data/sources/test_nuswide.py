"""Test that both layouts of NUS-WIDE give the same dataset, and that each names itself."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from tests.kit.layouts import NUS_CONCEPTS, make_nuswide
from training.data.sources.annotations import Annotations, describe_faults
from training.data.sources.nuswide import FORMATTED, OFFICIAL, read_nuswide
from training.errors import NotThisDatasetError


def faults(annotations: Annotations) -> list[str]:
    return [str(fault) for fault in annotations.faults]


def test_both_layouts_give_the_same_labels_and_name_themselves(tmp_path: Path) -> None:
    formatted = read_nuswide(make_nuswide(tmp_path / "formatted"), images=True)
    official = read_nuswide(make_nuswide(tmp_path / "official", layout="official"), images=True)
    assert formatted.faults == official.faults == ()
    assert (formatted.layout, official.layout) == (FORMATTED, f"{OFFICIAL} (TrainTestLabels)")
    for phase in ("train", "test"):
        assert formatted.phases[phase].files == official.phases[phase].files
        assert formatted.phases[phase].true is not None
        assert np.array_equal(formatted.phases[phase].true, official.phases[phase].true)  # type: ignore[arg-type]
    assert official.classes == NUS_CONCEPTS


def test_rows_without_a_label_are_kept_in_their_place(tmp_path: Path) -> None:
    phase = read_nuswide(make_nuswide(tmp_path)).phases["train"]
    assert phase.true is not None
    assert np.flatnonzero(~phase.true.any(1)).tolist() == [4, 9, 14, 19]
    assert phase.files[4] == "Flickr/concept04/0004_train31676.jpg"


@pytest.mark.parametrize("layout", ["formatted", "official"])
def test_a_folder_above_is_accepted(tmp_path: Path, layout: str) -> None:
    make_nuswide(tmp_path / "NUS-WIDE", layout=layout)  # type: ignore[arg-type]
    assert read_nuswide(tmp_path).root == tmp_path / "NUS-WIDE"


def test_all_labels_are_read_by_the_rows_of_the_whole_list(tmp_path: Path) -> None:
    source = make_nuswide(tmp_path, layout="official")
    before = read_nuswide(source)
    groundtruth = source / "Groundtruth"
    (groundtruth / "TrainTestLabels").rename(source / "elsewhere")
    after = read_nuswide(source)
    assert after.layout == f"{OFFICIAL} (AllLabels)"
    for phase in ("train", "test"):
        assert np.array_equal(before.phases[phase].true, after.phases[phase].true)  # type: ignore[arg-type]
    image_list = source / "ImageList" / "Imagelist.txt"
    image_list.write_text(image_list.read_text().replace("0003_train", "0003_lost", 1))
    assert "ImageList/TrainImagelist.txt:4: concept03/0003_train23757.jpg is not in Imagelist.txt" in faults(
        read_nuswide(source)
    )


def test_columns_of_the_lists_are_numbered_until_a_file_names_them(tmp_path: Path) -> None:
    source = make_nuswide(tmp_path)
    numbered = read_nuswide(source)
    assert numbered.classes[:2] == ("concept_01", "concept_02")
    assert "Concepts81.txt" in numbered.notes[0]
    (source / "Concepts81.txt").write_text("\n".join(NUS_CONCEPTS))
    named = read_nuswide(source)
    assert (named.classes, any("Concepts81.txt" in note for note in named.notes)) == (NUS_CONCEPTS, False)
    (source / "Concepts81.txt").write_text("\n".join(NUS_CONCEPTS[:-1]))
    assert "must have 81 names, one for each column of the lists, but has 80" in faults(read_nuswide(source))[0]


def test_with_both_layouts_the_lists_are_read_and_a_note_says_so(tmp_path: Path) -> None:
    make_nuswide(tmp_path, layout="official", images=False)
    both = read_nuswide(make_nuswide(tmp_path))
    assert both.layout == FORMATTED
    assert "Groundtruth/ was not read" in both.notes[0]


class Pickled:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_pickled_list_is_not_run(tmp_path: Path) -> None:
    source = make_nuswide(tmp_path)
    np.save(source / "formatted_train_images.npy", np.array([Pickled(tmp_path / "ran")], object), allow_pickle=True)
    nuswide = read_nuswide(source)
    assert not (tmp_path / "ran").exists()
    assert "formatted_train_images.npy: cannot be read as a NumPy array without pickles" in faults(nuswide)[0]
    assert len(nuswide.phases["train"]) == 0


def test_lists_that_do_not_fit_are_faults(tmp_path: Path) -> None:
    source = make_nuswide(tmp_path)
    labels, names = np.load(source / "formatted_train_labels.npy"), np.load(source / "formatted_val_images.npy")
    labels[3, 3] = 7
    np.save(source / "formatted_train_labels.npy", labels[:-1])
    names[2] = names[1]
    np.save(source / "formatted_val_images.npy", names)
    said = faults(read_nuswide(source))
    assert "must have 20 rows of 81 columns as the other lists do, but has the shape (19, 81)" in said[0]
    assert "1 rows have values other than 1 and 0; the first is row 3" in said[1]
    assert f"formatted_val_images.npy:3: {names[1]} is listed twice, in rows 2 and 3" in said[2]


def test_a_truncated_list_is_a_fault(tmp_path: Path) -> None:
    source = make_nuswide(tmp_path)
    path = source / "formatted_train_labels.npy"
    path.write_bytes(path.read_bytes()[:500])
    assert "formatted_train_labels.npy: cannot be read" in faults(read_nuswide(source))[0]


@pytest.mark.parametrize(
    ("text", "said"), [("0\n1\n", "has 2"), ("0\n2\n" + "0\n" * 18, ":2: a line must be 0 or 1, but is '2'")]
)
def test_a_label_file_that_does_not_fit_its_list_is_a_fault(tmp_path: Path, text: str, said: str) -> None:
    source = make_nuswide(tmp_path, layout="official")
    (source / "Groundtruth" / "TrainTestLabels" / "Labels_concept05_Train.txt").write_text(text)
    (fault,) = faults(read_nuswide(source))
    assert fault.startswith("Groundtruth/TrainTestLabels/Labels_concept05_Train.txt")
    assert said in fault


def test_missing_label_files_and_images_are_faults(tmp_path: Path) -> None:
    source = make_nuswide(tmp_path, layout="official")
    (source / "Groundtruth" / "TrainTestLabels" / "Labels_concept05_Train.txt").unlink()
    (source / "Flickr" / "concept04" / "0004_train31676.jpg").unlink()
    said = faults(read_nuswide(source, images=True))
    assert "Groundtruth/TrainTestLabels/Labels_concept05_Train.txt: is missing" in said
    assert "Flickr/concept04/0004_train31676.jpg: is listed, but the file does not exist" in said


def test_another_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotThisDatasetError, match="The folder holds nothing"):
        read_nuswide(tmp_path / "empty")


def test_without_the_folder_of_images_it_alone_is_missing(tmp_path: Path) -> None:
    said = faults(read_nuswide(make_nuswide(tmp_path / "nus", images=False), images=True))
    assert said == ["Flickr: the folder is missing, and 30 listed images with it"]


def test_images_in_one_folder_are_found_by_their_names(tmp_path: Path) -> None:
    layouts: tuple[Literal["formatted", "official"], ...] = ("formatted", "official")
    for layout in layouts:
        source = make_nuswide(tmp_path / layout, layout=layout)
        for path in sorted((source / "Flickr").rglob("*.jpg")):
            path.rename(source / "Flickr" / path.name)
        for folder in (source / "Flickr").iterdir():
            if folder.is_dir():
                folder.rmdir()
        found = read_nuswide(source, images=True)
        assert found.faults == ()
        assert found.phases["train"].files[4] == "Flickr/0004_train31676.jpg"
        assert found.notes[-1].startswith("the images lie in Flickr/ without the folders that the lists name")
        # A missing image is a missing image, not a missing folder.
        (source / "Flickr" / "0004_train31676.jpg").unlink()
        assert faults(read_nuswide(source, images=True)) == [
            "Flickr/0004_train31676.jpg: is listed, but the file does not exist"
        ]


def test_rows_without_a_label_are_counted_in_a_note(tmp_path: Path) -> None:
    notes = read_nuswide(make_nuswide(tmp_path)).notes
    assert "kept 4 of 20 images of train without any label, as in the literature" in notes


def test_many_missing_folders_are_one_line(tmp_path: Path) -> None:
    source = make_nuswide(tmp_path / "nus")
    for folder in sorted((source / "Flickr").iterdir()):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    (line,) = describe_faults(read_nuswide(source, images=True).faults)
    assert line.startswith("Flickr/concept00: the folder is missing, and ")
    assert "more files: Flickr/concept01," in line
