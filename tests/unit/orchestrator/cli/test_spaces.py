from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.planning.request import PlanRequest
from search_spaces.schema import load_space, shipped_spaces
from tests.kit.layouts import FOLDER_CLASSES, make_folder
from tests.kit.program import run
from tests.kit.shipped_plans import plan_sweep
from training.data.sources.folder import read_folder


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


def test_the_template_for_data_of_ones_own_runs_without_a_change(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, home: Path
) -> None:
    source, copy = make_folder(tmp_path / "birds", observed_only=["train", "val"]), tmp_path / "birds.yaml"
    prepare = ("data", "prepare", "folder", "--source", str(source), "--image-size", "32")
    code, out, err = run(capsys, *prepare, "--name", "birds")
    assert code == 0, err
    assert "orchestrator spaces folder --data birds > birds.yaml" in out
    assert "orchestrator sweep birds.yaml" in out
    copy.write_text(run(capsys, "spaces", "folder", "--data", "birds")[1])
    assert "Command:  orchestrator sweep birds.yaml " in copy.read_text()
    here = ("--set", "resources.cpus_per_worker=1", "--set", "resources.gpus_per_worker=0")
    assert run(capsys, "plan", str(copy), *here)[0] == 0
    space = load_space(copy)
    assert (space.dataset, space.shared.fixed["data.name"], space.shared.fixed["data.image_size"]) == (
        "birds",
        "birds",
        32,
    )
    num_classes = len(FOLDER_CLASSES)
    assert space.methods["wan"].start_from[0]["method.negative_weight"] == round(1 / (num_classes - 1), 4)
    assert space.protocol.select_config_by == "observed-val"
    assert space.shared.fixed["data.positives"] == "given"
    decays = {block.fixed["method.gap_decay"] for block in space.methods.values() if "method.gap_decay" in block.fixed}
    assert decays == {0.95}  # so few images make few steps, in the method and in all its variants
    copy.write_text(run(capsys, "spaces", "photos", "--data", "birds")[1])
    small = load_space(copy)
    assert (small.dataset, small.shared.fixed["data.image_size"]) == ("birds", 32)
    assert small.shared.fixed["model.backbone"] == "torchvision/mobilenet_v2"
    # Its name is a dataset's, and no shipped space has it.
    code, _, err = run(capsys, "sweep", "birds")
    assert (code, "orchestrator spaces folder --data birds > birds.yaml" in err) == (2, True)
    code, _, err = run(capsys, "spaces", "voc", "--data", "birds")
    assert (code, "--data goes with the spaces folder and photos only" in err) == (2, True)
    code, _, err = run(capsys, "spaces", "--data", "brids")
    assert (code, "Did you mean birds?" in err) == (2, True)


def test_true_labels_decide_the_protocol_and_the_number_of_positives(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, home: Path
) -> None:
    source = make_folder(tmp_path / "mine")
    assert run(capsys, "data", "prepare", "folder", "--source", str(source), "--image-size", "32")[0] == 0
    space = PlanRequest("folder").load_space()  # under its own name, the template is fitted without being copied
    assert space.protocol.select_config_by == space.protocol.select_epoch_by == "clean-val"
    true = read_folder(source).phases["train"].true
    assert true is not None
    mean = pytest.approx(true.sum(1).mean(), abs=1e-3)
    assert space.methods["epr"].start_from[0]["method.expected_positives"] == mean
    assert space.methods["role"].fixed["method.expected_positives"] == mean
    assert load_space("folder").methods["role"].fixed["method.expected_positives"] == 2.0


def test_a_broken_space_is_named_with_its_line(capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]" for number in range(1, 30)]
    for text, why in {
        "\n".join(lines): ":6: with its aliases written out",
        "\nsearch: [": ":2: this is not valid",
    }.items():
        (tmp_path / "mine.yaml").write_text(text)
        code, _, err = run(capsys, "plan", str(tmp_path / "mine.yaml"))
        assert (code, f"mine.yaml{why}" in err) == (2, True)
