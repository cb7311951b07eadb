"""A table of finished runs as a function that a simulated trial can look up, in two ways.

``nearest``: a trial gets the recorded curve of the point that is nearest in the unit cube of the ranges. Nothing is
made up, but the function is flat around every point, which rewards no small step.

``fitted``: a trial gets the curve of a Gaussian process over the recorded curves, plus the deviation of a recorded run
from the mean of its seeds. The function is smooth, which favours samplers that model it.

A conclusion holds if it holds for both.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from benchmarks.search.tables import TABLES, TableSpec
from training.config.run import Scalar

Floats = npt.NDArray[np.float64]
LookUp = Literal["nearest", "fitted"]
LOOK_UPS: tuple[LookUp, ...] = ("nearest", "fitted")
MIN_REPLICATED = 3
_NUM_SHAPES = 4
"""Principal components of the curves that are fitted; the others are noise."""


@dataclass(frozen=True)
class Table:
    """The recorded runs of a table.

    Attributes:
        spec: What the table is of.
        places: (N, D), the points in the unit cube of the ranges.
        configs: The number of each point.
        curves: Per point: (seeds, epochs), validation mAP in percent.
        passes: (N, epochs), images passed in an epoch: forward, backward (counted twice) and validation.
        second_per_pass: CPU seconds per image passed, over all runs.
    """

    spec: TableSpec
    places: Floats
    configs: tuple[int, ...]
    curves: tuple[Floats, ...]
    passes: Floats
    second_per_pass: float

    @classmethod
    def of(cls, spec: TableSpec, lines: Sequence[Mapping[str, Any]]) -> Self:
        """Return the table of these runs; points without a run of the first seed are left out."""
        by_config: dict[int, dict[int, Mapping[str, Any]]] = {}
        for line in lines:
            by_config.setdefault(line["config"], {})[line["seed"]] = line
        configs = sorted(config for config, seeds in by_config.items() if spec.seeds[0] in seeds)
        firsts = [by_config[config][spec.seeds[0]] for config in configs]
        num_val = spec.plan.base["data.num_val"]
        assert isinstance(num_val, int)
        passes = [np.array(line["forward"]) + 2 * np.array(line["backward"]) + num_val for line in firsts]
        seconds = sum(sum(line["cpu_s"]) for line in firsts)
        ranges = spec.plan.ranges
        return cls(
            spec=spec,
            places=np.array(
                [[found.place_of(line["params"][key]) for key, found in ranges.items()] for line in firsts]
            ),
            configs=tuple(configs),
            curves=tuple(
                np.array([by_config[config][seed]["val_mAP"] for seed in sorted(by_config[config])])
                for config in configs
            ),
            passes=np.array(passes),
            second_per_pass=float(seconds / np.sum(passes)),
        )

    @property
    def num_runs(self) -> int:
        """Number of runs over all seeds."""
        return sum(map(len, self.curves))

    @property
    def is_complete(self) -> bool:
        """Whether every point has been trained, and the best third with all seeds."""
        count = sum(len(curves) >= len(self.spec.seeds) for curves in self.curves)
        return len(self.configs) == self.spec.num_configs and count >= len(self.configs) // 3

    @property
    def progress(self) -> str:
        """How many of its points there are, as text."""
        return f"{len(self.configs)} of {self.spec.num_configs} points"

    @cached_property
    def truth(self) -> Floats:
        """(N,), the mean over the seeds of each point's best epoch."""
        return np.array([curves.max(1).mean() for curves in self.curves])

    @cached_property
    def residuals(self) -> Floats:
        """(R, epochs), how runs of points with several seeds differ from their mean, scaled to have no bias."""
        kept = [
            (curves - curves.mean(0)) * np.sqrt(len(curves) / (len(curves) - 1))
            for curves in self.curves
            if len(curves) >= MIN_REPLICATED
        ]
        return np.concatenate(kept) if kept else np.zeros((1, self.passes.shape[1]))

    @cached_property
    def seed_deviation(self) -> float:
        """Standard deviation of the best epoch between the seeds of one point, over all points with several."""
        groups = [curves.max(1) for curves in self.curves if len(curves) >= MIN_REPLICATED]
        if not groups:
            return float("nan")
        squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
        return float(np.sqrt(squares / sum(len(group) - 1 for group in groups)))

    def place(self, params: Mapping[str, Scalar]) -> Floats:
        """Return where a point is in the unit cube."""
        return np.array([found.place_of(params[key]) for key, found in self.spec.plan.ranges.items()])


