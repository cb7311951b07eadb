"""Whether a plan's data are there and fit its settings: looked at before anything is started."""

from __future__ import annotations

from orchestrator.datasets.prepared import require_store
from orchestrator.errors import UserError
from orchestrator.planning.sweep_plan import SweepPlan
from training.data.dataset_names import EMBEDDED
from training.selection import SelectBy


def check_data(plan: SweepPlan) -> None:
    """Check that what a plan trains on is prepared, and has what its settings ask of it.

    Raises:
        UserError: It is not prepared, with the command that prepares it; or it has another image size, or no true
            labels where some are needed.
        StoreError: The store does not open.
    """
    if plan.dataset == EMBEDDED:
        return
    # It comes with pyarrow.
    from training.data.store.manifest import read_manifest

    manifest = read_manifest(str(plan.base.get("data.store") or require_store(plan.dataset)))
    asked = plan.base["data.image_size"]
    if asked != manifest.image_size:
        raise UserError(
            f"data.image_size must be that of the store, {manifest.image_size}, but got data.image_size={asked}. "
            f"Use --set data.image_size={manifest.image_size}, or prepare another store with --image-size {asked} and "
            f"--out."
        )
    if not manifest.has_true["train"] and _needs_true_labels(plan):
        raise UserError(
            f"method {plan.method} must have true labels, but {plan.dataset} has observed ones only. Choose another "
            f"--method."
        )
    if not manifest.has_true["val" if "val" in manifest.has_true else "train"] and SelectBy.CLEAN_VAL in _selected_by(
        plan
    ):
        raise UserError(
            f"protocol must select by observed-val, because {plan.dataset} has no true labels of val, but got "
            f"{plan.protocol}. "
            f"Change protocol: in a copy of the space."
        )


def _needs_true_labels(plan: SweepPlan) -> bool:
    return plan.base["method.name"] == "full_labels" or plan.base.get("method.rejection") == "oracle"


def _selected_by(plan: SweepPlan) -> tuple[SelectBy, SelectBy]:
    return plan.protocol.select_config_by, plan.protocol.select_epoch_by
