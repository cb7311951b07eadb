"""The error of a source with faults: which, and whether --skip-bad helps."""

from __future__ import annotations

from collections.abc import Sequence

from training.counts import counted
from training.data.sources.annotations import Annotations, Fault, describe_faults
from training.errors import SourceError


class BadSourceError(SourceError):
    """A source has faults, and the affected images may not be left out.

    Args:
        faults: All faults.
        num_left: Training images without a fault.
    """

    def __init__(self, faults: Sequence[Fault], num_left: int = 0) -> None:
        if any(fault.is_fatal for fault in faults):
            otherwise = "Until they are fixed, the labels cannot be trusted, so --skip-bad does not help"
        elif num_left:
            otherwise = f"Or leave these images out with --skip-bad, which keeps {counted(num_left, 'training image')}"
        else:
            otherwise = "--skip-bad does not help, because no training image would be left"
        super().__init__(
            "\n".join(
                (
                    f"The source has {counted(len(faults), 'fault')}:",
                    *(f"  {line}" for line in describe_faults(faults)),
                    f"Fix them and run the same command again; finished images are kept. {otherwise}",
                )
            )
        )
        self.faults = tuple(faults)


def require_trusted(annotations: Annotations) -> None:
    """Check that nothing makes the labels of a whole source useless.

    Raises:
        BadSourceError: Something does.
    """
    if any(fault.is_fatal for fault in annotations.faults):
        raise BadSourceError(annotations.faults)
