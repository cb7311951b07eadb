"""Read Merlin L48 (Sun, Maji and Van Horn, NeurIPS 2025, arXiv 2511.00252): bird sounds as spectrograms, 750 x 236 px.

The archive holds, as its repository (visipedia/ml48s) documents it::

    images/ASSET/CLIP.jpg   three seconds each; an asset is a recording, a clip a part of it
    assets.json             id, split (train, test), target_species_code, possible_species_codes (by range),
                            observed_species_codes (by checklist), ...
    clips.json              id, asset_id, file_path, width, height, present_, unknown_ and absent_species_codes, boxes
    taxa.csv                species_code, ...: the 100 classes in order
    val_split.npy           the 1,000 recordings of val; not in the archive, but in the authors' code (l48-benchmarking)

We had no copy of the data: names and types of the fields are those of that page and of the authors' formatting script.

What a training clip says, as in that script: its positive is the target species of its recording, if the clip has it. A
species outside the recording's range list is known to be absent (``range``), and so is one outside its checklist
(``checklist``), except for that positive. Other labels are not used in training, so train has no true labels. Clips of
val and test are used only if they are fully annotated (``unknown_species_codes`` is empty), as the authors evaluate.
Clips keep the order of ``clips.json``; every clip of a recording is in one split.

Where ``val_split.npy`` is missing, ten recordings of each target species are drawn for val, as the authors describe
theirs, but with our seed: other recordings, so scores are then close to the literature's and not equal.

Boxes are stored where their species is present and their status is not ``ignore``; they are documented as
``[xmin, ymin, xmax, ymax]`` in 0-1 of the image. (The authors' script reads them with x and y exchanged; their training
does not use them.)
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.counts import counted
from training.data.sources.annotations import Annotations, Phase, some
from training.data.sources.label_files import LabelFiles, find_root

LAYOUT = "assets.json, clips.json, taxa.csv"
_FILES = ("assets.json", "clips.json", "taxa.csv")
_VAL = "val_split.npy"
_VAL_PER_SPECIES = 10
_SEED = 1200
_ASSET_KEYS = ("id", "split", "target_species_code", "possible_species_codes", "observed_species_codes")
_CLIP_KEYS = ("id", "asset_id", "file_path", "present_species_codes", "unknown_species_codes")
_KINDS = {"range": "possible_species_codes", "checklist": "observed_species_codes"}
"""How a label is known to be negative -> the list of species that are not."""

_Record = Mapping[str, Any]


@dataclass(frozen=True)
class _Clip:
    """A clip with its recording and its split."""

    record: _Record
    asset: _Record
    split: str


def read_l48(source: Path, *, images: bool = False) -> Annotations:
    """Read Merlin L48.

    Args:
        source: The folder with ``clips.json``, or one above it.
        images: Whether to look for the images and read boxes; if not, the label files are enough.

    Raises:
        NotThisDatasetError: The folder holds something else.
    """
    files = LabelFiles(find_l48(source))
    classes = _read_species(files)
    assets = {record["id"]: record for record in _read_records(files, "assets.json", _ASSET_KEYS)}
    clips = _sort_clips(files, _read_records(files, "clips.json", _CLIP_KEYS), assets, set(_choose_val(files, assets)))
    column_of = {code: column for column, code in enumerate(classes)}
    phases = {
        split: _phase(files, split, [clip for clip in clips if clip.split == split], column_of, boxes=images)
        for split in ("train", "val", "test")
    }
    if images:
        phases = files.check_images(phases)
    return files.annotations("l48", LAYOUT, classes, phases)


def find_l48(source: Path) -> Path:
    """Return the folder that holds ``clips.json``.

    Raises:
        NotThisDatasetError: No such folder was found.
    """
    return find_root(source, "Merlin L48", "clips.json next to assets.json and taxa.csv", _holds_labels)


def _holds_labels(folder: Path) -> bool:
    # One may be missing: that is a fault of L48, not a different dataset.
    return sum((folder / name).exists() for name in _FILES) >= 2


def _read_species(files: LabelFiles) -> list[str]:
    path = files.root / "taxa.csv"
    rows = list(csv.DictReader(io.StringIO(files.text(path) or "")))
    codes = [(row.get("species_code") or "").strip() for row in rows]
    if rows and not any(codes):
        files.fault(path, f"must have a column species_code, but has {some(map(repr, rows[0]))}", 1, fatal=True)
        return []
    for line, code in enumerate(codes, 2):
        if not code or codes.index(code) < line - 2:
            files.fault(path, f"species {code!r} is listed twice" if code else "has no species_code", line, fatal=True)
    return list(dict.fromkeys(codes))


def _read_records(files: LabelFiles, name: str, keys: Sequence[str]) -> list[_Record]:
    """Return the records of a JSON with a list of them; without a fatal fault, each has all keys."""
    path = files.root / name
    text = files.text(path)
    if text is None:
        return []
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        files.fault(path, f"is not JSON: {error.msg}", error.lineno, fatal=True)
        return []
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        files.fault(path, "must be a list of records", fatal=True)
        return []
    whole = []
    for number, record in enumerate(records):
        missing = [key for key in keys if key not in record]
        wrong = [key for key in keys if key.endswith("_codes") and not isinstance(record.get(key, []), list)]
        if missing or wrong:
            what = f"lacks {some(missing)}" if missing else f"must have lists in {some(wrong)}"
            files.fault(path, f"record {number} {what}", fatal=True)
        else:
            whole.append(record)
    if twice := [id for id, times in Counter(str(record["id"]) for record in whole).items() if times > 1]:
        files.fault(path, f"has ids more than once: {some(twice)}", fatal=True)
    return whole


def _choose_val(files: LabelFiles, assets: Mapping[Any, _Record]) -> list[Any]:
    """Return the ids of val's recordings: those of ``val_split.npy``, or ten of each target species."""
    path = files.root / _VAL
    if path.exists():
        content = files.read(path)
        try:
            ids = np.load(io.BytesIO(content or b""), allow_pickle=False).ravel().tolist()
        except (ValueError, OSError, EOFError) as error:
            files.fault(path, f"must be an array of ids of recordings: {error}", fatal=True)
            return []
        if unknown := [id for id in ids if id not in assets]:
            files.fault(path, f"has recordings that assets.json lacks: {some(unknown)}", fatal=True)
        return list(ids)
    files.notes.append(
        f"no {_VAL} next to clips.json, so ten recordings of each species are drawn for val. The authors' is in their "
        "repository l48-benchmarking: copy it there for their split"
    )
    stream, chosen = np.random.RandomState(_SEED), []
    of_species: dict[str, list[Any]] = {}
    for id, asset in assets.items():
        if asset["split"] == "train":
            of_species.setdefault(asset["target_species_code"], []).append(id)
    for code in sorted(of_species):
        # At most half, so that a folder with few recordings keeps some to train with.
        num = min(_VAL_PER_SPECIES, len(of_species[code]) // 2)
        chosen += [of_species[code][place] for place in stream.permutation(len(of_species[code]))[:num]]
    return chosen


def _sort_clips(
    files: LabelFiles, records: Iterable[_Record], assets: Mapping[Any, _Record], val: set[Any]
) -> list[_Clip]:
    """Return the clips with their splits, without those of val and test that are not fully annotated."""
    path, clips, partial = files.root / "clips.json", [], Counter[str]()
    for record in records:
        asset, id = assets.get(record["asset_id"]), str(record["id"])
        if asset is None:
            files.fault(path, f"clip {id} is of recording {record['asset_id']}, which assets.json lacks", id=id)
            continue
        split = "val" if asset["split"] == "train" and asset["id"] in val else asset["split"]
        if split not in ("train", "val", "test"):
            why = f"the split of recording {asset['id']} must be train or test, but is {split!r}"
            files.fault(files.root / "assets.json", why, fatal=True)
        elif split != "train" and record["unknown_species_codes"]:
            partial[split] += 1
        else:
            clips.append(_Clip(record, asset, split))
    for split, count in partial.items():
        files.notes.append(
            f"left out {counted(count, 'clip')} of {split} that are not fully annotated, as the authors do"
        )
    return clips


def _phase(
    files: LabelFiles, split: str, clips: Sequence[_Clip], column_of: Mapping[str, int], *, boxes: bool
) -> Phase:
    present = _matrix([clip.record["present_species_codes"] for clip in clips], column_of)
    target = _matrix([[clip.asset["target_species_code"]] for clip in clips], column_of)
    observed = present & target
    phase = Phase(
        ids=tuple(str(clip.record["id"]) for clip in clips),
        files=tuple(str(clip.record["file_path"]) for clip in clips),
        true=None if split == "train" else present,
        observed=observed,
        recordings=tuple(str(clip.asset["id"]) for clip in clips),
        boxes=tuple(_boxes(files, clip, column_of) for clip in clips) if boxes else None,
        negatives=_negatives(files, clips, present, observed, column_of) if split == "train" else {},
    )
    _describe(files, split, phase)
    return phase


def _negatives(
    files: LabelFiles,
    clips: Sequence[_Clip],
    present: NDArray[np.bool_],
    observed: NDArray[np.bool_],
    column_of: Mapping[str, int],
) -> dict[str, NDArray[np.bool_]]:
    """Return for each kind of list the species that it excludes; one that a clip has all the same is a fault."""
    found = {}
    for kind, key in _KINDS.items():
        excluded = ~_matrix([clip.asset[key] for clip in clips], column_of)
        for row in np.flatnonzero((excluded & present).any(1)).tolist():
            why = f"recording {clips[row].asset['id']} has a species that its {key} lack"
            files.fault(files.root / "assets.json", why, id=str(clips[row].record["id"]))
        found[kind] = excluded & ~observed
    return found


def _matrix(lists: Iterable[Iterable[str]], column_of: Mapping[str, int]) -> NDArray[np.bool_]:
    """Return bool (N, C), True for the species of each list; others than those of taxa.csv do not count."""
    rows = [[column_of[code] for code in codes if code in column_of] for codes in lists]
    matrix = np.zeros((len(rows), len(column_of)), bool)
    for row, columns in enumerate(rows):
        matrix[row, columns] = True
    return matrix


def _boxes(files: LabelFiles, clip: _Clip, column_of: Mapping[str, int]) -> NDArray[np.float32]:
    """Return (M, 5) of a clip's sounds in px, except those that its labels do not count."""
    record, present = clip.record, set(clip.record["present_species_codes"])
    size = np.array([record.get("width", 750), record.get("height", 236)] * 2, np.float32)
    boxes = []
    for box in record.get("boxes") or ():
        code, corners = box.get("species_code"), np.array(box.get("bbox", ()), np.float32)
        if box.get("status") == "ignore" or code not in present or code not in column_of:
            continue
        if corners.shape != (4,) or not ((corners >= 0) & (corners <= 1)).all() or (corners[:2] > corners[2:]).any():
            why = f"clip {record['id']} must have boxes [xmin, ymin, xmax, ymax] in 0-1, but has {box.get('bbox')}"
            files.fault(files.root / "clips.json", why, id=str(record["id"]))
            continue
        boxes.append(np.concatenate([np.array([column_of[code]], np.float32), corners * size]))
    return np.array(boxes, np.float32).reshape(-1, 5)


def _describe(files: LabelFiles, split: str, phase: Phase) -> None:
    """Note what a split consists of, to be compared with the table of the dataset's page."""
    assert phase.observed is not None
    known = "".join(
        f", {matrix.sum(1).mean():.1f} negatives by {kind}" for kind, matrix in phase.negatives.items() if len(phase)
    )
    files.notes.append(
        f"{split}: {counted(len(phase), 'clip')} of {counted(len(set(phase.recordings or ())), 'recording')}, "
        f"{int(phase.observed.any(1).sum()):,} with their positive{known}"
    )
