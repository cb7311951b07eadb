"""Test that a home's own MLflow database follows a home that was moved."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion
from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlLoggedModel, SqlRun

from orchestrator.tracking.connection import make_client
from orchestrator.tracking.moved_home import PLACES, follow_home


def test_places_below_the_former_home_are_rewritten_and_others_are_not(home: Path) -> None:
    home.mkdir(exist_ok=True)
    database = home / "mlflow.db"
    former, here = "file:///former%20home/artifacts", (home / "artifacts").as_uri()
    elsewhere = "s3://bucket/artifacts/voc"
    with closing(sqlite3.connect(database)) as connection, connection:
        tables: dict[str, list[str]] = {}
        for table, column in PLACES:
            tables.setdefault(table, []).append(column)
        for table, columns in tables.items():
            connection.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
            for place in (f"{former}/birds/1", elsewhere, None):
                connection.execute(
                    f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})", [place] * len(columns)
                )
        connection.execute("UPDATE experiments SET artifact_location = ? WHERE rowid = 1", (f"{former}/birds",))
    for _ in range(2):  # the second time there is nothing to do
        follow_home(database)
        with closing(sqlite3.connect(database)) as connection:
            for table, column in PLACES:
                found = [place for (place,) in connection.execute(f"SELECT {column} FROM {table}")]
                end = "/birds" if table == "experiments" else "/birds/1"
                assert found == [here + end, elsewhere, None], table


def test_a_database_that_is_none_stops_nothing(home: Path) -> None:
    home.mkdir(exist_ok=True)
    (home / "mlflow.db").write_text("no database")
    follow_home(home / "mlflow.db")


def test_mlflow_still_keeps_places_where_we_look() -> None:
    models = {model.__tablename__: model for model in (SqlExperiment, SqlRun, SqlLoggedModel, SqlModelVersion)}
    assert all(hasattr(models[table], column) for table, column in PLACES)


def test_whoever_writes_to_mlflow_finds_the_home_where_it_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir(exist_ok=True)
    (home / "mlflow.db").touch()
    followed: list[Path] = []
    monkeypatch.setattr("mlflow.MlflowClient", lambda uri: None)
    monkeypatch.setattr("orchestrator.tracking.connection.follow_home", followed.append)
    make_client()  # without it, a resumed sweep would make its former home again for the pictures of its trials
    assert followed == [home / "mlflow.db"]
