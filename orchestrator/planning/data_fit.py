"""Checks that a plan's data are prepared and fit its settings, before anything starts."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.datasets.prepared import find_store, locate_store, require_known_name, require_store
from orchestrator.errors import UserError
from orchestrator.planning.sweep_plan import Params, SweepPlan, trial_config
from training.config.marks import TRUE_LABELS, find_marks
from training.data.dataset_names import EMBEDDED
from training.errors import StoreError
from training.selection import SelectBy

if TYPE_CHECKING:
    from training.data.store.manifest import Manifest

# The same as training.models.weights.FILES, without its import of torch.
_WEIGHT_FILES = (".safetensors", ".pth", ".pt")


def check_data(plan: SweepPlan, address: str | None = None) -> None:
    """Check that the data and the weights that a plan names exist, and that the data fit its settings.

    Args:
        plan: The plan.
        address: Of a cluster, whose nodes may have a file of weights that this machine does not have.

    Raises:
        UserError: A place does not exist, the data are not prepared, have another image size, or lack the true labels
            or the scores of CLIP that the method or the protocol needs. The message has the command or the flag that
            fixes it.
        ConfigError: The data do not give the positives or negatives that the settings ask for.
        StoreError: The store exists and cannot be read.
    """
    if address is None:
        _require_weights(plan)
    if plan.dataset == EMBEDDED:
        _require_no_scores(plan)
        return
    # Imported late, because it brings pyarrow.
    from training.data.store.manifest import read_manifest

    place = str(plan.base.get("data.store") or require_store(plan.dataset))
    _require_place(plan, place)
    manifest = read_manifest(place)
    asked, own = plan.base["data.image_size"], manifest.image_size
    if asked != own:
        raise UserError(
            f"data.image_size must be {own}, the size in the store, but got data.image_size={asked}. "
            f"Use --set data.image_size={own}, or prepare another store with --image-size {asked} and --out."
        )
    if not manifest.has_true["train"]:
        _require_no_true_labels(plan)
    _require_known_labels(plan, place)
    for model in _clip_models(plan):
        _require_scores(plan, model, place, manifest)
    # If the source has no val split of its own, part of train is held out.
    val = "val" if "val" in manifest.has_true else "train"
    if not manifest.has_true[val] and SelectBy.CLEAN_VAL in _selected_by(plan):
        raise UserError(
            f"The protocol {plan.protocol} needs true labels of val, which {plan.dataset} does not have. Select by "
            f"observed labels: --set protocol.select_config_by=observed-val "
            f"--set protocol.select_epoch_by=observed-val"
        )


def check_name(plan: SweepPlan) -> None:
    """Check that a plan's dataset is not misspelt; whether it is prepared is for :func:`check_data` to say.

    Raises:
        UserError: It is; the message names the nearest one.
    """
    if plan.base.get("data.store") is None:
        require_known_name(plan.dataset)


def leave_out_oracles(plan: SweepPlan) -> SweepPlan:
    """Return an ablation without the variants that need true labels if its data have none, with a note that says so.

    The complete method stays, whatever it needs: :func:`check_data` refuses it.
    """
    manifest = _find_manifest(plan)
    if manifest is None or manifest.has_true["train"]:
        return plan
    seeds = plan.num_trials // len(plan.variants)
    # The runs are in the order of the variants, one for each seed, and the complete method comes first.
    points = {
        variant: plan.start_from[number * seeds : (number + 1) * seeds] for number, variant in enumerate(plan.variants)
    }
    left_out = [variant for variant in plan.variants[1:] if _asks_oracle(points[variant][0])]
    kept = [variant for variant in plan.variants if variant not in left_out]
    if not left_out:
        return plan
    if len(kept) == 1:
        raise UserError(
            f"{' and '.join(left_out)} would be compared with {plan.method}, but needs true labels, and {plan.dataset} "
            f"has only observed ones. Nothing is left to compare: choose another --method."
        )
    num_trials = len(kept) * seeds
    return replace(
        plan,
        variants=tuple(kept),
        start_from=tuple(point for variant in kept for point in points[variant]),
        num_trials=num_trials,
        concurrency=min(plan.concurrency, num_trials),
        notes=(
            *plan.notes,
            f"without {', '.join(left_out)}, which needs true labels: {plan.dataset} has only observed ones",
        ),
    )


def _find_manifest(plan: SweepPlan) -> Manifest | None:
    """Return the manifest of a plan's data; None if they need none, or cannot be read, which check_data reports."""
    from training.data.store.manifest import read_manifest

    place = plan.base.get("data.store") or find_store(plan.dataset)
    if plan.dataset == EMBEDDED or place is None:
        return None
    try:
        return read_manifest(str(place))
    except StoreError:
        return None


