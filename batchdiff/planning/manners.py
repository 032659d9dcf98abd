"""How a scan behaves towards everything else on the machine, as asked for; the command line needs only this."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class CacheUse(enum.StrEnum):
    """What becomes of the page cache that a scan fills."""

    KEEP = "keep"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Manners:
    """``limit_rate``: bytes read a second by all workers together, None for no limit."""

    cache: CacheUse = CacheUse.KEEP
    limit_rate: int | None = None
    idle: bool = False
