"""Check the names that become part of a path: every one that comes from a file, a store or a server passes here.

A plan, a bundle, a backup, a manifest or a registry may have been written by anybody. A name such as ``/etc`` or
``../../x`` in one of them would otherwise lead out of the folder that it is put into.
"""

from __future__ import annotations

import re

_MAX_LENGTH = 100
# One component of a path on any system, never hidden, and never mistaken for an option.
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{_MAX_LENGTH - 1}}}")
RULE = f"1 to {_MAX_LENGTH} letters, digits, '.', '_' or '-' and start with a letter or digit"
"""What such a name is, to follow "must be"."""


def is_path_name(name: object) -> bool:
    """Return whether a name can be one component of a path."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def require_path_name(name: object, what: str) -> str:
    """Return a name if it can be one component of a path.

    Args:
        name: The name, from wherever it comes.
        what: What it is, for the message.

    Raises:
        ValueError: It is not such a name.
    """
    if isinstance(name, str) and is_path_name(name):
        return name
    raise ValueError(f"{what} must be {RULE}, but got {name!r:.60}")
