"""Encrypted images: LUKS, and qcow2 with data clusters that are encrypted with LUKS.

QEMU decrypts the data. The tables of a qcow2 file are not encrypted: they can be checked before QEMU opens it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from batchdiff.errors import EncryptedError, ImageError
from batchdiff.files.fingerprint import Fingerprint
from batchdiff.foreign.header import ReadAt
from batchdiff.foreign.luks import inspect_luks, inspect_luks_image
from batchdiff.image.exported import ExportedLayer
from batchdiff.image.files import ImageFile, ReadObserver
from batchdiff.image.layer import Backing, CompressedCluster, Layer, Losses, Segment, WithOthers
from batchdiff.image.qcow2 import Qcow2Layer
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.qcow2.entries import Origin
from batchdiff.qemu.export import BlockDevice
from batchdiff.qemu.image_options import decryption, dotted
from batchdiff.qemu.secrets import secrets_of

_IN_THE_FILE = {Origin.FILE, Origin.COMPRESSED}


def open_luks(source: ImageSource, observer: ReadObserver | None) -> Layer:
    """Open a LUKS image.

    :raises ImageError: the image or its secret file cannot be used.
    """
    if source.secret_file is None:
        raise _without_secret(source)
    return ExportedLayer(source, observer, inspect_luks_image, _decrypted)


def open_qcow2(source: ImageSource, observer: ReadObserver | None) -> Layer:
    """Open a qcow2 image, encrypted or not.

    :raises ImageError: the image or its secret file cannot be used, or an unencrypted image has a secret file.
    """
    file = ImageFile(source.path, observer)
    plain = Qcow2Layer(source, observer, file)
    header = plain.header.luks_header
    if header is None and source.secret_file is None:
        return plain
    if header is not None and source.secret_file is not None:
        return EncryptedQcow2Layer(source, observer, file, plain, header)
    plain.close()
    if header is not None:
        raise _without_secret(source)
    remedy = "Leave `secret_file` out: it is only for encrypted images."
    raise ImageError(f"cannot use {source.path}", path=source.path, why="it is not encrypted", remedy=remedy)


def _without_secret(source: ImageSource) -> EncryptedError:
    return EncryptedError(
        f"cannot use {source.path}",
        path=source.path,
        why="it is encrypted",
        # An overlay's secret file comes from the plan: after apply, changing the manifest does not help.
        remedy="Write `secret_file: PATH` beside its format in the manifest; PATH is the file with its secret. If"
        " it is an overlay that was encrypted after apply, put a decrypted copy of it in its place.",
    )


def _decrypted(source: ImageSource) -> BlockDevice:
    alone = replace(source, backing=())
    secrets = secrets_of([alone])
    options: list[tuple[str, str | None]] = []
    options += [each.partition("=")[::2] for each in dotted(decryption(alone, secrets.ids))]
    if source.format is ImageFormat.QCOW2:
        options.append(("backing", None))  # QEMU must not open the file that the header names
    return BlockDevice(
        source.format.value,
        tuple(options),
        secrets.arguments[1::2],
        secrets.reads,
        secrets.inherits,
        source.secret_file,
    )


class EncryptedQcow2Layer(WithOthers):
    """One encrypted qcow2 file without its backing file.

    ``file`` is closed with this layer, or if an error is raised. ``plain``: a layer of the same file. ``header``:
    offset and length of the LUKS header.
    """

    def __init__(
        self,
        source: ImageSource,
        observer: ReadObserver | None,
        file: ImageFile,
        plain: Qcow2Layer,
        header: tuple[int, int],
    ) -> None:
        self._plain, self.path, self.fd = plain, plain.path, plain.fd
        inspect = partial(_inspect_within, *header)
        self._export = ExportedLayer(source, observer, inspect, _decrypted, file=file)

    @property
    def virtual_size(self) -> int:
        """See :class:`~batchdiff.image.layer.Layer`."""
        return self._plain.virtual_size

    @property
    def backing(self) -> Backing | None:
        """See :class:`~batchdiff.image.layer.Layer`."""
        return self._plain.backing

    @property
    def losses(self) -> Losses:
        """See :class:`~batchdiff.image.layer.Layer`."""
        return self._plain.losses

    def read_tables(self) -> None:
        """See :class:`~batchdiff.image.layer.Layer`."""
        self._plain.read_tables()

    def inspect(self, *, refcounts: bool = False) -> None:
        """Check the tables; then have QEMU open the image, which shows whether the secret is right.

        :raises ImageError: the image cannot be used, or the secret opens no key slot.
        """
        self._plain.inspect(refcounts=refcounts)
        self._export.start()

    def start(self) -> None:
        """See :class:`~batchdiff.image.layer.ExportedImage`."""
        self._export.start()

    def parts(self, start: int, end: int) -> list[Segment]:
        """See :class:`~batchdiff.image.layer.Layer`."""
        found: list[Segment] = []
        for segment in self._plain.parts(start, end):
            if segment.origin not in _IN_THE_FILE:
                found.append(segment)
            elif found and found[-1].origin is Origin.EXPORTED and found[-1].end == segment.start:
                found[-1] = found[-1]._replace(end=segment.end)
            else:
                found.append(Segment(segment.start, segment.end, Origin.EXPORTED, 0, 0))
        return found

    def next_data(self, start: int) -> int | None:
        """See :class:`~batchdiff.image.layer.Layer`."""
        return self._plain.next_data(start)

    def read(self, segment: Segment, buffer: memoryview) -> None:
        """Read an EXPORTED segment."""
        self._export.read(segment, buffer)

    def compressed_cluster(self, segment: Segment) -> CompressedCluster:
        """Raise a ValueError: QEMU exports decompressed data."""
        return self._export.compressed_cluster(segment)

    def fingerprint(self) -> Fingerprint:
        """See :class:`~batchdiff.image.layer.Layer`."""
        return self._plain.fingerprint()

    def close(self) -> None:
        """See :class:`~batchdiff.image.exported.ExportedLayer`."""
        self._export.close()


def _inspect_within(start: int, length: int, read: ReadAt, _file_size: int) -> None:
    inspect_luks(lambda offset, count: read(start + offset, min(count, max(length - offset, 0))), length)
