"""The template's digest, as docs/plan-format.md defines it."""

import random
import time

import notation
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from oracle import source

from batchdiff.image.content_digest import RangeDigest, combine_digests, content_digest
from batchdiff.image.open import open_image
from batchdiff.planning.scan.compare import WINDOW
from batchdiff.planning.scan.one_range import RANGE
from batchdiff.units import KIB, MIB

windows = st.dictionaries(st.integers(0, 127), st.binary(min_size=1, max_size=40), max_size=5)
contents = st.dictionaries(st.integers(0, 1 << 40), windows, max_size=5)


def xxh(data):
    return xxhash.xxh3_128_intdigest(data).to_bytes(16, "big")


def number(value):
    return value.to_bytes(8, "little")


def documented(virtual_size, ranges):
    """The definition of docs/plan-format.md, word for word."""
    whole = number(virtual_size)
    for range_number, found in sorted(ranges.items()):
        if found:
            inner = b"".join(number(window) + xxh(data) for window, data in sorted(found.items()))
            whole += number(range_number) + xxh(inner)
    return "xxh3-128-64m-512k:" + xxh(whole).hex()


def range_digest(found):
    digest = RangeDigest()
    for window, data in sorted(found.items()):
        digest.add(window, memoryview(data))
    return digest.value()


def digest_of(virtual_size, ranges, order):
    found = {at: range_digest(ranges[at]) for at in order}
    return combine_digests(virtual_size, {at: value for at, value in found.items() if value is not None})


@given(st.integers(0, (1 << 63) - 1), contents)
def test_it_is_what_the_documentation_says(virtual_size, ranges):
    assert digest_of(virtual_size, ranges, list(ranges)) == documented(virtual_size, ranges)


@given(contents, st.randoms(use_true_random=False))
def test_the_order_in_which_ranges_come_does_not_matter(ranges, chance: random.Random):
    order = list(ranges)
    chance.shuffle(order)
    assert digest_of(9, ranges, order) == digest_of(9, ranges, sorted(ranges))


@given(contents, st.integers(0, 100))
def test_ranges_of_zeros_do_not_matter(ranges, at):
    assert digest_of(9, {at: {}} | ranges, [*ranges, at]) == digest_of(9, {at: {}} | ranges, list(ranges))


def test_a_range_of_zeros_has_none():
    assert RangeDigest().value() is None


def test_place_size_and_content_matter():
    digests = {
        digest_of(9, ranges, list(ranges))
        for ranges in ({}, {0: {0: b"a"}}, {0: {1: b"a"}}, {1: {0: b"a"}}, {0: {0: b"b"}}, {0: {0: b"a", 1: b"a"}})
    }
    assert len(digests) == 6
    assert combine_digests(9, {}) != combine_digests(10, {})


def test_the_label_has_the_sizes():
    assert combine_digests(9, {}).startswith(f"xxh3-128-{RANGE // MIB}m-{WINDOW // KIB}k:")


class Reads:
    """Bytes that are read, by offset."""

    def __init__(self):
        self.seen = []

    def before(self, _fd, offset, length):
        self.seen.append((offset, length))

    def after(self, _fd, _offset, _length): ...

    def settle(self): ...


def test_an_image_has_the_digest_of_its_windows_and_holes_are_not_read(tmp_path):
    text = f"{WINDOW}:- 4k:A {3 * WINDOW}:- 8k:0 64k:B {30 * MIB}:- 4k:D {RANGE}:- 512:C"
    path, content, reads = notation.write_raw(tmp_path / "a.raw", text), notation.content(text), Reads()
    with open_image(source(path), observer=reads) as image:
        found = content_digest(image, check=lambda: None)
    windows = {at // WINDOW: content[at : at + WINDOW] for at in range(0, len(content), WINDOW)}
    ranges = {}
    for number, data in windows.items():
        if any(data):
            ranges.setdefault(number // (RANGE // WINDOW), {})[number % (RANGE // WINDOW)] = data
    assert found == documented(len(content), ranges)
    assert sum(length for _, length in reads.seen) < 128 * KIB


def test_windows_of_written_zeros_do_not_matter_and_take_no_time(tmp_path):
    """Byte by byte, 256 MiB take four to seven seconds."""
    path = tmp_path / "a.raw"
    with path.open("wb") as file:
        for _ in range(256):
            file.write(bytes(MIB))
    begin = time.process_time()
    with open_image(source(path)) as image:
        assert content_digest(image, check=lambda: None) == combine_digests(256 * MIB, {})
    assert time.process_time() - begin < 3
