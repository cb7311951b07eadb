"""Say what a run knows that a user with single positives does not: the marks that every table shows."""

from __future__ import annotations

from collections.abc import Mapping

TRUE_LABELS = "uses true labels"
STATISTIC = "uses full-label statistic"
EXTERNAL = "external: clip"

_TRUE_LABELS = frozenset({"full_labels", "bce_ls", "iu", "iun"})
_STATISTIC = frozenset({"epr", "role", "mime", "gpr", "aevlp"})
_EXTERNAL = frozenset({"vlpl", "aevlp"})


def find_marks(settings: Mapping[str, object]) -> tuple[str, ...]:
    """Return the marks of a run.

    Args:
        settings: Its settings under dotted keys; ``method.name`` must be among them.

    Returns:
        :data:`TRUE_LABELS` of a bound or oracle, which learns from the true labels of train; :data:`STATISTIC` of a
        method that is told the true mean number of positives of an image; :data:`EXTERNAL` of one that learns from
        CLIP, or starts from its trunk, which knows the classes from captions of other images.
    """
    name = settings["method.name"]
    marks = []
    if name in _TRUE_LABELS or (name == "ignore" and settings.get("method.rejection") == "oracle"):
        marks.append(TRUE_LABELS)
    if name in _STATISTIC:
        marks.append(STATISTIC)
    # Trunks of CLIP have it in their names: timm/resnet50_clip.openai.
    if name in _EXTERNAL or "clip" in str(settings.get("model.backbone", "")).lower():
        marks.append(EXTERNAL)
    return tuple(marks)
