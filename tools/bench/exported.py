"""Reading of images that QEMU must read: batchdiff's reader against nbdcopy, both from qemu-nbd."""

from __future__ import annotations

import os
import sys

from batchdiff.image.open import open_image
from batchdiff.image.read_buffer import ReadBuffer
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.units import KIB
from bench.fleets import Member
from bench.running import Run, timed

_WINDOW = 512 * KIB
"""As much as a scan reads at once."""

NBDCOPY, READER = "nbdcopy", "batchdiff's reader"


def read_all(image: Member) -> Run:
    """Time batchdiff's reader, in one process, start-up of Python included."""
    secret = os.path.abspath(image.secret_file) if image.secret_file else ""
    return timed([sys.executable, "-m", "bench.exported", os.path.abspath(image.path), image.format, secret])


def nbdcopy(image: Member) -> Run:
    """Time nbdcopy, which reads with several connections and threads."""
    how = ["-f", image.format, image.path]
    if image.secret_file:
        opened = f"driver={image.format},key-secret=s,file.filename={image.path}"
        how = ["--object", f"secret,id=s,file={image.secret_file}", "--image-opts", opened]
    return timed(["nbdcopy", "--", "[", "qemu-nbd", "-r", *how, "]", "null:"])


def _read(path: str, form: str, secret: str) -> None:
    buffer = ReadBuffer(_WINDOW)
    with open_image(ImageSource(path, ImageFormat(form), secret_file=secret or None)) as image:
        at = image.next_data(0)
        while at is not None:
            start = at // _WINDOW * _WINDOW
            buffer.load(image, start, min(_WINDOW, image.virtual_size - start))
            at = image.next_data(start + _WINDOW)


if __name__ == "__main__":
    _read(*sys.argv[1:])
