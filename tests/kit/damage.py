"""Ways in which a file comes to harm on a disk, in an editor or in a careless copy."""

from __future__ import annotations

import codecs
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[bytes, random.Random], bytes | None]
"""Returns the damaged content of a file; None deletes the file."""

_NUMBER = re.compile(rb"(?<=:)\s?-?\d+(\.\d+)?")


def _replace_number(by: bytes) -> Damage:
    def damage(content: bytes, dice: random.Random) -> bytes:
        found = list(_NUMBER.finditer(content))
        if not found:
            return by
        chosen = dice.choice(found)
        return content[: chosen.start()] + by + content[chosen.end() :]

    return damage


def _flip_digit(content: bytes, dice: random.Random) -> bytes:
    places = [index for index, byte in enumerate(content) if chr(byte).isdigit()] or [0]
    place = dice.choice(places)
    return content[:place] + str(dice.randrange(10)).encode() + content[place + 1 :]


def _flip_bit(content: bytes, dice: random.Random) -> bytes:
    flipped = bytearray(content or b"\0")
    flipped[dice.randrange(len(flipped))] ^= 1 << dice.randrange(8)
    return bytes(flipped)


def _insert(what: bytes) -> Damage:
    def damage(content: bytes, dice: random.Random) -> bytes:
        place = dice.randrange(len(content) + 1)
        return content[:place] + what + content[place:]

    return damage


def _cut(content: bytes, dice: random.Random) -> bytes:
    return content[: dice.randrange(len(content))] if content else content


def _of_lines(change: Callable[[list[bytes], int], None]) -> Damage:
    def damage(content: bytes, dice: random.Random) -> bytes:
        lines = content.splitlines(keepends=True)
        if len(lines) > 2:
            change(lines, dice.randrange(len(lines) - 2))
        return b"".join(lines)

    return damage


def _swap(lines: list[bytes], index: int) -> None:
    lines[index], lines[index + 1] = lines[index + 1], lines[index]


DAMAGES: dict[str, Damage] = {
    "gone": lambda content, dice: None,
    "empty": lambda content, dice: b"",
    "null": lambda content, dice: b"null",
    "list": lambda content, dice: b"[1, 2]",
    "text": lambda content, dice: b'"text"',
    "number": lambda content, dice: b"1e400",
    "object": lambda content, dice: b"{}",
    "deep": lambda content, dice: b"[" * 100_000,
    "deep object": lambda content, dice: b'{"event":' * 100_000,
    "cut": _cut,
    "mark": lambda content, dice: codecs.BOM_UTF8 + content,
    "carriage returns": lambda content, dice: content.replace(b"\n", b"\r\n"),
    "bit": _flip_bit,
    "digit": _flip_digit,
    "bad text": _insert(b"\xff\xfe"),
    "zeros": _insert(b"\0" * 512),
    "zeroed": lambda content, dice: b"\0" * len(content),
    "infinite": _replace_number(b"1e400"),
    "huge": _replace_number(b"1" + b"0" * 400),
    "not a number": _replace_number(b"NaN"),
    "null number": _replace_number(b"null"),
    "list number": _replace_number(b"[1]"),
    "negative": _replace_number(b"-7"),
    "deep number": _replace_number(b"[" * 10_000 + b"]" * 10_000),
    "swapped": _of_lines(_swap),
    "doubled": _of_lines(lambda lines, index: lines.insert(index, lines[index])),
    "missing": _of_lines(lambda lines, index: lines.__delitem__(index)),
}
FOLDER = "folder"
"""The damage of a file that has become a folder."""


def damage(path: Path, kind: str, dice: random.Random) -> None:
    """Damage a file."""
    if kind == FOLDER:
        path.unlink()
        path.mkdir()
        return
    content = DAMAGES[kind](path.read_bytes(), dice)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


def restore(path: Path, content: bytes) -> None:
    """Put a file back as it was."""
    if path.is_dir():
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
