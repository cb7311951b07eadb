"""Check what the repository says about itself: links, commands, locks, packages, import contracts, shipped files."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import runpy
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import app as cli
from orchestrator.cli import cluster as cli_cluster
from orchestrator.cli import data as cli_data
from orchestrator.cli import weights as cli_weights
from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from search_spaces.schema import load_space, shipped_spaces

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def code_of(document: Path) -> str:
    """Return what a document shows as code, in fences or between backticks."""
    text = document.read_text(encoding="utf-8")
    return "\n".join(re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text))


def locked(path: Path) -> dict[str, set[str]]:
    """Return package -> versions of a lock; there may be several, for several versions of Python."""
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9._-]+)==(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE):
        versions.setdefault(name, set()).add(version)
    return versions


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (document.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_commands_that_exist(document: Path) -> None:
    code = code_of(document)
    verbs = set(re.findall(r"\borchestrator ([a-z][a-z-]*)", code))
    assert verbs <= {*cli.VERBS, "cluster", "data", "submit", "weights"}
    assert set(re.findall(r"\borchestrator data ([a-z]+)\b", code)) <= set(cli_data.VERBS)
    assert set(re.findall(r"\borchestrator cluster ([a-z]+)\b", code)) <= set(cli_cluster.VERBS)
    assert set(re.findall(r"\borchestrator weights ([a-z]+)\b", code)) <= set(cli_weights.VERBS)
    assert set(re.findall(r"\borchestrator submit (?:--[a-z-]+ )?([a-z]+)\b", code)) <= {*cli.VERBS, "data"}
    targets = set(re.findall(r"^(?:[A-Z]+=\S+ )?make ([a-z-]+)", code, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def test_the_documents_name_every_command() -> None:
    code = code_of(ROOT / "docs" / "commands.md")
    assert {verb for verb in cli.VERBS if not re.search(rf"\b{verb}\b", code)} == set()


def test_the_page_of_methods_is_what_the_code_says() -> None:
    render = runpy.run_path(str(ROOT / "docs" / "make_methods.py"))["render_page"]
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert render() == page, "write it again: python docs/make_methods.py"


def test_readme_begins_with_two_commands_and_can_be_read_in_three_minutes() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^make demo\b.*\nmake test\b", code_of(ROOT / "README.md"), re.MULTILINE)
    # At 230 words a minute, commands included.
    assert len(text.split()) <= 690


def test_ci_runs_the_command_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_lock_names_no_host_and_no_path_and_has_a_hash_for_everything(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert not re.search(r"://|--(index|extra-index)-url|--find-links|(?<![\w.])/\w", text)
    entries = re.split(
        r"\n(?=[a-z0-9])", "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    )
    without = [entry.split("==")[0] for entry in entries if "==" in entry and "--hash=sha256:" not in entry]
    assert without == []


def test_dev_lock_is_the_run_lock_and_more() -> None:
    run, dev = locked(ROOT / "requirements" / "run.txt"), locked(ROOT / "requirements" / "dev.txt")
    assert {name: versions for name, versions in run.items() if dev.get(name) != versions} == {}
    assert {"hatchling", "editables"} <= set(run)
    assert {"pytest", "ruff", "mypy", "import-linter", "uv"} <= set(dev) - set(run)
    bootstrap = locked(ROOT / "requirements" / "bootstrap.txt")
    assert bootstrap == {"uv": dev["uv"]}


def test_every_direct_dependency_is_locked_and_has_a_reason() -> None:
    names = {
        re.split(r"[\[=><~]", dependency)[0].lower().replace(".", "-")
        for dependency in PYPROJECT["project"]["dependencies"]
    }
    assert names <= set(locked(ROOT / "requirements" / "run.txt"))
    assert {"torch", "torchvision"} <= names


def test_torch_and_torchvision_are_pinned_as_a_pair() -> None:
    pinned = dict(pin.split("==") for pin in PYPROJECT["project"]["dependencies"] if re.match(r"torch(vision)?==", pin))
    versions = locked(ROOT / "requirements" / "run.txt")
    assert pinned == {name: next(iter(versions[name])) for name in ("torch", "torchvision")}


def test_only_the_three_packages_are_installed() -> None:
    assert PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [
        "orchestrator",
        "training",
        "search_spaces",
    ]


def test_entry_point_is_there() -> None:
    module, _, function = PYPROJECT["project"]["scripts"]["orchestrator"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("name", shipped_spaces())
def test_shipped_space_can_be_planned_and_says_what_it_is(name: str) -> None:
    space = load_space(name)
    for method in space.methods:
        plan = make_plan(PlanRequest(space, method=method, num_cpus=8, num_gpus=1))
        assert plan.num_trials >= 1
    for word in ("Paper:", "Cost:", "Expected:", f"orchestrator sweep {name}"):
        assert word in space.header


def test_demo_is_a_plan_of_the_size_that_was_promised() -> None:
    recipe = re.search(
        r"orchestrator (sweep digits --(?:\\\n|[^\n])*)", (ROOT / "Makefile").read_text(encoding="utf-8")
    )
    assert recipe is not None
    words = recipe.group(1).replace("\\\n", " ").split()
    assert "--name" not in words
    flag = dict(pairwise(words))
    assert int(flag["--trials"]) >= 12
    assert int(flag["--epochs"]) >= 8
    assert "method.warmup_epochs=2" in words


def test_makefile_runs_modules_that_exist() -> None:
    modules = re.findall(r"python -m (benchmarks(?:\.\w+)+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert len(modules) >= 7, "or they are not found"
    places = {module: ROOT / module.replace(".", "/") for module in modules}
    # A package is run by its __main__.py.
    missing = [
        module
        for module, place in places.items()
        if not place.with_suffix(".py").is_file() and not (place / "__main__.py").is_file()
    ]
    assert missing == []


def test_no_file_carries_a_path_of_a_machine() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.splitlines()
    if not tracked:
        pytest.skip("no git checkout")
    texts = {name: (ROOT / name).read_bytes() for name in tracked if (ROOT / name).is_file()}
    pattern = re.compile(rb"/(home|root|Users)/\w|" + re.escape(str(ROOT).encode()))
    assert [name for name, content in texts.items() if pattern.search(content)] == []


def test_one_module_finds_the_nearest_word() -> None:
    folders = ("orchestrator", "training", "search_spaces", "benchmarks")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    found = [path.name for path in sources if "difflib" in path.read_text(encoding="utf-8")]
    assert found == ["spelling.py"], "use training.config.spelling"


def test_no_module_has_grown_past_what_one_thing_needs() -> None:
    sources = [
        path for package in ("orchestrator", "training", "search_spaces") for path in (ROOT / package).rglob("*.py")
    ]
    assert [path.name for path in sources if len(path.read_text(encoding="utf-8").splitlines()) > 400] == []


PRIVATE_RAY = re.compile(
    r"\bray\.[\w.]*\b_\w|\bfrom ray import _|\bray\._|\bray\.dashboard\.modules\b|\bprint_to_stdstream\b"
)
"""A module of Ray that starts with an underscore, anywhere in its path, or one that Ray does not document."""


def test_only_ray_compat_touches_private_names_of_ray() -> None:
    allowed = {"orchestrator/ray_compat.py", "tests/unit/orchestrator/test_ray_compat.py", "tests/test_repo.py"}
    found = []
    for folder in ("orchestrator", "training", "search_spaces", "benchmarks", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
            found += [f"{name}:{number}" for number, line in lines if name not in allowed and PRIVATE_RAY.search(line)]
    assert found == []


def test_references_in_docstrings_lead_to_something() -> None:
    broken = []
    for package in ("orchestrator", "training", "search_spaces"):
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            for name in re.findall(r":(?:class|func|mod|meth|attr|data|exc):`~?([A-Za-z_][\w.]*)`", text):
                own = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                if not (is_there(name) or is_there(f"{own}.{name}") or is_member(own, name)):
                    broken.append(f"{path.relative_to(ROOT)}: {name}")
    assert broken == []


def is_there(name: str) -> bool:
    """Return whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not has(found, part):
                return False
            found = getattr(found, part, None)
        return True
    return False


def is_member(module: str, name: str) -> bool:
    """Return whether a class of a module has a method or field of this name."""
    return any(has(found, name) for _, found in inspect.getmembers(importlib.import_module(module), inspect.isclass))


def has(owner: object, name: str) -> bool:
    """Return whether something has an attribute, or a field without a default."""
    return hasattr(owner, name) or name in getattr(owner, "__annotations__", {})


def test_text_files_are_read_and_written_as_utf_8() -> None:
    # Otherwise the encoding is the user's locale's, which may lack the characters of their class names.
    silent = []
    for package in ("orchestrator", "training", "search_spaces"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    is_text = node.func.attr in ("read_text", "write_text")
                    if is_text and not any(word.arg == "encoding" for word in node.keywords):
                        silent.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert silent == []
