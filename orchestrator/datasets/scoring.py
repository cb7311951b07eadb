"""Score the images of a prepared dataset with CLIP, once; methods with pseudo-labels from CLIP read the scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from orchestrator.datasets.prepared import require_store
from orchestrator.datasets.progress import showing_progress
from orchestrator.datasets.verification import SEED
from orchestrator.errors import UserError
from training.data.split import Images
from training.data.store.clip_scores import ClipScores, ScoreFile, read_about, read_scores, score_command, scores_name
from training.data.store.file_names import labels_name
from training.data.store.reader import Store, open_store
from training.data.store.storage import Storage
from training.errors import StoreError
from training.metric_names import VAL_MAP
from training.metrics import compute_metrics
from training.models.backbone import hash_weights
from training.models.clip import Clip, ClipName, describe_hub_file, load_clip, score_images

DEFAULT_PROMPT = "a photo of a {}."
PART_IMAGES = 128
"""Images after which the work so far is kept."""
_TO_WORDS = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}  # VOC
_Phase = Literal["train", "val"]


@dataclass(frozen=True)
class ScoreRequest:
    """What the user asked `data score` for.

    Attributes:
        dataset: Name of a prepared dataset.
        model: ``clip/ARCH`` or ``clip/ARCH/TAG``.
        weights: A file with its weights; None takes them from the hub or its cache.
        prompt: Text with ``{}`` in the place of a class's name.
        class_names: A file with a name on each line, in the order of the classes; None makes them from the classes.
        tiles: g, of a g x g grid.
        temperature: Of the softmax over the classes.
        batch_size: Images that the network gets at a time.
        replace: Whether to replace scores that were made in another way.
    """

    dataset: str
    model: str
    weights: Path | None = None
    prompt: str = DEFAULT_PROMPT
    class_names: Path | None = None
    tiles: int = 4
    temperature: float = 0.01
    batch_size: int = 32
    replace: bool = False


@dataclass(frozen=True)
class Scored:
    """Scores of a dataset.

    Attributes:
        uri: Its store, which the files are next to.
        files: Their names.
        about: How they were made.
        zero_shot_map: Validation mAP in percent of the scores of whole images, taken as predictions; None without true
            labels.
        is_new: Whether there was anything to do.
    """

    uri: str
    files: tuple[str, ...]
    about: Mapping[str, str]
    zero_shot_map: float | None
    is_new: bool


def score_dataset(request: ScoreRequest, note: Callable[[str], None]) -> Scored:
    """Score the official train images of a dataset, and those of val if the source gives them; test is not opened.

    The work is kept every :data:`PART_IMAGES` images, so that the same command continues what was stopped. A file of
    scores appears only once it is complete.

    Args:
        request: What to do.
        note: Called with each line that the user should see during the work.

    Raises:
        UserError: The request is invalid, or there are scores that were made in another way.
        ConfigError: There is no such model.
        StoreError: The store is damaged, or cannot be written.
        WeightsError: The weights are neither in the cache nor on a hub that answers, or do not fit.
    """
    job = _Job.of(request)
    # Scores that were made as asked are taken as they are, so that no weights are needed, unless a file is named.
    about = job.find_finished() if request.weights is None else None
    if about is not None:
        return job.finish(about, is_new=False)
    clip = load_clip(job.name, _checked(request.weights), _choose_device(), _ways_out(request, job.name))
    about = {**job.asked, "weights_hash": hash_weights(clip.network.state_dict())}
    if job.find_finished() == about:
        return job.finish(about, is_new=False)
    job.require_replaceable(about)
    names = [request.prompt.format(each) for each in json.loads(about["class_names"])]
    note(f"{request.dataset}: {job.name}, {names[0]!r} and {len(names) - 1} more, on the {clip.device.type}")
    try:
        job.score(clip, clip.encode_texts(names), about)
    except OSError as error:
        raise StoreError(f"Cannot write scores to {job.store.uri}: {error}") from error
    except KeyboardInterrupt:
        note("stopped: run the same command again to continue")
        raise
    return job.finish(about, is_new=True)


@dataclass(frozen=True, eq=False)
class _Job:
    """What is to be scored, and what was scored before.

    Attributes:
        files: Official phase -> name of its file of scores.
        asked: All that decides the scores but the weights.
        there: How each file was made that is there.
    """

    request: ScoreRequest
    name: ClipName
    store: Store
    storage: Storage
    files: Mapping[_Phase, str]
    asked: Mapping[str, str]
    there: Mapping[_Phase, Mapping[str, str] | None]

    @classmethod
    def of(cls, request: ScoreRequest) -> _Job:
        store, name = open_store(require_store(request.dataset)), ClipName.parse(request.model)
        storage = Storage(store.uri)
        phases: list[_Phase] = ["train", "val"] if labels_name("val") in store.manifest.files else ["train"]
        files = {phase: scores_name(str(name), phase) for phase in phases}
        there = {phase: read_about(storage, file) for phase, file in files.items()}
        return cls(request, name, store, storage, files, _describe(request, name, store), there)

    def find_finished(self) -> Mapping[str, str] | None:
        """Return how the scores were made, if all are there and were made as asked, with the same weights."""
        first, *others = self.there.values()
        if first is None or any(found != first for found in others):
            return None
        return first if all(first.get(key) == value for key, value in self.asked.items()) else None

    def require_replaceable(self, about: Mapping[str, str]) -> None:
        changed = next((found for found in self.there.values() if found is not None and found != about), None)
        # Scores of other data are of no use to anybody.
        if changed is None or self.request.replace or changed.get("data_hash") != about["data_hash"]:
            return
        keys = [key for key in about if changed.get(key) != about[key]]
        shown = ", ".join(f"{key} {changed.get(key, 'unknown'):.60} and not {about[key]:.60}" for key in keys)
        raise UserError(
            f"{self.request.dataset} has scores of {self.name} already, made with {shown}. Sweeps may depend on them. "
            "Replace them: --replace"
        )

    def score(self, clip: Clip, texts: Tensor, about: Mapping[str, str]) -> None:
        """Write a file of scores for each phase; a part that an earlier call has made is not made again."""
        for phase, file in self.files.items():
            ids, images = self.store.images(phase)
            parts: dict[str, ClipScores] = {}
            with showing_progress(f"{self.request.dataset} {phase}") as show_progress:
                for first in range(0, len(ids), PART_IMAGES):
                    rows = range(first, min(first + PART_IMAGES, len(ids)))
                    name = f"{file}.part-{first // PART_IMAGES:05d}"
                    part = _read_part(self.storage, name, about)
                    if part is None:
                        scores = ClipScores.join(list(_score_rows(self.request, images, rows, clip, texts)))
                        part = ScoreFile(ids[rows.start : rows.stop], scores, about)
                        self.storage.put(name, part.encode())
                    parts[name] = part.scores
                    show_progress(rows.stop, len(ids))
            self.storage.put(file, ScoreFile(ids, ClipScores.join(list(parts.values())), about).encode())
            for name in parts:
                self.storage.delete(name)

    def finish(self, about: Mapping[str, str], *, is_new: bool) -> Scored:
        return Scored(self.store.uri, tuple(self.files.values()), about, self._measure_zero_shot(), is_new)

    def _measure_zero_shot(self) -> float | None:
        """Return the validation mAP of the scores of whole images, on the split of the literature."""
        data = self.store.split("val", SEED, SEED)
        if data.true is None or not len(data):
            return None
        phase, rows = self.store.rows("val", SEED)
        manifest = self.store.manifest
        found, _ = read_scores(self.store.uri, manifest.name, str(self.name), phase, manifest.data_hash)
        scores = found.scores.rows(self.store.places(phase)[rows])
        return compute_metrics("val", scores.whole.log(), data.true, data.observed)[VAL_MAP]


def _score_rows(request: ScoreRequest, images: Images, rows: range, clip: Clip, texts: Tensor) -> Iterator[ClipScores]:
    for first in range(rows.start, rows.stop, request.batch_size):
        batch = images.read(range(first, min(first + request.batch_size, rows.stop)))
        yield ClipScores(*score_images(clip, texts, batch, request.tiles, request.temperature))


def _read_part(storage: Storage, name: str, about: Mapping[str, str]) -> ScoreFile | None:
    try:
        part = ScoreFile.decode(storage.read(name))
    except (OSError, ValueError):  # not there yet, or damaged
        return None
    return part if part.about == about else None


def _describe(request: ScoreRequest, name: ClipName, store: Store) -> dict[str, str]:
    """Return all that decides the scores but the weights."""
    if request.prompt.count("{}") != 1 or "{" in request.prompt.replace("{}", ""):
        raise UserError(f"--prompt must have {{}} once, for the class's name, but got --prompt={request.prompt!r}.")
    side = store.manifest.image_size
    if request.tiles > side:
        raise UserError(f"--tiles must be at most {side}, the side of the stored images, but got {request.tiles}.")
    return {
        "model": str(name),
        "prompt": request.prompt,
        "class_names": json.dumps(_name_classes(request, store.classes), ensure_ascii=False),
        "temperature": repr(request.temperature),
        "tiles": str(request.tiles),
        "data_hash": store.manifest.data_hash,
    }


def _name_classes(request: ScoreRequest, classes: tuple[str, ...]) -> list[str]:
    if request.class_names is None:
        return [to_words(name) for name in classes]
    try:
        lines = request.class_names.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read --class-names={request.class_names}: {error}.") from None
    names = [line.strip() for line in lines if line.strip()]
    if len(names) != len(classes):
        raise UserError(
            f"{request.class_names} must have a line for each of the {len(classes)} classes, in their order, but has "
            f"{len(names)}. The first class is {classes[0]}."
        )
    return names


def to_words(name: str) -> str:
    """Return the name of a class as one would say it.

    CUB's ``has_bill_shape::curved_(up_or_down)`` becomes ``bill shape curved (up or down)``.
    """
    words = _TO_WORDS.get(name, name).replace("::", " ").replace("_", " ")
    return " ".join(words.removeprefix("has ").split())


def _checked(weights: Path | None) -> Path | None:
    if weights is not None and not weights.is_file():
        raise UserError(f"--weights={weights} does not exist. Name the file with the weights of the model.")
    return weights


def _ways_out(request: ScoreRequest, name: ClipName) -> str:
    return (
        f"Either run it once on a machine with a network, or get the file there, from the hub "
        f"({describe_hub_file(name)}), and name it: {score_command(request.dataset, str(name))} --weights FILE"
    )


def _choose_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
