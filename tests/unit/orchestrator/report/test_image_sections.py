from __future__ import annotations

from typing import Any

from orchestrator.report.document import Figure
from orchestrator.report.image_sections import make_image_sections
from orchestrator.report.svg import drawing, inline_svg, write_svg
from orchestrator.report.view import SweepView
from orchestrator.sweep_folder.checkpoints import trial_uri
from orchestrator.sweep_folder.journal import replay
from tests.kit.scenes import TINY, prepare_tiny, tiny_config
from tests.kit.sweeps import (
    driver_ended,
    driver_started,
    epoch_reported,
    journal_path,
    make_sweep,
    trial_ended,
    trial_started,
    write_events,
)
from training.loop.checkpoint import CheckpointStore
from training.loop.run import TrainingRun


def finished_view(sweep_id: str = "digits-00000001", **changes: Any) -> SweepView:
    plan = make_sweep(sweep_id, base=tiny_config(changes).flatten(), num_trials=1)
    write_events(
        plan,
        [driver_started(plan), trial_started(0, 1), epoch_reported(0, 1, 2), trial_ended(0, 3), driver_ended(4)],
    )
    return SweepView(plan, replay(journal_path(plan)))


def test_the_winners_weights_show_masks_over_tau_and_the_data_its_classes() -> None:
    prepare_tiny()
    view = finished_view()
    run = TrainingRun(tiny_config())
    run.train_epoch()
    CheckpointStore(trial_uri(view.plan, 0)).save({}, 1, run.best_state())
    method, data = make_image_sections(view)
    (masks,), (classes,) = method.parts, data.parts
    assert isinstance(masks, Figure)
    assert isinstance(classes, Figure)
    # Four images at four taus; a higher tau keeps less.
    kept = [float(row[4] or 0) for row in masks.table.rows]
    assert len(kept) == 16
    assert all(kept[at : at + 4] == sorted(kept[at : at + 4], reverse=True) for at in range(0, 16, 4))
    assert [row[3] for row in masks.table.rows[:4]] == [0.3, 0.5, 0.7, 0.9], "with that of the run, 0.5"
    assert all(row[5] is not None for row in masks.table.rows), "IGNORE has thresholds, so it says what it rejects"
    assert len(classes.table.rows) == 10
    assert sum(row[1] for row in classes.table.rows) == TINY["data.num_train"]  # type: ignore[misc]
    with drawing():
        text = write_svg(masks.draw())
    shown = inline_svg(text, "masks", "t", "d")
    assert shown.count("<image") == 4 * 6, "an image, its CAM, and four masks"
    assert 'href="data:image/png;base64,' in shown
    assert len(text) < 400_000


def test_what_is_not_there_is_left_out() -> None:
    prepare_tiny()
    # Without weights, and without a method that masks, only the data is shown; without data, nothing.
    assert [section.name for section in make_image_sections(finished_view())] == ["data"]
    strange = finished_view("digits-00000003")
    CheckpointStore(trial_uri(strange.plan, 0)).save({}, 1, {"model": {}, "classes": ["one"]})
    assert [section.name for section in make_image_sections(strange)] == ["data"], "weights of another version"
    gone = finished_view("digits-00000002", **{"data.scene_seed": 987654})
    assert make_image_sections(gone) == []
