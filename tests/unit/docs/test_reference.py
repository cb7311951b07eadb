"""Test the pages of the documentation site that are generated from the code, and the site's list of pages."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import orchestrator
import training
from docs.make_methods import _as_markdown
from docs.reference import make_pages, read_attributes
from orchestrator.cli import app as cli
from search_spaces.schema import shipped_spaces
from training import metric_names
from training.config.methods import METHOD_CONFIGS
from training.config.run import valid_keys

ROOT = Path(__file__).parents[3]
pages = cache(make_pages)


def test_every_verb_has_its_options_and_its_example() -> None:
    page = pages()["reference/verbs.md"]
    for verb, (_, example) in cli.VERBS.items():
        assert f"\n## {verb}\n" in page
        assert f"```\n{example}\n```" in page
    for other in ("submit", "data prepare", "cluster up", "weights import"):
        assert f"\n## {other}\n" in page
    assert r"| `--recipe common\|published` | Train all methods the same way" in page
    assert "--mirror" not in page, "it is hidden"


def test_every_key_of_a_space_and_every_setting_has_a_row_with_type_and_default() -> None:
    spaces, settings = pages()["reference/spaces.md"], pages()["reference/settings.md"]
    assert [f"\n### `{name}`\n" in spaces for name in shipped_spaces()] == [True] * len(shipped_spaces())
    assert "| `grace_epochs` | `integer, >= 1 or null` | `null` | Epochs that every trial gets;" in spaces
    keys = {key for method in METHOD_CONFIGS for key in valid_keys(method)} - {"method.name"}
    assert {key for key in keys if f"| `{key}` | `" not in settings} == set()
    assert "| `method.cam_threshold` | `number, >= 0, < 1` | `0.8` | tau; the masked image keeps" in settings
    assert re.search(r"`method.average_decay` .* EMA factors of the gap threshold", settings), "two names, one text"
    assert ":func:" not in settings


def test_every_metric_is_listed() -> None:
    page = pages()["reference/metrics.md"]
    names = [value for name, value in vars(metric_names).items() if name.isupper() and isinstance(value, str)]
    assert {name for name in names if f"| `{name}` |" not in page} == set()
    assert "| `train/rejection_lift` | That precision, divided by" in page


def test_the_page_of_the_api_asks_for_every_exported_name() -> None:
    wanted = {f"{package.__name__}.{name}" for package in (orchestrator, training) for name in package.__all__}
    assert set(re.findall(r"^::: (\S+)", pages()["reference/api.md"], re.MULTILINE)) == wanted


def test_attributes_are_read_from_a_docstring() -> None:
    def documented() -> None:
        """Do nothing.

        Attributes:
            one, two: Of :class:`any.Kind`,
                on two lines.
            three: Last.

        Raises:
            four: Not one.
        """

    assert read_attributes(documented) == {
        "one": "Of `any.Kind`, on two lines.",
        "two": "Of `any.Kind`, on two lines.",
        "three": "Last.",
    }


def test_the_site_lists_every_page() -> None:
    listed = set(re.findall(r"\S+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    written = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    notebooks = {path.relative_to(ROOT / "docs").with_suffix(".md") for path in (ROOT / "docs").rglob("*.ipynb")}
    assert {str(path) for path in written | notebooks} | set(pages()) <= listed


def test_the_lines_of_a_list_item_stay_text_and_formulas_are_fenced() -> None:
    items = "Differences:\n\n  - It flips the images and\n    scores them again.\n  - Another."
    assert _as_markdown(f"Loss:\n\n    -log(p)\n\n{items}") == f"Loss:\n\n```\n-log(p)\n```\n\n{items}"
