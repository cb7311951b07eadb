"""Ends a process of Ray whose raylet is dead, on every machine of a cluster.

Ray's workers are to end with their raylet, but those of an actor that waits (all of Ray Train's, by measurement) stay
on for 20 s and more when it was killed with -9: with a GPU's memory, and able to write a checkpoint beside the trial's
next attempt.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

HOOK = "orchestrator.cluster.orphans.watch_parent"
"""For ``worker_process_setup_hook`` of a runtime environment: every process of the job calls it when it starts."""
_LOOK_S = 1.0


def watch_parent(
    end: Callable[[int], object] = os._exit, parent: Callable[[], int] = os.getppid, look_s: float = _LOOK_S
) -> None:
    """End this process, at once, when its parent is dead.

    Args:
        end: Takes the exit code.
        parent: Returns the pid of the parent; another one once it is dead.
        look_s: Between two looks.
    """
    first = parent()

    def watch() -> None:
        while parent() == first:
            time.sleep(look_s)
        end(1)

    threading.Thread(target=watch, name="orphans", daemon=True).start()
