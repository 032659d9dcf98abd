"""Read-only exports of images by confined qemu-nbd processes.

::

    the image's descriptor --> qemu-nbd --> socket without a path --> connections of the processes that read

The server gets the descriptor of the inspected file, so no other file can take that file's place. The socket is
bound in a private folder that is removed before the server starts, so other users cannot connect. The server ends
with its last connection or with the process that started it.

FUSE is not used: Landlock denies mount(2) to confined programs, so a daemon that mounts would have to parse
hostile images unconfined. Also, a process that reads from a stopped FUSE daemon hangs.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import NamedTuple

from batchdiff.errors import ImageError, ProgramError
from batchdiff.linux.call_failures import AGAIN, explain
from batchdiff.linux.permissions import Deed
from batchdiff.qcow2.faults import LACKS_OR_DAMAGED
from batchdiff.qemu.background import LOWEST_DESCRIPTOR, BackgroundProgram
from batchdiff.qemu.nbd import NbdConnection
from batchdiff.qemu.programs import WHEN_TOO_SLOW, inherited
from batchdiff.qemu.secrets import wrong_secret

_NAME, _PACKAGE = "qemu-nbd", "qemu-utils"

_WAIT = 120.0

_WAIT_FOR_KEYS = 600.0
"""The wait if QEMU must open a key slot: the maximum number of PBKDF2 rounds takes an idle CPU a few minutes."""

_GOODBYE = 5.0

_QUEUE = 2048
"""More than there can be workers."""

_OF_THE_FOLDER = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.EOPNOTSUPP})
"""Errors that might not occur in another folder."""


class BlockDevice(NamedTuple):
    """Everything that QEMU needs to open an image, besides its file.

    ``options``: the format's, with dots between nested names; None is JSON's null. ``objects``: values of
    ``--object``, with commas in paths doubled. ``reads``: other files that QEMU may read. ``inherits``:
    descriptors, none below :data:`.LOWEST_DESCRIPTOR`. ``secret_file``: None if QEMU needs no secret.
    """

    driver: str
    options: tuple[tuple[str, str | None], ...] = ()
    objects: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    inherits: tuple[int, ...] = ()
    secret_file: str | None = None


class Export:
    """An image that a qemu-nbd of its own serves; ``size``: bytes of the image's disk.

    Processes that are forked later can connect too, but must not call :meth:`close`.
    """

    def __init__(self, path: str, fd: int, device: BlockDevice) -> None:
        """Start the server. ``path``: the image's name in messages.

        :raises ImageError: QEMU does not open the image, or not in time.
        :raises OSError: no further file can be opened.
        :raises ProgramError: qemu-nbd cannot be started, or no socket can be created for it.
        """
        self._path, self._owner, self._secret_file = path, os.getpid(), device.secret_file
        with ExitStack() as opened:
            self._image = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, LOWEST_DESCRIPTOR)
            opened.callback(os.close, self._image)
            listener, self._socket = opened.enter_context(_listening())
            self._program = _served(self._image, device, listener)
            opened.callback(self._program.end)
            listener.close()  # if the server ends now, so does every connection that waits for it
            # The server ends with its last connection, so `_first` stays open.
            self._wait = _WAIT if device.secret_file is None else _WAIT_FOR_KEYS
            self._first = opened.enter_context(closing(self._connection(self._unopened)))
            self._wait = _WAIT
            self.size = self._first.size
            self._opened = opened.pop_all()

    def connect(self) -> NbdConnection:
        """Return a new connection.

        :raises ImageError: no connection is possible.
        """
        return self._connection(self.failure)

    def _connection(self, failure: Callable[[OSError], ImageError]) -> NbdConnection:
        try:
            return NbdConnection(f"/proc/self/fd/{self._socket}", self._wait)
        except OSError as error:
            raise failure(error) from error

    def _unopened(self, error: OSError) -> ImageError:
        if not isinstance(error, ConnectionError):
            return self.failure(error)
        words = self._last_words()
        secret_files = {} if self._secret_file is None else {self._path: self._secret_file}
        unopened = ImageError(
            f"QEMU cannot open {self._path}", path=self._path, why=words, remedy=LACKS_OR_DAMAGED
        )
        return wrong_secret(words, secret_files) or unopened

    def failure(self, error: OSError) -> ImageError:
        """Return the error to raise after a failure to connect or to read."""
        why, remedy = error.strerror or str(error), "If `qemu-img convert` can read it, report this as a bug."
        if isinstance(error, ConnectionError):
            why = f"{_NAME}, which was reading it, has ended: {self._last_words()}"
            remedy = f"See `dmesg`, {AGAIN}"
        elif isinstance(error, TimeoutError):
            why = f"{_NAME}, which was reading it, did not answer within {self._wait:.0f} seconds"
            remedy = WHEN_TOO_SLOW
        elif error.errno == errno.EINVAL:  # NBD's number for errors that have none of their own
            remedy = "The image is probably damaged. If `qemu-img convert` can read it, report this as a bug."
        elif error.errno == errno.EIO:
            remedy = "The image is damaged, or the disk below it has a fault: see the kernel log (`dmesg`)."
        return ImageError(f"cannot read {self._path}", path=self._path, why=why, remedy=remedy)

    def _last_words(self) -> str:
        if os.getpid() == self._owner:
            self._program.wait(_GOODBYE)
        described = self._program.described(ended=os.getpid() == self._owner)
        return described.replace(f"/proc/self/fd/{self._image}", self._path)

    def close(self) -> None:
        """End the server."""
        self._opened.close()


@contextmanager
def _listening() -> Iterator[tuple[socket.socket, int]]:
    """Yield a listening socket, and a descriptor that reaches it."""
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            place = _bound(listener)
        except OSError as error:
            raise _unbound(error) from error
        try:
            listener.listen(_QUEUE)
            yield listener, place
        finally:
            os.close(place)


def _unbound(error: OSError) -> ProgramError:
    why, remedy = error.strerror or str(error), f"Set TMPDIR to a folder that you can write to, {AGAIN}"
    if error.errno not in _OF_THE_FOLDER:
        why, remedy = explain(error, Deed.CREATE)
    what = "no socket can be created in the folder for temporary files"
    return ProgramError(f"cannot run {_NAME}", why=f"{what} ({why})", remedy=remedy)


def _bound(listener: socket.socket) -> int:
    # The folder is private: no other user can connect meanwhile. Through /proc, the path is never too long.
    with tempfile.TemporaryDirectory(prefix="batchdiff-") as folder:
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            listener.bind(f"/proc/self/fd/{fd}/socket")
            return os.open(f"/proc/self/fd/{fd}/socket", os.O_PATH | os.O_CLOEXEC)
        finally:
            os.close(fd)


def _served(image: int, device: BlockDevice, listener: socket.socket) -> BackgroundProgram:
    path = inherited(image)
    kind = "host_device" if stat.S_ISBLK(os.fstat(image).st_mode) else "file"
    # QEMU's own lock would keep a VM from starting; whoever reads the image keeps writers away if necessary.
    file = {"driver": kind, "filename": path, "locking": "off"}
    objects = [word for each in device.objects for word in ("--object", each)]
    name = f"json:{json.dumps({'driver': device.driver, 'file': file} | dict(device.options))}"
    return BackgroundProgram(
        [_NAME, "--read-only", "--shared=0", *objects, name],
        reads=[path, *device.reads],
        package=_PACKAGE,
        listener=listener.fileno(),
        passed=[image, *device.inherits],
    )
