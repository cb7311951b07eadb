"""Measure a training step: ``python -m benchmarks.step``; see :mod:`benchmarks.step.measure`."""

from __future__ import annotations

from benchmarks.step.measure import main

if __name__ == "__main__":
    main()
