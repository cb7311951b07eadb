"""Chain the lines of a journal: each ends with a checksum of itself and of all lines before it.

A sealed line is ``{"event": ..., <fields>, "crc": "<8 hex digits>"}``: the CRC-32 of every line so far without its own
``crc``. A change to any earlier line therefore shows in the next sealed one, and so do lines that are missing, doubled
or in another order. Versions before this one wrote lines without a ``crc``; a sealed line after them covers them too.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator

_SEAL = re.compile(rb',"crc":"([0-9a-f]{8})"\}$')
_SEAL_BYTES = len(',"crc":"01234567"}')
_SEAL_START = b',"crc":"'


class Chain:
    """The checksum of the lines so far.

    Attributes:
        value: Set it to continue after lines that were read before.
    """

    def __init__(self) -> None:
        self.value = 0

    def seal(self, line: bytes) -> bytes:
        """Return a line (JSON, without a line break) with its checksum, without adding it to the chain."""
        # The seal takes the place of the last bracket, so a sealed line is still one JSON object.
        return b'%s,"crc":"%08x"}' % (line[:-1], zlib.crc32(line[:-1], self.value))

    def add(self, line: bytes) -> bool:
        """Add the next line, sealed or not; return whether its checksum, if it has one, is the right one."""
        # Almost every line is sealed and right, and a journal may have 100,000 lines.
        if is_sealed(line):
            value = zlib.crc32(line[:-_SEAL_BYTES], self.value)
            if line[-_SEAL_BYTES + len(_SEAL_START) :] == b'%08x"}' % value:
                self.value = value
                return True
        found = _SEAL.search(line, max(0, len(line) - _SEAL_BYTES))
        # An unsealed line counts with its last bracket, which a seal replaces: adding a seal by hand changes the value.
        self.value = zlib.crc32(line if found is None else line[: found.start()], self.value)
        return found is None or int(found[1], 16) == self.value


def is_sealed(line: bytes) -> bool:
    """Return whether a line ends like one with a checksum, which may be wrong."""
    return line.startswith(_SEAL_START, -_SEAL_BYTES)


def read_value(line: bytes) -> int | None:
    """Return the value of the chain after a sealed line, of which the end is enough; None if it has no checksum."""
    found = _SEAL.search(line, max(0, len(line) - _SEAL_BYTES))
    return None if found is None else int(found[1], 16)


def reseal(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines with the checksums that fit what they say now."""
    return seal_after((), (_SEAL.sub(b"}", line) for line in lines))


def seal_after(before: Iterable[bytes], lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines with the checksums that they have after the lines before them."""
    chain = Chain()
    for line in before:
        chain.add(line)
    for line in lines:
        sealed = chain.seal(line)
        chain.add(sealed)
        yield sealed
