from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.home import check_name, clean_name, home, locate, make_sweep_id, sweeps_dir


def test_home_is_the_variable_or_the_current_folder(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.home import home as find_home

    assert find_home() == home
    assert sweeps_dir() == home / "sweeps"
    monkeypatch.delenv("ORCHESTRATOR_HOME")
    monkeypatch.chdir(tmp_path)
    assert find_home() == tmp_path


def test_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCHESTRATOR_HOME", "here")
    assert home() == tmp_path / "here"


def test_ids_are_the_name_and_eight_hex_digits_and_differ() -> None:
    first, second = make_sweep_id("digits"), make_sweep_id("digits")
    name, _, digits = first.rpartition("-")
    assert name == "digits"
    assert len(digits) == 8
    int(digits, 16)
    assert first != second


@pytest.mark.parametrize("name", ["", "a/b", "a b", "-a", ".a", "a@b", "x" * 65, "../a", "a-0123abcd"])
def test_names_that_no_path_or_id_could_carry_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"--name must .*, but got --name=.* For example: --name=\S+$"):
        check_name(name)


@pytest.mark.parametrize("word", ["my space", "-x", "ä", "", "a-0123abcd", "x" * 200])
def test_clean_name_gives_an_acceptable_name(word: str) -> None:
    assert check_name(clean_name(word))


def test_clean_name_leaves_good_names_alone() -> None:
    assert clean_name("voc_q2l") == "voc_q2l"


def test_a_folder_of_a_sweep_is_found_where_its_home_is_now(home: Path) -> None:
    sweep = "digits-00000001"
    (home / "sweeps" / sweep).mkdir(parents=True)
    former = "/former/place/ckpt"
    assert locate(former, sweep) == former, "nothing was moved"
    (home / "ckpt" / sweep).mkdir(parents=True)
    assert locate(former, sweep) == str(home / "ckpt")
    assert locate(former, "digits-00000002") == former
    assert locate(str(home / "other"), sweep) == str(home / "other")
    assert locate("s3://bucket/ckpt", sweep) == "s3://bucket/ckpt"
    # Every sweep has a folder there, which is not that of its checkpoints.
    assert locate("/scratch/sweeps", sweep) == "/scratch/sweeps"
