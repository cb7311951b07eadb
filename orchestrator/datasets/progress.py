"""Show the progress of `data prepare`: a bar with the rate and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.durations import format_seconds

_SETTLED_S = 3.0
"""Until then the rate is based on the first shard alone, and any estimate of the time left would be a guess."""


class Pace:
    """Measures the rate of this run alone: images that an earlier run finished cost no time now.

    Args:
        clock: Returns the time in s.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[int, float] | None = None

    def measure(self, done: int, total: int) -> tuple[str, str]:
        """Return the rate and the time left as text, both empty until they are known.

        Args:
            done: Images done, including those of earlier runs, which the first call counts.
            total: All images.
        """
        now = self._clock()
        self._first = self._first or (done, now)
        made, took_s = done - self._first[0], now - self._first[1]
        if made <= 0 or took_s < _SETTLED_S:
            return "", ""
        return f"{made / took_s:,.0f} images/s", f"{format_seconds((total - done) * took_s / made)} left"


@contextmanager
def showing_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal, and nothing elsewhere.

    Yields:
        A function to call with (images done, all images).
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console, pace = Console(stderr=True), Pace()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),  # narrow, so that the line fits 80 columns
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None, rate="", left="")

        def show(done: int, total: int) -> None:
            rate, left = pace.measure(done, total)
            progress.update(task, completed=done, total=total, rate=rate, left=left)

        yield show
