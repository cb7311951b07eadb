"""Exceptions of the training core that callers catch.

ValueError
└── ConfigError           a setting is unknown, of the wrong type or out of range
    └── NotThisDatasetError  the source folder does not hold the requested dataset
RuntimeError
├── NonFiniteLossError    a step's loss was NaN or infinite; the weights were left alone
├── StepMemoryError       a step ran out of memory; carries the figures
├── CheckpointError       a checkpoint is missing, truncated or of another configuration
├── DatasetError          a dataset is not prepared, or does not match its hash
│   └── StoreError        a store cannot be written, is incomplete, or is of another version
└── WeightsError          pretrained weights cannot be loaded
"""

from __future__ import annotations

from collections.abc import Mapping


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type or out of range.

    Attributes:
        key: The dotted key at fault (``method.cam_threshold``), or None if there is no single one.
    """

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class NotThisDatasetError(ConfigError):
    """The source folder does not hold the requested dataset."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "--source")


class NonFiniteLossError(RuntimeError):
    """A step's loss was NaN or infinite; the step changed neither weights nor method state.

    Attributes:
        epoch: Epoch of the first bad step, counted from 1.
        step: That step within the epoch, counted from 1.
        parts: Value of each loss part at that step, by name.
    """

    def __init__(self, epoch: int, step: int, parts: dict[str, float]) -> None:
        listed = ", ".join(f"{name}={value:g}" for name, value in parts.items())
        super().__init__(f"The loss is not finite at epoch {epoch}, step {step}: {listed}")
        self.epoch, self.step, self.parts = epoch, step, parts

    # Exceptions are pickled by their message; without this, an actor's error could not be rebuilt in the driver.
    def __reduce__(self) -> tuple[type, tuple[int, int, dict[str, float]]]:
        return type(self), (self.epoch, self.step, self.parts)


class StepMemoryError(RuntimeError):
    """A step ran out of memory; torch's own error is its cause.

    Attributes:
        figures: device, epoch, step, batch_size (of this process), image_size, peak_gib (the most that was allocated),
            total_gib (the total memory).
    """

    def __init__(self, figures: Mapping[str, str | float]) -> None:
        super().__init__(
            "The {device} ran out of memory at epoch {epoch}, step {step} with batch={batch_size}, "
            "image_size={image_size}: {peak_gib} GiB of {total_gib} GiB were allocated. "
            "Find out which batch fits: orchestrator max-batch SPACE. Set it with --set optim.batch_size=N".format(
                **figures
            )
        )
        self.figures = dict(figures)

    def __reduce__(self) -> tuple[type, tuple[dict[str, str | float]]]:
        return type(self), (self.figures,)


class CheckpointError(RuntimeError):
    """A checkpoint is missing, truncated or belongs to another configuration."""


class DatasetError(RuntimeError):
    """A dataset is not prepared, or does not match its hash."""


class StoreError(DatasetError):
    """A store cannot be written, is incomplete, or is of another version."""


class SourceError(StoreError):
    """The files of a dataset's source have faults, which only the user can fix."""


class WeightsError(RuntimeError):
    """Pretrained weights cannot be loaded here."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
