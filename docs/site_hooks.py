"""What mkdocs does besides rendering ``docs/``: generated pages, notebooks, and links to the rest of the repository."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.reference import make_pages

_ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\]\(([^)#\s]+)((?:#[^)]*)?)\)")
_ROLE = re.compile(r":(?:func|class|meth|attr|mod|data):(?=<code>)")
_README = "README.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, the notebooks as pages, and every file of the repository that a page links to."""
    for path, text in make_pages().items():
        files.append(File.generated(config, path, content=text))
    for notebook in sorted((_ROOT / "docs" / "notebooks").glob("*.ipynb")):
        place = f"notebooks/{notebook.stem}"
        text, pictures = render_notebook(json.loads(notebook.read_text(encoding="utf-8")), notebook.stem)
        files.append(File.generated(config, f"{place}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    files.append(File.generated(config, "index.md", content=(_ROOT / _README).read_text(encoding="utf-8")))
    for path in sorted(_find_linked()):
        # As bytes, because not every file is text; mkdocs takes pages as either.
        files.append(File.generated(config, _place_of(path), content=(_ROOT / path).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links that leave ``docs/`` lead to the copy of their file in the site."""
    source = _source_of(page.file.src_uri)
    if source is None:
        return markdown

    def follow(link: re.Match[str]) -> str:
        target, anchor = link.groups()
        if "://" in target:
            return link[0]
        path = _resolve(source, target)
        depth = page.file.src_uri.count("/")
        return f"]({'../' * depth}{_place_of(path)}{anchor})"

    return _LINK.sub(follow, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show references in docstrings as plain code."""
    return _ROLE.sub("", html)


def render_notebook(notebook: dict[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, with its outputs, and its pictures by file name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            parts.append(_render_output(output, f"{name}_{len(pictures)}.png", pictures))
    return "\n\n".join(part for part in parts if part) + "\n", pictures


def _render_output(output: dict[str, Any], name: str, pictures: dict[str, bytes]) -> str:
    if output["output_type"] == "stream":
        return f"```text\n{''.join(output['text']).rstrip()}\n```"
    data = output.get("data", {})
    if "image/png" in data:
        pictures[name] = base64.b64decode("".join(data["image/png"]))
        return f"![A figure that the cell above draws]({name})"
    if "text/html" in data:
        return re.sub(r"<style.*?</style>|^\s+", "", "".join(data["text/html"]), flags=re.DOTALL | re.MULTILINE)
    return f"```text\n{''.join(data.get('text/plain', [])).rstrip()}\n```"


def _find_linked() -> set[str]:
    """Return the files outside ``docs/`` that pages link to, those that such pages link to included."""
    found: set[str] = set()
    written = [*(_ROOT / "docs").glob("*.md"), *(_ROOT / "docs").glob("notebooks/*.ipynb")]
    waiting = [_README, *(path.relative_to(_ROOT).as_posix() for path in written)]
    while waiting:
        source = waiting.pop()
        for target, _ in _LINK.findall((_ROOT / source).read_text(encoding="utf-8")):
            path = "" if "://" in target else _resolve(source, target)
            if path and not path.startswith("docs/") and path not in {*found, _README}:
                found.add(path)
                waiting += [path] * path.endswith(".md")
    return found


def _resolve(source: str, target: str) -> str:
    return ((_ROOT / source).parent / target).resolve().relative_to(_ROOT).as_posix()


def _place_of(path: str) -> str:
    """Return where the site has a file of the repository."""
    if path == _README:
        return "index.md"
    if path.startswith("docs/"):
        return re.sub(r"\.ipynb$", ".md", path.removeprefix("docs/"))
    # As text, so that a browser shows it, whatever it is.
    return f"repository/{path}" if path.endswith(".md") else f"repository/{path}.txt"


def _source_of(uri: str) -> str | None:
    """Return the file of the repository that a page was made from; None for generated ones, whose links fit already."""
    if uri == "index.md":
        return _README
    if uri.startswith("repository/"):
        return uri.removeprefix("repository/")
    candidates = (f"docs/{uri}", f"docs/{uri.removesuffix('.md')}.ipynb")
    return next((path for path in candidates if (_ROOT / path).exists()), None)
