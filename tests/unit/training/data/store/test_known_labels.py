"""Test given positives and known negatives: what a store keeps of them, what a run observes, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.kit.stores import make_annotations, store_config
from training.config.fit import check_fit
from training.config.run import DataConfig, TrainConfig
from training.data.loaders import make_train_batches
from training.data.protocol import draw_single_positives, split_train_val
from training.data.registry import load_split
from training.data.sources.annotations import Annotations
from training.data.store.label_table import from_parquet, to_parquet
from training.data.store.reader import Store, open_store
from training.data.store.writer import write_store
from training.data.views import UNIT_SCALE
from training.errors import ConfigError
from training.loop.run import TrainingRun

SEED = 1200
TRAIN, VAL = split_train_val(20, SEED)


def with_negatives(source: Annotations, recordings: bool = False) -> Annotations:
    """Return a source whose third class is known to be absent from every image that does not show it.

    The fourth is too, by another kind of knowledge, in each second image. Of the first three training images no
    positive is given, and of the third nothing at all.
    """
    phase = source.phases["train"]
    observed = np.array(phase.observed)
    observed[TRAIN[:3]] = False
    by_range, by_list = np.zeros_like(observed), np.zeros_like(observed)
    by_range[:, 2] = ~observed[:, 2]
    by_list[::2, 3] = ~observed[::2, 3]
    by_range[TRAIN[2]] = by_list[TRAIN[2]] = False
    changed = replace(phase, observed=observed, negatives={"range": by_range, "checklist": by_list})
    if recordings:
        changed = replace(changed, recordings=tuple(f"r{row // 3}" for row in range(len(phase))))
    return replace(source, phases={**source.phases, "train": changed})


def prepared(source: Annotations, folder: Path) -> Store:
    write_store(source, str(folder), image_size=16, workers=1)
    return open_store(str(folder))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("known")
    return prepared(with_negatives(make_annotations(folder, observed_only=True)), folder / "store")


def config_of(store: Store, **changes: str) -> TrainConfig:
    return store_config(store.uri, {f"data.{key}": value for key, value in changes.items()})


def test_a_store_gives_back_what_its_source_knew(store: Store) -> None:
    table = store.labels("train")
    assert list(table.negatives) == ["range", "checklist"]
    again = from_parquet(to_parquet(table).to_pybytes(), 4)
    for kind, matrix in table.negatives.items():
        assert np.array_equal(again.negatives[kind], matrix)
    assert not store.labels("test").negatives
    assert store.check() == []


def test_negatives_and_recordings_are_part_of_the_datas_identity(tmp_path: Path) -> None:
    """That hashes without them are what they were is for tests/integration/test_earlier_data.py."""
    plain = make_annotations(tmp_path, observed_only=True)
    hashes = {
        prepared(each, tmp_path / f"store{number}").manifest.data_hash
        for number, each in enumerate((plain, with_negatives(plain), with_negatives(plain, recordings=True)))
    }
    assert len(hashes) == 3


def test_images_of_which_nothing_is_known_are_left_out_of_training_alone(store: Store) -> None:
    without, given, by_list = (
        load_split(config_of(store, negatives=kind).data, "train") for kind in ("none", "given", "checklist")
    )
    assert (len(without), len(given)) == (13, 15)
    assert len(by_list) == 13 + sum(int(row) % 2 == 0 for row in TRAIN[:2])
    assert without.negative is None
    assert given.negative is not None
    assert (given.observed.any(1) | given.negative.any(1)).all()
    assert not (given.observed & given.negative).any()
    either = np.logical_or(*store.labels("train").negatives.values())
    rows = [row for row in TRAIN if row != TRAIN[2]]
    assert np.array_equal(given.negative.numpy(), either[rows])
    vals = [load_split(config_of(store, negatives=kind).data, "val") for kind in ("none", "given")]
    assert [len(val) for val in vals] == [len(VAL), len(VAL)]
    assert [val.negative for val in vals] == [None, None]
    # What `data show` takes a split's pictures by.
    assert len(store.rows("train", SEED)[1]) == len(without)


def test_batches_carry_the_negatives_of_their_images(store: Store) -> None:
    config = config_of(store, negatives="given")
    data = load_split(config.data, "train")
    batches = make_train_batches(data, UNIT_SCALE, config, False, torch.device("cpu"))
    for batch in batches.epoch(1):
        assert batch.negative is not None
        assert data.negative is not None
        assert torch.equal(batch.negative, data.negative[batch.index])


@pytest.mark.parametrize("method", ["em_apl", "role", "crisp"])
def test_a_run_learns_the_negatives(store: Store, method: str) -> None:
    settings = {"loop.epochs": 8, "loop.select_epoch_by": "observed-val", "method.name": method}
    settings |= {"method.warmup_epochs": 1} if method != "role" else {"method.expected_positives": 1.0}
    scores = {}
    for kind in ("none", "given"):
        run = TrainingRun(config_of(store, negatives=kind).with_params(settings))
        while not run.finished:
            metrics = run.train_epoch()
        assert all(np.isfinite(value) for value in metrics.values())
        logits, _, _ = run._val_scores()
        scores[kind] = float(logits[:, 2].mean() - logits[:, :2].mean())
    assert scores["given"] < scores["none"], "the third class is the one that is known to be absent"


def test_given_and_drawn_positives(tmp_path: Path, store: Store) -> None:
    source = make_annotations(tmp_path)
    train = source.phases["train"]
    assert train.true is not None
    given = np.zeros_like(train.true)
    given[np.arange(20), np.arange(20) % 4] = True
    both = replace(source, phases={**source.phases, "train": replace(train, observed=given)})
    uri = prepared(both, tmp_path / "store").uri
    for positives, expected in ((None, given), ("given", given), ("drawn", draw_single_positives(train.true, SEED))):
        found = load_split(store_config(uri, {"data.positives": positives}).data, "train")
        assert np.array_equal(found.observed.numpy(), expected[TRAIN])
    with pytest.raises(
        ConfigError, match=r"data.positives must be drawn with data.draw_seed=7, because given positives"
    ):
        TrainConfig.from_flat({"data.draw_seed": 7, "data.positives": "given"})
    drawn_only = prepared(source, tmp_path / "drawn")
    for data, wrong, said in (
        (store, {"positives": "drawn"}, r"mine gives only observed ones. Set data.positives=given"),
        (drawn_only, {"positives": "given"}, r"mine gives all true ones.*Set data.positives=drawn"),
        (drawn_only, {"negatives": "given"}, r"but mine gives none. Set data.negatives=none; in observed.csv .* -1"),
    ):
        with pytest.raises(ConfigError, match=said) as error:
            load_split(config_of(data, **wrong).data, "train")
        assert error.value.key == f"data.{next(iter(wrong))}"
    of_list = {"checklist": store.labels("train").negatives["checklist"]}
    phase = replace(both.phases["train"], negatives=of_list)
    listed = prepared(replace(both, phases={**both.phases, "train": phase}), tmp_path / "listed")
    with pytest.raises(
        ConfigError, match=r"must be one of none, given, checklist for mine, but got data.negatives=range"
    ):
        load_split(config_of(listed, negatives="range").data, "train")


def test_digits_give_no_labels() -> None:
    for changes, said in (({"positives": "given"}, "drawn"), ({"negatives": "given"}, "none")):
        data = DataConfig(name="digits", image_size=40, **changes)  # type: ignore[arg-type]
        key = next(iter(changes))
        with pytest.raises(ConfigError, match=f"data.{key} must be {said} for digits, whose labels are all true"):
            check_fit(TrainConfig(data=data))
