from __future__ import annotations

import json
from pathlib import Path

import pytest

from search_spaces.schema import load_space, shipped_spaces
from tests.kit.program import run
from tests.kit.shipped_plans import plan_sweep


def test_shipped_spaces_are_listed_with_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "spaces")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:-1]] == shipped_spaces()
    assert "PASCAL VOC 2012 with ResNet-50" in out
    assert out.splitlines()[-1].endswith("spaces digits > my.yaml")
    entries = json.loads(run(capsys, "spaces", "--json")[1])
    assert [entry["space"] for entry in entries] == shipped_spaces()


def test_printed_space_loads_again_and_plans_identically(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    copy = tmp_path / "my.yaml"
    copy.write_text(run(capsys, "spaces", "voc")[1], encoding="utf-8")
    assert "orchestrator sweep my.yaml   (after: orchestrator data prepare voc" in copy.read_text(encoding="utf-8")
    # The only difference: the command in the header runs the copy.
    assert load_space(copy).model_dump() == load_space("voc").model_dump()
    for method, recipe in (("ignore", "common"), ("ignore_without_rejection", "common"), ("wan", "published")):
        shipped, copied = plan_sweep("voc", method, recipe), plan_sweep(str(copy), method, recipe)
        for field in (
            "base",
            "ranges",
            "start_from",
            "protocol",
            "resources",
            "num_trials",
            "scheduler",
            "grace_epochs",
        ):
            assert getattr(copied, field) == getattr(shipped, field), (method, field)
        assert copied.space_text == copy.read_text(encoding="utf-8")
        assert copied.space_text == shipped.space_text.replace("sweep voc ", "sweep my.yaml ", 1)


def test_unknown_space_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "spaces", "digts")
    assert (code, out) == (2, "")
    assert "Did you mean digits?" in err
