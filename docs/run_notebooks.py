"""Run the notebooks and keep their output: ``make notebooks``."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def run(path: Path) -> None:
    """Run one notebook in a home of its own; it is written only if every cell succeeds."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory(prefix="notebook-") as home:
        os.environ["ORCHESTRATOR_HOME"] = home
        # Without times: equal output should be an equal file.
        NotebookClient(notebook, timeout=3600, record_timing=False).execute()
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        run(Path(name))
