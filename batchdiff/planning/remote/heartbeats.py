"""The silence of workers: the time since a scheduler heard from each, counted while the scheduler answers.

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
"""Seconds of silence after which a worker counts as frozen. A Dask worker reports twice a second if there are
fewer than ten workers, and every six seconds if there are a thousand, whatever its tasks are waiting for."""

_LONGEST_STEP = 15.0
"""The maximum number of seconds counted between two calls of :meth:`Heartbeats.silent`: this process, or the
scheduler, may have been stopped in between."""


class _Heard(NamedTuple):
    """When the scheduler last heard from a worker, by the scheduler's clock, and the seconds of silence since."""

    when: float
    silence: float


@dataclass(slots=True)
class Heartbeats:
    """The time of each worker's last report, and the worker's silence since."""

    _heard: dict[str, _Heard] = field(default_factory=dict)
    _looked: float | None = None

    def silent(self, last_seen: Mapping[str, float], now: float) -> set[str]:
        """Return the workers that have been silent for too long.

        ``last_seen``: for each worker, the time of its last report, by any clock; ``now``: the present time, by a
        clock of this host.
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
