"""A progress bar for scans: bytes of all images, rate, time left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from batchdiff.cli.console import Console


@contextmanager
def scan_progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """A function to call with bytes done and bytes in all; it draws on stderr where that is wanted."""
    if not console.shows_progress:
        yield lambda _done, _total: None
        return
    # Imported here: it takes a tenth of a start, and only a terminal needs it.
    from tqdm import tqdm  # noqa: PLC0415

    # tqdm's monitor is a thread; the planner forks, and must have none.
    tqdm.monitor_interval = 0
    with tqdm(desc="scanning", unit="B", unit_scale=True, unit_divisor=1024, file=sys.stderr, leave=False) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update
