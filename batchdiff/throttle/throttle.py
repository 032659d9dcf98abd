"""Application of a scan's limits (rate, page cache, priority) to this process and to workers forked later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from batchdiff.image.files import observed_reads
from batchdiff.throttle.io_priority import step_back
from batchdiff.throttle.options import CacheUse, Manners
from batchdiff.throttle.page_cache import DropBehind
from batchdiff.throttle.rate_limit import Pace


@contextmanager
def kept(manners: Manners, *, tell: Callable[[str], None] = lambda _text: None) -> Iterator[None]:
    """Apply the limits to all reads of images inside the block. ``tell`` is called with the resulting priority."""
    with ExitStack() as held:
        if manners.idle:
            tell(f"--idle: {step_back()}")
        if manners.limit_rate is not None:
            held.enter_context(observed_reads(pace := Pace(manners.limit_rate)))
            held.callback(pace.close)
        if manners.cache is CacheUse.DROP:
            dropping = DropBehind()
            held.enter_context(observed_reads(dropping))
            held.callback(dropping.settle)
        yield
