"""How a driver runs a plan, as opposed to what it runs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from orchestrator.sweep.hooks import REAL, Hooks


@dataclass(frozen=True)
class DriveOptions:
    """How a driver runs a plan.

    None of these options changes a result. What a later resume must know is in the plan or in the journal instead.

    Attributes:
        address: Address of a Ray cluster (``auto``); None starts Ray on this machine.
        allow_changed: Continue even if the commit, the lock or the data differ from those at the start.
        allow_gaps: Continue even if checkpoints are ahead of the journal, as after a restore from a backup.
        steal_lease: Take the lease from a driver on another host, even though that driver may still be running.
        backup: URI to copy the journal to, for :func:`orchestrator.sweep_folder.restore.restore_sweep`. None keeps
            copying to wherever the last driver did, if it did.
        max_gpu_hours: The limit that :func:`orchestrator.sweep.driver.resume` sets for what it continues; None leaves
            it as it is.
        progress: Show the sweep's progress on stderr.
        hooks: Stand-ins for the real training, tracking and data, for tests and benchmarks.
    """

    address: str | None = None
    # The next two and allow_gaps are not in repeated_flags: each allows one exception, for this driver only.
    allow_changed: bool = False
    steal_lease: bool = False
    backup: str | None = None
    progress: bool = True
    allow_gaps: bool = False
    hooks: Hooks = REAL
    max_gpu_hours: float | None = None

    def repeated_flags(self) -> str:
        """Return the flags that the next command needs again, as text that follows its arguments."""
        # A resume without them would run on this machine and, if it was stopped early, without its backup.
        flags = {"--address": self.address, "--backup": self.backup}
        return "".join(f" {flag} {shlex.quote(value)}" for flag, value in flags.items() if value is not None)


DEFAULT = DriveOptions()
