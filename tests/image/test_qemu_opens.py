"""What QEMU refuses to open is refused; what it opens is read as it reads it, or refused with a reason.

Each case is an image of qemu-img's with a few bytes changed. QEMU is asked as a VM would ask it: for reading, as
it opens a template below an overlay, and for writing, as it opens a guest's own image that got its name back.

Guards image/open.py.
"""

from __future__ import annotations

import shutil
import struct
import subprocess

import notation
import pytest
from oracle import assert_same, read_all, source, within
from patching import Patched
from seeds import seeded

from batchdiff.errors import ImageError
from batchdiff.image.open import inspect, open_image
from batchdiff.qcow2.faults import NOT_OPENED

BACKING_FORMAT, BITMAPS, FEATURES, DATA_FILE = 0xE2792ACA, 0x23852875, 0x6803F857, 0x44415441
TEXT = "64k:A 8k:- 56k:0 64k:b 320k:- 64k:C"
SNAPSHOT_ENTRY, BITMAP_ENTRY = 40, 24
BROKEN_TABLE = "the table of a bitmap is broken: "

MADE = {
    "plain": "",
    "version-2": "compat=0.10",
    "small": "cluster_size=512",
    "overlay": "",
    "small-overlay": "cluster_size=512",
    "snapshots": "",
    "bitmaps": "cluster_size=4k",
    "all": "cluster_size=4k",
}
"""Those with random changes."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Makes the sound images, each once; gives one's path, and that of the image below it, if any."""
    folder = tmp_path_factory.mktemp("sound")
    low = notation.write_raw(folder / "low.raw", "128k:D 64k:- 100k:E")
    made = {}

    def make(kind):
        if kind == "large":
            return large(folder / "large.qcow2"), []
        if kind not in made:
            path = folder / f"{kind}.qcow2"
            made[kind] = notation.write_qcow2(
                path, TEXT, options=MADE[kind], backing=low if "overlay" in kind else None
            )
            for number in range(2 if kind in {"snapshots", "all"} else 0):
                notation.run("qemu-img", "snapshot", "-c", f"snapshot {number}", str(path))
            for name in ("one", "another") if kind in {"bitmaps", "all"} else ():
                notation.run("qemu-img", "bitmap", "--add", "-g", "512", str(path), name)
            if kind in {"bitmaps", "all"}:
                notation.qemu_io(path, "write -P 7 64k 4k")
        return made[kind], [low] if "overlay" in kind else []

    return make


def large(path):
    notation.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", str(path), "5T")
    notation.run("qemu-img", "bitmap", "--add", "-g", "64k", str(path), "one")
    return path


