"""The limits of a scan, applied by an observer of reads and by lowering the priority."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from batchdiff.image.files import ReadObserver
from batchdiff.throttle.options import CacheUse, ScanLimits


@contextmanager
def throttle(
    limits: ScanLimits,
    *,
    tell: Callable[[str], None] = lambda _text: None,
    check: Callable[[], None] | None = None,
) -> Iterator[ReadObserver | None]:
    """Yield an observer that keeps reads within the limits; None if none is needed.

    Workers that are forked inside the block share the rate. ``limits.idle`` lowers the priority for good; ``tell``
    gets the result in words. ``check`` is called before each read, and may raise an error to prevent it.
    """
    # Each module is loaded only if its limit is set: few scans have limits.
    with ExitStack() as held:
        if limits.idle:
            from batchdiff.throttle.io_priority import lower_priority  # noqa: PLC0415

            tell(f"--idle: {lower_priority()}")
        observers: list[ReadObserver] = [] if check is None else [_Check(check)]
        if limits.limit_rate is not None:
            from batchdiff.throttle.rate_limit import RateLimit  # noqa: PLC0415

            observers.append(pace := RateLimit(limits.limit_rate))
            held.callback(pace.close)
        if limits.cache is CacheUse.DROP:
            from batchdiff.throttle.page_cache import DropBehind  # noqa: PLC0415

            observers.append(dropping := DropBehind())
            held.callback(dropping.settle)
        yield _Observers(tuple(observers)) if observers else None


class _Check(NamedTuple):
    check: Callable[[], None]

    def before(self, _fd: int, _offset: int, _length: int) -> None:
        self.check()

    def after(self, _fd: int, _offset: int, _length: int) -> None:
        pass

    def settle(self) -> None:
        pass


class _Observers(NamedTuple):
    each: tuple[ReadObserver, ...]

    def before(self, fd: int, offset: int, length: int) -> None:
        for observer in self.each:
            observer.before(fd, offset, length)

    def after(self, fd: int, offset: int, length: int) -> None:
        for observer in self.each:
            observer.after(fd, offset, length)

    def settle(self) -> None:
        for observer in self.each:
            observer.settle()
