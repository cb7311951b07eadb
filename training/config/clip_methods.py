"""Define the settings of GR Loss, of GPR, which builds on it, and of the methods with pseudo-labels from CLIP."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from training.config.strict import StrictModel

_CLIP_MODEL = r"^clip/.+"


class GrLossConfig(StrictModel):
    """Generalised robust loss (GR Loss); :mod:`training.methods.gr_loss` has the formulas.

    Attributes:
        slope_first, slope_last, offset_first, offset_last: w and b of the soft pseudo-label, in the first epoch and
            towards the end (the released ``beta``: 0, 2, -2, -2; published for COCO, NUS-WIDE and CUB: 0, 10, -2, -8).
        centre_first, centre_last, width_first, width_last: mu and sigma of the weight (the released ``alpha``: 0.5,
            0.8, 2, 0.5).
        q_pos, q_neg: q2 and q3, the robustness of the losses of a pseudo-positive and of a negative. Released: 0.01 and
            1; published for CUB: 0.01 and 1.5.
    """

    name: Literal["gr_loss"] = "gr_loss"
    slope_first: float = Field(0.0, ge=-100, le=100)
    slope_last: float = Field(2.0, ge=-100, le=100)
    offset_first: float = Field(-2.0, ge=-100, le=100)
    offset_last: float = Field(-2.0, ge=-100, le=100)
    centre_first: float = Field(0.5, ge=0, le=1)
    centre_last: float = Field(0.8, ge=0, le=1)
    width_first: float = Field(2.0, ge=0.01, le=100)
    width_last: float = Field(0.5, ge=0.01, le=100)
    q_pos: float = Field(0.01, ge=1e-3, le=1)
    q_neg: float = Field(1.0, ge=1e-3, le=2)


class GprConfig(GrLossConfig):
    """GPR without pseudo-labels: GR Loss and a prior on the number of positives (AEVLP, ICCV 2025).

    Attributes:
        expected_positives: K, the mean number of true positives of an image, as for EPR.
        reg_weight: Weight of the prior. Published: 0.05 (VOC), 0.001 (COCO, NUS-WIDE), 0.01 (CUB).
    """

    name: Literal["gpr"] = "gpr"  # type: ignore[assignment]  # the settings of GR Loss under another name
    expected_positives: float = Field(1.5, gt=0, le=10_000)
    reg_weight: float = Field(0.01, ge=0, le=100)


class AevlpConfig(GprConfig):
    """AEVLP: GPR with pseudo-labels from CLIP (DAMP); :mod:`training.methods.clip_labels` says how they are found.

    The temperature of the scores (0.01; released for CUB: 0.1) and the grid of tiles (4 x 4; CUB: 5 x 5) are those of
    ``orchestrator data score``.

    Attributes:
        expected_positives, reg_weight: As for GPR.
        clip_model: Whose scores are read, as in ``orchestrator data score --model``. Published: clip/ViT-B-16.
        tile_threshold: eta, of the highest score among the tiles. Paper: 0.1; released: 0 (VOC), 0.3 (COCO, NUS-WIDE),
            0.005 (CUB).
        positive_threshold: Score from which a class can be a pseudo-positive. Released: 0.5 (VOC, COCO), 0.6
            (NUS-WIDE), 0.005 (CUB).
        top_k: Number of classes of an image that can be pseudo-positives: those with the highest scores. Published: 3
            (CUB: 32).
        negative_frac: Share of the classes of an image that are pseudo-negatives: those with the lowest scores. Paper:
            0.1; the release has larger shares, and gives them no label.
        least_weight, most_weight: lambda_2 and lambda_1, the range of a pseudo-positive's weight. Published: 0.4-0.7
            (VOC), 0.5-0.7 (COCO, NUS-WIDE), 0.2-0.8 (CUB).
        positive_share: rho; the target of a pseudo-positive. Published: 0.9.
    """

    name: Literal["aevlp"] = "aevlp"  # type: ignore[assignment]  # the settings of GPR under another name
    clip_model: str = Field("clip/ViT-B-16", pattern=_CLIP_MODEL)
    tile_threshold: float = Field(0.1, ge=0, le=1)
    positive_threshold: float = Field(0.5, ge=0, le=1)
    top_k: int = Field(3, ge=0, le=10_000)
    negative_frac: float = Field(0.1, ge=0, le=1)
    least_weight: float = Field(0.4, ge=0, le=1)
    most_weight: float = Field(0.7, ge=0, le=1)
    positive_share: float = Field(0.9, ge=0, le=1)

    @field_validator("most_weight")
    @classmethod
    def _check_weights(cls, most_weight: float, info: ValidationInfo) -> float:
        if most_weight < (least := info.data.get("least_weight", 0)):
            raise ValueError(f"at least method.least_weight={least}")
        return most_weight


class VlplConfig(StrictModel):
    """VLPL: EM with pseudo-labels from CLIP; :mod:`training.methods.vlpl` has the formulas.

    Attributes:
        clip_model: Whose scores are read, as in ``orchestrator data score --model``. Released: clip/ViT-L-14-336.
        entropy_weight: alpha. Released: 0.2 (VOC), 0.1 (COCO, NUS-WIDE), 0.01 (CUB).
        pseudo_weight: beta, of pseudo-positives. Released: 0.7.
        smoothing: How far the target of a pseudo-positive is below 1. Released: 0.1.
        positive_threshold: Score above which an unobserved class is a pseudo-positive. Released: 0.3.
    """

    name: Literal["vlpl"] = "vlpl"
    clip_model: str = Field("clip/ViT-B-16", pattern=_CLIP_MODEL)
    entropy_weight: float = Field(0.1, ge=0, le=10)
    pseudo_weight: float = Field(0.7, ge=0, le=100)
    smoothing: float = Field(0.1, ge=0, lt=0.5)
    positive_threshold: float = Field(0.3, ge=0, le=1)
