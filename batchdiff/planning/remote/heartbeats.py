"""The silence of workers, counted while the scheduler answers.

::

    a slow or hung disk    one thread waits for it, and another one continues to report    not silent
    a frozen process       no thread runs, and the connection stays open                   silent
    a host without power   nothing closes the connection                                   silent
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

LONGEST_SILENCE = 30.0
"""Seconds of silence after which a worker counts as frozen. Dask workers report twice a second, or every six
seconds if there are a thousand."""

_LONGEST_STEP = 15.0
"""The maximum silence that is counted between two calls, in seconds: this process or the scheduler may have been
stopped."""


class _Heard(NamedTuple):
    when: float
    silence: float


@dataclass(slots=True)
class Heartbeats:
    """Each worker's last report, and its silence since."""

    _heard: dict[str, _Heard] = field(default_factory=dict)
    _looked: float | None = None

    def silent(self, last_seen: Mapping[str, float], now: float) -> set[str]:
        """Return the workers that have been silent for too long.

        ``last_seen``: the time of each worker's last report, by any clock; ``now``: by a clock of this host.
        """
        step = 0.0 if self._looked is None else min(now - self._looked, _LONGEST_STEP)
        self._looked = now
        heard = {}
        for worker, when in last_seen.items():
            before = self._heard.get(worker)
            silence = before.silence + step if before is not None and before.when == when else 0.0
            heard[worker] = _Heard(when, silence)
        self._heard = heard
        return {worker for worker, each in heard.items() if each.silence >= LONGEST_SILENCE}
