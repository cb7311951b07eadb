from __future__ import annotations

import pytest

from tests.kit.scenes import prepare_tiny, tiny_config, use_one_thread
from training.loop.probe import measure_pace

pytestmark = pytest.mark.usefixtures("home")


def test_a_probe_times_steps_of_the_real_training_and_scores_a_part_of_val() -> None:
    use_one_thread()
    prepare_tiny()
    for name in ("ignore", "em_apl"):  # the second also scores the train split
        pace = measure_pace(tiny_config({"method.name": name}), 2)
        assert pace.num_steps >= 1
        assert pace.epoch_s > pace.step_s > 0
        assert pace.weights_bytes > 1000
        assert pace.device
