"""Test that both sides of the overhead benchmark still run. Measuring needs a quiet machine."""

from __future__ import annotations

import pytest

from benchmarks.cost.overhead import SAMPLERS, SUBJECTS, run_apart

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long]


@pytest.mark.parametrize(("subject", "sampler"), list(zip(SUBJECTS, SAMPLERS, strict=True)))
def test_a_subject_can_be_timed(subject: str, sampler: str) -> None:
    timing = run_apart(subject, 4, sampler)
    assert len(timing.ends_s) == 4
    assert timing.ends_s == sorted(timing.ends_s)
    assert (timing.writer_cpu_s > 0) == (subject == "ours")
