"""Find the reader of a dataset by its name, and read the dataset from the folder that its own site gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from training.config.spelling import nearest_key
from training.data.sources.annotations import Annotations
from training.data.sources.coco import find_coco, read_coco
from training.data.sources.cub import find_cub, read_cub
from training.data.sources.folder import find_folder, read_folder
from training.data.sources.l48 import find_l48, read_l48
from training.data.sources.nuswide import find_nuswide, read_nuswide
from training.data.sources.voc import find_voc, read_voc
from training.errors import ConfigError, NotThisDatasetError


class Reader(Protocol):
    """Reads a dataset from the folder that its own site gives."""

    def __call__(self, source: Path, *, images: bool = False) -> Annotations: ...


@dataclass(frozen=True)
class KnownDataset:
    """A dataset that can be read from files.

    Attributes:
        title: Its name in words.
        read: Reads it.
        find: Returns its folder at or below the given one; raises NotThisDatasetError if it is not found.
        shape: Content of the source folder, for people.
        label_files: The files that ``data verify`` needs, for people.
    """

    title: str
    read: Reader
    find: Callable[[Path], Path]
    shape: str
    label_files: str


DATASETS = {
    "voc": KnownDataset(
        "VOC 2012", read_voc, find_voc, "VOCdevkit/VOC2012/, or one of the two", "ImageSets/Main/*_{train,val}.txt"
    ),
    "coco": KnownDataset(
        "COCO 2014",
        read_coco,
        find_coco,
        "annotations/, train2014/ and val2014/",
        "annotations/instances_{train,val}2014.json",
    ),
    "nuswide": KnownDataset(
        "NUS-WIDE",
        read_nuswide,
        find_nuswide,
        "formatted_{train,val}_{images,labels}.npy, or Groundtruth/ and ImageList/; images in Flickr/",
        "formatted_{train,val}_{images,labels}.npy, or Groundtruth/ and ImageList/",
    ),
    "cub": KnownDataset(
        "CUB-200-2011",
        read_cub,
        find_cub,
        "CUB_200_2011/, or that folder itself",
        "images.txt, train_test_split.txt, attributes/image_attribute_labels.txt, attributes.txt",
    ),
    "l48": KnownDataset(
        "Merlin L48",
        read_l48,
        find_l48,
        "assets.json, clips.json, taxa.csv and images/",
        "assets.json, clips.json, taxa.csv; val_split.npy, if you have it",
    ),
    "folder": KnownDataset(
        "your own images",
        read_folder,
        find_folder,
        "images/ and labels.csv or observed.csv (or .parquet)",
        "the tables",
    ),
}
"""Name -> dataset."""


def read_source(name: str, source: Path, *, images: bool, called: str | None = None) -> Annotations:
    """Read a dataset's labels from its folder.

    Args:
        name: Key of ``DATASETS``.
        source: The dataset's folder, one above it, or one below it where that is unambiguous.
        images: Whether to look for the images and read boxes or parts; if not, the label files are enough.
        called: The name to give a ``folder``.

    Raises:
        ConfigError: No such dataset.
        NotThisDatasetError: The folder does not hold it (the message names another dataset that it holds), or cannot be
            read.
    """
    if name not in DATASETS:
        close = nearest_key(name, DATASETS)
        hint = f". Did you mean {close}?" if close else ""
        raise ConfigError(f"dataset must be one of {', '.join(DATASETS)}, but got dataset={name}{hint}")
    try:
        if name == "folder" and called:
            return read_folder(source, images=images, name=called)
        return DATASETS[name].read(source, images=images)
    except NotThisDatasetError as error:
        if other := _looks_like(source, name):
            raise NotThisDatasetError(f"{error}. It looks like {DATASETS[other].title}: use {other}") from error
        raise
    except PermissionError as error:
        raise NotThisDatasetError(
            f"Cannot read --source={source}: permission denied for {error.filename}. Ask its owner, or use a copy"
        ) from error


def _looks_like(source: Path, name: str) -> str | None:
    # Downloads are easily mixed up, so name the dataset that was actually found.
    for other, known in DATASETS.items():
        try:
            if other != name:
                known.find(source)
                return other
        except NotThisDatasetError:
            continue
    return None
