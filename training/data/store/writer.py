"""Write a store: decode, resize and encode every image once, in shards that an interrupted run can reuse.

A shard ``train-00003.arrow`` is complete once ``train-00003.done.json`` is written after it, and the manifest comes
last. So the process may die at any moment: complete shards are kept, and the store opens only when all are there.
"""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from training.data.sources.annotations import Annotations, Fault
from training.data.store.bad_source import BadSourceError, require_trusted
from training.data.store.file_names import MANIFEST, is_ours, labels_name
from training.data.store.images import BadImageError, Encoding, ImageFacts, Preprocessing, prepare_image
from training.data.store.label_table import LabelTable, compute_data_hash, make_label_table, to_parquet
from training.data.store.manifest import (
    DEFAULT_ENCODING,
    SCHEMA_VERSION,
    Manifest,
    StoreFile,
    read_manifest,
    require_files,
)
from training.data.store.shard_notes import (
    Note,
    PlannedShard,
    Row,
    is_same_source,
    plan_shards,
    read_note,
    source_hash,
    write_shard,
)
from training.data.store.storage import Storage
from training.data.store.writer_lock import writer_lock
from training.errors import StoreError
from training.files import PARTIAL
from training.machine import usable_cpus

# An interrupted run loses what it has prepared of at most two shards.
SHARD_IMAGES = 512
_SHARD_BYTES = 64 << 20
"""Largest shard of raw pixels: a shard is held in memory while it is written."""
_REPORT_EVERY = 32

Progress = Callable[[int, int], None]
"""Called with (images done, all images); the first call, before any work, counts those of earlier runs."""


@dataclass(frozen=True)
class _Prepared:
    encoded: bytes
    original: bytes
    row: Row


