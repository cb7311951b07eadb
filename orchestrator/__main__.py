"""The program's entry: handles signals from its first line on, before it imports anything that takes time.

``python -m orchestrator`` is how a job runs the code that was sent along instead of the installed version.
"""

from __future__ import annotations

from orchestrator.signals import run_program


def main() -> None:
    """Run a verb and exit with its code."""
    run_program(_run)


def _run() -> None:
    from orchestrator.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
