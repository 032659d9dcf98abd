"""Process guests one after the other; while one is verified, the next one is written.

::

    guest 1   prepare | verify .......... | finish
    guest 2             prepare | verify ....................... | finish
    guest 3                                        prepare | verify ...         (here at_once is 2)

Only the caller's thread changes guests' files; it prepares and finishes guests in order.
"""

from __future__ import annotations

import contextlib
import errno
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from batchdiff.applying.journal.records import Goal
from batchdiff.applying.session.session import Run
from batchdiff.applying.swap.swap import Swap
from batchdiff.applying.swap.task import SwapTask
from batchdiff.errors import BatchdiffError, DifferenceError, GuestError, SpaceError, StopError
from batchdiff.frozen import frozen
from batchdiff.linux.call_failures import explain
from batchdiff.plan.plan import GuestToConvert
from batchdiff.qcow2.faults import FormatError

_BETWEEN_LOOKS = 1.0
"""Seconds between two checks of waiting guests.

A VM that opens a guest's file for writing has to wait for the next check, for up to 45 s.
"""

EXPECTED = (BatchdiffError, OSError, FormatError)
"""The errors that a user, a disk or an image can cause; any other is a bug."""


TaskOf = Callable[[GuestToConvert], SwapTask]


@frozen
class SwapResult:
    """A guest that is done, with the error that ended the work, if any."""

    guest: str
    swap: Swap | None
    error: BatchdiffError | None = None


@dataclass(slots=True)
class _InProgress:
    name: str
    swap: Swap | None = None
    verdict: Future[None] | None = None
    error: Exception | None = None


def run_swaps(
    guests: Iterable[GuestToConvert], task_of: TaskOf, run: Run, *, at_once: int
) -> Iterator[SwapResult]:
    """Process guests, and yield their results in order; a guest that fails does not stop the others.

    :raises StopError: a stop was requested.
    """
    ahead: deque[_InProgress] = deque()
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for guest in guests:
                run.stop.check()
                started = _begin(guest, task_of, run, pool)
                # If there is too little space for this guest, start it again after each guest in progress, which
                # may free space when it finishes.
                while ahead and _lacks_space(started.error):
                    yield _end(ahead, run)
                    started = _begin(guest, task_of, run, pool)
                ahead.append(started)
                # Finish the oldest guest if ``at_once`` guests are in progress, or if it is not being verified.
                while len(ahead) >= at_once or (ahead and ahead[0].verdict is None):
                    yield _end(ahead, run)
            while ahead:
                yield _end(ahead, run)
        finally:
            # Guests are left only after an error, or if the caller stops iterating: end their verifications, and
            # roll them back.
            if ahead:
                run.stop.ask()
            for left in ahead:
                _undo(left)


def _begin(plan: GuestToConvert, task_of: TaskOf, run: Run, pool: ThreadPoolExecutor) -> _InProgress:
    """Start a guest; keep an expected error for later."""
    guest = _InProgress(plan.name)
    try:
        guest.swap = Swap(task_of(plan), run)
        if guest.swap.prepare():
            guest.verdict = pool.submit(guest.swap.verify)
    except EXPECTED as error:
        _undo(guest)
        guest.error = error
    except BaseException:
        _undo(guest)
        raise
    return guest


def _lacks_space(error: Exception | None) -> bool:
    return isinstance(error, SpaceError) or (
        isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
    )


def _end(ahead: deque[_InProgress], run: Run) -> SwapResult:
    guest = ahead.popleft()
    try:
        _await(guest, ahead, run)
        _finish(guest, run)
    except StopError:
        _undo(guest)
        raise
    except EXPECTED as error:
        _undo(guest)
        reported = error_to_report(guest.name, error)
        if not _is_kept(guest, error):
            with contextlib.suppress(OSError):
                run.journal.record_failure(guest.name, str(reported))
        return SwapResult(guest.name, guest.swap, reported)
    except BaseException:
        _undo(guest)
        raise
    return SwapResult(guest.name, guest.swap)


def _await(guest: _InProgress, waiting: Iterable[_InProgress], run: Run) -> None:
    """Wait for a guest's verification; meanwhile, roll back other guests that a program wants to write to."""
    while guest.verdict is not None and not _is_done(guest.verdict):
        run.session.meter.tick()
        for other in waiting:
            if other.swap is None or other.error is not None:
                continue
            try:
                other.swap.check_holds()
            except EXPECTED as error:
                _undo(other)
                other.verdict, other.error = None, error


def _is_done(verdict: Future[None]) -> bool:
    try:
        verdict.exception(timeout=_BETWEEN_LOOKS)
    except TimeoutError:
        return False
    return True


def _is_kept(guest: _InProgress, error: Exception) -> bool:
    """Return whether an error only makes purge keep the original, which is not a failure."""
    if not isinstance(error, DifferenceError) or guest.swap is None:
        return False
    return guest.swap.task.goal is Goal.PURGE


def _finish(guest: _InProgress, run: Run) -> None:
    if guest.error is not None:
        raise guest.error
    if guest.swap is None:
        raise AssertionError("a guest is in progress without a swap")
    if guest.verdict is not None:
        try:
            guest.verdict.result()
        except StopError:
            if not run.stop.is_asked:
                guest.swap.check_holds()  # a program that wants to write has ended the verification: name it
            raise
        except DifferenceError as error:
            _continue_if_different(guest, guest.swap, error, run)
    guest.swap.finish()
    guest.swap.close()


def _continue_if_different(guest: _InProgress, first: Swap, error: DifferenceError, run: Run) -> None:
    task = first.task.if_different()
    if task is None:
        raise error
    first.abandon()
    first.close()
    guest.verdict = None
    second = guest.swap = Swap(task, run)
    if second.prepare():
        second.verify()


def _undo(guest: _InProgress) -> None:
    """Roll back what was not published; if that fails, leave it to the next run."""
    if guest.verdict is not None:
        guest.verdict.exception()  # wait first, so that no file is removed while it is being read
    if guest.swap is not None:
        with contextlib.suppress(OSError, BatchdiffError):
            guest.swap.abandon()
        guest.swap.close()


def failed(guest: str, error: Exception) -> SwapResult:
    """Return the result for a guest that failed without a swap; raise an unexpected error again."""
    return SwapResult(guest, None, error_to_report(guest, error))


def error_to_report(guest: str, error: Exception) -> BatchdiffError:
    """Return the error to report for an expected one; raise any other again."""
    if isinstance(error, BatchdiffError):
        return error
    if isinstance(error, FormatError):
        return GuestError(f"cannot write the image of {guest}", why=str(error))
    if not isinstance(error, OSError):
        raise error
    fault = explain(error)
    return GuestError(f"cannot continue with {guest}", why=fault.why, remedy=fault.remedy)
