"""The exports of a scan, started before the fork, so that workers share one export of each image.

::

    batch    | guest 1 | guest 2 | ... at most 32 exported guests |   their exports run
    planner  starts them ------------------------------------------>  ends them
    worker          connects to all of them
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from batchdiff.errors import ImageError
from batchdiff.image.files import ReadObserver
from batchdiff.image.image import Image
from batchdiff.image.layer import ExportedImage
from batchdiff.image.qcow2 import Qcow2Layer
from batchdiff.image.raw import FlatLayer, RawLayer
from batchdiff.plan.plan import PlannedImage
from batchdiff.planning.scan.reopening import reopen
from batchdiff.units import ceil_div

_MOST = 32
"""The maximum number of guests exported at the same time: each qemu-nbd takes 13 MiB of memory."""

_FILES = 12
"""The number of file descriptors to allow for an exported image, in the planner and in each worker."""


def is_exported(image: Image) -> bool:
    """Return whether QEMU exports any image of a chain."""
    return any(isinstance(layer, ExportedImage) for layer in image.layers)


def is_read_natively(image: Image) -> bool:
    """Return whether batchdiff reads all images of a chain without QEMU.

    Only then can other hosts scan it: they may lack QEMU or a secret, or have another version of QEMU.
    """
    return all(isinstance(layer, RawLayer | Qcow2Layer | FlatLayer) for layer in image.layers)


def files_to_open(guests: Mapping[str, PlannedImage], exported: Collection[str], most: int) -> dict[str, int]:
    """Return the number of files that each guest counts as, so that at most ``_MOST`` guests are exported at once.

    ``most``: the maximum number of files in a batch.
    """
    return {
        name: max(len(image.paths) + _FILES, ceil_div(most, _MOST)) if name in exported else len(image.paths)
        for name, image in guests.items()
    }


@contextmanager
def exports(template: Image, guests: Iterable[PlannedImage], observer: ReadObserver | None) -> Iterator[None]:
    """Start the exports of the template and of guests; end those of the guests when the context ends.

    A guest that cannot be exported is left to the workers, which report the error.

    :raises ImageError: the template cannot be exported.
    """
    with ExitStack() as opened:
        _start(template)
        for record in guests:
            try:
                _start(opened.enter_context(reopen(record, observer)))
            except ImageError:
                continue
        yield


def _start(image: Image) -> None:
    for layer in image.layers:
        if isinstance(layer, ExportedImage):
            layer.start()