def locate_data(plan: SweepPlan) -> SweepPlan:
    """Return a plan with the place of its data as it is now, in a home that was moved or copied with its data."""
    store = plan.base.get("data.store")
    found = locate_store(plan.dataset, None if store is None else str(store))
    return plan if found == store else replace(plan, base={**plan.base, "data.store": found})


def _require_place(plan: SweepPlan, place: str) -> None:
    # Local paths only: from here, a missing bucket looks the same as one that does not answer.
    if "://" not in place and not Path(place).expanduser().exists():
        raise UserError(
            f"data.store={place} does not exist. Prepare it: "
            f"orchestrator data prepare {plan.dataset} --source DIR --out {shlex.quote(place)}"
        )


def _require_weights(plan: SweepPlan) -> None:
    weights = str(plan.base.get("model.weights") or "")
    if weights.endswith(_WEIGHT_FILES) and not Path(weights).expanduser().exists():
        raise UserError(f"model.weights={weights} does not exist. Name an existing file, or leave it out.")


def _require_no_true_labels(plan: SweepPlan) -> None:
    rejection = plan.ranges.get("method.rejection")
    if TRUE_LABELS in find_marks(plan.base):
        raise UserError(
            f"The method {plan.method} needs true labels, but {plan.dataset} has only observed ones. Choose another "
            f"--method."
        )
    # Trials that need them would fail one by one.
    if any(map(_asks_oracle, plan.start_from)) or (rejection is not None and "oracle" in rejection.grid()):
        raise UserError(
            f"method.rejection=oracle, in the space {plan.space}, needs true labels, but {plan.dataset} has only "
            f"observed ones. Use --set method.rejection=gap, or take oracle out of the space."
        )


def _require_known_labels(plan: SweepPlan, place: str) -> None:
    weighs = plan.base.get("loop.recording_weight") or "loop.recording_weight" in plan.ranges
    is_plain = plan.base.get("data.positives") is None and plan.base.get("data.negatives", "none") == "none"
    if is_plain and not weighs:
        return
    # Imported late, because it brings torch.
    from training.data.store.known_labels import KnownLabels
    from training.data.store.reader import open_store
    from training.loop.requirements import missing_recordings

    train = open_store(place).labels("train")
    KnownLabels.of(trial_config(plan, {}).data).require(train, plan.dataset)
    if weighs and train.recordings is None:
        raise missing_recordings(plan.dataset)


def _clip_models(plan: SweepPlan) -> list[str]:
    """Return whose scores the trials of a plan read."""
    searched = plan.ranges.get("method.clip_model")
    models = [plan.base.get("method.clip_model")] if searched is None else searched.grid()
    return [str(model) for model in models if model is not None]


def _require_no_scores(plan: SweepPlan) -> None:
    if _clip_models(plan):
        raise UserError(
            f"The method {plan.method} needs scores of CLIP, which knows photos and not {plan.dataset}. Choose another "
            f"--method, or a space of photos."
        )


def _require_scores(plan: SweepPlan, model: str, place: str, manifest: Manifest) -> None:
    from training.data.store.clip_scores import read_about, score_command, scores_name
    from training.data.store.storage import Storage

    about = read_about(Storage(place), scores_name(model, "train"))
    command = score_command(plan.dataset, model)
    if about is None:
        raise UserError(
            f"The method {plan.method} reads the scores of {model} for {plan.dataset}, which are not next to its store "
            f"{place}. Make them: {command}"
        )
    if about.get("data_hash") != manifest.data_hash:
        raise UserError(
            f"The scores of {model} next to the store {place} are of other data than it has now. Make them again: "
            f"{command}"
        )


def _asks_oracle(settings: Params) -> bool:
    return settings.get("method.rejection") == "oracle"


def _selected_by(plan: SweepPlan) -> tuple[SelectBy, SelectBy]:
    return plan.protocol.select_config_by, plan.protocol.select_epoch_by
