"""Writes ``orchestrator/_build.json`` into a wheel: the commit and the lock hash, which an installed package cannot
look up.
"""

from __future__ import annotations

import json
import runpy
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BuildFacts(BuildHookInterface[Any]):
    """Adds what :func:`orchestrator.provenance.read_build` says of this checkout. An editable install has the checkout
    to ask.
    """

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the file outside the checkout and have hatchling put it in its place."""
        if version == "editable":
            return
        package = Path(self.root) / "orchestrator"
        # By its path: an `orchestrator` installed in the building environment may be another one.
        provenance = runpy.run_path(str(package / "provenance.py"))
        self.folder = tempfile.TemporaryDirectory()
        written = Path(self.folder.name) / provenance["BUILD_FILE"]
        written.write_text(json.dumps(provenance["read_build"](package), indent=2) + "\n", encoding="utf-8")
        build_data["force_include"][str(written)] = f"orchestrator/{written.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary file."""
        if version != "editable":
            self.folder.cleanup()