@dataclass(frozen=True)
class Objective:
    """What simulated trials are measured by.

    Attributes:
        table: The runs.
        look_up: ``nearest`` or ``fitted``.
    """

    table: Table
    look_up: LookUp

    @property
    def best(self) -> float:
        """The true quality of the best point of the table."""
        return float(self._truths.max())

    @property
    def median(self) -> float:
        """The true quality of the median point of the table."""
        return float(np.median(self._truths))

    @cached_property
    def _truths(self) -> Floats:
        return self.table.truth if self.look_up == "nearest" else self._fit.means(self.table.places).max(1)

    @cached_property
    def _fit(self) -> Fit:
        return Fit.of(self.table)

    def truth(self, params: Mapping[str, Scalar]) -> float:
        """Return the true quality of a point in percent: without the noise of its seed."""
        place = self.table.place(params)
        if self.look_up == "nearest":
            return float(self.table.truth[self._nearest(place)])
        return float(self._fit.means(place[None])[0].max())

    def curve(self, params: Mapping[str, Scalar], generator: np.random.Generator) -> Floats:
        """Return the validation mAP of every epoch of one run at a point."""
        place = self.table.place(params)
        if self.look_up == "nearest":
            curves = self.table.curves[self._nearest(place)]
            return np.asarray(curves[generator.integers(len(curves))])
        residuals = self.table.residuals
        return np.asarray(self._fit.means(place[None])[0] + residuals[generator.integers(len(residuals))])

    def seconds(self, params: Mapping[str, Scalar]) -> Floats:
        """Return the seconds of every epoch at a point: its images passed, at the mean speed of all runs."""
        # Warm-up and batch size decide how many images pass, so the nearest point has about the right number.
        return np.asarray(self.table.passes[self._nearest(self.table.place(params))] * self.table.second_per_pass)

    def _nearest(self, place: Floats) -> int:
        return int(((self.table.places - place) ** 2).sum(1).argmin())


@dataclass(frozen=True)
class Fit:
    """Gaussian processes over the shapes of the curves.

    Attributes:
        mean: (epochs,), mean of all curves.
        shapes: (S, epochs), principal components.
        processes: One for the coefficient of each shape.
    """

    mean: Floats
    shapes: Floats
    processes: tuple[GaussianProcessRegressor, ...]

    @classmethod
    def of(cls, table: Table, kept: Sequence[int] | None = None) -> Self:
        """Fit a table, or only its points with these indices."""
        rows = range(len(table.configs)) if kept is None else kept
        curves = np.array([table.curves[row].mean(0) for row in rows])
        places, mean = table.places[list(rows)], curves.mean(0)
        shapes = np.linalg.svd(curves - mean, full_matrices=False)[2][:_NUM_SHAPES]
        return cls(mean, shapes, tuple(_fit_process(places, column) for column in ((curves - mean) @ shapes.T).T))

    def means(self, places: Floats) -> Floats:
        """Return the fitted curves (n, epochs) of points (n, D)."""
        coefficients = np.stack([process.predict(places) for process in self.processes], axis=1)
        return np.asarray(self.mean + coefficients @ self.shapes)


def _fit_process(places: Floats, values: Floats) -> GaussianProcessRegressor:
    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(np.ones(places.shape[1]), (0.1, 30.0), nu=2.5)
    process = GaussianProcessRegressor(
        kernel + WhiteKernel(0.1, (1e-4, 1.0)), normalize_y=True, n_restarts_optimizer=0, random_state=0
    )
    with warnings.catch_warnings():
        # A setting that changes nothing has a length scale at its upper bound.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return process.fit(places, values)


def cross_validate(table: Table, num_parts: int = 5) -> Floats:
    """Return the fitted best epoch of every point by a fit without it and its part: how good ``fitted`` is."""
    parts = np.arange(len(table.configs)) % num_parts
    predicted = np.zeros(len(table.configs))
    for part in range(num_parts):
        fit = Fit.of(table, np.flatnonzero(parts != part).tolist())
        predicted[parts == part] = fit.means(table.places[parts == part]).max(1)
    return predicted


def write_table(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write runs as Parquet: one row per epoch, with the points as JSON in the metadata.

    Two processes may have trained the same run at the same time; the last one counts.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("config", "seed", "epoch", *_PER_EPOCH)}
    for _, line in sorted({(line["config"], line["seed"]): line for line in lines}.items()):
        for epoch in range(len(line["val_mAP"])):
            columns["config"].append(line["config"])
            columns["seed"].append(line["seed"])
            columns["epoch"].append(epoch + 1)
            for name in _PER_EPOCH:
                columns[name].append(line[name][epoch])
    points = {str(line["config"]): line["params"] for line in lines}
    identity = sorted({(line["data_hash"], line["weights_hash"], line["code"]) for line in lines})
    notes = {"points": json.dumps(points, sort_keys=True), "identity": json.dumps(identity)}
    types = {"config": pa.int16(), "seed": pa.int16(), "epoch": pa.int16()}
    arrays = {name: pa.array(values, types.get(name, pa.float32())) for name, values in columns.items()}
    pq.write_table(pa.table(arrays).replace_schema_metadata(notes), path, compression="zstd")


_PER_EPOCH = ("val_mAP", "cpu_s", "forward", "backward")


def read_table(name: str, path: Path) -> Table:
    """Return a table from its Parquet file."""
    read = pq.read_table(path)
    points = json.loads(read.schema.metadata[b"points"])
    lines: dict[tuple[int, int], dict[str, Any]] = {}
    for row in read.to_pylist():
        key = row["config"], row["seed"]
        if key not in lines:
            empty: dict[str, Any] = {column: [] for column in _PER_EPOCH}
            lines[key] = {"config": key[0], "seed": key[1], "params": points[str(key[0])], **empty}
        for column in _PER_EPOCH:
            lines[key][column].append(row[column])
    return Table.of(TABLES[name], list(lines.values()))
