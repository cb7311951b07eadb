"""How the user calls this program, for every command that it prints."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

PROGRAM = "orchestrator"
_COMMAND = re.compile(rf"(?<![\w./-])(?<!the ){PROGRAM} (?=[a-z])")


def program() -> str:
    """Return how to call this program: `orchestrator` if the shell finds that, else the path it was called by.

    Every hint of the CLI starts with it. If it was called in another way (``python -m``), return its name.
    """
    called = Path(sys.argv[0])
    found = shutil.which(PROGRAM)
    # samefile, because a virtual environment is often on PATH through a link.
    if called.name != PROGRAM or (found and os.path.samefile(found, called)):
        return PROGRAM
    # Relative if it is below the current folder: `.venv/bin/orchestrator` is what the user typed.
    return shlex.quote(os.path.relpath(called) if called.is_relative_to(Path.cwd()) else str(called))


def name_as_called(text: str) -> str:
    """Return a text with this program's commands written as the user has to type them.

    Messages from lower layers say ``orchestrator``, because they do not know how the program was called.
    """
    # Prose says "the orchestrator", and a command that is already written as it was called has a path before its name.
    return _COMMAND.sub(lambda _: f"{program()} ", text) if PROGRAM in text else text
