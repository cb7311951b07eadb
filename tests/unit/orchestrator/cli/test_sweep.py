from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from orchestrator.planning.estimate import Timing
from orchestrator.planning.run_config import render_config
from orchestrator.promotion import noise
from orchestrator.results import timings
from orchestrator.sweep import driver as sweep_module
from orchestrator.sweep.driver import SweepOutcome
from orchestrator.sweep_folder.index import load_plan
from orchestrator.sweep_folder.journal import replay
from tests.kit.program import parse, pretend_terminal, run
from tests.kit.sweeps import journal_path
from training.config.run import TrainConfig


def test_plan_and_dry_run_print_the_same_and_write_nothing(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    flags = ["digits", "--trials", "3", "--epochs", "8", "--set", "method.warmup_epochs=2"]
    _, planned, _ = run(capsys, "plan", *flags)
    _, dry, _ = run(capsys, "sweep", *flags, "--dry-run")
    assert planned == dry
    assert "3, 8 epochs each" in planned
    assert "reduced run: do not report these numbers" in planned
    _, printed, _ = run(capsys, "plan", *flags, "--json")
    assert json.loads(printed)["num_trials"] == 3
    assert list(home.iterdir()) == []


def test_a_sweep_may_end_early_at_a_gain_or_at_the_noise(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "  may end       early, once the trials left are expected to gain less than 0.5 points together\n"
    asha = ("--set", "scheduler.name=asha")
    assert line in run(capsys, "plan", "digits", "--min-gain", "0.5", *asha)[1]
    assert line in run(capsys, "plan", "digits", "--set", "budget.min_gain=0.5", *asha)[1]
    assert "may end" not in run(capsys, "plan", "digits")[1]
    for flags, message in (
        (("--min-gain", "some"), "--min-gain must be a number of points, or noise, but got --min-gain=some"),
        (("--min-gain", "0"), "--min-gain must be a number of points above 0"),
        (("--min-gain", "noise"), "The deviation between seeds is not known for ignore on digits over 20 epochs"),
        (("--set", "budget.min_gain=0"), "--set budget.min_gain must be greater than 0"),
        (("--min-gain", "0.5"), "--min-gain does not go with the screen, which lets no trial run to its end"),
        (("--set", "budget.min_gain=0.5"), "--min-gain does not go with the screen"),
    ):
        code, _, err = run(capsys, "plan", "digits", *flags)
        assert (code, message in err) == (2, True), err
    monkeypatch.setattr(noise, "find_replicates", lambda plan: [[80.0, 81.0, 82.0], [70.0, 72.0]])
    out = run(capsys, "plan", "digits", "--min-gain", "noise", *asha)[1]
    # (1 + 0 + 1 + 1 + 1) / 3
    assert "expected to gain less than 1.15" in out
    assert "note: --min-gain noise: 1.2 points, the deviation between seeds in 5 runs of 2 configurations" in out


def test_a_misspelt_dataset_is_refused_before_the_plan_is_printed(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    text = (files("search_spaces") / "voc.yaml").read_text(encoding="utf-8")
    (home / "my.yaml").write_text(text.replace("dataset: voc", "dataset: vok").replace("name: voc", "name: vok"))
    code, out, err = run(capsys, "plan", str(home / "my.yaml"))
    assert (code, out) == (2, "")
    assert "No prepared dataset is called 'vok'. Did you mean voc?" in err
    # One that is not prepared yet may still be planned.
    code, out, err = run(capsys, "plan", "voc", "--set", "resources.gpus_per_worker=0")
    assert (code, out.startswith("sweep voc:")) == (2, True)
    assert "Prepare it: orchestrator data prepare voc" in err


def test_plan_takes_a_price_a_limit_and_a_probe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Timing.of_one(4.0, "by 20 steps on a CPU", weights_bytes=2**20)
    monkeypatch.setattr(timings, "probe_plan", lambda plan: found)
    flags = ("--price-per-gpu-hour", "2", "--max-gpu-hours", "9", "--probe")
    _, out, err = run(capsys, "plan", "digits", "--concurrency", "2", *flags)
    assert "taking steps of ignore on this machine" in err
    assert "pace          4 s per epoch, by 20 steps on a CPU" in out
    assert "money         1.27 (p50), 1.52 (p90) with the promotion, at 2 per CPU-hour" in out
    assert "limit         9 CPU-hours, with what is kept for the promotion: enough" in out
    assert "disk          about" in out
    for flag, value, message in (
        ("--max-gpu-hours", "0", "--max-gpu-hours must be a number above 0"),
        ("--price-per-gpu-hour", "-1", "--price-per-gpu-hour must be a number of at least 0"),
    ):
        code, _, err = run(capsys, "plan", "digits", flag, value)
        assert (code, message in err) == (2, True)


def test_sweep_on_a_cluster_runs_as_many_trials_at_a_time_as_the_cluster_carries(
    capsys: pytest.CaptureFixture[str], driver: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def count_share(address: str) -> dict[str, int]:
        asked.append(address)
        return {"num_cpus": 17, "num_gpus": 0}

    monkeypatch.setattr("orchestrator.cluster.size.count_share", count_share)
    assert run(capsys, "sweep", "digits", "--trials", "24", "--address", "auto")[0] == 0
    assert (driver[0]["plan"].concurrency, asked) == (17, ["auto"])
    assert run(capsys, "sweep", "digits", "--trials", "24", "--address", "auto", "--concurrency", "20")[0] == 0
    assert driver[1]["plan"].concurrency == 20
    assert "20 trials at a time share resources for 17" in " ".join(driver[1]["plan"].notes)


def test_a_gpu_that_is_not_there_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str], driver: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setattr("orchestrator.planning.capacity._count_gpus", lambda: 0)
    monkeypatch.setattr("orchestrator.planning.capacity._count_gpus_of_torch", lambda: 0)
    wanted = ("--set", "resources.gpus_per_worker=1")
    for verb in ("sweep", "train", "ablate", "plan"):
        code, out, err = run(capsys, verb, "digits", *wanted)
        assert code == 2, verb
        assert "no GPUs. To run it here, start it with --set resources.gpus_per_worker=0." in err
        assert ("1 worker x 1 CPU + 1 GPU" in out) == (verb == "plan")
    assert driver == []
    assert list(home.iterdir()) == []


def test_sweep_says_first_that_mlflow_is_away_and_goes_on(
    capsys: pytest.CaptureFixture[str], driver: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    code, _, err = run(capsys, "sweep", "digits")
    assert (code, len(driver)) == (0, 1)
    assert "note: MLflow at http://me:***@127.0.0.1:9 is unavailable (Connection refused). The run continues" in err
    for words in (("resume",), ("extend", "--trials", "+1")):
        code, _, err = run(capsys, *words)
        assert (code, "is unavailable" in err) == (0, True)


def test_sweep_with_a_uri_that_is_not_mlflows_is_refused(
    capsys: pytest.CaptureFixture[str], driver: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "blah://x")
    for words in (("sweep", "digits"), ("train", "digits"), ("ablate", "digits")):
        code, _, err = run(capsys, *words)
        assert (code, driver, "but got blah://x" in err) == (2, [], True)


def test_sweep_ends_with_the_leaderboard_and_three_commands(
    capsys: pytest.CaptureFixture[str], driver: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.cluster.size.count_share", lambda address: {"num_cpus": 2, "num_gpus": 0})
    code, out, err = run(
        capsys, "sweep", "digits", "--epochs", "8", "--set", "method.warmup_epochs=2", "--address", "auto"
    )
    assert code == 0
    (call,) = driver
    assert call["address"] == "auto"
    assert call["plan"].base["method.warmup_epochs"] == 2
    assert "note: reduced run: do not report these numbers" in err
    assert re.search(r"finished, \d+ s", err)
    assert out.startswith(f"{call['plan'].id}: ignore on digits")
    commands = out.partition("next:\n")[2].splitlines()
    assert [command.split()[1] for command in commands] == ["promote", "browse", "extend"]
    for command in commands:
        parse(command.partition("#")[0])


def test_notes_are_broken_between_words_where_the_terminal_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, driver: list[dict[str, Any]]
) -> None:
    pretend_terminal(monkeypatch, 60)
    _, _, err = run(
        capsys, "sweep", "digits", "--epochs", "8", "--set", "data.num_train=600", "--set", "method.warmup_epochs=2"
    )
    lines = err.splitlines()
    assert max(map(len, lines[:2])) <= 60
    assert (
        " ".join(lines[:2])
        == "note: reduced run: do not report these numbers: 8 of 20 epochs, data.num_train 600 of 1500"
    )


def test_sweep_in_json_prints_nothing_but_json(
    capsys: pytest.CaptureFixture[str], driver: list[dict[str, Any]]
) -> None:
    _, out, _ = run(capsys, "sweep", "digits", "--json")
    assert len(json.loads(out)["rows"]) == 4


def test_two_sweeps_of_a_space_do_not_collide_but_names_must_be_free(
    capsys: pytest.CaptureFixture[str], driver: list[dict[str, Any]]
) -> None:
    assert [run(capsys, "sweep", "digits")[0] for _ in range(2)] == [0, 0]
    assert len({call["plan"].id for call in driver}) == 2
    assert run(capsys, "sweep", "digits", "--name", "mine")[0] == 0
    code, _, err = run(capsys, "sweep", "digits", "--name", "mine")
    assert (code, "already has the name" in err) == (2, True)
    assert len(driver) == 3


def test_train_runs_one_trial_without_a_search(
    capsys: pytest.CaptureFixture[str], driver: list[dict[str, Any]]
) -> None:
    assert run(capsys, "train", "digits", "--set", "loop.seed=3")[0] == 0
    assert run(capsys, "train", "--from", "digits-train/1", "--name", "again")[0] == 0
    first, second = (call["plan"] for call in driver)
    assert [(plan.kind, plan.num_trials, plan.ranges) for plan in (first, second)] == [("train", 1, {})] * 2
    assert (first.base["loop.seed"], second.parent, second.name) == (3, f"{first.id}/1", "again")


def test_where_all_was_tried_no_extension_is_advised(
    capsys: pytest.CaptureFixture[str], driver: list[dict[str, Any]]
) -> None:
    fixed = [f"--set=optim.{key}" for key in ("lr=3e-3", "weight_decay=0.0", "batch_size=32")]
    _, out, _ = run(capsys, "sweep", "digits", "--method", "assumed_negative", *fixed)
    assert driver[0]["plan"].ranges == {}
    assert "promote" in out.partition("next:")[2]
    assert "extend" not in out.partition("next:")[2]


def test_recipe_is_chosen_printed_and_carried(capsys: pytest.CaptureFixture[str], driver: list[dict[str, Any]]) -> None:
    _, planned, _ = run(capsys, "plan", "voc", "--method", "em", "--recipe", "published")
    assert "recipe        published, as the method's authors train it" in planned
    _, planned, _ = run(capsys, "plan", "voc", "--method", "em")
    assert "recipe        common, one set-up for all methods of the space" in planned
    code, _, err = run(capsys, "sweep", "digits", "--method", "em", "--recipe", "published")
    assert (
        code,
        "search_spaces/digits.yaml has no published settings. Use --recipe common." in err,
    ) == (2, True)
    assert run(capsys, "train", "digits")[0] == 0
    code, _, err = run(capsys, "train", "--from", "digits-train/1", "--recipe", "common")
    assert (code, "--recipe goes with SPACE" in err) == (2, True)
    assert [call["plan"].base["loop.recipe"] for call in driver] == ["digits"]


def test_sweep_without_a_completed_trial_is_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, finished: str, driver: list[dict[str, Any]]
) -> None:
    state = replay(journal_path(load_plan(finished)))
    outcome = SweepOutcome(
        load_plan(finished), (state.records[2],), "FINISHED", 1.0, "OperationalError: disk I/O error"
    )
    monkeypatch.setattr(sweep_module, "resume", lambda sweep_id, options: outcome)
    code, out, err = run(capsys, "resume")
    assert code == 1
    assert "NAN: loss must be finite" in out
    assert "No trial was completed" in err
    assert "MLflow is incomplete (OperationalError: disk I/O error)" in err


def test_sweep_of_which_most_trials_failed_is_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, finished: str, driver: list[dict[str, Any]]
) -> None:
    state = replay(journal_path(load_plan(finished)))
    complete, failed = state.records[0], state.records[2]
    for records, expected in (((complete, failed, failed), 1), ((complete, failed), 0)):
        outcome = SweepOutcome(load_plan(finished), records, "FINISHED", 1.0)
        monkeypatch.setattr(sweep_module, "resume", lambda sweep_id, options, outcome=outcome: outcome)
        code, _, err = run(capsys, "resume")
        assert (code, f"2 of 3 trials FAILED. See why: orchestrator leaderboard {finished}" in err) == (
            expected,
            bool(expected),
        )


def test_space_whose_data_is_not_there_says_so_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], home: Path, driver: list[dict[str, Any]]
) -> None:
    code, _, err = run(capsys, "sweep", "voc")
    assert code == 2
    assert "orchestrator data prepare voc --source DIR" in err
    assert list(home.iterdir()) == []
    assert driver == []


