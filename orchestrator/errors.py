"""Exceptions of the orchestrator that callers catch.

ValueError
└── UserError             the user's mistake; the CLI prints the message and exits with 2
RuntimeError
└── OrchestratorError     a failure that is not the user's mistake; the CLI prints the message and exits with 1

:class:`training.errors.ConfigError` and :class:`search_spaces.reader.SpaceError` are the user's mistakes too.
"""

from __future__ import annotations


class UserError(ValueError):
    """The user asked for something that is not possible; the message says what to do instead."""


class OrchestratorError(RuntimeError):
    """A valid request failed: a service is down, a file is broken, a process died."""