def opens(path, *, writing):
    """What QEMU says against opening an image with its chain; empty if it opens it."""
    argv = ["qemu-io", "-f", "qcow2", *([] if writing else ["-r"]), "-c", "length", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode in {0, 1}, done
    return "" if done.returncode == 0 else done.stdout + done.stderr


def qemus_objection(path):
    """What QEMU says against opening it for reading, or for writing, which may change the file."""
    objection = opens(path, writing=False)
    if objection:
        return objection
    copy = path.with_name("written.qcow2")
    shutil.copyfile(path, copy)
    return opens(copy, writing=True)


def refused(error, path):
    print(f"refused: {error}")
    assert str(path) in str(error)
    assert error.why
    if error.remedy == NOT_OPENED:
        assert qemus_objection(path), "QEMU opens it"
    return "refused"


def judged(path, below):
    """``refused`` or ``read``: what is read, QEMU opens, and shows the same."""
    try:
        with within(5):
            content = read_all(path, *below)
    except ImageError as error:
        return refused(error, path)
    assert not qemus_objection(path), "QEMU does not open what we do"
    assert_same(content, notation.qemu_content(path, "qcow2"))
    return "read"


def extension(image, kind):
    """Where the data of an extension begin, and their length."""
    at = image["header_length"] if image["version"] == 3 else 72
    while True:
        found, length = struct.unpack_from(">II", image.data, at)
        if found == kind:
            return at + 8, length
        assert found, f"there is no extension {kind:#x}"
        at += 8 + -(-length // 8) * 8


def put(form, value):
    """A change of the image at an offset that is found in it."""

    def change(place, offset=0):
        def changed(image):
            image.put(place(image) + offset, struct.pack(form, value))

        return changed

    return change


def field(name, value):
    def changed(image):
        image[name] = value

    return changed


def both(*changes):
    def changed(image):
        for change in changes:
            change(image)

    return changed


def directory(image):
    at, _ = extension(image, BITMAPS)
    return struct.unpack_from(">Q", image.data, at + 16)[0]


def second_bitmap(image):
    return directory(image) + BITMAP_ENTRY + 8


def bitmap_table(image):
    return image[directory(image)]


def snapshot_table(image):
    return image["snapshots_offset"]


def bitmaps_extension(image):
    return extension(image, BITMAPS)[0]


def first_extension(image):
    return image["header_length"]


def padded(image):
    image.put(len(image.data), bytes(4096))


def header(*extensions, name=b"", left_over=b"", size=None, ended=True):
    """A header's extensions and backing name written anew; ``size`` is that of the name."""

    def changed(image):
        start = at = image["header_length"] if image["version"] == 3 else 72
        parts = [*extensions, (0, b"")] if ended else extensions
        for kind, data in parts:
            packed = struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)
            image.put(at, packed)
            at += len(packed)
        image.put(at, left_over + name)
        image["backing_offset"] = at + len(left_over)
        image["backing_size"] = len(name) if size is None else size
        assert at > start or not parts

    return changed


REFUSED_BY_QEMU = {
    "a-left-over-byte": (
        "plain",
        header((FEATURES, b""), left_over=b"\1", name=b"x", ended=False),
        "too small for another",
    ),
    "7-left-over-bytes": (
        "plain",
        header((FEATURES, b""), left_over=bytes(7), name=b"x", ended=False),
        "too small for another",
    ),
    "left-over-in-version-2": (
        "version-2",
        header((FEATURES, b""), left_over=b"1", name=b"x", ended=False),
        "too small for another",
    ),
    "left-over-nothing-else": (
        "plain",
        header(left_over=b"1234", name=b"x", ended=False),
        r"extensions \(4 B\)",
    ),
    "left-over-no-name": (
        "plain",
        header((FEATURES, b""), left_over=b"12345", ended=False),
        r"extensions \(5 B\)",
    ),
    "an-end-that-is-too-long": ("plain", put(">Q", 0xFFFFFFFF)(first_extension), "does not fit"),
    "long-backing-format": ("plain", header((BACKING_FORMAT, b"r" * 16)), "format has 16 bytes"),
    "long-padded-format": ("plain", header((BACKING_FORMAT, b"raw".ljust(16, b"\0"))), "format has 16"),
    "first-format-too-long": (
        "plain",
        header((BACKING_FORMAT, b"r" * 20), (BACKING_FORMAT, b"raw")),
        "format has 20 bytes",
    ),
    "snapshots-offset": ("plain", field("snapshots_offset", 100), "snapshot table at 100 is not aligned"),
    "snapshots-offset-signed": ("plain", field("snapshots_offset", 1 << 63), "snapshot table"),
    "snapshots-offset-version-2": ("version-2", field("snapshots_offset", 1), "snapshot table at 1"),
    "raw-data-file": ("plain", field("autoclear", 2), "raw data file"),
    "name-past-the-cluster": ("small", both(field("backing_offset", 513), field("backing_size", 0)), "outside"),
    "bitmaps-short": ("plain", header((BITMAPS, bytes(16))), "16 instead of 24 bytes"),
    "bitmaps-long": ("plain", header((BITMAPS, bytes(32))), "32 instead of 24 bytes"),
    "bitmaps-empty-version-2": ("version-2", header((BITMAPS, b"")), "0 instead of 24 bytes"),
    "bitmaps-short-then-whole": (
        "plain",
        both(field("autoclear", 1), header((BITMAPS, bytes(8)), (BITMAPS, bytes(24)))),
        "8 instead of 24",
    ),
    "bitmaps-reserved": ("bitmaps", put(">I", 1)(bitmaps_extension, 4), "reserved field"),
    "bitmaps-none": ("bitmaps", put(">I", 0)(bitmaps_extension), "0 bitmaps"),
    "bitmaps-too-many": ("bitmaps", put(">I", 65536)(bitmaps_extension), "65536 bitmaps"),
    "bitmaps-one-less": ("bitmaps", put(">I", 1)(bitmaps_extension), "entries is 2 instead of 1"),
    "bitmaps-one-more": ("bitmaps", put(">I", 3)(bitmaps_extension), "too short"),
    "bitmaps-a-third-of-zeros": (
        "bitmaps",
        both(put(">I", 3)(bitmaps_extension), put(">Q", 88)(bitmaps_extension, 8), padded),
        "broken",
    ),
    "directory-misaligned": ("bitmaps", put(">Q", 12345)(bitmaps_extension, 16), "not aligned"),
    "directory-empty": ("bitmaps", put(">Q", 0)(bitmaps_extension, 8), "too short"),
    "directory-too-large": ("bitmaps", put(">Q", (65535 << 10) + 1)(bitmaps_extension, 8), "too long"),
    "directory-cut": ("bitmaps", put(">Q", 50)(bitmaps_extension, 8), "broken"),
    "directory-longer": ("bitmaps", both(put(">Q", 72)(bitmaps_extension, 8), padded), "broken"),
    "bitmap-table-misaligned": ("bitmaps", put(">Q", 512)(directory), "not aligned"),
    "bitmap-table-at-0": ("bitmaps", put(">Q", 0)(directory), "not aligned"),
    "bitmap-table-empty": ("bitmaps", put(">I", 0)(directory, 8), "0 entries"),
    "bitmap-table-larger": ("bitmaps", put(">I", 2)(directory, 8), "does not match the size"),
    "bitmap-table-huge": ("bitmaps", put(">I", 0x8000001)(directory, 8), "entries"),
    "bitmap-table-above-512-MiB": ("bitmaps", put(">I", 131073)(directory, 8), "entries"),
    "bitmap-flags": ("bitmaps", put(">I", 4)(directory, 12), "unknown type or flag"),
    "bitmap-type": ("bitmaps", put(">B", 2)(directory, 16), "unknown type or flag"),
    "bitmap-granularity-small": ("bitmaps", put(">B", 8)(directory, 17), "granularity"),
    "bitmap-granularity-large": ("bitmaps", put(">B", 32)(directory, 17), "granularity"),
    "bitmap-name-long": ("bitmaps", put(">H", 1024)(directory, 18), "broken"),
    "bitmap-extra-data": ("bitmaps", put(">I", 8)(directory, 20), "extra data"),
    "bitmap-names-equal": (
        "bitmaps",
        lambda image: image.put(second_bitmap(image) + 18, struct.pack(">HI3s4x", 3, 0, b"one")),
        "the same name",
    ),
    "bitmap-table-reserved": ("bitmaps", put(">Q", 1 << 63)(bitmap_table), f"{BROKEN_TABLE}it has reserved"),
    "bitmap-table-offset-and-ones": ("bitmaps", put(">Q", 4097)(bitmap_table), f"{BROKEN_TABLE}it has reserved"),
    "bitmap-cluster-misaligned": ("bitmaps", put(">Q", 512)(bitmap_table), f"{BROKEN_TABLE}one of its entries"),
    "snapshot-extra-data": ("snapshots", put(">I", 1025)(snapshot_table, 36), "1025 bytes of extra data"),
    "snapshot-extra-data-huge": ("snapshots", put(">I", 0xFFFFFFFF)(snapshot_table, 36), "bytes of extra data"),
    "snapshot-on-the-bitmaps": (
        "all",
        lambda image: image.put(snapshot_table(image), struct.pack(">Q", directory(image))),
        "L1 table overlaps the bitmap directory",
    ),
    "snapshots-too-many": ("snapshots", field("snapshots", 65537), "snapshots exceed"),
    "refcount-order": ("plain", field("refcount_order", 7), "refcount width"),
    "header-length": ("plain", field("header_length", 96), "header length"),
    "header-length-over-the-cluster": ("small", field("header_length", 520), "header length"),
    "compression-type": ("plain", field("compression_type", 1), "contradict"),
    "compression-bit": ("plain", field("incompatible", 8), "contradict"),
    "compression-unknown": ("plain", both(field("compression_type", 2), field("incompatible", 8)), "unknown"),
    "subclusters": ("small", field("incompatible", 16), "extended L2"),
    "unknown-feature": ("plain", field("incompatible", 1 << 40), "unknown features"),
    "l1-small": ("small", field("l1_entries", 1), "too few entries: 1"),
    "l1-large": ("plain", field("l1_entries", (4 << 20) + 1), "32 MiB"),
    "no-refcounts": ("plain", field("refcount_clusters", 0), "refcount table of 0"),
    "encrypted": ("plain", field("encryption", 2), "names no LUKS header"),
    "encrypted-with-aes": ("plain", field("encryption", 1), "encrypted with AES"),
    "unknown-encryption": ("plain", field("encryption", 3), "encryption method 3 is unknown"),
}


@pytest.mark.parametrize(("kind", "change", "match"), REFUSED_BY_QEMU.values(), ids=REFUSED_BY_QEMU)
def test_what_qemu_refuses_is_refused(tmp_path, sound, kind, change, match):
    path, below = sound(kind)
    image = Patched(path)
    change(image)
    changed = image.save(tmp_path / "a.qcow2")
    assert qemus_objection(changed), "QEMU opens it"
    with pytest.raises(ImageError, match=match) as caught:
        read_all(changed, *below)
    assert str(changed) in str(caught.value)
    assert caught.value.remedy or "overlaps" in match


def left_out(kind):
    """Bytes of an extension that QEMU does not know."""
    return lambda image: image.put(extension(image, kind)[0] - 8, struct.pack(">I", 0x12345678))


def on_low(name=None, form=b"raw"):
    """An overlay's header with the backing file named anew; the name is a function of that it has."""

    def changed(image):
        start, size = image["backing_offset"], image["backing_size"]
        now = bytes(image.data[start : start + size])
        header((BACKING_FORMAT, form), name=now if name is None else name(now))(image)

    return changed


READ_AS_QEMU_DOES = {
    "a-size-of-no-whole-sector": ("plain", field("virtual_size", 600_001)),
    "a-size-in-the-last-sector": ("plain", field("virtual_size", (640 << 10) - 511)),
    "an-odd-size-over-a-backing-file": ("overlay", field("virtual_size", 250_001)),
    "an-empty-name": ("overlay", field("backing_size", 0)),
    "an-empty-name-at-the-cluster's-end": ("small", field("backing_offset", 512)),
    "a-name-of-a-byte-0": ("overlay", on_low(lambda name: b"\0" + name)),
    "a-padded-name": ("overlay", on_low(lambda name: name + bytes(20))),
    "a-name-with-its-protocol": ("overlay", on_low(lambda name: b"file:" + name)),
    "a-name-with-slashes": ("overlay", on_low(lambda name: b"file://" + name)),
    "a-padded-format": ("overlay", on_low(form=b"raw".ljust(15, b"\0"))),
    "a-format-cut-by-a-0": ("overlay", on_low(form=b"raw\0qcow2")),
    "no-format": ("overlay", on_low(form=b"")),
    "the-file-driver-for-a-format": ("overlay", on_low(form=b"file")),
    "the-last-format-counts": ("plain", header((BACKING_FORMAT, b"no"), (BACKING_FORMAT, b"raw"))),
    "a-format-of-nothing": ("plain", header((BACKING_FORMAT, b"nonsense"))),
    "extensions-to-the-very-end": ("small", header((7, bytes(512 - 112 - 8)), ended=False)),
    "no-end-before-the-name": ("overlay", header((BACKING_FORMAT, b"raw"), size=0, ended=False)),
    "unknown-extension": ("bitmaps", both(field("autoclear", 0), left_out(BITMAPS))),
    "unknown-autoclear-bit": ("plain", field("autoclear", 1 << 63)),
    "unknown-compatible-bit": ("plain", field("compatible", 1 << 63)),
    "bitmaps-out-of-date": ("bitmaps", field("autoclear", 0)),
    "bitmaps-out-of-date-and-broken": (
        "bitmaps",
        both(field("autoclear", 0), put(">I", 1)(bitmaps_extension, 4), put(">Q", 1)(bitmaps_extension, 16)),
    ),
    "a-bitmap-in-use-of-another-size": (
        "bitmaps",
        both(put(">I", 1)(directory, 12), put(">I", 99)(directory, 8), put(">B", 31)(directory, 17)),
    ),
    "snapshots-with-all-extra-data": ("snapshots", both(put(">I", 1024)(snapshot_table, 36), padded)),
    "a-bitmap-in-use-of-an-equal-name": (
        "bitmaps",
        lambda image: image.put(second_bitmap(image) + 12, struct.pack(">IBBHI3s4x", 1, 1, 9, 3, 0, b"one")),
    ),
    "an-old-header": ("plain", both(field("header_length", 104), put(">Q", 0)(lambda _: 104))),
}


@pytest.mark.parametrize(("kind", "change"), READ_AS_QEMU_DOES.values(), ids=READ_AS_QEMU_DOES)
def test_what_qemu_opens_is_read_as_it_reads_it(tmp_path, sound, kind, change):
    path, below = sound(kind)
    image = Patched(path)
    change(image)
    if image["backing_size"] == 0 or image.data[image["backing_offset"]] == 0:
        below = []
    assert judged(image.save(tmp_path / "a.qcow2"), below) == "read"


REFUSED_BY_US = {
    "header-length": (
        "plain",
        both(field("header_length", 108), put(">Q", 0)(lambda _: 104), put(">Q", 0)(lambda _: 112)),
        "header length 108 is not a multiple of 8",
    ),
    "cut-inside-the-header": (
        "plain",
        lambda image: image.data.__delitem__(slice(300, None)),
        "header .* past the end of the file .300 bytes., which is truncated",
    ),
    "bitmap-name-with-a-null-byte": (
        "bitmaps",
        lambda image: image.put(directory(image) + BITMAP_ENTRY, b"o\0e"),
        "name of a bitmap contains a null byte",
    ),
    "bitmap-in-use-of-much-memory": (
        "large",
        both(put(">I", 1)(directory, 12), put(">B", 9)(directory, 17)),
        "more than 512 MiB of memory",
    ),
}


@pytest.mark.parametrize(("kind", "change", "match"), REFUSED_BY_US.values(), ids=REFUSED_BY_US)
def test_what_only_we_refuse_is_not_said_to_be_refused_by_qemu(tmp_path, sound, kind, change, match):
    path, _ = sound(kind)
    image = Patched(path)
    change(image)
    changed = image.save(tmp_path / "a.qcow2")
    assert not qemus_objection(changed)
    with pytest.raises(ImageError, match=match) as caught:
        read_all(changed)
    assert caught.value.remedy != NOT_OPENED
    if "bitmap --remove" in caught.value.remedy:
        name = "o" if "null" in match else "one"
        notation.run("qemu-img", "bitmap", "--remove", str(changed), name)
        with open_image(source(changed)) as opened:
            inspect(opened)


def test_an_image_that_does_not_name_its_data_file_can_be_given_the_name(tmp_path):
    path, data = tmp_path / "a.qcow2", tmp_path / "data"
    notation.write_qcow2(path, "64k:A 64k:B", options=f"data_file={data},data_file_raw=on")
    image = Patched(path)
    left_out(DATA_FILE)(image)
    image.save(path)
    with pytest.raises(ImageError, match="does not name that file") as caught:
        read_all(path)
    command = caught.value.remedy.split("`")[1]
    argv = command.replace("=FILE", f"={data}").replace("IMAGE", str(path)).split()
    notation.run(*argv)
    assert_same(read_all(path), notation.qemu_content(path, "qcow2"))


@pytest.mark.parametrize("count", [12, pytest.param(500, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", MADE)
def test_random_changes(tmp_path, sound, kind, count):
    """Of the header, its extensions, and the tables of snapshots and bitmaps."""
    path, below = sound(kind)
    good, chosen = Patched(path), seeded()
    outcomes = []
    for _ in range(count):
        image = Patched(path)
        for _ in range(chosen.choice([1, 1, 2])):
            change_at_random(image, good, chosen)
        outcomes.append(judged(image.save(tmp_path / "a.qcow2"), below))
    print(f"{outcomes.count('read')} of {count} read")


def change_at_random(image, good, chosen):
    """Changes one place, and prints how."""
    start = good["header_length"] if good["version"] == 3 else 72
    places = [range(start), range(start, start + 240), range(start, good.cluster)]
    if good["snapshots"]:
        places += [range(good["snapshots_offset"], good["snapshots_offset"] + 200)] * 3
    if good["version"] == 3 and good["autoclear"] & 1:
        places += [range(extension(good, BITMAPS)[0] - 8, extension(good, BITMAPS)[0] + 24)] * 2
        places += [
            range(directory(good), directory(good) + 64),
            range(bitmap_table(good), bitmap_table(good) + 16),
        ]
    width = chosen.choice([1, 1, 2, 4, 8])
    at = chosen.choice(chosen.choice(places)) // width * width
    here = int.from_bytes(good.data[at : at + width], "big")
    values = [0, 1, 2, here ^ (1 << chosen.randrange(8 * width)), here + chosen.choice([-8, -1, 1, 8, 512])]
    values += [chosen.getrandbits(8 * width), (1 << 8 * width) - 1, good.cluster, len(good.data)]
    value = chosen.choice(values) % (1 << 8 * width)
    print(f"{width} bytes at {at} become {value:#x}", end="; ")
    image.put(at, value.to_bytes(width, "big"))
