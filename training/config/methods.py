"""Define the settings of every method: one class each, validated when built.

"Released" and "release" mean the authors' published code, "paper" their paper. The formulas are in the module of the
same name in :mod:`training.methods`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from training.config.clip_methods import AevlpConfig, GprConfig, GrLossConfig, VlplConfig
from training.config.strict import StrictModel


class FullLabelsConfig(StrictModel):
    """BCE on the true labels: the upper bound."""

    name: Literal["full_labels"] = "full_labels"


class AssumedNegativeConfig(StrictModel):
    """BCE with every unobserved label taken as negative (AN)."""

    name: Literal["assumed_negative"] = "assumed_negative"


class WanConfig(StrictModel):
    """AN with negatives weighted ``negative_weight``; None is 1 / (classes - 1), as published."""

    name: Literal["wan"] = "wan"
    negative_weight: float | None = Field(None, ge=0, le=1)


class EntropyMaximisationConfig(StrictModel):
    """EM: the loss of unobserved labels is ``-entropy_weight * H`` (alpha of Zhou et al., ECCV 2022)."""

    name: Literal["em"] = "em"
    entropy_weight: float = Field(0.1, ge=0, le=10)


class IgnoreConfig(StrictModel):
    """IGNORE (ECCV 2024); :mod:`training.methods.ignore` has the formulas.

    Attributes:
        cam_threshold: tau; the masked image keeps the pixels where the normalised CAM exceeds it, see
            :func:`training.models.cam.cam_mask`. Paper and release: 0.8.
        spbc_weight: Weight of the single-positive binary classification loss. Release: 0.1 (ResNet, VOC), 0.5 (Q2L,
            VOC).
        reg_weight: Weight of the consistency regularisation. Release: 0.5.
        warmup_epochs: Epochs before the first rejection, counted from 1. Release: 3.
        gap_decay, average_decay: EMA factors of the gap threshold and of the per-class average-logit thresholds.
            Release: 0.999 for both. ``average_decay`` None means the same as ``gap_decay``.
        correct_gap_bias, correct_average_bias: Divide that EMA by ``1 - decay^t``. Paper and release: off. Both start
            at 0, so until they settle the gap test is too loose and the average-logit test too strict.
        gap_threshold_scale: Factor on the gap threshold. Not in the paper, where it is 1.
        cam_normalisation: ``per_image`` min-max (paper) or ``batch``: across the batch per position, as released.
        masked_pass_bn: BatchNorm in the masked pass: ``train`` (release: running statistics are updated by it),
            ``batch_stats_no_update``, or ``eval_both`` (the gap comes from two extra passes in eval mode, so that a
            step has four forward passes).
        rejection: ``gap`` (the paper), ``none`` (ablation) or ``oracle`` (rejects exactly the false negatives: a
            bound).
        use_average_test: Whether a rejected label's logit must also exceed its class's average (release: ``lat``).
            False is an ablation.
        view: The view whose assumed-negative loss is used: ``strong`` (paper and release) or ``weak`` (ablation; the
            strong view is then used only for the regularisation, and is not made if ``reg_weight`` is 0).
    """

    name: Literal["ignore"] = "ignore"
    cam_threshold: float = Field(0.8, ge=0, lt=1)
    spbc_weight: float = Field(0.5, ge=0, le=100)
    reg_weight: float = Field(0.5, ge=0, le=100)
    warmup_epochs: int = Field(3, ge=0)
    gap_decay: float = Field(0.999, ge=0, lt=1)
    average_decay: float | None = Field(None, ge=0, lt=1)
    correct_gap_bias: bool = False
    correct_average_bias: bool = False
    gap_threshold_scale: float = Field(1.0, gt=0, le=10)
    cam_normalisation: Literal["per_image", "batch"] = "per_image"
    masked_pass_bn: Literal["train", "batch_stats_no_update", "eval_both"] = "train"
    rejection: Literal["gap", "none", "oracle"] = "gap"
    use_average_test: bool = True
    view: Literal["strong", "weak"] = "strong"


class AnLsConfig(StrictModel):
    """AN with label smoothing (AN-LS).

    Attributes:
        smoothing: How far every label (0 or 1) is moved towards the other value. Released: 0.1.
    """

    name: Literal["an_ls"] = "an_ls"
    smoothing: float = Field(0.1, ge=0, lt=0.5)


class BceLsConfig(StrictModel):
    """BCE on the true labels, smoothed: an upper bound (BCE-LS).

    Attributes:
        smoothing: As for AN-LS. Released: 0.1.
    """

    name: Literal["bce_ls"] = "bce_ls"
    smoothing: float = Field(0.1, ge=0, lt=0.5)


class IuConfig(StrictModel):
    """BCE on the observed positive and a few true negatives; all else is ignored (IU).

    Attributes:
        num_negatives: True negatives of each image that are told. Cole et al.: 1.
    """

    name: Literal["iu"] = "iu"
    num_negatives: int = Field(1, ge=1)


class IunConfig(StrictModel):
    """BCE on the observed positive and all true negatives; false negatives are ignored: a bound (IUN)."""

    name: Literal["iun"] = "iun"


class EprConfig(StrictModel):
    """Expected positive regularisation (EPR).

    Attributes:
        expected_positives: k, the mean number of true positives of an image: a figure of the dataset that single
            positives do not reveal. VOC 1.5, COCO 2.9, NUS-WIDE 1.9, CUB 31.4.
    """

    name: Literal["epr"] = "epr"
    expected_positives: float = Field(1.5, gt=0, le=10_000)


class FocalConfig(StrictModel):
    """Focal loss on assumed negatives; ``gamma`` 2 as published."""

    name: Literal["focal"] = "focal"
    gamma: float = Field(2.0, ge=0, le=10)


class AslConfig(StrictModel):
    """Asymmetric loss (ASL) on assumed negatives.

    Attributes:
        gamma_pos, gamma_neg: Focusing of positives and negatives. Released training scripts: 0 and 4.
        clip: m; negatives with a probability below it cost nothing. Released: 0.05.
    """

    name: Literal["asl"] = "asl"
    gamma_pos: float = Field(0.0, ge=0, le=10)
    gamma_neg: float = Field(4.0, ge=0, le=10)
    clip: float = Field(0.05, ge=0, lt=1)


class HillConfig(StrictModel):
    """Hill loss on assumed negatives.

    Attributes:
        hill_lambda: lambda; the negatives' weight is ``lambda - p``. Released: 1.5.
        margin: Subtracted from the logits of positives. Released: 1; the authors recommend 0.5-1.
        gamma: Focusing of positives. Released: 2.
    """

    name: Literal["hill"] = "hill"
    hill_lambda: float = Field(1.5, ge=1, le=10)
    margin: float = Field(1.0, ge=0, le=10)
    gamma: float = Field(2.0, ge=0, le=10)


class SplcConfig(StrictModel):
    """Self-paced loss correction (SPLC).

    Attributes:
        positive_threshold: tau of SPLC (not IGNORE's); an unobserved label with a higher probability is treated as
            positive. Released: 0.6.
        warmup_epochs: Epochs before the first correction, counted from 1. Released: 1.
        margin: Subtracted from the logits of observed positives. Released: 1.
        gamma: Focusing. Released: 2.
    """

    name: Literal["splc"] = "splc"
    positive_threshold: float = Field(0.6, gt=0, lt=1)
    warmup_epochs: int = Field(1, ge=0)
    margin: float = Field(1.0, ge=0, le=10)
    gamma: float = Field(2.0, ge=0, le=10)


class LargeLossConfig(StrictModel):
    """Large loss matters (LL); :mod:`training.methods.large_loss` has the formulas.

    BoostLU is the same with ``model.cam_boost`` 5.

    Attributes:
        scheme: What happens to the largest losses of unobserved labels: ``LL-R`` rejects them; ``LL-Ct`` treats the
            label as positive for this step, ``LL-Cp`` permanently.
        delta_rel_percent: How many labels, in percent of the entries of a batch: this many more in each epoch (LL-R,
            LL-Ct), or the same number every time (LL-Cp). The paper chose from 0.1-0.5; BoostLU uses 0.5, 0.2 and 0.1.
    """

    name: Literal["large_loss"] = "large_loss"
    scheme: Literal["LL-R", "LL-Ct", "LL-Cp"] = "LL-R"
    delta_rel_percent: float = Field(0.2, ge=0, le=100)


class EmAplConfig(StrictModel):
    """EM + APL; :mod:`training.methods.em_apl` has the formulas.

    Attributes:
        entropy_weight: alpha. Released: 0.2 (VOC), 0.1 (COCO, NUS-WIDE), 0.01 (CUB).
        pseudo_weight: beta, of pseudo-labelled entries. Released: 0.02 (VOC), 0.9 (COCO), 0.2 (NUS-WIDE), 0.4 (CUB).
        warmup_epochs: Epochs before the first round of labelling, counted from 1. Released: 5 (VOC, COCO), 4
            (NUS-WIDE), 3 (CUB).
        negative_proportion: Share of the unobserved entries that have a pseudo-label at the end. Released: 0.9.
    """

    name: Literal["em_apl"] = "em_apl"
    entropy_weight: float = Field(0.1, ge=0, le=10)
    pseudo_weight: float = Field(0.2, ge=0, le=100)
    warmup_epochs: int = Field(5, ge=1)
    negative_proportion: float = Field(0.9, ge=0, le=1)


class RoleConfig(StrictModel):
    """ROLE; :mod:`training.methods.role` has the formulas.

    Attributes:
        expected_positives: k, the mean number of true positives of an image, as for EPR.
        estimator_lr_multiplier: Factor on ``optim.lr`` for the estimated labels. Released: 10.
    """

    name: Literal["role"] = "role"
    expected_positives: float = Field(1.5, gt=0, le=10_000)
    estimator_lr_multiplier: float = Field(10.0, gt=0, le=10_000)


class CrispConfig(StrictModel):
    """CRISP; :mod:`training.methods.crisp` has the formulas.

    Attributes:
        warmup_epochs: Epochs of AN before the first estimate of the class priors, counted from 1.
    """

    name: Literal["crisp"] = "crisp"
    warmup_epochs: int = Field(1, ge=1)


class MimeConfig(StrictModel):
    """MIME; :mod:`training.methods.mime` has the formulas.

    Attributes:
        expected_positives: K, by which the number of images with a class observed is multiplied; about the mean number
            of true positives of an image, as for EPR. Released: 1 / (mean of 1 / true positives), from the true labels.
        warmup_epochs: Epochs of AN before the first entries are left open, counted from 1. Released: 2
            (CUB: 5).
        kl_weight: beta, of the divergence of the latent vectors, for a model that has them. Released: 1e-4.
    """

    name: Literal["mime"] = "mime"
    expected_positives: float = Field(1.5, gt=0, le=10_000)
    warmup_epochs: int = Field(2, ge=1)
    kl_weight: float = Field(1e-4, ge=0, le=100)


class PlcConfig(StrictModel):
    """PLC, the first stage of PLC + LAC; :mod:`training.methods.plc` has the formulas.

    Attributes:
        plc_weight: lambda_plc. Released: 1.
        first_threshold: thr of the pseudo-labels. Released: 0.6.
    """

    name: Literal["plc"] = "plc"
    plc_weight: float = Field(1.0, ge=0, le=100)
    first_threshold: float = Field(0.6, ge=0.5, le=1)


class PlcLacConfig(StrictModel):
    """PLC + LAC, both stages in one run.

    Attributes:
        plc_weight, lac_weight: lambda_plc and lambda_lac. Released: 1 and 1, at a batch of 32: what the latter does is
            in proportion to the batch's share of the queue.
        first_threshold, second_threshold: thr of the pseudo-labels in the two stages. Released: 0.6 and 0.9.
        first_stage_epochs: Epochs of the first stage. Released: 40, and 40 more for the second.
        queue_size: Entries in the queue that are contrasted with each other; memory grows with its square. Released:
            512.
        projection_dim: Width of the contrasted vectors. Released: 128.
        temperature: Temperature of the contrast. Released: 0.5.
    """

    name: Literal["plc_lac"] = "plc_lac"
    plc_weight: float = Field(1.0, ge=0, le=100)
    lac_weight: float = Field(1.0, ge=0, le=100)
    first_threshold: float = Field(0.6, ge=0.5, le=1)
    second_threshold: float = Field(0.9, ge=0.5, le=1)
    first_stage_epochs: int = Field(40, ge=0)
    queue_size: int = Field(512, ge=1, le=65536)
    projection_dim: int = Field(128, ge=1, le=4096)
    temperature: float = Field(0.5, gt=0, le=10)


METHOD_CONFIGS: dict[str, type[StrictModel]] = {
    "full_labels": FullLabelsConfig,
    "assumed_negative": AssumedNegativeConfig,
    "wan": WanConfig,
    "em": EntropyMaximisationConfig,
    "ignore": IgnoreConfig,
    "bce_ls": BceLsConfig,
    "iu": IuConfig,
    "iun": IunConfig,
    "an_ls": AnLsConfig,
    "epr": EprConfig,
    "focal": FocalConfig,
    "asl": AslConfig,
    "hill": HillConfig,
    "splc": SplcConfig,
    "gr_loss": GrLossConfig,
    "gpr": GprConfig,
    "aevlp": AevlpConfig,
    "vlpl": VlplConfig,
    "large_loss": LargeLossConfig,
    "em_apl": EmAplConfig,
    "role": RoleConfig,
    "crisp": CrispConfig,
    "mime": MimeConfig,
    "plc": PlcConfig,
    "plc_lac": PlcLacConfig,
}

MethodConfig = Annotated[
    FullLabelsConfig
    | AssumedNegativeConfig
    | WanConfig
    | EntropyMaximisationConfig
    | IgnoreConfig
    | BceLsConfig
    | IuConfig
    | IunConfig
    | AnLsConfig
    | EprConfig
    | FocalConfig
    | AslConfig
    | HillConfig
    | SplcConfig
    | GrLossConfig
    | GprConfig
    | AevlpConfig
    | VlplConfig
    | LargeLossConfig
    | EmAplConfig
    | RoleConfig
    | CrispConfig
    | MimeConfig
    | PlcConfig
    | PlcLacConfig,
    Field(discriminator="name"),
]
