"""Measures what a sweep costs besides its training: ``python -m benchmarks.cost MEASUREMENT [OPTIONS]``."""

from __future__ import annotations

import importlib
import sys

MEASUREMENTS = ("overhead", "scale", "many", "metrics")


def main() -> None:
    """Run the measurement that the first argument names, with the arguments after it."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in MEASUREMENTS:
        sys.exit(f"Name a measurement: python -m benchmarks.cost {'|'.join(MEASUREMENTS)}")
    sys.argv = [f"{sys.argv[0]} {name}", *sys.argv[2:]]
    importlib.import_module(f"benchmarks.cost.{name}").main()


if __name__ == "__main__":
    main()
