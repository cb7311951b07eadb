"""Test `data score` with a tiny CLIP on a small folder dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import data_score
from orchestrator.datasets import scoring
from orchestrator.datasets.scoring import to_words
from tests.kit.layouts import make_folder
from tests.kit.program import run
from tests.kit.tiny_clip import NAME, install_tiny_clip
from training.data.store.clip_scores import ScoreFile
from training.models import weights
from training.models.clip import score_images

FILE = "scores-clip-tiny-train.parquet"


@pytest.fixture
def words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path
) -> tuple[str, ...]:
    """Prepare photos; return the command that scores them."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    file = install_tiny_clip(monkeypatch, tmp_path / "clip")
    source = make_folder(tmp_path / "source")
    prepared = ("data", "prepare", "folder", "--name", "mine", "--source", str(source), "--image-size", "32")
    assert run(capsys, *prepared)[0] == 0
    return "data", "score", "mine", "--model", NAME, "--weights", str(file)


def test_scores_are_kept_with_the_store_and_say_how_they_were_made(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], home: Path
) -> None:
    code, out, err = run(capsys, *words)
    assert (code, "scored" in err) == (0, True), err
    assert "zero-shot: val mAP " in out
    found = ScoreFile.decode((home / "data" / "mine" / FILE).read_bytes())
    assert len(found.ids) == len(found.scores) == 24
    assert found.scores.whole.sum(1).allclose(found.scores.whole.new_ones(24))
    assert (found.scores.tile_max >= found.scores.tile_min).all()
    assert found.about["prompt"] == "a photo of a {}."
    assert (found.about["model"], found.about["temperature"], found.about["tiles"]) == (NAME, "0.01", "4")
    assert len(json.loads(found.about["class_names"])) == found.scores.whole.shape[1]
    assert len(found.about["weights_hash"]) == 64
    assert sorted(path.name for path in (home / "data" / "mine").glob("scores*")) == [FILE]
    # A second time nothing is done, not even the weights are needed.
    for again in (words, words[:-2]):
        code, out, err = run(capsys, *again)
        assert (code, "nothing was done" in err) == (0, True), err
    described = json.loads(run(capsys, *words, "--json")[1])
    assert described["weights_hash"] == found.about["weights_hash"]
    assert 0 < described["val/mAP"] <= 100


def test_stopped_it_continues_where_it_stopped(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "PART_IMAGES", 10)
    score, calls = score_images, 0

    def stop(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return score(*args)

    monkeypatch.setattr(scoring, "score_images", stop)
    code, _, err = run(capsys, *words)
    assert (code, "run the same command again" in err) == (130, True)
    assert not (home / "data" / "mine" / FILE).exists()
    assert run(capsys, *words)[0] == 0
    assert calls == 2 + 2, "the first part was made once"
    assert len(ScoreFile.decode((home / "data" / "mine" / FILE).read_bytes()).ids) == 24
    assert sorted(path.name for path in (home / "data" / "mine").glob("scores*")) == [FILE]


def test_scores_made_in_another_way_are_not_replaced_unless_asked(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], home: Path, tmp_path: Path
) -> None:
    assert run(capsys, *words)[0] == 0
    before = (home / "data" / "mine" / FILE).read_bytes()
    code, _, err = run(capsys, *words, "--prompt", "{}")
    assert (code, "made with prompt a photo of a {}. and not {}." in err, "--replace" in err) == (2, True, True), err
    names = tmp_path / "names.txt"
    names.write_text("one\ntwo\n", encoding="utf-8")
    code, _, err = run(capsys, *words, "--class-names", str(names))
    assert (code, "must have a line for each of the" in err) == (2, True), err
    assert (home / "data" / "mine" / FILE).read_bytes() == before
    assert run(capsys, *words, "--prompt", "{}", "--replace")[0] == 0
    assert ScoreFile.decode((home / "data" / "mine" / FILE).read_bytes()).about["prompt"] == "{}"


def test_without_weights_and_network_it_says_which_file_to_get(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(url: str) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(weights, "_reach", unreachable)
    code, _, err = run(capsys, *words[:-2])
    assert code == 1
    assert "download failed: no route to host" in err
    assert "open_clip_model.safetensors of nobody/tiny-clip" in err
    assert "orchestrator data score mine --model clip/tiny --weights FILE" in err
    for more, message in [
        (("--weights", str(tmp_path / "none.pt")), "none.pt does not exist"),
        (("--prompt", "a photo"), "--prompt must have {} once"),
        (("--tiles", "99"), "--tiles"),
        (("--model", "clip/ViT-B-61"), "Did you mean clip/ViT-B-"),
    ]:
        code, _, err = run(capsys, *words, *more)
        assert (code, message in err) == (2, True), err
    assert run(capsys, "data", "score", "none")[0] == 2


def test_class_names_are_made_words() -> None:
    for name, said in [
        ("tvmonitor", "tv monitor"),
        ("traffic light", "traffic light"),
        ("fire_truck", "fire truck"),
        ("has_bill_shape::curved_(up_or_down)", "bill shape curved (up or down)"),
        ("Straßenbahn", "Straßenbahn"),
    ]:
        assert to_words(name) == said


def test_the_prompt_of_the_help_is_the_default() -> None:
    assert data_score._PROMPT == scoring.DEFAULT_PROMPT
