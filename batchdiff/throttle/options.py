"""Options that limit a scan's load on the machine."""

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
    ``idle``: lower the disk and CPU priority.
    """

    cache: CacheUse = CacheUse.KEEP
    limit_rate: int | None = None
    idle: bool = False
