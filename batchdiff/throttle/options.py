"""Options that limit a scan's load on the machine; to parse them, no other module of this package is needed."""

from __future__ import annotations

import enum

from batchdiff.frozen import frozen


class CacheUse(enum.StrEnum):
    """The handling of the pages that a scan brings into the page cache."""

    KEEP = "keep"
    DROP = "drop"


@frozen
class ScanLimits:
    """The limits of a scan.

    ``limit_rate``: bytes per second that a process and its workers may read in all; None: no limit.
    ``idle``: the lowest disk and CPU priority.
    """

    cache: CacheUse = CacheUse.KEEP
    limit_rate: int | None = None
    idle: bool = False
