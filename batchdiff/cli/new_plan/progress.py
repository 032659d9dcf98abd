"""A progress bar for scans: bytes of all images, rate, time left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from batchdiff.cli.console import Console


@dataclass(frozen=True, slots=True)
class _Screen:
    """The file that tqdm writes to: stderr, but a reader that has gone does not end the scan."""

    console: Console

    def write(self, text: str) -> None:
        self.console.draw(text)

    def flush(self) -> None:
        """Every write is flushed."""

    def fileno(self) -> int:
        return sys.stderr.fileno()

    @property
    def encoding(self) -> str:
        return sys.stderr.encoding


@contextmanager
def scan_progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that takes the bytes done and the total, and draws progress on stderr if wanted."""
    if not console.shows_progress:
        yield lambda _done, _total: None
        return
    # Imported here: it takes a tenth of the start-up, and only a terminal needs it.
    from tqdm import tqdm  # noqa: PLC0415

    # tqdm's monitor is a thread, and the planner, which forks, must not have any.
    tqdm.monitor_interval = 0
    with tqdm(
        desc="scanning",
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        file=_Screen(console),
        dynamic_ncols=True,
        leave=False,
    ) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update
