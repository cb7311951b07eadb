"""The verb ``data score``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import JsonOption
from orchestrator.cli.output import print_json, print_line, print_next, print_note

if TYPE_CHECKING:
    from orchestrator.datasets.scoring import Scored

DEFAULT_MODEL = "clip/ViT-B-16"
# The same as orchestrator.datasets.scoring.DEFAULT_PROMPT, without its import of torch.
_PROMPT = "a photo of a {}."


def score(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A prepared dataset; `data list` lists them.", show_default=False)
    ],
    model: Annotated[
        str,
        typer.Option("--model", metavar="clip/ARCH[/TAG]", help="A network of open_clip; by default TAG is openai."),
    ] = DEFAULT_MODEL,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            metavar="FILE",
            help="Its weights as a .safetensors or .pt file; by default from the hub or its cache.",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        str, typer.Option("--prompt", metavar="TEXT", help="Text that is compared with an image; {} is the class.")
    ] = _PROMPT,
    class_names: Annotated[
        Path | None,
        typer.Option(
            "--class-names",
            metavar="FILE",
            help="A name for the prompt on each line, in the order of the classes; by default made from the classes.",
            show_default=False,
        ),
    ] = None,
    tiles: Annotated[
        int, typer.Option("--tiles", metavar="G", min=1, max=16, help="Score the tiles of a G x G grid, too.")
    ] = 4,
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="T", min=1e-4, max=10, help="Of the softmax over the classes.")
    ] = 0.01,
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", min=1, help="Images that the network gets at a time.")
    ] = 32,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace scores that were made with other settings.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Score the images of a prepared dataset with CLIP.

    Methods with pseudo-labels from CLIP (vlpl, aevlp) read the scores, which are kept next to the store. Prints the
    validation mAP of the scores themselves (zero-shot). If it is stopped, run the same command again to continue.
    """
    from orchestrator.datasets.scoring import ScoreRequest, score_dataset

    request = ScoreRequest(
        name, model, weights, prompt, class_names, tiles, temperature, batch_size=batch_size, replace=replace
    )
    scored = score_dataset(request, print_note)
    if json:
        print_json({"store": scored.uri, "files": scored.files, **scored.about, "val/mAP": scored.zero_shot_map})
        return
    _describe(name, scored)


def _describe(name: str, scored: Scored) -> None:
    for file in scored.files:
        print_line(f"scores: {shlex.quote(f'{scored.uri}/{file}')}")
    if scored.zero_shot_map is not None:
        print_line(f"zero-shot: val mAP {scored.zero_shot_map:.1f} (the scores of whole images, taken as predictions)")
    print_note("scored" if scored.is_new else "already scored; nothing was done")
    chosen = "" if scored.about["model"] == DEFAULT_MODEL else f" --set method.clip_model={scored.about['model']}"
    print_next({f"sweep SPACE --method vlpl{chosen}": "search with the scores"})
