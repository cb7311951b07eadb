"""The datasets that can be read from their own folders, by name."""

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
from training.data.sources.nuswide import find_nuswide, read_nuswide
from training.data.sources.voc import find_voc, read_voc
from training.errors import ConfigError, NotThisDatasetError


class Reader(Protocol):
    """Reads a dataset from the folder that its own site gives."""

    def __call__(self, source: Path, *, images: bool = False) -> Annotations: ...


@dataclass(frozen=True)
class Source:
    """A dataset that can be read.

    Attributes:
        title: Its name in words.
        read: Reads it.
        find: Returns its folder at or below the one given; raises where it is not there.
        shape: What the source folder holds.
        label_files: What ``data verify`` needs of it.
    """

    title: str
    read: Reader
    find: Callable[[Path], Path]
    shape: str
    label_files: str


SOURCES = {
    "voc": Source(
        "VOC 2012", read_voc, find_voc, "VOCdevkit/VOC2012/, or one of the two", "ImageSets/Main/*_{train,val}.txt"
    ),
    "coco": Source(
        "COCO 2014",
        read_coco,
        find_coco,
        "annotations/, train2014/ and val2014/",
        "annotations/instances_{train,val}2014.json",
    ),
    "nuswide": Source(
        "NUS-WIDE",
        read_nuswide,
        find_nuswide,
        "formatted_{train,val}_{images,labels}.npy, or Groundtruth/ and ImageList/; images in Flickr/",
        "formatted_{train,val}_{images,labels}.npy, or Groundtruth/ and ImageList/",
    ),
    "cub": Source(
        "CUB-200-2011",
        read_cub,
        find_cub,
        "CUB_200_2011/, or that folder itself",
        "images.txt, train_test_split.txt, attributes/image_attribute_labels.txt, attributes.txt",
    ),
    "folder": Source(
        "your own images",
        read_folder,
        find_folder,
        "images/ and labels.csv or observed.csv (or .parquet)",
        "the tables",
    ),
}
"""Name -> the dataset."""


def read_source(name: str, source: Path, *, images: bool, called: str | None = None) -> Annotations:
    """Read a dataset's labels from its folder.

    Args:
        name: Key of ``SOURCES``.
        source: The folder, one above it, or one below where that makes sense.
        images: Whether images must be there and boxes or parts are read too; else the label files are all that is
            needed.
        called: What a ``folder`` is to be called.

    Raises:
        ConfigError: No such dataset.
        NotThisDatasetError: The folder does not hold it; where it holds another, the message says which. Or it may not
            be looked into.
    """
    if name not in SOURCES:
        close = nearest_key(name, SOURCES)
        hint = f". Did you mean {close}?" if close else ""
        raise ConfigError(f"dataset must be one of {', '.join(SOURCES)}, but got dataset={name}{hint}")
    try:
        if name == "folder" and called:
            return read_folder(source, images=images, name=called)
        return SOURCES[name].read(source, images=images)
    except NotThisDatasetError as error:
        if other := _looks_like(source, name):
            raise NotThisDatasetError(
                f"{error}. It looks like {SOURCES[other].title}, which is called {other} here"
            ) from error
        raise
    except PermissionError as error:
        raise NotThisDatasetError(
            f"--source must be a folder that can be read, but got --source={source}, where {error.filename} is denied. "
            "Ask its owner, or read a copy"
        ) from error


def _looks_like(source: Path, name: str) -> str | None:
    for other, known in SOURCES.items():
        try:
            if other != name:
                known.find(source)
                return other
        except NotThisDatasetError:
            continue
    return None
