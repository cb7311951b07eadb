"""Ends a process of Ray, on any machine of a cluster, once its raylet is dead.

Ray's workers should end with their raylet. When the raylet is killed with -9, however, workers whose actor is waiting
(all of Ray Train's, as measured) live on for 20 s or more. They keep the GPU's memory, and could write a checkpoint
next to that of the trial's next attempt.
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
    """Watch this process's parent from a thread, and end the process as soon as the parent is dead.

    Args:
        end: Ends the process with an exit code.
        parent: Returns the pid of the parent; the system changes it once the parent is dead.
        look_s: Seconds between two checks.
    """
    first = parent()

    def watch() -> None:
        while parent() == first:
            time.sleep(look_s)
        # Not sys.exit, which would only end this thread.
        end(1)

    threading.Thread(target=watch, name="orphans", daemon=True).start()
