"""Measures the input pipeline: ``python -m benchmarks.pipeline``, see :mod:`benchmarks.pipeline.input_pipeline`."""

from __future__ import annotations

from benchmarks.pipeline.input_pipeline import main

if __name__ == "__main__":
    main()
