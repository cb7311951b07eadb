from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image

from orchestrator.cli import app as cli
from orchestrator.cli import data as cli_data
from orchestrator.datasets import preparing
from tests.kit.layouts import make_coco, make_cub, make_folder, make_l48, make_nuswide, make_voc
from tests.kit.program import run

SIZE = ("--image-size", "32")
# Whatever machine the tests run on.
ANYWHERE = ("--set", "resources.cpus_per_worker=1", "--set", "resources.gpus_per_worker=0")


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return make_voc(tmp_path / "downloads")


@pytest.mark.parametrize("verb", cli_data.VERBS)
def test_help_has_an_example_that_is_understood_and_the_exit_codes(
    capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    example = cli_data.VERBS[verb][1]
    code, out, _ = run(capsys, "data", verb, "--help")
    assert code == 0
    assert f"Example: {example}" in out
    assert cli.EXIT_CODES in out
    group = typer.main.get_command(cli.app).commands["data"]  # type: ignore[attr-defined]  # typer's group is its own class
    words = shlex.split(example)
    assert words[:3] == ["orchestrator", "data", verb]
    with group.commands[verb].make_context(verb, words[3:]):
        pass


def test_help_of_the_group_imports_nothing_heavy() -> None:
    code = """
import sys
from orchestrator.cli import app as cli
try:
    cli.main(["data", "prepare", "--help"])
except SystemExit:
    print("heavy:", sorted({"torch", "ray", "mlflow", "optuna", "numpy", "rich", "pyarrow", "PIL"} & set(sys.modules)))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "heavy: []" in out


def test_a_store_is_not_named_with_credentials(capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path) -> None:
    code, out, err = run(
        capsys, "data", "prepare", "voc", "--source", str(tmp_path), "--out", "s3://key:hunter2@bucket/voc"
    )
    assert (code, out, "hunter2" in err) == (2, "", False)
    assert "--out must not contain credentials, but got --out=s3://key:***@bucket/voc" in err
    assert list(home.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make"),
    [
        *(("voc", make_voc), ("coco", make_coco), ("nuswide", make_nuswide), ("cub", make_cub)),
        *(("l48", make_l48), ("folder", make_folder)),
    ],
)
def test_every_dataset_is_prepared_listed_shown_and_counted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, make: object
) -> None:
    source = make(tmp_path / "downloads")  # type: ignore[operator]  # one signature, many defaults
    code, out, err = run(capsys, "data", "prepare", name, "--source", str(source), *SIZE)
    assert (code, "prepared in" in err) == (0, True), err
    assert f"orchestrator data show {name}" in out
    listed = json.loads(run(capsys, "data", "list", "--json")[1])
    assert [(entry["name"], entry["state"], entry["image_size"]) for entry in listed] == [(name, "ready", 32)]
    code, out, _ = run(capsys, "data", "show", name, "--index", "0-1")
    assert (code, out.count("observed ")) == (0, 2 + out.count("not observed"))
    assert Image.open(out.rpartition("picture: ")[2].strip()).format == "PNG"
    counted = json.loads(run(capsys, "data", "stats", name, "--json")[1])
    assert counted["images"]["train"] > 0
    assert Path(counted["picture"]).is_file()
    code, _, _ = run(capsys, "data", "verify", name)
    assert code == (0 if name in ("folder", "l48") else 1)  # a handful of images is not the paper's dataset


def test_second_run_does_nothing_and_says_so(capsys: pytest.CaptureFixture[str], voc: Path, home: Path) -> None:
    words = ("data", "prepare", "voc", "--source", str(voc / "VOCdevkit"), *SIZE)
    run(capsys, *words)
    before = {path: path.stat().st_mtime_ns for path in (home / "data" / "voc").iterdir()}
    code, _, err = run(capsys, *words)
    assert (code, "nothing was done" in err) == (0, True)
    assert {path: path.stat().st_mtime_ns for path in (home / "data" / "voc").iterdir()} == before


def test_stopped_it_says_how_it_goes_on(
    capsys: pytest.CaptureFixture[str], voc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(preparing, "write_store", stop)
    code, _, err = run(capsys, "data", "prepare", "voc", "--source", str(voc), *SIZE)
    assert (code, "run the same command again" in err) == (130, True)


def test_piped_progress_is_quiet(capsys: pytest.CaptureFixture[str], voc: Path) -> None:
    _, out, err = run(capsys, "data", "prepare", "voc", "--source", str(voc), *SIZE)
    assert "\x1b" not in out + err
    assert len(err.splitlines()) == 2


def test_store_elsewhere_is_found_by_its_name(
    capsys: pytest.CaptureFixture[str], voc: Path, tmp_path: Path, home: Path
) -> None:
    elsewhere = tmp_path / "big disk" / "voc"
    assert run(capsys, "data", "prepare", "voc", "--source", str(voc), "--out", str(elsewhere), *SIZE)[0] == 0
    assert json.loads((home / "data" / "voc.json").read_text()) == {"uri": str(elsewhere)}
    assert str(elsewhere) in run(capsys, "data", "list")[1]
    assert run(capsys, "data", "show", "voc", "--out", str(tmp_path / "sheet.png"))[0] == 0
    assert (tmp_path / "sheet.png").is_file()


def test_ones_own_data_have_a_name_of_their_own(capsys: pytest.CaptureFixture[str], tmp_path: Path, home: Path) -> None:
    source = make_folder(tmp_path / "mine", observed_only=True)
    assert run(capsys, "data", "prepare", "folder", "--source", str(source), "--name", "mugs", *SIZE)[0] == 0
    assert (home / "data" / "mugs" / "manifest.json").is_file()
    assert "true labels not available" in run(capsys, "data", "show", "mugs")[1]
    assert "true labels of train and val: not available" in run(capsys, "data", "stats", "mugs")[1]


def test_verify_needs_label_files_alone_and_prints_a_line_per_figure(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = make_voc(tmp_path / "lists", images=False)
    for path in (source / "VOCdevkit" / "VOC2012" / "Annotations").iterdir():
        path.unlink()
    code, out, _ = run(capsys, "data", "verify", "voc", "--source", str(source))
    assert code == 1
    figures = [line.split() for line in out.splitlines() if line.startswith("  training images")]
    assert len(figures) == 1
    assert figures[0][3:] == ["4,574", "✗", "-4,564"]
    found = json.loads(run(capsys, "data", "verify", "voc", "--source", str(source), "--json")[1])
    assert found["equal"] is False
    assert {
        "key": "classes",
        "figure": "classes",
        "computed": "20",
        "paper": "20",
        "equal": True,
        "difference": "",
    } in found["figures"]


def test_lists_that_disagree_are_a_failure_with_the_fault(capsys: pytest.CaptureFixture[str], voc: Path) -> None:
    path = voc / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main" / "cow_train.txt"
    path.write_text(path.read_text().replace("2008_000003", "2008_999999"))
    code, out, _ = run(capsys, "data", "verify", "voc", "--source", str(voc))
    assert code == 1
    assert "ImageSets/Main/cow_train.txt:4: 2008_999999 is not in" in out


def test_broken_image_fails_unless_it_may_be_left_out(capsys: pytest.CaptureFixture[str], voc: Path) -> None:
    words = ("data", "prepare", "voc", "--source", str(voc), *SIZE)
    (voc / "VOCdevkit" / "VOC2012" / "JPEGImages" / "2008_000004.jpg").write_bytes(b"no picture")
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "2008_000004.jpg" in err
    assert "--skip-bad" in err
    assert "is not finished" in run(capsys, "data", "list")[1]
    code, out, _ = run(capsys, *words, "--skip-bad")
    assert code == 0
    assert "left out (1)" in out
    assert "2008_000004.jpg" in out


def test_store_that_is_not_whole_is_not_called_ready(capsys: pytest.CaptureFixture[str], voc: Path, home: Path) -> None:
    words = ("data", "prepare", "voc", "--source", str(voc), *SIZE)
    run(capsys, *words)
    folder = home / "data" / "voc"
    (folder / "train-00000.arrow").unlink()
    assert "train-00000.arrow is missing" in json.loads(run(capsys, "data", "list", "--json")[1])[0]["state"]
    code, _, err = run(capsys, *words)
    assert (code, f"train-00000.arrow is missing. Delete {folder}/manifest.json and prepare" in err) == (1, True)
    (folder / "manifest.json").unlink()
    code, _, err = run(capsys, "data", "show", "voc")
    assert (code, "continues where it stopped" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["prepare", "vco", "--source", "."], "Did you mean voc?"),
        (["prepare", "voc"], "--source"),
        (["prepare", "voc", "--source", "nowhere"], "does not exist"),
        (["prepare", "voc", "--source", "{downloads}", "--name", "mine"], "--name goes with folder only"),
        (["prepare", "voc", "--source", "{downloads}", "--encoding", "png"], "jpeg, raw"),
        (["prepare", "coco", "--source", "{downloads}"], "VOC 2012"),
        (["verify", "cub", "--source", "{downloads}"], "VOC 2012"),
        (["verify", "voc"], "orchestrator data prepare voc --source DIR"),
        (["stats", "coco"], "orchestrator data prepare coco --source DIR"),
        (["show", "teapots"], "orchestrator data prepare folder --source DIR --name teapots"),
        (["show", "voc", "--split", "test"], "Only promote opens test images"),
        (["show", "voc", "--draw-seed", "4294967296"], "--draw-seed"),
    ],
)
def test_mistakes_are_told_with_the_way_out(
    capsys: pytest.CaptureFixture[str], voc: Path, words: list[str], hint: str
) -> None:
    code, out, err = run(capsys, "data", *(word.format(downloads=voc) for word in words))
    assert (code, out) == (2, "")
    assert hint in err
    assert "Traceback" not in err


@pytest.mark.parametrize("words", [["--index", "99"], ["--out", "sheet.jpg"]])
def test_sheet_that_cannot_be_is_a_mistake(capsys: pytest.CaptureFixture[str], voc: Path, words: list[str]) -> None:
    run(capsys, "data", "prepare", "voc", "--source", str(voc), *SIZE)
    code, _, err = run(capsys, "data", "show", "voc", *words)
    assert (code, words[0] in err) == (2, True)


@pytest.mark.parametrize("words", [["sweep", "voc"], ["train", "voc"], ["plan", "voc"], ["sweep", "voc", "--dry-run"]])
def test_verbs_that_need_a_store_name_the_command_that_makes_it(
    capsys: pytest.CaptureFixture[str], home: Path, words: list[str]
) -> None:
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "orchestrator data prepare voc --source DIR" in err
    assert not (home / "sweeps").exists()


def test_plan_takes_the_store_that_is_there_and_refuses_one_that_does_not_fit(
    capsys: pytest.CaptureFixture[str], voc: Path, home: Path
) -> None:
    run(capsys, "data", "prepare", "voc", "--source", str(voc), *SIZE)
    code, _, err = run(capsys, "plan", "voc")
    assert (code, "--set data.image_size=32" in err) == (2, True)
    code, out, err = run(capsys, "plan", "voc", *ANYWHERE, "--set", "data.image_size=32", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["base"]["data.store"] == str(home / "data" / "voc")


def test_plan_refuses_what_needs_true_labels_where_there_are_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = make_folder(tmp_path / "mine", observed_only=True)
    run(capsys, "data", "prepare", "folder", "--source", str(source), *SIZE)
    sized = (*ANYWHERE, "--set", "data.image_size=32")
    assert run(capsys, "plan", "folder", *sized)[0] == 0
    code, _, err = run(capsys, "plan", "folder", *sized, "--method", "full_labels")
    assert (code, "only observed ones" in err) == (2, True)
    code, _, err = run(capsys, "plan", "folder", *sized, "--set", "loop.select_epoch_by=clean-val")
    assert (code, "observed-val" in err) == (2, True)


def test_foreign_files_in_the_data_folder_are_left_alone(
    capsys: pytest.CaptureFixture[str], voc: Path, home: Path, tmp_path: Path
) -> None:
    foreign = {
        "data/settings.json": "[1, 2]",
        "data/voc.json": '{"uri": "https://example.org", "title": "where I found it"}',
        "data/notes/todo.txt": "write",
        "data/voc/README.md": "downloads of mine",
        "disk/holiday.jpg": "sun",
    }
    for name, text in foreign.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    code, out, _ = run(capsys, "data", "list")
    assert (code, out.startswith("No prepared datasets")) == (0, True)
    code, _, err = run(capsys, "data", "show", "voc")
    assert (code, "not a store, ignored" in err, "elete" in err) == (2, True, False)
    words = ("data", "prepare", "voc", "--source", str(voc), *SIZE)
    code, _, err = run(capsys, *words, "--out", str(home / "disk"))
    assert (code, "data/voc.json belongs to another program" in err) == (2, True)
    assert sorted(path.name for path in (home / "disk").iterdir()) == ["holiday.jpg"]  # refused before any work
    code, _, err = run(capsys, *words)
    assert code == 0, err
    assert [entry["name"] for entry in json.loads(run(capsys, "data", "list", "--json")[1])] == ["voc"]
    assert {name: (home / name).read_text() for name in foreign} == foreign


def test_pointer_to_a_store_that_is_gone_says_how_to_get_it_back(
    capsys: pytest.CaptureFixture[str], voc: Path, tmp_path: Path, home: Path
) -> None:
    words = ("data", "prepare", "voc", "--source", str(voc), *SIZE, "--out")
    assert run(capsys, *words, str(tmp_path / "disk"))[0] == 0
    (tmp_path / "disk").rename(tmp_path / "moved")
    state = json.loads(run(capsys, "data", "list", "--json")[1])[0]["state"]
    assert state.startswith(f"No store at {tmp_path / 'disk'}. If it was moved, move it to data/NAME in the home, or ")
    code, _, err = run(capsys, "data", "show", "voc")
    assert (code, f"No store at {tmp_path / 'disk'}" in err) == (1, True)
    (home / "data" / "voc").symlink_to(tmp_path / "moved")  # as the message says
    assert run(capsys, "data", "show", "voc")[0] == 0
    (home / "data" / "voc").unlink()
    code, _, err = run(capsys, *words, str(tmp_path / "moved"))
    assert (code, "nothing was done" in err) == (0, True)
    assert run(capsys, "data", "show", "voc")[0] == 0


def test_list_of_a_home_that_is_a_file_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "file"))
    code, out, error = run(capsys, "data", "list")
    assert (code, out) == (2, "")
    assert "home must be a folder" in error


def test_names_are_printed_in_any_encoding(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "mein Käfer"
    (source / "images").mkdir(parents=True)
    for number in range(10):
        Image.new("RGB", (16, 16)).save(source / "images" / f"犬{number}.jpg")
    rows = "".join(f"犬{number}.jpg,{number % 2},{1 - number % 2}\n" for number in range(9))
    (source / "observed.csv").write_text(f"image,犬,ä\n{rows}", encoding="utf-8")
    (source / "images" / os.fsdecode(b"x\xe4.jpg")).touch()  # a name that is no UTF-8, as in an old archive
    prepare = ("data", "prepare", "folder", "--source", str(source), "--name", "dogs", *SIZE)
    for encoding, dog in (("latin-1", "\\u72ac"), ("ascii", "\\u72ac"), ("utf-8", "犬")):
        for words in (prepare, ("data", "show", "dogs"), ("data", "stats", "dogs"), ("data", "verify", "dogs")):
            stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
            monkeypatch.setattr(sys, "stdout", stream)
            monkeypatch.setattr(sys, "stderr", stream)
            with pytest.raises(SystemExit) as ended:
                cli.main(list(words))
            stream.flush()
            printed = stream.buffer.getvalue().decode(encoding)
            assert ended.value.code in (0, None), (encoding, words, printed)
            assert dog in printed or words[1] == "verify", (encoding, words, printed)
