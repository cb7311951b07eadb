"""Test what a sweep records of its data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.sweep.origin import prepare_inputs
from tests.kit.stores import make_annotations, store_config
from training.data.store.writer import write_store


def test_known_negatives_are_counted_apart_from_unknown_labels(tmp_path: Path) -> None:
    source = make_annotations(tmp_path / "source", observed_only=True)
    train = source.phases["train"]
    assert train.observed is not None
    negatives = ~train.observed.copy()
    negatives[:, 2:] = False
    phases = {**source.phases, "train": replace(train, negatives={"given": negatives})}
    write_store(replace(source, phases=phases), str(tmp_path / "store"), image_size=16, workers=1)
    config = store_config(str(tmp_path / "store"), {"model.backbone": "torchvision/resnet18"})
    found = prepare_inputs(config)
    names = ("num_observed_positives", "num_known_negatives", "num_unknown_labels")
    assert [int(found[name]) for name in names] == [16, 0, 48]  # of 20 images 16 are in train
    used = prepare_inputs(config.with_params({"data.negatives": "given"}))
    known = int(used["num_known_negatives"])
    assert 0 < known < 32
    assert [int(used[name]) for name in names] == [16, known, 48 - known]
