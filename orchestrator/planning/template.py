"""Fit the templates of search spaces, ``folder`` and ``photos``, to data of the user's own."""

from __future__ import annotations

from orchestrator.datasets.prepared import find_store, require_store
from orchestrator.errors import UserError
from search_spaces.reader import KeyPath, Scalar
from search_spaces.schema import SearchSpace
from training.data.dataset_names import FOLDER

# An average with the released decay of 0.999 keeps 5 % of its first value for this long: 0.999 ** 3000.
_FEW_STEPS = 3_000
PHOTOS = "photos"
TEMPLATES = (FOLDER, PHOTOS)
"""The one for a GPU, and the one for a small set and a CPU."""
_DIGITS = 3


def fit_template(space: SearchSpace, name: str) -> SearchSpace:
    """Return the template with what follows from a prepared dataset: names, image size, protocol and start points.

    Args:
        space: The shipped space ``folder`` or ``photos``.
        name: Name of the dataset.

    Raises:
        UserError: The space is another one, or the dataset is not prepared.
        StoreError: Its store cannot be read.
    """
    if space.reference not in TEMPLATES:
        raise UserError(
            f"--data goes with the spaces {' and '.join(TEMPLATES)} only, but got {space.reference}. Leave it out."
        )
    # Imported late, because it brings torch.
    from training.data.store.reader import open_store

    store = open_store(require_store(name))
    manifest = store.manifest
    has_val = "val" in manifest.has_true
    changes: dict[KeyPath, Scalar] = {
        ("dataset",): name,
        ("shared", "fixed", "data.name"): name,
        ("shared", "fixed", "data.image_size"): manifest.image_size,
        **_set_everywhere(space, "method.negative_weight", _weigh_negatives(len(manifest.classes))),
    }
    if manifest.has_true["val" if has_val else "train"]:
        changes |= {("protocol", key): "clean-val" for key in ("select_config_by", "select_epoch_by")}
    # Without a val of its own, a fifth of train is held out for it.
    num_train = manifest.counts["train"] * (1 if has_val else 0.8)
    batch_size = space.methods["ignore"].start_from[0]["optim.batch_size"]
    assert isinstance(batch_size, int)
    if num_train / batch_size * space.budget.epochs < _FEW_STEPS:
        changes |= _set_everywhere(space, "method.gap_decay", 0.95)
    table = store.labels("train")
    if table.observed is not None:
        changes["shared", "fixed", "data.positives"] = "given"
    if table.negatives:
        changes["shared", "fixed", "data.negatives"] = "given"
    true = table.true
    if true is not None and len(true):
        # Within the range that the template searches.
        mean = round(min(max(float(true.sum(1).mean()), 1.0), 10.0), _DIGITS)
        changes |= _set_everywhere(space, "method.expected_positives", mean)
    return space.changed(changes)


def _set_everywhere(space: SearchSpace, key: str, value: Scalar) -> dict[KeyPath, Scalar]:
    """Return the changes that give a setting one value in all methods, whether it is fixed or part of a start point."""
    fixed = {("methods", label, "fixed", key): value for label, block in space.methods.items() if key in block.fixed}
    return fixed | {
        ("methods", label, "start_from", index, key): value
        for label, block in space.methods.items()
        for index, point in enumerate(block.start_from)
        if key in point
    }


def fit_if_prepared(space: SearchSpace) -> SearchSpace:
    """Return the template fitted to the data that were prepared under its own name; any other space as it is."""
    return fit_template(space, FOLDER) if space.reference in TEMPLATES and find_store(FOLDER) else space


def describe_missing_space(name: str) -> str | None:
    """Return what to do if a prepared dataset was named where a search space is wanted; None if it is not one."""
    if find_store(name) is None:
        return None
    return (
        f"{name} is a prepared dataset, not a search space. Make one for it: "
        f"orchestrator spaces {FOLDER} --data {name} > {name}.yaml"
    )


def _weigh_negatives(num_classes: int) -> float:
    """Return WAN's published weight, 1 / (classes - 1), within the range that is searched."""
    return round(min(max(1 / max(num_classes - 1, 1), 0.001), 1.0), 4)
