"""The proof that another host sees the same files: fingerprints, and content at random offsets.

::

    planner   file | ....#....|..#......|......#..|   a block in each of a few equal parts, hashed --> proof
    worker    same path: the same fingerprint, and the same hashes of these blocks?      no --> objection

Device numbers need not be equal: they may differ between hosts. On NFS, CephFS and cluster filesystems, a file
has the same inode, size, mtime and ctime on every host. If a copy or an older snapshot has these values as well,
only the excerpts can show a difference. Of a block device, only size and excerpts are compared.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

from batchdiff.errors import ImageError
from batchdiff.files.fingerprint import REPLACED, Fingerprint
from batchdiff.frozen import frozen
from batchdiff.image.files import ImageFile
from batchdiff.plan.plan import PlannedImage
from batchdiff.planning.scan.reopening import changed_meanwhile
from batchdiff.units import KIB

_EXCERPT = 4 * KIB
"""The length of an excerpt in bytes; at the end of a file, it may be shorter."""

_MOST_OF_A_FILE = 16
_MOST_IN_ALL = 4096
"""The maximum number of excerpts of a file, and of all files together, unless there are more files than that."""


class FileExcerpt(NamedTuple):
    """The hash of ``length`` bytes of a file, from ``offset`` on."""

    offset: int
    length: int
    digest: bytes


@frozen
class FileProof:
    """The state of a file, which a worker must see as the planner does."""

    path: str
    fingerprint: Fingerprint
    excerpts: tuple[FileExcerpt, ...]


class Proofs(NamedTuple):
    """The proofs of files, and the errors, by path, of those that have none."""

    files: tuple[FileProof, ...]
    failures: dict[str, ImageError]


def proofs_of(images: Iterable[PlannedImage], *, seed: int) -> Proofs:
    """Return proofs or errors for the files of these images; ``seed``: for random offsets."""
    files = {
        path: fingerprint
        for image in images
        for path, fingerprint in zip(image.paths, image.fingerprints, strict=True)
    }
    numbers = random.Random(seed)  # noqa: S311  # there is nothing to gain by guessing the places
    most = max(min(_MOST_OF_A_FILE, _MOST_IN_ALL // max(len(files), 1)), 1)
    proofs, failures = [], {}
    for path, fingerprint in files.items():
        try:
            proofs.append(_proof(path, fingerprint, numbers, most))
        except ImageError as error:
            failures[path] = error
    return Proofs(tuple(proofs), failures)


def _proof(path: str, fingerprint: Fingerprint, numbers: random.Random, most: int) -> FileProof:
    with closing(ImageFile(path)) as file:
        if changes := fingerprint.changes(file.fingerprint()):
            raise changed_meanwhile(f"{path}: {changes}")
        return FileProof(path, fingerprint, tuple(_excerpt(file, at) for at in _offsets(file, numbers, most)))


def _offsets(file: ImageFile, numbers: random.Random, most: int) -> Iterator[int]:
    """Yield ascending offsets of random blocks; the next data, if any, takes the place of a hole."""
    blocks = -(-file.size // _EXCERPT)
    parts = min(most, blocks)
    last = -1
    for part in range(parts):
        first, end = part * blocks // parts, (part + 1) * blocks // parts
        offset: int | None = numbers.randrange(first, end) * _EXCERPT
        if not file.is_block_device:
            offset = file.next_data(offset or 0)
        if offset is not None and (found := offset // _EXCERPT) > last:
            last = found
            yield found * _EXCERPT


def _excerpt(file: ImageFile, offset: int) -> FileExcerpt:
    data = file.read_at_most(offset, _EXCERPT)
    return FileExcerpt(offset, len(data), hashlib.blake2b(data, digest_size=16).digest())


def objection_to(proofs: Iterable[FileProof]) -> str:
    """Return why a file on this host does not match its proof; empty if all match."""
    for proof in proofs:
        try:
            with closing(ImageFile(proof.path)) as file:
                found = _difference(file, proof)
        except ImageError as error:
            return error.reason
        if found:
            return f"{proof.path}: {found}"
    return ""


def _difference(file: ImageFile, proof: FileProof) -> str:
    here = file.fingerprint()
    if here != proof.fingerprint:
        return _other_view(proof.fingerprint, here)
    for excerpt in proof.excerpts:
        if _excerpt(file, excerpt.offset) != excerpt:
            return f"its block at byte {excerpt.offset} is different on that host"
    return ""


def _other_view(planner: Fingerprint, here: Fingerprint) -> str:
    if planner.changes(here) == REPLACED:
        return f"{REPLACED} on that host"
    if planner.size != here.size:
        return f"that host sees a different size ({here.size} bytes, not {planner.size})"
    return f"that host sees a different {'mtime' if planner.mtime_ns != here.mtime_ns else 'ctime'}"
