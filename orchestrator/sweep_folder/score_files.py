"""Name the files with the scores of a sweep's final runs, image by image."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.home import sweep_dir, trial_name

SCORES_DIR = "scores"
_NAME = re.compile(r"t(\d{4,})-(val|test)\.parquet")


def scores_file(sweep_id: str, trial: int, split: str) -> Path:
    """Return the file of one run's scores on ``val`` or ``test``."""
    return sweep_dir(sweep_id) / SCORES_DIR / f"{trial_name(trial)}-{split}.parquet"


def list_scores(sweep_id: str) -> dict[tuple[int, str], Path]:
    """Return the files of a sweep that are there, by trial and split."""
    found = sorted((sweep_dir(sweep_id) / SCORES_DIR).glob("t*.parquet"))
    named = ((_NAME.fullmatch(path.name), path) for path in found)
    return {(int(match[1]), match[2]): path for match, path in named if match is not None}
