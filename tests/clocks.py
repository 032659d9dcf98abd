"""Time for tests that must not depend on how busy the machine is: a clock of their own, and the filesystem's."""

from __future__ import annotations

import os
from pathlib import Path

_SECOND = 1_000_000_000


class Clock:
    """Stands for the module ``time`` in one of ours; it goes on only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_000 * _SECOND

    def monotonic_ns(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return self.now / _SECOND

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += round(seconds * _SECOND)


def wait_for_another_ctime(folder: Path) -> None:
    """Until what is changed in a folder gets another ctime than what was changed before: it ticks every few ms."""
    probe = folder / "ctime-probe"
    probe.touch()
    before = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == before:
        os.utime(probe)
    probe.unlink()
