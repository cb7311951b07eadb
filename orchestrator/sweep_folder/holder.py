"""Identify the process that may write a sweep's journal or its backup, and write it down."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from training.machine import identify_process, is_alive, is_here

# Several renewals may fail: a short outage of a shared file system must not cost the lease.
EXPIRES_S = 60.0
_NUMBER = "number"
_MAX_PID, _MAX_S = 2**31, 1e12


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease; its start time distinguishes it from a later process with the same pid.

    Attributes:
        renewed: Unix time in s of the last renewal, by its host's clock.
        machine, ticks: As in :func:`training.machine.identify_process`; earlier versions did not write them.
        number: One more than that of the holder before.
    """

    host: str
    pid: int
    pid_started: float
    renewed: float = 0.0
    machine: str = ""
    ticks: int = 0
    number: int = 0

    @property
    def is_here(self) -> bool:
        """Whether it runs or ran on this host, in this container."""
        return is_here(self.host, self.machine)

    @property
    def is_this_process(self) -> bool:
        """Whether it is this process, whatever its lease."""
        return self.is_here and self.pid == os.getpid() and is_alive(self.pid, self.pid_started, self.ticks)

    def is_alive(self, now: float) -> bool:
        """Return whether it is running or, on another host, whether it has renewed its lease recently."""
        if not self.is_here:
            return now - self.renewed < EXPIRES_S
        return is_alive(self.pid, self.pid_started, self.ticks)

    def is_same(self, other: Holder | None) -> bool:
        """Return whether both are the same process with the same lease."""
        return other is not None and replace(other, renewed=self.renewed) == self


def this_process(now: float, number: int = 0) -> Holder:
    """Return this process as the holder with a number that renewed its lease at this time."""
    return Holder(**identify_process(), renewed=now, number=number)


def encode(holder: Holder | int) -> bytes:
    """Return the content of a lease with this holder, or of one that the holder with this number has released."""
    return json.dumps({_NUMBER: holder} if isinstance(holder, int) else asdict(holder)).encode()


def read_number(text: str | bytes) -> int:
    """Return the number of the last holder of a lease, released or not; 0 if it does not say."""
    number = _parse(text).get(_NUMBER)
    return number if isinstance(number, int) else 0


def read_holder(text: str | bytes) -> Holder | None:
    """Return the holder in a lease, or None if it was released, cut short by a kill, or damaged.

    A driver that is alive writes it again within 10 s.
    """
    known = {field.name for field in fields(Holder)}
    try:
        # Later versions may add fields.
        holder = Holder(**{name: value for name, value in _parse(text).items() if name in known})
        # A comparison with something that is not a number raises; NaN and infinity fail it.
        is_sound = 0 < holder.pid < _MAX_PID and 0 <= holder.pid_started < _MAX_S and 0 <= holder.renewed < _MAX_S
    except TypeError:  # JSON, but not with the fields of a holder
        return None
    numbers, words = (holder.pid, holder.ticks, holder.number), (holder.host, holder.machine)
    is_sound = is_sound and all(isinstance(word, str) for word in words)
    return holder if is_sound and all(isinstance(number, int) for number in numbers) else None


def _parse(text: str | bytes) -> dict[str, Any]:
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return plain if isinstance(plain, dict) else {}


def describe_holder(holder: Holder) -> str:
    """Return which process it is, for messages."""
    # The same name, but not this machine: a container, or this machine before a restart.
    elsewhere = holder.host == socket.gethostname() and not holder.is_here
    return f"process {holder.pid} on {holder.host}{' (in another container)' if elsewhere else ''}"
