"""The failures that a user, a disk or an image can cause, each with its exit code.

If guests fail in different ways, :mod:`batchdiff.cli.run_session` chooses one of their codes.
"""

from __future__ import annotations

import errno

_OF_LIMITS = {
    errno.EMFILE: "Raise the limit on open files (`ulimit -n`, `LimitNOFILE=` of a service), and run the same"
    " command again.",
    errno.ENFILE: "The system has too many open files: raise the limit (`sysctl fs.file-max`) or end the programs"
    " that opened them, and run the same command again.",
    errno.ENOMEM: "Free some memory or raise the limit (`ulimit -v`, `MemoryMax=` of a service), and run the same"
    " command again.",
    errno.EFBIG: "Raise the limit on file sizes (`ulimit -f`, `LimitFSIZE=` of a service). If none is set, the"
    " filesystem does not allow files that large.",
}
"""Advice for each limit of the process or the system, whatever operation reached it."""


def advice_on_limit(error: BaseException | None) -> str:
    """Return what to do about the limit that a system error reports; empty if it is not about a limit."""
    return _OF_LIMITS.get(error.errno or 0, "") if isinstance(error, OSError) else ""


def is_caused_by(error: BaseException | None, *kinds: type[BaseException]) -> bool:
    """Return whether an error, or one that it was raised from, is of one of these kinds."""
    while error is not None and not isinstance(error, kinds):
        error = error.__cause__
    return error is not None


class BatchdiffError(Exception):
    """A failure: what went wrong and where, why, and what to do next. It is printed without a traceback.

    ``what`` is the failure, and names the file or guest; ``why`` is the cause; ``remedy`` is advice in whole
    sentences. If the failure was raised from a system error about a limit, such as that on open files, the advice
    is about that limit.
    """

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", remedy: str = "") -> None:
        super().__init__(what, why, remedy)
        self.what = what
        self.why = why
        self._remedy = remedy

    @property
    def remedy(self) -> str:
        """The advice on what to do next."""
        return advice_on_limit(self.__cause__) or self._remedy

    def __str__(self) -> str:
        return ". ".join(part for part in (self.reason, self.remedy) if part)

    @property
    def reason(self) -> str:
        """The failure and its cause, without the advice."""
        return f"{self.what}: {self.why}" if self.why else self.what

    def __reduce__(self) -> tuple[object, ...]:
        # Workers pickle exceptions. Pickle's default fails: it passes keyword-only arguments by position.
        return _rebuild, (type(self), self.what, self.why, self.remedy)


def _rebuild(kind: type[BatchdiffError], what: str, why: str, remedy: str) -> BatchdiffError:
    return kind(what, why=why, remedy=remedy)


def _rebuild_image_error(kind: type[ImageError], what: str, why: str, remedy: str, path: str) -> ImageError:
    return kind(what, why=why, remedy=remedy, path=path)


class GuestError(BatchdiffError):
    """A guest was refused or failed, and the others continue; or the system does not let the command continue."""

    exit_code = 1


class SpaceError(GuestError):
    """A filesystem does not have enough space for a guest; it may have enough once other guests are finished."""


class UsageError(BatchdiffError):
    """The command line is wrong."""

    exit_code = 2


class DefinitionError(BatchdiffError):
    """A definition of a VM, pool or storage cannot be used or saved, or a VM's must not be changed now."""

    exit_code = 2


class ManifestError(BatchdiffError):
    """The manifest cannot be read, or is wrong: then ``what`` lists every problem, one per line."""

    exit_code = 3


class ImageError(BatchdiffError):
    """An image cannot be read, or is not what the manifest declares.

    ``path``: the file that has the fault, or the image that it belongs to; empty if that is unknown.
    """

    exit_code = 4

    def __init__(self, what: str, *, why: str = "", remedy: str = "", path: str = "") -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_image_error, (type(self), self.what, self.why, self.remedy, self.path)


class SecretError(ImageError):
    """The secret of an encrypted image cannot be read, or opens no key slot; the image itself may be sound."""


class EncryptedError(ImageError):
    """An image is encrypted, and no file with its secret is named."""


class MovedError(ImageError):
    """An image was moved, and its header still has the former name of its data file; the image is sound."""


class PlanError(BatchdiffError):
    """The plan is invalid, edited, or stale."""

    exit_code = 5


class TemplateChangedError(PlanError):
    """The template was read, and its content is not what the plan recorded."""


class VerificationError(BatchdiffError):
    """An overlay does not have the guest's content, or it cannot be proved that it does."""

    exit_code = 6


class DifferenceError(VerificationError):
    """Two images were read without an error, and a guest would see different bytes in them."""


class IncomparableError(DifferenceError):
    """Two images count as different, because one of them is in use and could not be compared."""


class InUseError(GuestError):
    """A VM or another program is using an image, so the image could not be read or must not be changed."""


class ProgramError(BatchdiffError):
    """An external program is missing or failed."""

    exit_code = 7


class StopError(BatchdiffError):
    """The command was asked to stop; no image was left incomplete."""

    exit_code = 130


class WorkerError(BatchdiffError):
    """A worker process died or cannot scan, or the scheduler of workers on other hosts cannot be used."""

    exit_code = 4


EXIT_DONE = 0
EXIT_SOME_GUESTS = 1
EXIT_DETAILED_CHANGES = 10
"""For ``plan --detailed-exitcode``: there is something to convert or share."""
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
