"""Write the reference pages of the documentation site from the code: verbs, search spaces, settings, metrics, API.

Nothing here needs mkdocs, so that the tests can read the pages too.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

import orchestrator
import training
from orchestrator.cli.app import app
from search_spaces import blocks, ranges, schema
from training import metric_names
from training.config import methods, run

_ROLE = re.compile(r":(?:func|class|meth|attr|mod|data):`~?([^`]+)`")
_SPACE_PARTS: dict[str, type[BaseModel]] = {
    "(top)": schema.SpaceFile,
    "shared": blocks.WrittenShared,
    "methods.LABEL": blocks.WrittenBlock,
    "ranges.KEY": ranges.Range,
    "protocol": blocks.ProtocolBlock,
    "budget": blocks.Budget,
    "search": blocks.Search,
    "scheduler": blocks.Scheduler,
    "resources": blocks.ResourcesBlock,
}
_SECTIONS: dict[str, type[BaseModel]] = {
    "data": run.DataConfig,
    "model": run.ModelConfig,
    "optim": run.OptimConfig,
    "loop": run.LoopConfig,
}


def make_pages() -> dict[str, str]:
    """Return path below ``docs/`` -> Markdown of every generated page."""
    return {
        "reference/verbs.md": render_verbs(),
        "reference/spaces.md": render_spaces(),
        "reference/settings.md": render_settings(),
        "reference/metrics.md": render_metrics(),
        "reference/api.md": render_api(),
    }


def render_verbs() -> str:
    """Return every verb with its arguments and options, as ``--help`` has them."""
    root: Any = typer.main.get_command(app)
    groups = {name: found.commands for name, found in root.commands.items() if hasattr(found, "commands")}
    verbs = {name: found for name, found in root.commands.items() if name not in groups}
    for group, commands in groups.items():
        verbs |= {f"{group} {name}": found for name, found in commands.items()}
    parts = [_render_verb(name, command) for name, command in verbs.items()]
    return (
        "\n\n".join(["# Verbs", "What `orchestrator VERB --help` says. [An overview](../commands.md)", *parts]) + "\n"
    )


def render_spaces() -> str:
    """Return the keys of a search space's file, and the shipped spaces with what their headers say."""
    parts = ["# Search spaces", "How they compose: [recipes](../recipes.md#in-a-search-space).", "## Keys"]
    for name, model in _SPACE_PARTS.items():
        parts += [f"### `{name}`", _summary(model), _table(model)]
    parts.append("## Shipped")
    for name in schema.shipped_spaces():
        space = schema.load_space(name)
        parts += [f"### `{name}`", f"```text\n{_header(space.file_text)}\n```"]
        parts.append(f"Methods: {', '.join(f'`{label}`' for label in space.methods)}.")
    return "\n\n".join(parts) + "\n"


def render_settings() -> str:
    """Return every setting of a run, for each section and each method."""
    parts = ["# Settings of a run", "What `--set`, `fixed:`, `ranges:` and `start:` name with dots: `optim.lr`."]
    for name, model in _SECTIONS.items():
        parts += [f"## `{name}`", _summary(model), _table(model, f"{name}.")]
    parts.append("## `method`")
    for name, model in methods.METHOD_CONFIGS.items():
        parts += [f"### `method.name: {name}`", _summary(model), _table(model, "method.")]
    return "\n\n".join(part for part in parts if part) + "\n"


def render_metrics() -> str:
    """Return how metrics are computed, and the names under which a run reports them, with the comments on them."""
    rows = [f"| `{name}` | {note} |" for name, note in _named_metrics()]
    # Read and not imported, which would take torch along.
    source = Path(metric_names.__file__).with_name("metrics.py").read_text(encoding="utf-8")
    computed = _escape(_ROLE.sub(r"`\1`", ast.get_docstring(ast.parse(source)) or ""))
    return "\n".join(["# Metrics", "", computed, "", "| name | |", "|---|---|", *rows]) + "\n"


def render_api() -> str:
    """Return a page that mkdocstrings fills with the docstrings of all exported names."""
    parts = ["# Python API", "Examples: [from Python](../python.md)."]
    for package in (orchestrator, training):
        parts.append(f"## `import {package.__name__}`")
        parts += [f"::: {package.__name__}.{name}" for name in sorted(package.__all__, key=str.lower)]
    return "\n\n".join(parts) + "\n"


