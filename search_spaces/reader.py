"""Read YAML strictly, and keep the line of every key.

YAML 1.2, so ``1e-3`` is a number and ``on`` is a word; plain data only: no tags, no merge keys, no key twice in one
mapping. A file may come from anybody, so its size is limited, and with it that of the data once aliases are written
out: a few lines of aliases of aliases would otherwise be more than any memory holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from training.config.spelling import did_you_mean, listed, nearest_word

Scalar = str | int | float | bool | None
KeyPath = tuple[str | int, ...]

YAML_SUFFIXES = (".yaml", ".yml")
_CORE = "tag:yaml.org,2002:"
_COLLECTIONS = (f"{_CORE}map", f"{_CORE}seq")
_MAX_BYTES = 256 << 10
_MAX_DEPTH = 50
# Characters and values, with every alias written out. The largest shipped space has 5,000.
_MAX_WEIGHT = 1_000_000
_TOO_DEEP = f"more than {_MAX_DEPTH} mappings and lists inside each other. Write it flatter."
# All but the first only in a file that declares %YAML 1.1.
_TRUE = {"true", "yes", "on", "y"}


class SpaceError(ValueError):
    """A search space, or a file of settings, is wrong; the message starts with the file and, if known, the line.

    Attributes:
        key: The path of the key at fault within the file, or None.
    """

    def __init__(self, message: str, key: KeyPath | None = None) -> None:
        super().__init__(message)
        self.key = key


class UnknownSpaceError(SpaceError):
    """A name is not that of a search space, though it may be the name of something else."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass
class Document:
    """A YAML file as plain data.

    Attributes:
        source: The file's name, for messages.
        text: The file as it is.
        data: Mappings, lists and scalars.
        lines: Path of a key or a list item -> its line, from 1.
    """

    source: str
    text: str = ""
    data: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def line(self, key: KeyPath) -> int:
        """Return the line of a key, or of the nearest key around it that is in the file."""
        while key and key not in self.lines:
            key = key[:-1]
        return self.lines.get(key, 1)

    def error(self, key: KeyPath, message: str) -> SpaceError:
        """Return the error that blames a key, with file and line."""
        return SpaceError(f"{self.source}:{self.line(key)}: {message}", key)


def find_file(name: str, folder: Path, shipped: list[str], kind: str) -> Path | None:
    """Return the YAML file that a user means by a name: a shipped one, or a file of their own.

    Args:
        name: What the user typed.
        folder: The folder of the shipped files.
        shipped: Their names, without ``.yaml``.
        kind: What the files are, for messages.

    Returns:
        Its path, or None if the name is neither that of a shipped file nor a path.

    Raises:
        SpaceError: It is the path of a missing file that is called like a shipped one.
    """
    if name in shipped:
        return folder / f"{name}.yaml"
    # A shipped name wins over a file of that name; a path or a suffix is always a file.
    if not (name.endswith(YAML_SUFFIXES) or re.search(r"[/\\]", name)):
        return None
    path = Path(name).expanduser()
    # Somebody who types voc.yaml far from the folder of the shipped spaces most likely means the shipped voc.
    if not path.exists() and path.stem in shipped:
        raise SpaceError(f"{name} does not exist. The shipped {kind} is called {path.stem}, without .yaml.")
    return path


def describe_unknown(name: str, shipped: list[str], kind: str) -> str:
    """Return the message about a name for which :func:`find_file` found nothing."""
    return (
        f"There is no {kind} called {name}. {did_you_mean(name, shipped)} The shipped ones are {listed(shipped)}; the "
        "name of a file of your own ends in .yaml."
    ).replace("  ", " ")


