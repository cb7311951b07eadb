"""Exceptions of the training core that somebody catches.

ValueError
└── ConfigError           a setting is unknown, of the wrong type or out of range
    └── NotThisDatasetError  the source folder does not hold the dataset that was asked for
RuntimeError
├── NonFiniteLossError    a step's loss was NaN or infinite; the weights were left alone
├── StepMemoryError       a step found no memory; with the figures
├── CheckpointError       a checkpoint is missing, cut short or of another configuration
├── DatasetError          a dataset is not prepared, or is not what its hash says
│   └── StoreError        a store cannot be written, is not whole, or is of another version
└── WeightsError          pretrained weights cannot be had
"""

from __future__ import annotations

from collections.abc import Mapping


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type or out of range.

    Attributes:
        key: The dotted key at fault (``method.cam_threshold``), or None if no single key is.
    """

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class NotThisDatasetError(ConfigError):
    """The source folder does not hold the dataset that was asked for."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "--source")


class NonFiniteLossError(RuntimeError):
    """A step's loss was NaN or infinite; no weight and no method state took part in that step.

    Attributes:
        epoch: Epoch of the first bad step, counted from 1.
        step: That step within the epoch, counted from 1.
        parts: Loss part name -> its value at that step.
    """

    def __init__(self, epoch: int, step: int, parts: dict[str, float]) -> None:
        listed = ", ".join(f"{name}={value:g}" for name, value in parts.items())
        super().__init__(f"loss must be finite, but at epoch {epoch}, step {step} its parts were {listed}")
        self.epoch, self.step, self.parts = epoch, step, parts

    def __reduce__(self) -> tuple[type, tuple[int, int, dict[str, float]]]:
        return type(self), (self.epoch, self.step, self.parts)


class StepMemoryError(RuntimeError):
    """A step found no memory on its device; torch's own error is its cause.

    Attributes:
        figures: device, epoch, step, batch_size (of this process), image_size, peak_gib (allocated at most), total_gib
            (what there is).
    """

    def __init__(self, figures: Mapping[str, str | float]) -> None:
        super().__init__(
            "step must fit into the memory of the {device}, but got out of memory at epoch {epoch}, step {step} with "
            "batch={batch_size}, "
            "image_size={image_size}: {peak_gib} GiB allocated at most, {total_gib} GiB in all. "
            "See which batch fits: orchestrator max-batch SPACE; change it with --set optim.batch_size=N".format(
                **figures
            )
        )
        self.figures = dict(figures)

    def __reduce__(self) -> tuple[type, tuple[dict[str, str | float]]]:
        return type(self), (self.figures,)


class CheckpointError(RuntimeError):
    """A checkpoint is missing, cut short or belongs to another configuration."""


class DatasetError(RuntimeError):
    """A dataset is not prepared, or is not what its hash says."""


class StoreError(DatasetError):
    """A store cannot be written, is not whole, or is of another version."""


class WeightsError(RuntimeError):
    """Pretrained weights cannot be had here."""
