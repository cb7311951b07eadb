"""Checks that a plan's data are prepared and fit its settings, before anything starts."""

from __future__ import annotations

from pathlib import Path

from orchestrator.datasets.prepared import require_store
from orchestrator.errors import UserError
from orchestrator.planning.sweep_plan import SweepPlan
from training.data.dataset_names import EMBEDDED
from training.selection import SelectBy

# The same as training.models.weights.FILES, without its import of torch.
_WEIGHT_FILES = (".safetensors", ".pth", ".pt")


def check_data(plan: SweepPlan, address: str | None = None) -> None:
    """Check that the data and the weights that a plan names exist, and that the data fit its settings.

    Args:
        plan: The plan.
        address: Of a cluster, whose nodes may have a file of weights that this machine does not have.

    Raises:
        UserError: A place does not exist, the data are not prepared, have another image size, or lack the true labels
            that the method or the protocol needs. The message has the command or the flag that fixes it.
        StoreError: The store exists and cannot be read.
    """
    if address is None:
        _require_weights(plan)
    if plan.dataset == EMBEDDED:
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
    if not manifest.has_true["train"] and _needs_true_labels(plan):
        raise UserError(
            f"The method {plan.method} needs true labels, but {plan.dataset} has only observed ones. Choose another "
            f"--method."
        )
    # If the source has no val split of its own, part of train is held out.
    val = "val" if "val" in manifest.has_true else "train"
    if not manifest.has_true[val] and SelectBy.CLEAN_VAL in _selected_by(plan):
        raise UserError(
            f"The protocol {plan.protocol} needs true labels of val, which {plan.dataset} does not have. Select by "
            f"observed-val: change protocol: in a copy of the space."
        )


def _require_place(plan: SweepPlan, place: str) -> None:
    # Local paths only: from here, a missing bucket looks the same as one that does not answer.
    if "://" not in place and not Path(place).expanduser().exists():
        raise UserError(
            f"data.store={place} does not exist. Prepare it: "
            f"orchestrator data prepare {plan.dataset} --source DIR --out {place}"
        )


def _require_weights(plan: SweepPlan) -> None:
    weights = str(plan.base.get("model.weights") or "")
    if weights.endswith(_WEIGHT_FILES) and not Path(weights).expanduser().exists():
        raise UserError(f"model.weights={weights} does not exist. Name an existing file, or leave it out.")


def _needs_true_labels(plan: SweepPlan) -> bool:
    return plan.base["method.name"] == "full_labels" or plan.base.get("method.rejection") == "oracle"


def _selected_by(plan: SweepPlan) -> tuple[SelectBy, SelectBy]:
    return plan.protocol.select_config_by, plan.protocol.select_epoch_by
