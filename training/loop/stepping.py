"""What whoever steps a run, an actor or a Ray Train worker, needs of it. Imports no torch."""

from __future__ import annotations

import tempfile
import traceback
from pathlib import Path
from typing import Protocol


class Run(Protocol):
    """What is stepped by the epoch; :class:`training.loop.run.TrainingRun` is one."""

    metrics: dict[str, float]
    passed_over: tuple[str, ...]
    """Names of checkpoints that were newer than what was resumed from, but not whole."""

    @property
    def epoch(self) -> int:
        """The last epoch finished."""

    @property
    def finished(self) -> bool:
        """Whether that is the last one of all."""

    def resume(self) -> bool:
        """Load the newest whole checkpoint, if there is any."""

    def train_epoch(self) -> dict[str, float]:
        """Train and evaluate one epoch."""

    def save(self) -> None:
        """Write the checkpoint of this epoch."""

    def load_best(self) -> None:
        """Load the weights of the best epoch."""

    def write_artifacts(self, folder: Path, title: str) -> None:
        """Write pictures and tables of the current weights; the title says whose they are."""


def collect_artifacts(run: Run, title: str, *, forgiving: bool = True) -> dict[str, bytes]:
    """Return the files that a finished run writes of its best weights: relative path -> content.

    Args:
        run: Finished.
        title: Sweep and trial, for whoever meets a picture far from them.
        forgiving: A picture that cannot be drawn does not cost the run that it is of: what was raised is then in
            ``artifacts_error.txt``. Not for one rank of several: the others would wait for it.
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
