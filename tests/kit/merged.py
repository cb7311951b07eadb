"""A small space for tests of how settings are merged, and the type of the fixture that merges it."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.planning.settings import Settings

SPACE = """\
dataset: voc
budget: {trials: 4, epochs: 6}
shared:
  fixed:
    optim.lr: 1e-3
    optim.batch_size: 8
  ranges:
    optim.weight_decay: {type: float, low: 0.0, high: 0.1}
methods:
  ignore:
    fixed:
      optim.batch_size: 4
    ranges:
      method.cam_threshold: {type: float, low: 0.3, high: 0.9}
      method.warmup_epochs: {type: int, low: 1, high: 3}
    start_from:
      - {method.cam_threshold: 0.5, method.warmup_epochs: 2}
      - {method.cam_threshold: 0.6, method.warmup_epochs: 2}
  em:
    fixed: {optim.weight_decay: 0.0}
    ranges:
      optim.lr: {type: float, low: 1e-4, high: 1e-2, log: true}
"""
Merge = Callable[..., Settings]
