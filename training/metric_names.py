"""Names of the metrics that a run reports for each epoch, written ``split/name``.

Kept apart from :mod:`training.metrics` because the scheduler, the tracker and the command line need the names without
the cost of importing torch.
"""

from __future__ import annotations

# The epoch, from 1.
EPOCH = "epoch"

# Mean over the steps; its parts follow as train/loss_PART.
TRAIN_LOSS = "train/loss"
# Learning rate at the end of the epoch.
TRAIN_LR = "train/lr"
# Images that an epoch passed through the network to train it, with every view of them (training.loop.epoch).
TRAIN_IMAGES_FORWARD = "train/images_forward"
TRAIN_IMAGES_BACKWARD = "train/images_backward"
# Of the assumed negatives that a method rejected: the share (0-1) that is truly positive.
TRAIN_REJECTION_PRECISION = "train/rejection_precision"
# The share (0-1) of the false negatives that it rejected.
TRAIN_REJECTION_RECALL = "train/rejection_recall"
# That precision, divided by the share of false negatives among all assumed negatives; 1 is chance.
TRAIN_REJECTION_LIFT = "train/rejection_lift"
# The share (0-1) of the unobserved labels that it rejected.
TRAIN_REJECTED_FRAC = "train/rejected_frac"
# IGNORE's threshold on the information gap, and the mean of those on average logits, at the end of the epoch.
TRAIN_GAP_THRESHOLD = "train/gap_threshold"
TRAIN_AVERAGE_LOGIT_THRESHOLD = "train/average_logit_threshold"
# The share (0-1) of pixels that IGNORE's masks keep, and of images whose mask is empty.
TRAIN_MASK_KEPT_FRAC = "train/mask_kept_frac"
TRAIN_EMPTY_MASK_FRAC = "train/empty_mask_frac"
TRAIN_PSEUDO_LABELLED_FRAC = "train/pseudo_labelled_frac"
TRAIN_CLASS_PRIOR = "train/class_prior"
# 1 in the last epoch of a run that a stopping rule ended early (training.loop.early_stopping); absent in all others.
TRAIN_STOPPED = "train/stopped"

VAL_MAP = "val/mAP"
VAL_OBSERVED_MAP = "val/observed_mAP"
# What chooses without true labels, next to observed mAP (training.criteria).
VAL_COVERING_RATE = "val/covering_rate"
VAL_ESTIMATED_ACCURACY = "val/estimated_accuracy"
ADDED_METRICS = frozenset({VAL_COVERING_RATE, VAL_ESTIMATED_ACCURACY})
"""Metrics that came after the first results: an earlier record lacks them."""
# How well class activation maps find the objects on a fixed part of val, where boxes are known
# (training.models.cam_quality).
VAL_POINTING_HIT_RATE = "val/pointing_hit_rate"
VAL_CENTRE_HIT_RATE = "val/centre_hit_rate"
VAL_CAM_IOU = "val/cam_iou"
# Percentage points by which the averaged weights beat the trained ones (training.loop.weight_average).
VAL_AVERAGE_GAIN = "val/average_gain"

# Only in the journal of a promotion, which opens the test split.
TEST_MAP = "test/mAP"
TEST_OBSERVED_MAP = "test/observed_mAP"

TIME_EPOCH_S = "time/epoch_s"
TIME_DATA_S = "time/data_s"
TIME_TRAIN_S = "time/train_s"
TIME_EVAL_S = "time/eval_s"
TIME_CHECKPOINT_S = "time/checkpoint_s"