@dataclass(frozen=True)
class _Job:
    annotations: Annotations
    storage: Storage
    preprocessing: Preprocessing
    keep_originals: bool
    skip_bad: bool

    @property
    def shard_images(self) -> int:
        if self.preprocessing.encoding == "jpeg":
            return SHARD_IMAGES
        return min(SHARD_IMAGES, max(1, _SHARD_BYTES // (3 * self.preprocessing.image_size**2)))


def write_store(
    annotations: Annotations,
    out_uri: str,
    *,
    image_size: int = 448,
    keep_originals: bool = False,
    encoding: Encoding = DEFAULT_ENCODING,
    workers: int | None = None,
    skip_bad: bool = False,
    on_progress: Progress | None = None,
) -> Manifest:
    """Write the store of a dataset, or finish an unfinished one; a finished store of the same kind is left alone.

    Args:
        annotations: The source's images and labels.
        out_uri: A folder, or any URI of ``pyarrow.fs``.
        image_size: Side of the stored squares in px.
        keep_originals: Keep the original files as well.
        encoding: ``jpeg`` or ``raw``.
        workers: Threads that decode, by default one per CPU; the store does not depend on it.
        skip_bad: Leave out images with faults, and record them.
        on_progress: Called as images are done.

    Returns:
        The manifest.

    Raises:
        BadSourceError: The source has faults, and ``skip_bad`` is not set or does not help.
        StoreError: No training image is left, another process is writing there, the place holds a store of another
            source or other settings, or it cannot be written.
        ConfigError: ``out_uri`` is of an unknown kind.
        ValueError: Image size or encoding out of range.
    """
    preprocessing = Preprocessing(image_size, encoding)
    # Before anything is written: a finished store may be on a read-only disk.
    done = find_finished(annotations, out_uri, image_size=image_size, keep_originals=keep_originals, encoding=encoding)
    if done is not None:
        return done
    # Checked before any image: hours of decoding would be wasted if the labels turned out to be useless.
    require_trusted(annotations)
    progress = _Meter(
        on_progress or (lambda done, total: None), sum(len(phase) for phase in annotations.phases.values())
    )
    try:
        job = _Job(annotations, Storage(out_uri), preprocessing, keep_originals, skip_bad)
        with writer_lock(job.storage) as beat:
            # Another process may have finished it while we waited for the lock.
            done = _finished(job.storage, annotations, preprocessing, keep_originals)
            return done or _write(job, workers or usable_cpus(), beat, progress)
    except OSError as error:
        raise StoreError(
            f"Cannot write the store {out_uri} ({error.strerror or error}). {progress.done} of {progress.total} "
            f"images are done and kept. Fix it, then run the same command again: it continues where it stopped"
        ) from error


def find_finished(
    annotations: Annotations,
    out_uri: str,
    *,
    image_size: int = 448,
    keep_originals: bool = False,
    encoding: Encoding = DEFAULT_ENCODING,
) -> Manifest | None:
    """Return the manifest of a finished store of this source and these settings; None if the place has no store.

    Raises:
        StoreError: The place holds a finished store of another source or other settings, or a damaged one, or it cannot
            be read.
    """
    try:
        return _finished(Storage(out_uri), annotations, Preprocessing(image_size, encoding), keep_originals)
    except OSError as error:
        raise StoreError(f"Cannot read the store {out_uri}: {error}") from error


class _Meter:
    """Counts finished images and reports them."""

    def __init__(self, listener: Progress, total: int) -> None:
        self._listener, self.total, self.done = listener, total, 0

    def add(self, images: int) -> None:
        """Count images that are finished and kept."""
        self.done += images
        self._listener(self.done, self.total)

    def show(self, images: int) -> None:
        """Report images that are finished, but kept only once their shard is written."""
        self._listener(self.done + images, self.total)


def _finished(
    storage: Storage, annotations: Annotations, preprocessing: Preprocessing, keep_originals: bool
) -> Manifest | None:
    sizes = storage.sizes()
    if MANIFEST not in sizes:
        return None
    manifest = read_manifest(storage.uri)
    if not is_same_source(manifest, annotations, preprocessing, keep_originals):
        what = (
            f"{manifest.name} at {manifest.image_size} px as "
            f"{manifest.encoding}{' with originals' if manifest.keeps_originals else ''}"
        )
        raise StoreError(
            f"{storage.uri} already holds {what}, made from other labels or with other settings. Name another folder "
            f"with --out, or replace it: delete {storage.uri}/{MANIFEST} and run the same command again"
        )
    require_files(storage.uri, manifest, sizes)
    return manifest


def _write(job: _Job, workers: int, beat: Callable[[], None], progress: _Meter) -> Manifest:
    sizes = job.storage.sizes()
    # Left by a writer that was killed in the middle of a file.
    for name in sizes:
        if name.endswith(PARTIAL) and is_ours(name):
            job.storage.delete(name)
    planned = plan_shards(
        job.annotations, job.preprocessing, job.keep_originals, job.shard_images, _bad_ids(job.annotations)
    )
    notes = {shard.name: read_note(job.storage, shard, sizes, job.annotations.root) for shard in planned}
    progress.add(sum(len(shard.ids) for shard in planned if notes[shard.name] is not None))
    faults = list(job.annotations.faults)
    missing = [shard for shard in planned if notes[shard.name] is None]
    # Shards are written in order by this thread alone, so a store does not depend on the number of workers.
    with _quiet(), _pool(workers) as pool:
        for shard, prepared in _prepare_in_order(job, missing, pool, progress):
            beat()
            bad = [fault for fault in prepared if isinstance(fault, Fault)]
            faults += bad
            # A shard with bad images is useful only if they may be left out.
            if job.skip_bad or not bad:
                notes[shard.name] = _write_shard(job, shard, prepared)
            progress.add(len(shard.ids))
    # Only now, so that the user learns of all faults at once.
    train = job.annotations.phases.get("train")
    if faults and not job.skip_bad:
        left_out = _bad_ids(job.annotations) | {fault.id for fault in faults if fault.id is not None}
        raise BadSourceError(faults, 0 if train is None else sum(id not in left_out for id in train.ids))
    if train is not None and not any(
        row for shard in planned if shard.phase == "train" for row in _rows(notes[shard.name])
    ):
        what = (
            f"None of the {len(train):,} training images can be used"
            if len(train)
            else "The source lists no training images"
        )
        first = f"; the first fault: {faults[0]}" if faults else ""
        raise StoreError(f"{what}{first}. Fix the source and run the same command again")
    return _finish(job, planned, notes, faults)


def _bad_ids(annotations: Annotations) -> set[str]:
    """Return the images that need not be opened: those with a fault, and all in a folder with one."""
    bad = {fault.id for fault in annotations.faults if fault.id is not None}
    # A missing folder is one fault, but all images in it are missing.
    folders = tuple(f"{fault.path}/" for fault in annotations.faults)
    for phase in annotations.phases.values():
        bad |= {id for id, file in zip(phase.ids, phase.files, strict=True) if file.startswith(folders)}
    return bad


def _rows(note: Note | None) -> tuple[Row | None, ...]:
    assert note is not None  # by now every shard has one
    return note.rows


def _prepare_in_order(
    job: _Job, shards: Sequence[PlannedShard], pool: ThreadPoolExecutor, progress: _Meter
) -> Iterator[tuple[PlannedShard, list[_Prepared | Fault | None]]]:
    """Yield shard after shard with its images in order, while the next shard is already being prepared."""
    waiting: deque[tuple[PlannedShard, list[Future[_Prepared | Fault] | None]]] = deque()
    for shard in shards:
        futures = [
            pool.submit(_prepare, job, shard, row) if wanted else None for row, wanted in enumerate(shard.wanted)
        ]
        waiting.append((shard, futures))
        # Two shards at a time: the workers stay busy while one is written, and memory holds no more.
        if len(waiting) > 1:
            yield _collect(*waiting.popleft(), progress)
    while waiting:
        yield _collect(*waiting.popleft(), progress)


def _collect(
    shard: PlannedShard, futures: list[Future[_Prepared | Fault] | None], progress: _Meter
) -> tuple[PlannedShard, list[_Prepared | Fault | None]]:
    results: list[_Prepared | Fault | None] = []
    # In the order of the images, whichever is done first.
    for future in futures:
        results.append(None if future is None else future.result())
        if len(results) % _REPORT_EVERY == 0:
            progress.show(len(results))
    return shard, results


def _prepare(job: _Job, shard: PlannedShard, row: int) -> _Prepared | Fault:
    name = shard.files[row]
    try:
        with open(job.annotations.root / name, "rb", opener=_open_at_once) as file:
            state = os.fstat(file.fileno())  # of the open file: size and time must belong to the bytes read
            if not stat.S_ISREG(state.st_mode):  # an archive may have put a pipe or a device there
                return Fault(name, "is not a plain file", id=shard.ids[row])
            original = file.read()
        encoded, facts = prepare_image(original, job.preprocessing)
    except FileNotFoundError:
        path = job.annotations.root / name
        why = f"is a link to {os.readlink(path)!r}, which does not exist" if path.is_symlink() else "is missing"
        return Fault(name, why, id=shard.ids[row])
    except BadImageError as error:
        return Fault(name, str(error), id=shard.ids[row])
    # A fault, not an error: one bad file must not hide the others.
    except OSError as error:
        return Fault(name, f"cannot be read: {error.strerror}", id=shard.ids[row])
    return _Prepared(encoded, original if job.keep_originals else b"", Row(facts, state.st_size, state.st_mtime_ns))


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # otherwise a pipe that nobody writes to would be waited for


def _write_shard(job: _Job, shard: PlannedShard, prepared: Sequence[_Prepared | Fault | None]) -> Note:
    whole = [each for each in prepared if isinstance(each, _Prepared)]
    return write_shard(
        job.storage,
        shard,
        images=[each.encoded for each in whole],
        originals=[each.original for each in whole] if job.keep_originals else None,
        # An image that is left out keeps its place, as None, so that the rows still match those of the labels.
        rows=[each.row if isinstance(each, _Prepared) else None for each in prepared],
    )


def _finish(
    job: _Job, planned: Sequence[PlannedShard], notes: dict[str, Note | None], faults: Sequence[Fault]
) -> Manifest:
    """Write labels and manifest, then delete what only an unfinished store needs."""
    files: dict[str, StoreFile] = {}
    tables: dict[str, LabelTable] = {}
    for name, phase in job.annotations.phases.items():
        facts: list[ImageFacts | None] = []
        for shard in planned:
            if shard.phase == name:
                note = notes[shard.name]
                assert note is not None
                facts += [None if row is None else row.facts for row in note.rows]
                files |= note.files
        tables[name] = make_label_table(phase, facts, job.preprocessing.image_size)
        content = to_parquet(tables[name])
        job.storage.put(labels_name(name), content)
        files[labels_name(name)] = StoreFile(content.size, hashlib.sha256(content).hexdigest())
    # The manifest after all others, since a store opens as soon as it has one.
    manifest = _make_manifest(job, tables, files, faults)
    job.storage.put(MANIFEST, manifest.to_json().encode())
    # After the manifest: until then the notes are what an interrupted run continues from.
    _tidy(job.storage, manifest)
    return manifest


def _make_manifest(
    job: _Job, tables: dict[str, LabelTable], files: dict[str, StoreFile], faults: Sequence[Fault]
) -> Manifest:
    source, preprocessing = job.annotations, job.preprocessing.describe()
    return Manifest(
        name=source.name,
        layout=source.layout,
        classes=source.classes,
        parts=source.parts,
        image_size=job.preprocessing.image_size,
        encoding=job.preprocessing.encoding,
        keeps_originals=job.keep_originals,
        shard_images=job.shard_images,
        counts={name: int(table.kept.sum()) for name, table in tables.items()},
        has_true={name: table.true is not None for name, table in tables.items()},
        data_hash=compute_data_hash(tables, source.classes, source.parts, preprocessing, SCHEMA_VERSION),
        source_hash=source_hash(source, job.preprocessing, job.keep_originals),
        preprocessing=preprocessing,
        label_files=dict(source.label_files),
        left_out=tuple(faults),
        num_unlabelled=dict(source.num_unlabelled),
        files=dict(sorted(files.items())),
    )


def _tidy(storage: Storage, manifest: Manifest) -> None:
    """Delete the notes, and shards of an earlier attempt with other settings."""
    for name in storage.sizes():
        if is_ours(name) and name != MANIFEST and name not in manifest.files:
            storage.delete(name)


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Run threads, not processes: when this process is killed, no orphan is left that holds the writer's lock.

    Pillow releases the interpreter lock for four fifths of the work; two threads were as fast as two processes.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prepare")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings about odd EXIF data and large images; it still raises errors for broken images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
