"""Names of the datasets, and the command that prepares each. Imports only the standard library."""

from __future__ import annotations

EMBEDDED = "digits"
"""Made from data that ships with scikit-learn when a run first needs it."""
IMAGE_DATASETS = ("voc", "coco", "nuswide", "cub", "l48")
FOLDER = "folder"
"""Your own images and labels; ``--name`` gives such a dataset another name."""


def prepare_command(name: str) -> str:
    """Return the command that prepares a dataset."""
    if name in (*IMAGE_DATASETS, FOLDER):
        return f"orchestrator data prepare {name} --source DIR"
    return f"orchestrator data prepare {FOLDER} --source DIR --name {name}"
