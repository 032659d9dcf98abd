"""Let a file share equal blocks with another; the kernel compares them first (FIDEDUPERANGE).

::

    source    | ... A ... |      its content and times stay as they are
                    ^
    target    | ... A ... |      the kernel locks both, writes them out, compares them, and lets the target
                                 refer to the source's blocks only if all bytes are equal

Both files stay locked to the end, and both copies are on disk, so no byte of the target ever changes, even in a
crash. The target keeps its times (on XFS and btrfs in Linux 6.18, even ctime). It need not be open for writing if
the process has CAP_SYS_ADMIN, or its user owns the file or may write to it.

Source: ioctl_fideduperange(2); Linux ``fs/remap_range.c``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from batchdiff.linux.call_failures import AGAIN, Fault, explain
from batchdiff.linux.inode_locks import lock_on
from batchdiff.linux.mounts import filesystem_of
from batchdiff.linux.permissions import Deed, lacking_access
from batchdiff.units import MIB

_DEDUPE_RANGE = 0xC0189436
"""FIDEDUPERANGE."""

AT_ONCE = 16 * MIB
"""The maximum number of bytes to compare in one call; a typical limit, according to ioctl_fideduperange(2)."""

_RANGE = struct.Struct("=QQHHI")
_TARGET = struct.Struct("=qQQiI")
_DIFFERS = 1
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS}


def dedupe(source: int, source_offset: int, target: int, target_offset: int, length: int) -> int:
    """Let the file ``target`` share blocks with ``source``; return the number of bytes shared, 0 if any differs.

    If fewer bytes than ``length`` were shared, but not 0, call again for the rest. ``length`` must be at most
    :data:`AT_ONCE`. Offsets must be multiples of the filesystem's block size, and so must ``length``, unless both
    ranges end where their files end.

    :raises OSError: see :func:`explain_refusal`.
    """
    buffer = bytearray(_RANGE.size + _TARGET.size)
    _RANGE.pack_into(buffer, 0, source_offset, length, 1, 0, 0)
    _TARGET.pack_into(buffer, _RANGE.size, target, target_offset, 0, 0, 0)
    fcntl.ioctl(source, _DEDUPE_RANGE, buffer)
    _, _, shared, status, _ = _TARGET.unpack_from(buffer, _RANGE.size)
    if status < 0:
        raise OSError(-status, os.strerror(-status))
    return 0 if status == _DIFFERS else int(shared)


def is_supported(source: int, target: int) -> bool | None:
    """Return whether two open regular files can share blocks; None if only a real call can show that.

    The trial changes nothing, because the kernel must refuse an unaligned offset.
    """
    try:
        dedupe(source, 0, target, 1, 1)
    except OSError as error:
        if error.errno in _UNSUPPORTED or error.errno == errno.EXDEV:
            return False
        return True if error.errno == errno.EINVAL else None
    return None


def explain_refusal(error: OSError, source: int, target: str) -> Fault:
    """Return why :func:`dedupe` failed for the path ``target``, and a remedy."""
    kind = filesystem_of(source) or "the filesystem"
    if error.errno in _UNSUPPORTED:
        return Fault(f"{kind} cannot share blocks between files", "Use `strategy: overlay` for this guest.")
    if error.errno == errno.EXDEV:
        return Fault(
            "the template is on another filesystem, or on another mount of the same one",
            "Put both files on one filesystem and below one mount point, correct the manifest if their paths"
            " change, and plan again; or use `strategy: overlay` for this guest.",
        )
    if error.errno == errno.EINVAL:
        return Fault(
            f"{kind} refuses to share these blocks: one of the files has become shorter, or only one of them has"
            " checksums (`lsattr` shows C for the other)",
            "If a program has changed one of the files, plan again; otherwise use `strategy: overlay` for this"
            " guest.",
        )
    denied = error.errno in {errno.EPERM, errno.EACCES} and lock_on(target) is None
    if denied and (lacking := lacking_access(Deed.WRITE, target)):
        remedy = f"Run the same command as root or as the owner of the file; or grant the permission, {AGAIN}"
        return Fault(lacking, remedy)
    return explain(error, Deed.WRITE, target)
