"""Test the preparation of scenes and trunk: complete or not at all, and the same bits in every process."""

from __future__ import annotations

import errno
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

from tests.kit.scenes import tiny_config
from training import preparation
from training.data.digits import DigitsSpec, make_pretext_images
from training.data.registry import dataset_info, digits_place
from training.data.views import PixelScale
from training.inference.evaluation import evaluate_split
from training.inference.test_split import load_test_split
from training.loop.run import TrainingRun
from training.models.backbone import DigitsTrunk, build_trunk, hash_weights
from training.preparation import is_prepared, prepare, pretrain_trunk


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test its own cache and a trunk that is not trained."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(preparation, "pretrain_trunk", lambda images, classes, scale, seed: DigitsTrunk().state_dict())
    return tmp_path / "orchestrator" / "digits"


def test_preparing_twice_does_nothing_the_second_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config().data
    assert not is_prepared(config)
    prepare(config)
    assert is_prepared(config)
    monkeypatch.setattr(preparation, "_write", lambda spec, folder: pytest.fail("recreated"))
    prepare(config)


def test_whoever_trains_or_evaluates_on_a_machine_without_scenes_makes_them(cache: Path) -> None:
    config = tiny_config({"method.name": "assumed_negative"})
    state = TrainingRun(config).best_state()
    assert is_prepared(config.data)
    for evaluate in (lambda: evaluate_split(config, state, "val"), lambda: load_test_split(config.data)):
        shutil.rmtree(digits_place(config.data))
        evaluate()
        assert is_prepared(config.data)


def test_what_fails_half_way_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(preparation, "pretrain_trunk", fail)
    with pytest.raises(OSError, match="disk full"):
        prepare(tiny_config().data)
    assert folders(cache) == []
    assert not is_prepared(tiny_config().data)


def test_of_several_only_one_makes_the_scenes_and_the_others_wait(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, write = tiny_config().data, preparation._write
    made = []

    def note(spec: DigitsSpec, folder: Path) -> None:
        made.append(folder)
        write(spec, folder)

    monkeypatch.setattr(preparation, "_write", note)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(prepare, [config] * 4))
    assert len(made) == 1
    assert is_prepared(config)


def test_without_locks_the_one_that_is_faster_wins(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, write = tiny_config().data, preparation._write

    def refuse(lock: FileLock) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def slowly(spec: DigitsSpec, folder: Path) -> None:
        write(spec, folder)
        monkeypatch.setattr(preparation, "_write", write)
        prepare(config)
        (digits_place(config) / "mark").touch()

    monkeypatch.setattr(FileLock, "acquire", refuse)
    monkeypatch.setattr(preparation, "_write", slowly)
    prepare(config)
    assert (digits_place(config) / "mark").exists()
    assert folders(cache) == [digits_place(config)]


def folders(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def test_other_datasets_are_left_alone(cache: Path) -> None:
    config = tiny_config({"data.name": "voc"}).data
    assert is_prepared(config)
    prepare(config)
    assert not cache.exists()


def test_preparing_uses_one_thread_and_gives_them_back(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def note(images: object, classes: object, scale: object, seed: object) -> dict[str, torch.Tensor]:
        seen.append(torch.get_num_threads())
        return DigitsTrunk().state_dict()

    monkeypatch.setattr(preparation, "pretrain_trunk", note)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        prepare(tiny_config().data)
        assert seen == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pretext() -> tuple[torch.Tensor, torch.Tensor, PixelScale]:
    """Return images, classes and scale of the pretext task."""
    images, classes = make_pretext_images(DigitsSpec(scene_seed=3))
    return images, classes, PixelScale.of(images)


def test_trunk_repeats_bit_for_bit_and_leaves_the_global_stream_alone(
    pretext: tuple[torch.Tensor, torch.Tensor, PixelScale],
) -> None:
    images, classes, scale = pretext
    hashes = []
    for stream, seed in ((99, 3), (100, 3), (100, 4)):
        torch.manual_seed(stream)
        hashes.append(hash_weights(pretrain_trunk(images[:64], classes[:64], scale, seed)))
        assert torch.initial_seed() == stream
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.slow
def test_trunk_learns_the_pretext_task(
    pretext: tuple[torch.Tensor, torch.Tensor, PixelScale], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, classes, scale = pretext
    monkeypatch.setattr(preparation, "PRETEXT_EPOCHS", 4)
    trained = DigitsTrunk()
    trained.load_state_dict(pretrain_trunk(images, classes, scale, seed=3))
    assert _linear_loss(trained, *pretext) < 0.8 * _linear_loss(DigitsTrunk(), *pretext)


def _linear_loss(trunk: nn.Module, images: torch.Tensor, classes: torch.Tensor, scale: PixelScale) -> float:
    """Return the loss of a linear classifier on the trunk's pooled features."""
    with torch.no_grad():
        features = trunk.eval()(scale.normalise(images)).mean((2, 3))
        features = (features - features.mean(0)) / (features.std(0) + 1e-6)
    linear = nn.Linear(features.shape[1], 10)
    optimizer = torch.optim.Adam(linear.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        loss = cross_entropy(linear(features), classes)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@pytest.mark.usefixtures("tiny_scenes")
def test_run_starts_from_the_trunk_that_was_prepared() -> None:
    config = tiny_config()
    file = dataset_info(config.data).pretext_file
    assert file is not None
    trunk = build_trunk(config.model, file)
    assert trunk.weights_hash == hash_weights(load_file(file))
