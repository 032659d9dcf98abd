"""Every failure that a user, a disk or an image can cause, each with its exit code (docs/scripting.md)."""

from __future__ import annotations

import errno

_OF_LIMITS = {
    errno.EMFILE: "Raise the limit on open files (`ulimit -n`, `LimitNOFILE=` of a service), and run the same"
    " command again.",
    errno.ENFILE: "The system has too many files open: raise `sysctl fs.file-max`, or end what has them open,"
    " and run the same command again.",
    errno.ENOMEM: "Free some memory or raise the limit (`ulimit -v`, `MemoryMax=` of a service), and run the same"
    " command again.",
    errno.EFBIG: "Raise the limit on file sizes (`ulimit -f`, `LimitFSIZE=` of a service). If none is set, the"
    " filesystem does not allow files that large.",
}
"""What to do if a limit of the process or the system is reached, whatever reached it."""


def advice_on_limit(error: BaseException | None) -> str:
    """Return what to do about the limit that a system error reports; empty if it is not about a limit."""
    return _OF_LIMITS.get(error.errno or 0, "") if isinstance(error, OSError) else ""


class BatchdiffError(Exception):
    """What went wrong and where, why, and what to do next; the command line prints it without a traceback.

    ``what`` names the file or guest; ``why`` is the cause; ``remedy`` is one sentence of advice. If it was raised
    from a system error about a limit, such as that on open files, the advice is about that limit.
    """

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", remedy: str = "") -> None:
        super().__init__(what, why, remedy)
        self.what = what
        self.why = why
        self._remedy = remedy

    @property
    def remedy(self) -> str:
        """What to do next."""
        return advice_on_limit(self.__cause__) or self._remedy

    def __str__(self) -> str:
        return ". ".join(part for part in (self.reason, self.remedy) if part)

    @property
    def reason(self) -> str:
        """What and why, without the advice."""
        return f"{self.what}: {self.why}" if self.why else self.what

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross from the workers to the planner; keyword-only fields need their own way.
        return _rebuild, (type(self), self.what, self.why, self.remedy)


def _rebuild(kind: type[BatchdiffError], what: str, why: str, remedy: str) -> BatchdiffError:
    return kind(what, why=why, remedy=remedy)


class GuestError(BatchdiffError):
    """One guest was refused or failed; the other guests go on."""

    exit_code = 1


class UsageError(BatchdiffError):
    """The command line is wrong."""

    exit_code = 2


class ManifestError(BatchdiffError):
    """The manifest is wrong; ``what`` lists every problem, one a line."""

    exit_code = 3


class ImageError(BatchdiffError):
    """An image cannot be read, or is not what the manifest says."""

    exit_code = 4


class PlanError(BatchdiffError):
    """The plan is invalid, edited, or stale."""

    exit_code = 5


class VerificationError(BatchdiffError):
    """An overlay does not give the guest's content, or cannot be proved to."""

    exit_code = 6


class DifferenceError(VerificationError):
    """Two images that were read without an error show their guest different bytes."""


class InUseError(GuestError):
    """A VM or another program uses an image, so it could not be read or may not be changed."""


class ProgramError(BatchdiffError):
    """An external program is missing or failed."""

    exit_code = 7


class StopError(BatchdiffError):
    """Somebody asked the command to stop: what was under way was undone."""

    exit_code = 130


class WorkerError(BatchdiffError):
    """A worker process died; ``what`` names it and the range that it was scanning."""

    exit_code = 4


EXIT_DONE = 0
EXIT_SOME_GUESTS = 1
EXIT_DETAILED_CHANGES = 10
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
