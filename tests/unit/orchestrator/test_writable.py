from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import writable
from orchestrator.errors import UserError
from orchestrator.planning.plan import make_plan
from orchestrator.planning.request import PlanRequest
from orchestrator.promotion.lock import promoting
from orchestrator.sweep.driver import run_sweep
from orchestrator.sweep.hooks import Hooks, make_no_tracker
from orchestrator.sweep.options import DriveOptions
from orchestrator.writable import find_obstacle, ray_base_dir, require_writable


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(writable, "_MAX_BASE", 1000)  # the tests' own folders are too long for Ray
    (tmp_path / "file").write_text("")
    return tmp_path / "file"


def test_folder_yet_to_be_made_is_no_obstacle_and_is_not_made(tmp_path: Path, file: Path) -> None:
    assert find_obstacle(tmp_path / "new" / "deep") is None
    assert not (tmp_path / "new").exists()
    assert find_obstacle(file) == find_obstacle(file / "below") == "Not a directory"


@pytest.mark.parametrize(
    ("variable", "subject"),
    [
        ("ORCHESTRATOR_HOME", "The home"),
        ("XDG_CACHE_HOME", "The cache"),
        ("RAY_TMPDIR", "Ray's folder for temporary files"),
        ("HOME", "Ray's folder for its token"),
    ],
)
def test_what_cannot_be_written_is_named_with_the_variable_that_moves_it(
    monkeypatch: pytest.MonkeyPatch, file: Path, variable: str, subject: str
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    require_writable("auto")
    monkeypatch.setenv(variable, str(file))
    with pytest.raises(
        UserError,
        match=rf"^{subject} cannot be written: .* \(Not a directory\)\. Set {variable} to a writable folder\.$",
    ):
        require_writable(None)


def test_home_that_is_not_ours_is_fine_where_ray_has_its_token(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    monkeypatch.setenv("HOME", str(file))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef")
    require_writable(None)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    require_writable("auto")  # that cluster's is another matter


def test_promotion_says_what_cannot_be_written(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(file))
    with pytest.raises(UserError, match=r"^The home cannot be written: .* \(Not a directory\)"), promoting("digits-1"):
        pass


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "RAY_TMPDIR"])
def test_sweep_that_cannot_write_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, home: Path, file: Path, variable: str
) -> None:
    monkeypatch.setenv(variable, str(file))
    with pytest.raises(UserError, match=variable):
        run_sweep(
            make_plan(PlanRequest("digits", trials=1)),
            DriveOptions(progress=False, hooks=Hooks(make_tracker=make_no_tracker)),
        )
    assert list(home.iterdir()) == []


def test_a_path_too_long_for_sockets_is_replaced_by_the_systems_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    for path, base in (("/scratch", "/scratch"), ("/scratch/" + 30 * "x", "/tmp"), ("", "/tmp")):
        monkeypatch.setenv("TMPDIR", path)
        assert ray_base_dir() == Path(base)
    monkeypatch.setenv("RAY_TMPDIR", "/fast")
    assert ray_base_dir() == Path("/fast")
