"""What a user requests from ``plan``, ``sweep``, ``train`` and ``ablate``, as one frozen object."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.errors import UserError
from orchestrator.home import check_name, clean_name
from orchestrator.planning.sweep_plan import Kind
from orchestrator.planning.template import describe_missing_space, fit_if_prepared
from orchestrator.uris import absolute_uri, require_safe_uri
from search_spaces.reader import SpaceError
from search_spaces.schema import SearchSpace, load_space
from training.config.run import Scalar

# The smallest value of each flag that counts something.
_LEAST = {
    **dict.fromkeys(("--trials", "--concurrency", "--seeds", "--draws", "--workers"), 1),
    **dict.fromkeys(("--startup-trials", "--seed"), 0),
}


@dataclass(frozen=True)
class PlanRequest:
    """What a user asks for; a field that is None takes the search space's value.

    Attributes:
        space: A shipped name, a YAML file, or a loaded space; None for a training of ``source``.
        kind: ``sweep``, ``train`` (one run, no search) or ``ablate`` (a method with and without each of its parts).
        source: What ``train --from`` names: a YAML file of settings, an MLflow run id, or ``SWEEP/TRIAL``.
        method: Label of a method block.
        recipe: ``common`` (or None): the space's own settings; ``published``: the method's published settings, or the
            whole grid from which its authors chose, at full length.
        trials, epochs, startup_trials: Replace the space's budget.
        concurrency: Trials at a time; None means as many as the CPUs and GPUs can hold.
        seed: Seed of the search; the training seed is ``loop.seed``.
        seeds: Training seeds of each variant of an ablation, or of a promotion.
        draws: Label draws of a promotion.
        workers: Ray Train workers of a final run.
        overrides: ``--set``: dotted key -> value; text is read as in a YAML file. An overridden key is not searched.
        learned: Settings of the best trials of earlier sweeps, the best first; those that fit are tried after the
            space's start points.
        name: Replaces the space's name. The caller checks that it is free.
        storage: Folder or URI for checkpoints; None is the sweep's own folder.
        num_cpus, num_gpus: Available resources; None means those of this machine.
        max_gpu_hours: No new trial starts that could bring search and promotion above this.
        min_gain: The sweep ends early once the trials that are left are expected to gain fewer points together.
    """

    space: str | Path | SearchSpace | None = None
    kind: Kind = "sweep"
    source: str | None = None
    method: str | None = None
    recipe: str | None = None
    trials: int | None = None
    epochs: int | None = None
    startup_trials: int | None = None
    concurrency: int | None = None
    seed: int | None = None
    seeds: int = 3
    draws: int = 1
    workers: int = 1
    overrides: Mapping[str, Scalar] = field(default_factory=dict)
    learned: tuple[Mapping[str, Scalar], ...] = ()
    name: str | None = None
    storage: str | None = None
    num_cpus: int | None = None
    num_gpus: int | None = None
    max_gpu_hours: float | None = None
    min_gain: float | None = None

    def check_counts(self) -> None:
        """Check every flag that counts something.

        Raises:
            UserError: A value is too small.
        """
        # Checked here and not by typer, so that Python callers get the same check and message.
        for flag, least in _LEAST.items():
            value = getattr(self, flag.removeprefix("--").replace("-", "_"))
            if value is not None and value < least:
                raise UserError(f"{flag} must be at least {least}, but got {flag}={value}.")
        require_hours(self.max_gpu_hours)

    def load_space(self) -> SearchSpace:
        """Return the search space.

        Raises:
            SpaceError: The file does not exist or is not a search space.
            UserError: It is the name of a prepared dataset.
        """
        assert self.space is not None
        if isinstance(self.space, SearchSpace):
            return self.space
        try:
            return fit_if_prepared(load_space(self.space))
        except SpaceError:
            if hint := describe_missing_space(str(self.space)):
                raise UserError(hint) from None
            raise

    def choose_name(self, default: str) -> str:
        """Return the name of the sweep: the user's, or one made from the default (``digits-train`` for a training).

        Raises:
            UserError: The user's name has characters that a path, a URL or ``SWEEP/TRIAL`` cannot hold.
        """
        suffix = "" if self.kind == "sweep" else f"-{self.kind}"
        return check_name(f"{clean_name(default)}{suffix}" if self.name is None else self.name)

    @property
    def storage_uri(self) -> str | None:
        """Return where checkpoints go; a folder as an absolute path, because ``resume`` may start in another folder.

        Raises:
            UserError: It contains credentials.
        """
        require_safe_uri("--storage", self.storage)
        return None if self.storage is None else absolute_uri(self.storage)


def require_hours(max_gpu_hours: float | None) -> None:
    """Check a limit of GPU-hours.

    Raises:
        UserError: It is no positive number.
    """
    if max_gpu_hours is not None and not 0 < max_gpu_hours < math.inf:
        raise UserError(f"--max-gpu-hours must be a number above 0, but got --max-gpu-hours={max_gpu_hours:g}.")


def parse_overrides(assignments: Iterable[str]) -> dict[str, Scalar]:
    """Parse ``--set key=value ...``; values stay text until their key is known.

    Raises:
        UserError: The ``=``, the key or the value is missing, a key occurs twice, or a URI contains credentials.
    """
    overrides: dict[str, Scalar] = {}
    for assignment in assignments:
        key, _, value = (part.strip() for part in assignment.partition("="))
        # An empty value would be read as null, which must be written as `null`.
        if not key or not value:
            raise UserError(f"--set must be key=value, but got --set {assignment!r}. For example: --set optim.lr=1e-3")
        # Checked here, where the flag is known; the merged settings are checked again.
        require_safe_uri(f"--set {key}", value)
        if key in overrides:
            raise UserError(f"--set gives {key} twice: {overrides[key]} and {value}. Leave one out.")
        overrides[key] = value
    return overrides
