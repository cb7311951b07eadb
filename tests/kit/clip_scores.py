"""Scores as CLIP would give them, without CLIP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from training.config.run import DataConfig
from training.data.registry import load_split
from training.data.store.clip_scores import ClipScores, ScoreFile, scores_name
from training.data.store.reader import open_store
from training.data.store.storage import Storage


def make_scores(num: int, num_classes: int, seed: int = 0) -> ClipScores:
    """Draw scores: softmaxes, and a lower and a higher value for each."""
    generator = torch.Generator().manual_seed(seed)
    low, whole, high = ((4 * torch.randn(num, num_classes, generator=generator)).softmax(-1) for _ in range(3))
    return ClipScores(whole, torch.maximum(low, high), torch.minimum(low, high))


def write_scores(uri: str, model: str = "clip/ViT-B-16", seed: int = 0, data_hash: str | None = None) -> ClipScores:
    """Write drawn scores of the official train images next to a store, and return them."""
    store = open_store(uri)
    ids, _ = store.images("train")
    scores = make_scores(len(ids), len(store.classes), seed)
    about = {"model": model, "data_hash": data_hash or store.manifest.data_hash}
    Storage(uri).put(scores_name(model, "train"), ScoreFile(ids, scores, about).encode())
    return scores


@contextmanager
def drawn_scores() -> Iterator[None]:
    """Within it, runs on any dataset find drawn scores of CLIP: the tests' digits have none."""

    def load(config: DataConfig, model: str) -> tuple[ClipScores, str]:
        train = load_split(config, "train")
        return make_scores(len(train), len(train.classes)), f"{model} 0f"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.methods.registry.load_clip_scores", load)
        yield
