"""The verb ``spaces``: list the shipped search spaces, or print one in full, to copy."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator.cli.completion import complete_space
from orchestrator.cli.options import JsonOption
from orchestrator.cli.output import print_file, print_json, print_line, print_table
from orchestrator.program import program
from training.data.dataset_names import FOLDER

COPY = "my.yaml"


def spaces(
    space: Annotated[
        str | None,
        typer.Argument(
            metavar="SPACE",
            help="Print this shipped space or YAML file in full.",
            show_default=False,
            autocompletion=complete_space,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="NAME",
            help="Print the space folder or photos for this prepared dataset: its name, size, protocol, start points.",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """List the shipped search spaces, or print one in full.

    A shipped space builds on search_spaces/methods/; the printed form is one self-contained file. Copy it, change it,
    and give its path instead of a shipped name.
    """
    from search_spaces.schema import load_space, shipped_spaces

    if space is not None or data is not None:
        loaded = load_space(space or FOLDER)
        if data is not None:
            from orchestrator.planning.template import fit_template

            loaded = fit_template(loaded, data)
        if json:
            print_json(loaded.model_dump(mode="json"))
        else:
            copy = COPY if data is None else f"{data}.yaml"
            print_file(_as_copy(loaded.text.rstrip("\n"), loaded.reference, copy))
        return
    entries = [_describe(name) for name in shipped_spaces()]
    if json:
        print_json(entries)
        return
    print_table(
        ["space", "dataset", "methods", "trials", "epochs", "what it is"],
        [tuple(entry.values()) for entry in entries],
        right=(2, 3, 4),
        wrapped=(5,),
        hint=f"{program()} spaces --json",
    )
    print_line(f"Print one in full, to copy: {program()} spaces digits > {COPY}")


def _as_copy(text: str, name: str, copy: str) -> str:
    """Return the text of a space with the command in its header as it is for a copy."""
    # A copy is run by the name of its file; the shipped name would run the original.
    return text.replace(f"  orchestrator sweep {name}", f"  orchestrator sweep {copy}", 1)


def _describe(name: str) -> dict[str, Any]:
    from search_spaces.schema import load_space

    space = load_space(name)
    return {
        "space": name,
        "dataset": space.dataset,
        "methods": len(space.methods),
        "trials": space.budget.trials,
        "epochs": space.budget.epochs,
        "title": space.header.partition("\n")[0].rstrip("."),
    }
