"""What can be shared lies in whole blocks of both files, is equal there, and is all that could be."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import notation
import pytest
from oracle import guest_bytes, source

from batchdiff.image.image import Image
from batchdiff.image.open import open_image
from batchdiff.image.storage import shareable
from batchdiff.image.storage.shareable import ShareableRange, shareable_ranges, shareable_stretches
from batchdiff.image.storage.shared_blocks import SharedExtent
from batchdiff.linux.reflinks import NoSharing
from batchdiff.qcow2.entries import Origin
from batchdiff.units import KIB, MIB

BLOCK = 4 * KIB
SIZE = MIB


@pytest.fixture(autouse=True)
def any_filesystem_shares(monkeypatch):
    monkeypatch.setattr(shareable, "why_not_shared", lambda one, other: None)


def content_of(image: Image, layer: int, offset: int, length: int) -> bytes:
    return os.pread(image.layers[layer].fd, length, offset)


def image_at_random(path: Path, rng: random.Random, *below: Path) -> Path:
    """Writes parts of the same content in any order; what is not written differs between two images."""
    if path.suffix == ".img":
        parts = [rng.choice("AAAB-0") for _ in range(SIZE // (8 * KIB))]
        return notation.write_raw(path, " ".join(f"8k:{part}" for part in parts))
    cluster = rng.choice((512, 4 * KIB, 8 * KIB))
    notation.write_qcow2(path, f"{SIZE}:-", options=f"cluster_size={cluster}", backing=below[0] if below else None)
    offsets = rng.sample(range(0, SIZE, 8 * KIB), 60)
    commands = [f"write -P {rng.randrange(1, 4)} {at} 8k" for at in offsets[:10]]
    for at in offsets[10:]:
        part = path.with_suffix(f".{at}")
        part.write_bytes(notation.data("A", at, 8 * KIB))
        packed = "-c " if rng.random() < 0.1 and cluster == 8 * KIB else ""
        commands.append(f"write {packed}-s {part} {at} 8k")
    notation.qemu_io(path, *commands)
    return path


def equal_blocks(template: Image, guest: Image) -> list[tuple[int, int]]:
    one, other = guest_bytes(template, 0, SIZE), guest_bytes(guest, 0, SIZE)
    return [(at, at + BLOCK) for at in range(0, SIZE, BLOCK) if one[at : at + BLOCK] == other[at : at + BLOCK]]


def plain_addresses(image: Image, at: int) -> set[tuple[int, int]]:
    """The layer, and the offset of block ``at`` if it is plain and in one piece, in its file; else nothing."""
    found = image.segments(at, at + BLOCK)
    if any(segment.origin is not Origin.FILE for segment in found):
        return set()
    return {(each.layer, each.address - (each.start - at)) for each in found}


def expected_blocks(template: Image, guest: Image) -> set[tuple[int, int, int, int]]:
    """By hand, block by block: only blocks that lie in whole blocks of both files."""
    found = set()
    for at, _ in equal_blocks(template, guest):
        ours, theirs = plain_addresses(template, at), plain_addresses(guest, at)
        if len(ours) == len(theirs) == 1:
            (one,), (other,) = ours, theirs
            if other[0] == 0 and one[1] % BLOCK == other[1] % BLOCK == 0:
                found.add((*one, *other))
    return found


def blocks_in(ranges: list[ShareableRange]) -> list[tuple[int, int, int, int]]:
    return [
        (each.template_layer, each.template_offset + at, each.guest_layer, each.guest_offset + at)
        for each in ranges
        for at in range(0, each.length, BLOCK)
    ]


@pytest.mark.parametrize("seed", range(6))
def test_all_equal_blocks_and_no_others(tmp_path, seed):
    rng = random.Random(seed)
    suffixes = itertools.product(("img", "qcow2"), repeat=2)
    one, other = list(suffixes)[seed % 4]
    base = notation.write_raw(tmp_path / "base.img", f"{SIZE}:A")
    below = [base] if one == "qcow2" else []
    template = image_at_random(tmp_path / f"template.{one}", rng, *below)
    guest = image_at_random(tmp_path / f"guest.{other}", rng)
    with open_image(source(template, *below)) as ours, open_image(source(guest)) as theirs:
        found = list(shareable_ranges(ours, theirs, equal_blocks(ours, theirs)))
        for each in found:
            assert each.template_offset % BLOCK == each.guest_offset % BLOCK == each.length % BLOCK == 0
            assert content_of(ours, *each[:2], each.length) == content_of(theirs, *each[2:4], each.length)
        blocks = blocks_in(found)
        assert len(set(blocks)) == len(blocks)
        assert set(blocks) >= expected_blocks(ours, theirs)
        assert found


def test_adjacent_pieces_are_one_range_and_stretches_end_it(tmp_path, monkeypatch):
    monkeypatch.setattr(shareable, "_LOOKED_UP", 64 * KIB)
    template = notation.write_raw(tmp_path / "template.img", "130k:A")
    guest = notation.write_raw(tmp_path / "guest.img", "130k:A 6k:A")
    with open_image(source(template)) as one, open_image(source(guest)) as other:
        runs = [(0, 8 * KIB), (8 * KIB, 16 * KIB), (20 * KIB, 130 * KIB)]
        found = list(shareable_stretches(one, other, runs))
    assert [[each[3:] for each in stretch.ranges] for stretch in found] == [
        [(0, 16 * KIB), (20 * KIB, 44 * KIB)],
        [(64 * KIB, 64 * KIB)],
        [],
    ]


def test_what_is_in_the_same_blocks_already_is_left_out(tmp_path, monkeypatch):
    template = notation.write_raw(tmp_path / "template.img", "64k:A")
    guest = notation.write_raw(tmp_path / "guest.img", "64k:A")
    places = iter(
        [
            [SharedExtent(8 * KIB, 40 * KIB, 1, 1 << 20), SharedExtent(48 * KIB, 52 * KIB, 1, 2 << 20)],
            [SharedExtent(0, 12 * KIB, 1, (1 << 20) - 8 * KIB), SharedExtent(48 * KIB, 60 * KIB, 1, 2 << 20)],
        ]
    )
    monkeypatch.setattr(shareable, "shared_extents", lambda image, segments, *, packed: next(places))
    with open_image(source(template)) as one, open_image(source(guest)) as other:
        (found,) = shareable_stretches(one, other, [(0, 64 * KIB)])
    assert [each[3:] for each in found.ranges] == [(0, 8 * KIB), (12 * KIB, 36 * KIB), (52 * KIB, 12 * KIB)]
    assert (found.already, found.unfit) == (8 * KIB, 0)


def test_files_that_cannot_share_are_unfit(tmp_path, monkeypatch):
    """A template's chain may reach to another filesystem."""
    base = notation.write_raw(tmp_path / "base.img", "128k:A")
    template = notation.write_qcow2(tmp_path / "template.qcow2", "64k:- 64k:A", backing=base)
    guest = notation.write_raw(tmp_path / "guest.img", "128k:A")
    with open_image(source(template, base)) as one, open_image(source(guest)) as other:
        far = one.layers[1].fd
        monkeypatch.setattr(
            shareable, "why_not_shared", lambda fd, _: NoSharing.TWO_FILESYSTEMS if fd == far else None
        )
        (found,) = shareable_stretches(one, other, [(0, 128 * KIB)])
    assert [each.length for each in found.ranges] == [64 * KIB]
    assert found.unfit == 64 * KIB


def test_what_a_guest_has_from_its_own_backing_file_stays_there(tmp_path):
    base = notation.write_raw(tmp_path / "base.img", "128k:A")
    template = notation.write_raw(tmp_path / "template.img", "128k:A")
    guest = notation.write_qcow2(tmp_path / "guest.qcow2", "64k:- 64k:A", backing=base)
    with open_image(source(template)) as one, open_image(source(guest, base)) as other:
        (found,) = shareable_stretches(one, other, [(0, 128 * KIB)])
    assert [(each.template_offset, each.guest_layer, each.length) for each in found.ranges] == [
        (64 * KIB, 0, 64 * KIB)
    ]
    assert (found.already, found.unfit) == (0, 0)


def test_data_in_another_file_of_the_guest(tmp_path):
    template = notation.write_raw(tmp_path / "template.img", "128k:A")
    guest = notation.write_qcow2(
        tmp_path / "guest.qcow2", "128k:A", options=f"data_file={tmp_path / 'guest.data'}"
    )
    with open_image(source(template)) as one, open_image(source(guest)) as other:
        (found,) = shareable_ranges(one, other, [(0, 128 * KIB)])
        assert other.layers[found.guest_layer].path == str(tmp_path / "guest.data")
    assert found.length == 128 * KIB
