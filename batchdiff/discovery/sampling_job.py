"""The job of sampling images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from batchdiff.discovery.exclusion import Cause, Exclusion
from batchdiff.discovery.image_files import FileToSample
from batchdiff.discovery.image_format import declared_by_name, format_of
from batchdiff.discovery.sampled_image import Examined, ExistingOverlay, SampledImage, Sampling
from batchdiff.discovery.samples import ReadCount, SampleShape, take_samples
from batchdiff.errors import BatchdiffError, EncryptedError, GuestError, ImageError
from batchdiff.files.fingerprint import fingerprint_at
from batchdiff.frozen import frozen
from batchdiff.image import formats  # noqa: F401  # loaded now: batchdiff may be updated during a long search
from batchdiff.image.backing_names import resolved_backing
from batchdiff.image.files import ReadObserver, is_block_device, settle
from batchdiff.image.image import Image
from batchdiff.image.in_use.check import Purpose, require_unused
from batchdiff.image.open import inspect, open_image, open_layer
from batchdiff.image.storage.allocation import disk_use_of
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.linux.permissions import is_read_only

_MAY_HAVE_BACKING = {ImageFormat.QCOW2, ImageFormat.QED}


@frozen
class SamplingJob:
    """A job (:class:`~batchdiff.planning.scan.executor.Job`) in which a task is the index of a file to sample."""

    files: tuple[FileToSample, ...]
    shape: SampleShape
    observer: ReadObserver | None = None

    @contextmanager
    def begin(self) -> Iterator[Callable[[int], tuple[int, Sampling]]]:
        """Yield the function that samples the file at an index."""

        def sample(number: int) -> tuple[int, Sampling]:
            count = ReadCount()
            examined = _examine(self.files[number], self.shape, self.observer, count)
            settle(self.observer)
            return number, Sampling(examined, count.reads, count.read_bytes)

        yield sample

    def describe(self, number: int) -> str:
        """Describe a task, for messages."""
        return f"sampling {self.files[number].path}"


def _examine(file: FileToSample, shape: SampleShape, observer: ReadObserver | None, count: ReadCount) -> Examined:
    form = format_of(file, observer)
    if isinstance(form, Exclusion):
        return form
    source = ImageSource(file.path, form)
    try:
        if form in _MAY_HAVE_BACKING:
            with closing(open_layer(source, observer)) as layer:
                backing = resolved_backing(source, layer.backing)
            if backing is not None:
                return ExistingOverlay(file.path, backing)
        with open_image(source, observer=observer) as image:
            return _sampled(image, file, shape, count)
    except EncryptedError:
        why = (
            f"it is encrypted, so its samples cannot be compared: list it in a manifest with `format: {form}` and"
            " `secret_file: PATH`"
        )
        return Exclusion(file.path, Cause.UNREADABLE, why)
    except BatchdiffError as error:
        return Exclusion(file.path, Cause.UNREADABLE, str(error))


def _sampled(image: Image, file: FileToSample, shape: SampleShape, count: ReadCount) -> SampledImage | Exclusion:
    by_content = (
        image.source.format is not ImageFormat.RAW and file.format is None and not declared_by_name(file.path)
    )
    if by_content and image.source.other_files:
        # A guest may have written, at the start of its disk, bytes that name another guest's image.
        named, form = image.source.other_files[0], image.source.format
        why = (
            f"it starts like a {form} image and refers to {named}, but its name does not show that format; list it"
            " in a manifest"
        )
        return Exclusion(file.path, Cause.DOUBTFUL, why)
    before = [fingerprint_at(each.path) for each in image.own_files]
    in_use = _use(image, Purpose.GUEST, file.domain)
    if in_use and (why := _use(image, Purpose.TEMPLATE, file.domain)):
        return Exclusion(file.path, Cause.IN_USE, why)
    inspect(image)
    samples = take_samples(image, shape, count)
    if [fingerprint_at(each.path) for each in image.own_files] != before:
        return Exclusion(file.path, Cause.IN_USE, "it changed while it was being read; shut its VM down")
    use = disk_use_of(((layer.fd, layer.path) for layer in image.own_files), kept={})
    losses = image.layers[0].losses
    return SampledImage(
        source=image.source,
        virtual_size=image.virtual_size,
        allocated=use.allocated,
        reclaimable=use.reclaimable,
        modified_ns=os.fstat(image.layers[0].fd).st_mtime_ns,
        read_only=is_read_only(file.path),
        samples=samples,
        by_content=by_content,
        in_use=bool(in_use),
        not_a_guest=in_use,
        is_device=is_block_device(image.layers[0].fd),
        snapshots=losses.snapshots,
        bitmaps=losses.bitmaps,
        exactness=use.exactness,
    )


def _use(image: Image, purpose: Purpose, domain: str) -> str:
    try:
        require_unused(image, purpose, domain=domain)
    except (GuestError, ImageError) as error:
        return error.why
    return ""
