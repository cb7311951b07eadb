"""Define the interface of a run that an actor or a Ray Train worker steps; does not import torch."""

from __future__ import annotations

import tempfile
import traceback
from pathlib import Path
from typing import Protocol


class Run(Protocol):
    """A run that is stepped one epoch at a time, such as :class:`training.loop.run.TrainingRun`."""

    metrics: dict[str, float]
    passed_over: tuple[str, ...]
    """Names of incomplete checkpoints that were newer than the one the run resumed from, or all there were."""

    @property
    def epoch(self) -> int:
        """The last finished epoch."""

    @property
    def finished(self) -> bool:
        """Whether that epoch is the last of the run."""

    def resume(self) -> bool:
        """Load the newest complete checkpoint, and return whether there is one."""

    def train_epoch(self) -> dict[str, float]:
        """Train and evaluate one epoch."""

    def save(self) -> None:
        """Write the checkpoint of this epoch."""

    def load_best(self) -> None:
        """Load the weights of the best epoch."""

    def write_artifacts(self, folder: Path, title: str) -> None:
        """Write pictures and tables of the current weights; the title identifies the run."""


def collect_artifacts(run: Run, title: str, *, forgiving: bool = True) -> dict[str, bytes]:
    """Return the files that a finished run writes about its best weights: relative path -> content.

    Args:
        run: A finished run.
        title: Sweep and trial, to identify a picture that is seen on its own.
        forgiving: Whether an error goes into ``artifacts_error.txt`` instead of being raised, so that a picture that
            cannot be drawn does not fail the run. Pass False for one rank of several, because the others would wait.
    """
    with tempfile.TemporaryDirectory(prefix="artifacts-") as folder:
        try:
            run.load_best()
            run.write_artifacts(Path(folder), title)
        except Exception:
            if not forgiving:
                raise
            (Path(folder) / "artifacts_error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
