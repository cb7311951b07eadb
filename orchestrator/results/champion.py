"""Find out whether a promotion to come will have a champion to beat, whose runs a limit of GPU-hours has to keep."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.tracking.connection import MlflowFailedError, database_file


def expect_champion(dataset: str, say: Callable[[str], None]) -> bool:
    """Return whether a dataset has a champion, under whatever conditions; without an answer, say so, and expect one.

    Its name depends on hashes of the data and the weights, which are known only once a sweep has begun.
    """
    from orchestrator.tracking.registry import find_other_champions

    file = database_file()
    if file is not None and not file.exists():  # a plan must not create it
        return False
    try:
        return bool(find_other_champions(dataset, ""))
    except MlflowFailedError:
        say(f"MLflow does not answer, so the limit also keeps runs of a champion on {dataset}, in case there is one.")
        return True
