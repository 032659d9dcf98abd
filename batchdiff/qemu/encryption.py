"""The encryption of new overlays by qemu-img.

Source: QEMU, ``qemu-img`` manual, "convert"; ``qapi/block-core.json`` (BlockdevOptionsQcow2, BlockdevOptionsNull).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace

from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.qcow2.header import parse
from batchdiff.qemu import qemu_img
from batchdiff.qemu.image_options import decryption, dotted, node_of
from batchdiff.qemu.programs import inherited, never
from batchdiff.qemu.secrets import secrets_of
from batchdiff.units import MIB

_SECONDS_FOR_A_HEADER = 600
"""Added to the usual time limit: with a long ``iter_time``, QEMU takes longer to create the header."""


def new_luks_header(
    secret_file: str, options: Mapping[str, str | int], *, stopped: Callable[[], bool] = never
) -> bytes:
    """Return a new LUKS header with a key slot for the secret.

    ``options``: options of ``qemu-img create``, without the prefix ``encrypt.``.

    :raises ImageError: the secret cannot be used.
    :raises OSError: a file in memory cannot be created or written.
    :raises ProgramError: qemu-img cannot be run, or fails.
    :raises StopError: ``stopped`` became true.
    """
    image = ImageSource("", ImageFormat.QCOW2, secret_file=secret_file)
    secrets = secrets_of([image])
    given = [
        *dotted(decryption(image, secrets.ids)),
        *(f"encrypt.{name}={value}" for name, value in options.items()),
    ]
    memory = os.memfd_create("luks-header")
    try:
        qemu_img.run_to_write(
            ["create", "-q", *secrets.arguments, "-f", "qcow2", "-o", ",".join(given), inherited(memory), "1M"],
            [],
            secrets,
            memory=[memory],
            seconds=_SECONDS_FOR_A_HEADER,
            stopped=stopped,
        )
        size = os.fstat(memory).st_size
        found = parse(os.pread(memory, size, 0), size).luks_header
        if found is None:
            raise ValueError("QEMU made an image that is not encrypted")
        offset, length = found
        return os.pread(memory, length, offset)
    finally:
        os.close(memory)


def encrypt(  # noqa: PLR0913  # options by keyword
    guest: ImageSource,
    guest_fd: int,
    *,
    selection: int,
    target: int,
    virtual_size: int,
    secret_file: str,
    stopped: Callable[[], bool] = never,
    percent: Callable[[float], None] | None = None,
) -> None:
    """Encrypt those clusters of a guest that ``selection`` maps, and write them to their places in ``target``.

    ``selection``: a qcow2 file in memory; its external data file is the guest's disk. ``target``: an encrypted
    qcow2 file with a place for each of these clusters. ``secret_file``: that of ``target``.

    :raises InUseError: another program has locked an image.
    :raises OSError: the disk is full, or a file cannot be used.
    :raises SecretError: a secret cannot be used.
    :raises ProgramError: qemu-img cannot be run, or fails.
    :raises StopError: ``stopped`` became true.
    """
    new = ImageSource("", ImageFormat.QCOW2, secret_file=secret_file)
    secrets = secrets_of([guest, new])
    # With -B, clusters that are not mapped are left alone. The source then needs a backing file; any will do.
    nothing = {"driver": "null-co", "size": virtual_size, "read-zeroes": True}
    source = _file(selection) | {"data-file": node_of(_by_utf8(guest, guest_fd), secrets.ids), "backing": nothing}
    made = _file(target) | decryption(new, secrets.ids) | {"backing": None}
    # -S 0: zeros are written like all other data. Without it, QEMU would free their places in qcow2 version 2.
    leave_the_rest = ["-n", "-S", "0", "-B", "unused", "-F", "raw"]
    qemu_img.run_to_write(
        ["convert", *secrets.arguments, *leave_the_rest, "-O", "qcow2", _named(source), _named(made)],
        [guest],
        secrets,
        writes=[target],
        memory=[selection, guest_fd],
        seconds=virtual_size / MIB,
        stopped=stopped,
        percent=percent,
    )


def _by_utf8(image: ImageSource, fd: int) -> ImageSource:
    """Return an image with a path in UTF-8, as JSON requires."""
    try:
        image.path.encode("utf-8")
    except UnicodeEncodeError:
        return replace(image, path=inherited(fd))
    return image


def _file(fd: int) -> dict[str, object]:
    return {"driver": "qcow2", "file": {"driver": "file", "filename": inherited(fd)}}


def _named(options: dict[str, object]) -> str:
    return f"json:{json.dumps(options)}"
