"""The failures that batchdiff expects, with their exit codes."""

from __future__ import annotations

import errno

_OF_LIMITS = {
    errno.EMFILE: "Raise the limit on open files (`ulimit -n`, `LimitNOFILE=` of a service), and run the same"
    " command again.",
    errno.ENFILE: "The system has too many open files: raise the limit (`sysctl -w fs.file-max=NUMBER`) or end the"
    " programs that opened them, and run the same command again.",
    errno.ENOMEM: "Free some memory or raise the limit (`ulimit -v`, `MemoryMax=` of a service), and run the same"
    " command again.",
    errno.EFBIG: "Raise the limit on file sizes (`ulimit -f`, `LimitFSIZE=` of a service). If none is set, the"
    " filesystem does not allow files that large.",
}


def advice_on_limit(error: BaseException | None) -> str:
    """Return advice on the limit that an error is about; empty if there is none."""
    return _OF_LIMITS.get(error.errno or 0, "") if isinstance(error, OSError) else ""


def is_caused_by(error: BaseException | None, *kinds: type[BaseException]) -> bool:
    """Return whether an error, or one of its causes (``raise ... from``), is of one of these kinds."""
    while error is not None and not isinstance(error, kinds):
        error = error.__cause__
    return error is not None


def is_inconclusive(error: BaseException | None) -> bool:
    """Return whether an error about an image leaves open whether the image is sound."""
    while error is not None:
        if isinstance(error, PermissionError | TimeoutError | ProgramError | InUseError) or advice_on_limit(error):
            return True
        error = error.__cause__
    return False


class BatchdiffError(Exception):
    """A failure that is not a bug.

    ``what``: the failure; ``why``: the cause; ``remedy``: advice in whole sentences.
    """

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", remedy: str = "") -> None:
        super().__init__(what, why, remedy)
        self.what = what
        self.why = why
        self._remedy = remedy

    @property
    def remedy(self) -> str:
        """The advice, which is about the limit if a limit is the direct cause; may be empty."""
        return advice_on_limit(self.__cause__) or self._remedy

    def __str__(self) -> str:
        return ". ".join(part for part in (self.reason, self.remedy) if part)

    @property
    def reason(self) -> str:
        """The failure and its cause, without the advice."""
        return f"{self.what}: {self.why}" if self.why else self.what

    def __reduce__(self) -> tuple[object, ...]:
        # Workers pickle exceptions. Pickle's default fails: it passes all arguments by position.
        return _rebuild, (type(self), self.what, self.why, self.remedy)


def _rebuild(kind: type[BatchdiffError], what: str, why: str, remedy: str) -> BatchdiffError:
    return kind(what, why=why, remedy=remedy)


def _rebuild_image_error(kind: type[ImageError], what: str, why: str, remedy: str, path: str) -> ImageError:
    return kind(what, why=why, remedy=remedy, path=path)


class GuestError(BatchdiffError):
    """The work on a guest is refused or fails, or the whole command cannot continue."""

    exit_code = 1


class SpaceError(GuestError):
    """A filesystem lacks space for a guest; it may have enough once other guests are finished."""


class UsageError(BatchdiffError):
    """The command is wrong, cannot be carried out as given, or was declined, or output cannot be written."""

    exit_code = 2


class DefinitionError(BatchdiffError):
    """A definition of a VM, pool or storage cannot be used, saved or changed."""

    exit_code = 2


class ManifestError(BatchdiffError):
    """The manifest cannot be read or is wrong; ``what`` may list several problems, one per line."""

    exit_code = 3


class ImageError(BatchdiffError):
    """An image, or a file that it needs, cannot be used.

    ``path``: the file with the fault, or the image to which that file belongs; may be empty.
    """

    exit_code = 4

    def __init__(self, what: str, *, why: str = "", remedy: str = "", path: str = "") -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_image_error, (type(self), self.what, self.why, self.remedy, self.path)


class SecretError(ImageError):
    """The secret of an encrypted image cannot be used; the image itself may be sound."""


class EncryptedError(ImageError):
    """An image is encrypted, and no file with its secret is named."""


class MovedError(ImageError):
    """The data file that a header names cannot be used, but one of the same name is beside the image."""


class PlanError(BatchdiffError):
    """A plan, journal or sidecar cannot be used or written, or images are not as planned."""

    exit_code = 5


class TemplateChangedError(PlanError):
    """The content of the template has changed."""


class VerificationError(BatchdiffError):
    """An image is damaged, has the wrong content, or cannot be verified."""

    exit_code = 6


class DifferenceError(VerificationError):
    """The disks of two images differ, or count as different."""


class IncomparableError(DifferenceError):
    """Two images count as different because one is in use and cannot be compared."""


class InUseError(GuestError):
    """An image is in use."""


class ProgramError(BatchdiffError):
    """An external program is missing or fails."""

    exit_code = 7


class StopError(BatchdiffError):
    """The work was stopped on request."""

    exit_code = 130


class WorkerError(BatchdiffError):
    """Workers, or the scheduler of those on other hosts, fail or cannot be used."""

    exit_code = 4


EXIT_DONE = 0
EXIT_SOME_GUESTS = 1
EXIT_DETAILED_CHANGES = 10
"""For ``plan --detailed-exitcode``: there is something to convert or share."""
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
