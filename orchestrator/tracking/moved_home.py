"""Keep MLflow's artifacts in a home that was moved or copied.

MLflow stores the absolute place of every artifact in its database, and offers no way to change it. Without this, a home
that was moved would write to its former place, and a promoted model would not be found.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from orchestrator.home import artifacts_dir

PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow 3 that hold the place of an artifact; a test checks that they exist."""


def follow_home(database: Path) -> None:
    """Rewrite the places in the home's own database that lie in the artifacts of a former home.

    Args:
        database: ``mlflow.db`` in the home. If another process holds it, the next call does it.
    """
    here = artifacts_dir().as_uri()
    # Neither a lock nor a missing table is worth stopping for.
    with suppress(sqlite3.Error), closing(sqlite3.connect(database, timeout=5)) as connection, connection:
        for (former,) in connection.execute("SELECT artifact_location FROM experiments").fetchall():
            root, slash, _ = str(former).rpartition("/")
            if slash and root != here and root.startswith("file:") and root.endswith("/artifacts"):
                for table, column in PLACES:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # names of our own
                        f"WHERE substr({column}, 1, ?) = ?",
                        (here, len(root) + 1, len(root) + 1, f"{root}/"),
                    )