def read_attributes(documented: object) -> dict[str, str]:
    """Return name -> text of the section ``Attributes:`` of a docstring; names that share a text have it each."""
    _, _, section = (inspect.getdoc(documented) or "").partition("\nAttributes:\n")
    section = re.split(r"\n(?=\S)", section, maxsplit=1)[0]
    found: dict[str, str] = {}
    for entry in re.split(r"\n    (?=\S)", "\n" + section)[1:]:
        names, _, text = " ".join(entry.split()).partition(": ")
        found |= dict.fromkeys(names.split(", "), _ROLE.sub(r"`\1`", text))
    return found


def _render_verb(name: str, command: Any) -> str:
    context = typer.Context(command, info_name=name)
    records = [(parameter, parameter.get_help_record(context)) for parameter in command.params]
    rows = [f"| `{_cell(shown[0])}` | {_escape(_cell(shown[1]))} |" for _, shown in records if shown is not None]
    example = re.search(r"Example: (.*)", command.epilog or "")
    parts = [f"## {name}", _escape(inspect.cleandoc(command.help or ""))]
    if rows:
        parts.append("\n".join(["| argument or option | |", "|---|---|", *rows]))
    if example:
        parts.append(f"```\n{example[1]}\n```")
    return "\n\n".join(parts)


def _table(model: type[BaseModel], prefix: str = "") -> str:
    texts = _inherited_attributes(model)
    rows = [
        f"| `{prefix}{name}` | `{_cell(_type_of(model, name))}` | {_default_of(field)} | {_text(texts, name)} |"
        for name, field in model.model_fields.items()
        if not (prefix == "method." and name == "name")
    ]
    return "\n".join(["| key | type | default | |", "|---|---|---|---|", *rows]) if rows else ""


def _text(texts: dict[str, str], name: str) -> str:
    return _escape(_cell(texts.get(name, "")))


def _inherited_attributes(model: type[BaseModel]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for parent in reversed(model.__mro__):
        if issubclass(parent, BaseModel) and parent is not BaseModel:
            texts |= read_attributes(parent)
    return texts


def _type_of(model: type[BaseModel], name: str) -> str:
    """Return the type as JSON schema has it, with its limits: ``number, > 0``."""
    schema_of: dict[str, Any] = model.model_json_schema()
    found = schema_of["properties"][name]
    options = [option for option in found.get("anyOf", [found]) if option.get("type") != "null"]
    text = " or ".join(dict.fromkeys(_describe(option) for option in options))
    return text + " or null" * (len(options) < len(found.get("anyOf", [])))


def _describe(option: dict[str, Any]) -> str:
    if "$ref" in option:
        return str(option["$ref"]).rsplit("/", 1)[-1]
    if "enum" in option or "const" in option:
        return ", ".join(map(str, option.get("enum", [option.get("const")])))
    limits = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    shown = [f"{sign} {option[key]:g}" for key, sign in limits.items() if key in option]
    return ", ".join([str(option.get("type", "any")), *shown])


def _default_of(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return ""
    if value is None:
        return "`null`"
    return f"`{_cell(str(value).lower() if isinstance(value, bool) else str(value))}`"


def _summary(documented: object) -> str:
    first = re.split(r"\n\n?(?:Attributes|Args|Raises):", inspect.getdoc(documented) or "")[0]
    return _escape(_ROLE.sub(r"`\1`", first))


def _header(text: str) -> str:
    """Return the comment at the top of a file, without its marks."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[2:])
    return "\n".join(lines)


def _named_metrics() -> Iterator[tuple[str, str]]:
    source = inspect.getsource(metric_names)
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            yield str(node.value.value), " ".join(_comments_before(lines, node.lineno - 1))


def _comments_before(lines: list[str], place: int) -> Iterable[str]:
    first = place
    while first > 0 and lines[first - 1].startswith("#"):
        first -= 1
    return [line.removeprefix("# ") for line in lines[first:place]]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _escape(text: str) -> str:
    """Return text in which ``<`` opens no tag, and code has single backticks."""
    parts = re.split(r"(`[^`]*`)", re.sub(r"``(.+?)``", r"`\1`", text))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)