@pytest.mark.parametrize(
    "words",
    [
        ("sweep", "digits", "--storage"),
        ("sweep", "digits", "--backup"),
        ("train", "digits", "--storage"),
        ("resume", "--from"),
    ],
)
def test_a_place_with_credentials_in_it_is_a_mistake(
    capsys: pytest.CaptureFixture[str], home: Path, words: tuple[str, ...]
) -> None:
    code, out, err = run(capsys, *words, "s3://key:hunter2@bucket/x")
    assert (code, out, "hunter2" in err) == (2, "", False)
    assert f"{words[-1]} must not contain credentials, but got {words[-1]}=s3://key:***@bucket/x" in err
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("words", [("plan", "voc"), ("sweep", "voc"), ("train", "voc"), ("ablate", "voc")])
def test_a_setting_with_credentials_in_it_is_a_mistake(
    capsys: pytest.CaptureFixture[str], home: Path, words: tuple[str, ...]
) -> None:
    code, out, err = run(capsys, *words, "--set", "data.store=s3://key:hunter2@bucket/voc")
    assert (code, out, "hunter2" in err) == (2, "", False)
    assert "--set data.store must not contain credentials, but got --set data.store=s3://key:***@bucket/voc" in err
    assert list(home.iterdir()) == []


def test_a_file_of_settings_with_credentials_is_a_mistake(
    capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    config = TrainConfig.from_flat({"data.name": "voc", "data.store": "s3://key:hunter2@bucket/voc"})
    file.write_text(render_config(config.flatten()), encoding="utf-8")
    code, out, err = run(capsys, "train", "--from", str(file))
    assert (code, out, "hunter2" in err) == (2, "", False), err
    assert "data.store must not contain credentials" in err
