"""Count the images that a run passes through its network to train it: what a method costs, on any machine.

An epoch of AN passes every image forward and backward once. A strong view is another image, forward and backward; a
pass that only decides something, such as IGNORE's masked one or the scores that EM + APL labels by, goes forward alone.
Every run reports what it really passed (``train/images_forward`` and ``train/images_backward``); a test compares the
two. Evaluation is not counted: it is the same for all methods, except that averaged weights are evaluated too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from training.config.methods import CrispConfig, EmAplConfig, IgnoreConfig, MimeConfig, PlcConfig, PlcLacConfig
from training.config.run import Scalar, TrainConfig


@dataclass(frozen=True)
class Images:
    """A number of images, each view of one counted."""

    forward: int
    backward: int

    @property
    def total(self) -> int:
        """Both together: the unit of a budget."""
        return self.forward + self.backward


def count_epoch_images(config: TrainConfig, num_train: int, epoch: int) -> Images:
    """Return the images that an epoch (from 1) passes.

    Args:
        config: The run's settings.
        num_train: Images of the train split.
        epoch: Counted from 1; some methods score the train split after some epochs.
    """
    batch = config.optim.batch_size
    # One batch is always left, as in training.data.loaders.
    stepped = num_train - num_train % batch if config.optim.drop_last and num_train > batch else num_train
    with_gradient, without = _views(config)
    return Images(
        stepped * (with_gradient + without) + num_train * _scores_train_split(config, epoch), stepped * with_gradient
    )


def count_run_images(config: TrainConfig, num_train: int) -> Images:
    """Return the images that a run passes at full length; a stopping rule may end it earlier."""
    epochs = [count_epoch_images(config, num_train, epoch) for epoch in range(1, config.loop.epochs + 1)]
    return Images(sum(epoch.forward for epoch in epochs), sum(epoch.backward for epoch in epochs))


def count_most_images(config: TrainConfig, bounds: Mapping[str, Sequence[Scalar]], num_train: int) -> Images:
    """Return the images of the most expensive run of a search.

    Args:
        config: Settings of any of its runs.
        bounds: Searched key -> the ends of its range, or its choices. Only those that change the count matter, such as
            a warm-up.
        num_train: Images of the train split.
    """
    base = count_run_images(config, num_train)
    matters = [
        [(key, value) for value in values]
        for key, values in bounds.items()
        if any(count_run_images(config.with_params({key: value}), num_train) != base for value in values)
    ]
    runs = [count_run_images(config.with_params(dict(point)), num_train) for point in product(*matters)]
    return max(runs, key=lambda images: images.total)


def _views(config: TrainConfig) -> tuple[int, int]:
    """Return how often a step passes each image with gradient, and how often without."""
    method = config.method
    if isinstance(method, IgnoreConfig):
        strong = method.view == "strong" or method.reg_weight > 0
        # In eval mode both images of the gap are passed again, the whole one next to the masked one.
        decides = {"eval_both": 2}.get(method.masked_pass_bn, 1) if method.rejection == "gap" else 0
        return 1 + strong, decides
    return 1 + isinstance(method, PlcConfig | PlcLacConfig), 0


def _scores_train_split(config: TrainConfig, epoch: int) -> bool:
    """Return whether the train split is scored after an epoch, to label it or to estimate class priors."""
    method = config.method
    return (
        isinstance(method, EmAplConfig | CrispConfig | MimeConfig)
        and method.warmup_epochs <= epoch < config.loop.epochs
    )
