"""A tiny CLIP of open_clip's own classes, which open_clip takes for one of its models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

NAME = "clip/tiny"
_CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def install_tiny_clip(patch: pytest.MonkeyPatch, folder: Path, seed: int = 0) -> Path:
    """Make open_clip know a tiny network with a tag ``openai``; return a file with random weights for it."""
    open_clip = pytest.importorskip("open_clip")
    from open_clip import factory, pretrained

    folder.mkdir(parents=True, exist_ok=True)
    described = pretrained._PRETRAINED["ViT-B-16"]["openai"] | {"hf_hub": "nobody/tiny-clip/"}
    patch.setitem(factory._MODEL_CONFIGS, "tiny", _CONFIG)
    patch.setitem(pretrained._PRETRAINED, "tiny", {"openai": described, "other": {**described, "quick_gelu": False}})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = open_clip.create_model("tiny", load_weights=False, force_quick_gelu=True)
        # The initial weights are so small that all images would look the same.
        state = {key: 5 * value if value.dim() > 1 else value for key, value in network.state_dict().items()}
    file = folder / f"tiny-{seed}.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, file)
    return file