def read_text(path: Path, source: str) -> str:
    """Return a file's text.

    Raises:
        SpaceError: The file cannot be read, is not UTF-8 text, or is larger than a file of settings ever is.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)  # no more, because it may be a device that never ends
        _require_size(len(content), source)
        # -sig, because editors on Windows may start a file with a byte order mark.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpaceError(f"{source}: the file is not UTF-8 text (see byte {error.start}). Save it as UTF-8.") from None
    except FileNotFoundError:
        raise SpaceError(f"{source} does not exist. {_suggest_file(path)}".rstrip()) from None
    except IsADirectoryError:
        raise SpaceError(f"{source} is a folder. Name a YAML file.") from None
    except OSError as error:
        raise SpaceError(f"{source} cannot be read: {error.strerror}.") from None


def read_document(text: str, source: str) -> Document:
    """Read a YAML text.

    Raises:
        SpaceError: The text is not YAML, or has a key twice, a tag, an alias of itself or a merge key; or it is too
            large or too deeply nested.
    """
    document, node = Document(source, text), compose(text, source)
    if node is not None:
        document.data = _Builder(document).build(node, ())
    return document


def compose(text: str, source: str) -> Node | None:
    """Return the nodes of a YAML text, none of which is too large once its aliases are written out.

    Raises:
        SpaceError: The text is not YAML, or is too large or too deeply nested.
    """
    _require_size(len(text), source)
    try:
        # Nodes and not values, because only nodes know their lines.
        node: Node | None = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        raise _syntax_error(error, source) from None
    except YAMLError as error:  # a character that YAML does not allow
        raise SpaceError(f"{source}: this is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise SpaceError(f"{source}: {_TOO_DEEP}") from None
    if node is not None:
        _weigh(node, source, {}, 0)
    return node


def _require_size(num: int, source: str) -> None:
    if num > _MAX_BYTES:
        raise SpaceError(f"{source} is larger than {_MAX_BYTES >> 10} KiB, the most that a file of settings may have.")


def _weigh(node: Node, source: str, known: dict[int, int], depth: int) -> int:
    """Return how many characters and values a node holds with all aliases written out; each node is visited once."""
    if id(node) in known:
        return known[id(node)]
    if depth > _MAX_DEPTH:
        raise SpaceError(f"{source}:{node.start_mark.line + 1}: {_TOO_DEEP}")
    if isinstance(node, ScalarNode):
        weight = 1 + len(str(node.value))
    else:
        known[id(node)] = 0  # an alias of itself is refused where the data is built
        parts = [part for pair in node.value for part in pair] if isinstance(node, MappingNode) else node.value
        weight = 1 + sum(_weigh(part, source, known, depth + 1) for part in parts)
    if weight > _MAX_WEIGHT:
        raise SpaceError(
            f"{source}:{node.start_mark.line + 1}: with its aliases written out, what begins here is more than "
            f"{_MAX_WEIGHT:,} characters, the most that is read. Use fewer aliases."
        )
    known[id(node)] = weight
    return weight


def parse_scalar(text: str) -> Scalar:
    """Return the value that a text has in a YAML file (``1e-3`` is a float, ``true`` a bool, ``'5'`` a string).

    Anything that is not quoted, a number, a truth value or null is the text itself, whatever characters it has.
    """
    stripped = text.strip()
    try:
        node = YAML(typ="safe", pure=True).compose(stripped)
        value = _scalar(node) if isinstance(node, ScalarNode) and not node.anchor else stripped
    except (YAMLError, ValueError, RecursionError):
        return stripped
    # YAML would take the end of ``a #b`` for a comment, so only quoted words are read as YAML.
    quoted = isinstance(node, ScalarNode) and node.style
    return stripped if isinstance(value, str) and not quoted else value


class _Builder:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.open: list[Node] = []

    def build(self, node: Node, path: KeyPath) -> Any:
        # The line of a key is known by now, and stays: its value may begin on a later one.
        self.document.lines.setdefault(path, node.start_mark.line + 1)
        # An alias inside of its own anchor would be built without end.
        if any(node is parent for parent in self.open):
            raise self.document.error(path, f"{_name(path)} must not contain itself. Write it out without the alias.")
        self.open.append(node)
        try:
            return self._content(node, path)
        finally:
            self.open.pop()

    def _content(self, node: Node, path: KeyPath) -> Any:
        if not isinstance(node, ScalarNode) and str(node.tag) not in _COLLECTIONS:
            raise self.document.error(path, f"{_name(path)} must be plain data, but got {node.tag}.")
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        try:
            return _scalar(node)
        except ValueError:
            raise self.document.error(
                path, f"{_name(path)} must be plain data, but got {node.value!r} of {node.tag}."
            ) from None

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            child = (*path, key)
            line = key_node.start_mark.line + 1
            if key in mapping:
                message = f"{self.document.source}:{line}: {_name(child)} is given twice: it is also on line "
                raise SpaceError(f"{message}{self.document.lines[child]}. Remove one of them.", child)
            self.document.lines[child] = line
            mapping[key] = self.build(value_node, child)
        return mapping

    def _key(self, node: Node, path: KeyPath) -> str:
        if isinstance(node, ScalarNode) and node.tag != f"{_CORE}merge":
            return str(node.value)
        self.document.lines[(*path, "?")] = node.start_mark.line + 1
        raise self.document.error(
            (*path, "?"), f"a key of {_name(path)} must be a word, but got {node.value!r}. Write the keys out."
        )


def _scalar(node: Node) -> Scalar:
    text = str(node.value)
    match str(node.tag).removeprefix(_CORE):
        case "null":
            return None
        case "bool":
            return text.lower() in _TRUE
        case "int":
            # Base 0 only with a prefix: it refuses 010, which is 10 in YAML 1.2.
            return int(text, 0) if text.lstrip("+-")[:2].lower() in ("0x", "0o", "0b") else int(text)
        case "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        case "str" | "timestamp" | "value" | "merge":
            return text
    raise ValueError(f"tag must be one of plain YAML, but got {node.tag}")


def _name(path: KeyPath) -> str:
    return ".".join(str(part) for part in path) or "the file"


def _suggest_file(path: Path) -> str:
    """Return a hint at the YAML file that was probably meant instead of a missing one."""
    if not path.parent.is_dir():
        return f"Its folder {path.parent} does not exist either."
    beside = {found.name: found for suffix in YAML_SUFFIXES for found in path.parent.glob(f"*{suffix}")}
    nearest = nearest_word(path.name, beside)
    return f"Did you mean {beside[nearest]}?" if nearest else ""


def _syntax_error(error: MarkedYAMLError, source: str) -> SpaceError:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    problem = " ".join(part for part in (error.context, error.problem) if part)
    hint = " Indent with spaces, not tabs." if "'\\t'" in problem else ""
    return SpaceError(f"{source}:{line}: this is not valid YAML: {problem}.{hint}")
