"""Read results as a pandas DataFrame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import UserError
from orchestrator.results.suite_record import find_suite
from orchestrator.results.suite_results import read_suite_frame
from orchestrator.sweep_folder.index import find_sweep
from orchestrator.sweep_folder.rows import RESULTS_FILE, make_table, read_rows
from orchestrator.tracking.reading import read_sweep

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def read_results(place: str | Path | None = None) -> pd.DataFrame:
    """Return results, one row per run, split and metric; the columns are those of ``sweep_folder.rows.COLUMNS``.

    Nothing is averaged, and nothing is filled in: a run that failed has one row, without a value. A value is always
    that of the chosen epoch.

    Args:
        place: The id or name of a sweep or a benchmark of this home, whose journals are read; or a Parquet file, or a
            folder with such files named ``results.parquet``, at any depth. None is the latest sweep.

    Raises:
        UserError: There is no such sweep, or no results are there.
        OrchestratorError: A journal is not as it was written.
    """
    path = None if place is None else Path(place).expanduser()
    if (path is None or not path.exists()) and (suite := find_suite(None if place is None else str(place))) is not None:
        return read_suite_frame(suite)
    if path is None or not path.exists():
        return make_table(read_rows(*read_sweep(find_sweep(None if place is None else str(place))))).to_pandas()
    return _read_files([path] if path.is_file() else sorted(path.rglob(RESULTS_FILE)), path).to_pandas()


def _read_files(files: list[Path], place: Path) -> pa.Table:
    import pyarrow as pa

    from training.data.parquet import read_parquet

    if not files:
        raise UserError(f"No {RESULTS_FILE} in {place}. Name a sweep, or a folder with results.")
    try:
        return pa.concat_tables([read_parquet(file.read_bytes()) for file in files], promote_options="default")
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"Cannot read the results in {place}: {error}.") from None
