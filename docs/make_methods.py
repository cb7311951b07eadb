"""Write docs/methods.md from the code: ``python docs/make_methods.py``.

Formula, source and differences come from the docstrings of :mod:`training.methods`, settings from
:mod:`training.config.methods`, published scores from ``search_spaces/published.yaml``, ours from
``benchmarks/results/digits.md``.
"""

from __future__ import annotations

import inspect
import re
import sys
from functools import cache
from pathlib import Path

from benchmarks.digits.rows import ROWS
from search_spaces.compose import shipped_methods
from search_spaces.published import DATASETS, load_published
from training.config.marks import find_marks
from training.config.methods import METHOD_CONFIGS
from training.methods.registry import METHODS

PAGE = Path(__file__).with_name("methods.md")
_DIGITS = PAGE.parents[1] / "benchmarks" / "results" / "digits.md"
_HEAD = """# Methods

Written from the code by `python docs/make_methods.py`: do not edit it. For each method: what it minimises, where it
comes from and how it differs from its authors' code; its settings; scores that were published, and ours on digit
scenes. A score means little without its set-up: [recipes](recipes.md), [rules of results](results.md). Notation: z are
logits, p = sigmoid(z), y observed labels, C classes, B images of a batch.

**Marks.** `uses true labels`: a bound, not a method for single positives. `uses full-label statistic`: it is told the
true mean number of positives of an image. `external: clip`: it learns from CLIP, which knows the classes from captions
of other images. Every leaderboard and report shows them.

**Controls for CLIP.** `orchestrator data score` prints what CLIP achieves without training; the block `clip_probe` is
`assumed_negative` on a linear layer over CLIP's frozen embeddings ([scores of CLIP](data.md#scores-of-clip)).

**Published scores** are test mAP in percent, with ResNet-50 at 448 px unless the source says Query2Label, from
`search_spaces/published.yaml`, which also says what keeps them from being compared with ours. No score of ours on the
four datasets exists yet: the real images were not at hand.

**Not here**: SMILE and DualCoOp. `linear_init` of Cole et al. is `optim.head_first_epochs`, for every method.
"""


def render_page() -> str:
    """Return the whole page."""
    sections = [_render_method(name) for name in METHODS]
    listed = ", ".join(f"[{name}](#{name})" for name in METHODS)
    return "\n\n".join([_HEAD + f"\n{listed}", *sections, _render_sources()]) + "\n"


def _render_method(name: str) -> str:
    labels = _labels_of(name)
    marks = find_marks({"method.name": name})
    parts = [f"## {name}"]
    if marks:
        parts.append(f"Marks: {', '.join(f'`{mark}`' for mark in marks)}.")
    parts.append(_formula(name))
    parts.append(_settings(name))
    if labels != [name]:
        parts.append(f"Labels in search spaces: {', '.join(f'`{label}`' for label in labels)}.")
    parts += [table for table in (_published(labels), _ours(labels)) if table]
    return "\n\n".join(parts)


def _formula(name: str) -> str:
    method = METHODS[name]
    own = inspect.getdoc(method) or ""
    module = inspect.getdoc(sys.modules[method.__module__]) or ""
    if "module's docstring" not in own:
        # Where a module is about one method, its title may hold the source.
        is_of_one = not re.match(r"(Bounds|Focal)", module)
        title = f"{module.partition(chr(10))[0]}\n\n" if is_of_one and not re.search(r"20\d\d", own[:100]) else ""
        return _as_markdown(title + own)
    rest = re.sub(r"^.*?module's docstring[.:]?", "", own, count=1, flags=re.DOTALL).strip()
    return _as_markdown(f"{module}\n\n{rest}".strip())


def _settings(name: str) -> str:
    config = METHOD_CONFIGS[name]
    fields = [f"`method.{key}` {_shown(field.default)}" for key, field in config.model_fields.items() if key != "name"]
    if not fields:
        return "No settings of its own."
    explained = (inspect.getdoc(config) or "").partition("Attributes:")[2]
    notes = [re.sub(r"\s+", " ", note).strip() for note in re.split(r"\n    (?=\S)", explained) if note.strip()]
    listed = "\n".join(f"- {_inline(note)}" for note in notes)
    return f"Settings and defaults: {', '.join(fields)}." + (f"\n\n{listed}" if listed else "")


def _shown(default: object) -> str:
    return "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def _labels_of(name: str) -> list[str]:
    """Return the blocks of search spaces that run a method as its authors mean it: not its ablations."""
    found = [label for label, (block, _) in shipped_methods().items() if _name_of(label) == name and not block.like]
    variants = ["large_loss_ct", "large_loss_cp", "boostlu_r", "boostlu_ct", "boostlu_cp"]
    return found + (variants if name == "large_loss" else [])


def _name_of(label: str) -> str:
    return shipped_methods()[label][0].name or label


def _published(labels: list[str]) -> str:
    lines = []
    for label in labels:
        for source in load_published().sources.values():
            row = source.rows.get(label)
            if row:
                cells = [_score(row.get(dataset, {})) for dataset in DATASETS]
                network = ", Query2Label" if source.settings.get("model.name") == "query2label" else ""
                lines.append(f"| `{label}` | {source.reference}: {source.where}{network} | {' | '.join(cells)} |")
    head = f"| published | source | {' | '.join(DATASETS)} |\n|---|---|{'---|' * len(DATASETS)}"
    return "\n".join([head, *lines]) if lines else "Published scores: none that we know of."


def _score(scores: object) -> str:
    assert isinstance(scores, dict)
    main = scores.get("mAP")
    if main is None:
        return ""
    return f"{main.value:g}" if main.deviation is None else f"{main.value:g} ± {main.deviation:g}"


def _ours(labels: list[str]) -> str:
    found = [f"{row} {_digits()[row]}" for row, spec in ROWS.items() if spec.label in labels and row in _digits()]
    return f"Ours, test mAP on digit scenes: {'; '.join(found)}." if found else "Ours, on digit scenes: not measured."


@cache
def _digits() -> dict[str, str]:
    rows = re.findall(r"^\| ([^|]+?) \| (\d[\d.]* \+- [\d.]+) \|", _DIGITS.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: value.replace("+-", "±") for name, value in rows}


def _render_sources() -> str:
    lines = []
    for source in load_published().sources.values():
        runs = f" {source.runs} runs." if source.runs else ""
        lines.append(f"- **{source.reference}, {source.where}.**{runs} What differs: {'; '.join(source.differs)}.")
    return "## Sources of published scores\n\n" + "\n".join(lines)


def _as_markdown(text: str) -> str:
    """Return a docstring as Markdown: formulas, which are indented, in fences."""
    lines: list[str] = []
    fenced, item = False, 0
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if line.strip() and not fenced:
            # The text of a list item, which its next lines continue, starts two characters after the bullet.
            item = indent + 2 if line.lstrip().startswith(("- ", "* ")) else item if 0 < indent == item else 0
        is_formula = (indent >= 4 and indent != item) or (fenced and not line.strip())
        if is_formula != fenced and (is_formula or line.strip()):
            while fenced and lines and not lines[-1]:
                lines.pop()
            lines.append("```")
            if fenced:
                lines.append("")
            fenced = is_formula
        lines.append(line[4:] if fenced else _inline(line))
    return "\n".join([*lines, "```"] if fenced else lines).strip()


def _inline(text: str) -> str:
    text = re.sub(r":[a-z]+:`~?([^`]+)`", r"`\1`", text)
    return re.sub(r"^(\s*)\* ", r"\1- ", text.replace("``", "`"))


if __name__ == "__main__":
    PAGE.write_text(render_page(), encoding="utf-8")
