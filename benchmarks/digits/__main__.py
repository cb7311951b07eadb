"""Run the digits benchmark: ``python -m benchmarks.digits``; see :mod:`benchmarks.digits.runs`."""

from __future__ import annotations

from benchmarks.digits.runs import main

if __name__ == "__main__":
    main()
