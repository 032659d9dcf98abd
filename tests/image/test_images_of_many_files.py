"""Images of several files read as QEMU reads them, and no file is opened that is not allowed.

Guards image/formats.py, image/qcow2_extras.py, image/raw.py and image/backing/extents.py.
"""

import os
import random
import re
import struct
import subprocess
import sys

import many_files
import notation
import pytest
from oracle import guest_bytes

from batchdiff.errors import GuestError, ImageError
from batchdiff.image.backing.extents import extents_among
from batchdiff.image.in_use.check import Purpose
from batchdiff.image.in_use.hold import hold
from batchdiff.image.open import inspect, open_image
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.qcow2.entries import Origin

CONTENT = notation.content("300k:A 500k:- 200k:B 1M:- 4k:C 20k:-")


def made(folder, kind, content=CONTENT):
    path = folder / ("image.vmdk" if kind in many_files.VMDKS else "image.qcow2")
    files = many_files.write(path, kind, content)
    return source_of(path, kind), files


def source_of(path, kind, **more):
    return ImageSource(str(path), ImageFormat(many_files.form_of(kind)), **more)


def read(source):
    with open_image(source) as image:
        inspect(image)
        return guest_bytes(image, 0, image.virtual_size)


def refusal(source):
    with pytest.raises(ImageError) as caught:
        read(source)
    assert source.path in caught.value.what
    return str(caught.value)


@pytest.mark.parametrize("kind", many_files.KINDS)
def test_reads_as_qemu_reads_it(tmp_path, kind):
    source, files = made(tmp_path, kind)
    assert many_files.by_qemu(source.path, source.format) == CONTENT
    with open_image(source) as image:
        inspect(image)
        assert guest_bytes(image, 0, image.virtual_size) == CONTENT
        assert image.source.files == (source.path, *map(str, files))
        assert len(image.fingerprints()) == 1 + len(files)
        rng = random.Random(7)
        for _ in range(100):
            start = rng.randrange(len(CONTENT) // 512) * 512
            length = min(rng.randrange(1, 400) * 512, len(CONTENT) - start)
            assert guest_bytes(image, start, length) == CONTENT[start : start + length]


@pytest.mark.parametrize("kind", many_files.KINDS)
def test_holes_are_known_without_reading(tmp_path, kind):
    source, _ = made(tmp_path, kind)
    with open_image(source) as image:
        segments = image.segments(0, image.virtual_size)
        assert (segments[0].start, segments[-1].end) == (0, len(CONTENT))
        stored = sum(each.end - each.start for each in segments if each.origin is Origin.FILE)
        assert 504 << 10 <= stored <= 800 << 10
        hole = next(each for each in segments if each.origin is Origin.ZERO and each.end - each.start > 1 << 18)
        assert image.next_data(hole.start) == hole.end or image.next_data(hole.start) % 4096 == 0
        # The last sparse grain of 64 KiB has data.
        assert image.next_data(len(CONTENT) - 512) in {
            None,
            len(CONTENT) - 512 if kind == many_files.SPARSE else None,
        }


def test_extents_that_begin_inside_a_file(tmp_path):
    (tmp_path / "a.raw").write_bytes(notation.content("64k:A 64k:B"))
    (tmp_path / "b.raw").write_bytes(notation.content("8k:C"))
    text = many_files.descriptor(many_files.FLAT, [(64, "a.raw"), (16, "b.raw")]).replace(
        '"a.raw" 0', '"a.raw" 96'
    )
    (tmp_path / "a.vmdk").write_text(text)
    expected = notation.content("64k:A 64k:B")[49152:81920] + notation.content("8k:C")
    assert many_files.by_qemu(tmp_path / "a.vmdk", "vmdk") == expected
    assert read(source_of(tmp_path / "a.vmdk", many_files.FLAT)) == expected


@pytest.mark.parametrize("kind", [many_files.SPARSE, many_files.DATA_FILE])
def test_as_a_backing_file(tmp_path, kind):
    """Its other files follow the whole chain, whatever is above it."""
    below, files = made(tmp_path, kind)
    top = tmp_path / "top.qcow2"
    notation.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", below.path, "-F", below.format, str(top))
    notation.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 7 400k 100k", str(top))
    source = ImageSource(str(top), ImageFormat.QCOW2, (below,))
    assert read(source) == many_files.by_qemu(top, "qcow2")
    with open_image(source) as image:
        assert image.source.files == (str(top), below.path, *map(str, files))
        assert [layer.path for layer in image.layers] == list(image.source.files)
        assert [layer.path for layer in image.own_files] == [str(top)]


@pytest.mark.parametrize(
    "options", ["extended_l2=on", "cluster_size=512", "cluster_size=2M", "preallocation=falloc"]
)
def test_data_files_of_many_geometries(tmp_path, options):
    path, raw = tmp_path / "a.qcow2", tmp_path / "raw"
    raw.write_bytes(CONTENT)
    options = f"data_file={tmp_path}/a.data,{options}"
    notation.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", options, str(raw), str(path))
    notation.run("qemu-io", "-f", "qcow2", "-c", "write -q -z 8k 4k", "-c", "write -q -P 9 1M 4k", str(path))
    assert read(source_of(path, many_files.DATA_FILE)) == many_files.by_qemu(path, "qcow2")


# What an image must not name.


def named(folder, name, sectors=16):
    """A flat image that names one file."""
    path = folder / "image.vmdk"
    path.write_text(many_files.descriptor(many_files.ONE_FLAT, [(sectors, str(name))]))
    return source_of(path, many_files.ONE_FLAT)


def with_data_file(folder, name):
    """A qcow2 image whose header names a data file."""
    path = folder / "image.qcow2"
    (data,) = many_files.write(path, many_files.DATA_FILE, CONTENT)
    head, old, new = path.read_bytes(), os.fsencode(data), os.fsencode(str(name))
    at = head.index(struct.pack(">I", 0x44415441))
    assert head[at + 8 :].startswith(old)
    padded = new.ljust(-(-len(old) // 8) * 8, b"\0")
    assert len(padded) == -(-len(old) // 8) * 8
    path.write_bytes(head[: at + 4] + struct.pack(">I", len(new)) + padded + head[at + 8 + len(padded) :])
    return source_of(path, many_files.DATA_FILE)


OUTSIDE = [
    ("/etc/passwd", "neither beside the image nor"),
    ("/proc/self/environ", "neither beside the image nor"),
    ("/dev/zero", "neither beside the image nor"),
    ("nbd://127.0.0.1/x", "not a plain path"),
    ("json:{}", "not a plain path"),
    ("gone.raw", "is missing|is relative to the folder"),
    ("fifo", "not a regular file|is relative to the folder"),
    ("link", "which resolves to"),
    ("folder", "not a regular file|is relative to the folder"),
    ("../outside.raw", "neither beside the image nor"),
]


@pytest.mark.parametrize("naming", [named, with_data_file])
@pytest.mark.parametrize(("name", "words"), OUTSIDE)
def test_nothing_outside_is_opened(tmp_path, naming, name, words):
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "outside.raw").write_bytes(bytes(8192))
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    (folder / "link").symlink_to("/etc/passwd")
    source = naming(folder, name)
    log = tmp_path / "strace"
    code = (
        "from batchdiff.image.open import *; from batchdiff.image_source import *; import sys\n"
        f"open_image(ImageSource({source.path!r}, ImageFormat({source.format.value!r})))"
    )
    subprocess.run(
        [
            "strace",
            "-f",
            "--seccomp-bpf",
            "-o",
            log,
            "-e",
            "trace=openat,open,connect,socket",
            sys.executable,
            "-c",
            code,
        ],
        check=False,
        capture_output=True,
        timeout=60,
    )
    opened = re.findall(
        rf'openat\(AT_FDCWD, "({re.escape(str(tmp_path))}[^"]*|/etc/passwd|/dev/zero|nbd[^"]*)"', log.read_text()
    )
    assert source.path in opened
    assert set(opened) == {source.path}
    assert not re.search(r"\b(connect|socket)\(", log.read_text())
    assert "environ" not in log.read_text()
    assert re.search(words, refusal(source))


def test_a_fifo_in_the_data_files_place_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert "is not a regular file" in refusal(with_data_file(tmp_path, tmp_path / "fifo"))


@pytest.mark.parametrize("kind", ["missing", "fifo"])
def test_a_name_behind_a_link_cannot_forge_a_line(tmp_path, kind):
    target = tmp_path / "x\nbatchdiff: all is well\x1b[2J"
    if kind == "fifo":
        os.mkfifo(target)
    (tmp_path / "link").symlink_to(target)
    said = refusal(with_data_file(tmp_path, tmp_path / "link"))
    assert r"x\nbatchdiff: all is well\x1b[2J" in said
    assert said.isprintable()


@pytest.mark.parametrize("naming", [named, with_data_file])
def test_a_block_device_is_refused(tmp_path, naming):
    os.mknod(tmp_path / "d", 0o600 | 0o060000, os.makedev(7, 0))
    assert "is not a regular file" in refusal(naming(tmp_path, tmp_path / "d"))


@pytest.mark.parametrize("kind", [many_files.FLAT, many_files.RAW_DATA_FILE])
def test_an_allowed_folder(tmp_path, kind):
    images, pool = tmp_path / "images", tmp_path / "pool"
    images.mkdir()
    pool.mkdir()
    source, files = made(images, kind)
    for file in files:
        file.rename(pool / file.name)
    if kind == many_files.FLAT:
        text = (images / "image.vmdk").read_text()
        (images / "image.vmdk").write_text(text.replace('"image-', '"../pool/image-'))
    else:
        options = f"data_file={pool}/image.data"
        (images / "image.data").symlink_to(pool / "image.data")
        notation.run("qemu-img", "amend", "-f", "qcow2", "-o", options, source.path)
    assert "allow_folders" in refusal(source)
    assert read(source_of(source.path, kind, allow_folders=(str(pool),))) == CONTENT


def test_an_image_that_is_a_part_of_itself_is_refused(tmp_path):
    source = named(tmp_path, "image.vmdk", sectors=1)
    with open(source.path, "a", encoding="ascii") as file:
        file.write("#" * 1024)
    assert "twice, or as a part of itself. If QEMU opens it, make a qcow2 copy" in refusal(source)


def test_an_extent_twice_is_refused(tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(8192))
    os.link(tmp_path / "a.raw", tmp_path / "b.raw")
    path = tmp_path / "image.vmdk"
    path.write_text(many_files.descriptor(many_files.FLAT, [(8, "a.raw"), (8, "b.raw")]))
    assert "b.raw twice" in refusal(source_of(path, many_files.FLAT))


def test_a_descriptor_as_a_sparse_extent_is_refused(tmp_path):
    path = tmp_path / "image.vmdk"
    path.write_text(many_files.descriptor(many_files.SPARSE, [(8, "image.vmdk")]).ljust(2000, "#"))
    assert "cannot be used" in refusal(source_of(path, many_files.SPARSE))


@pytest.mark.parametrize("kind", many_files.KINDS)
def test_a_missing_file_is_named(tmp_path, kind):
    source, files = made(tmp_path, kind)
    files[-1].unlink()
    said = refusal(source)
    assert f"{files[-1]} is missing" in said
    assert "Bring the file back" in said


@pytest.mark.parametrize("kind", many_files.KINDS)
def test_a_file_that_is_cut_short_is_refused(tmp_path, kind):
    source, files = made(tmp_path, kind, notation.content("1M:A"))
    os.truncate(files[-1], files[-1].stat().st_size // 2)
    assert "truncated" in refusal(source)


@pytest.mark.parametrize("kind", many_files.KINDS)
def test_other_files_than_planned_are_refused(tmp_path, kind):
    source, files = made(tmp_path, kind)
    known = source_of(source.path, kind, other_files=tuple(map(str, files)))
    assert read(known) == CONTENT
    planned = source_of(source.path, kind, other_files=(str(tmp_path / "other"),))
    assert "its other files are not those in the plan" in refusal(planned)


def test_grains_outside_their_extent_are_refused(tmp_path):
    source, files = made(tmp_path, many_files.SPARSE, notation.content("1M:A 1M:B 1M:C"))
    data = bytearray(files[1].read_bytes())
    directory = struct.unpack_from("<Q", data, 56)[0] * 512
    table = struct.unpack_from("<I", data, directory)[0] * 512
    first, second = struct.unpack_from("<2I", data, table)
    struct.pack_into("<I", data, table + 4, first)
    files[1].write_bytes(data)
    said = refusal(source)
    assert f"one part of the file {files[1]} is used for several" in said
    struct.pack_into("<I", data, table + 4, second + (1 << 20))
    files[1].write_bytes(data)
    assert f"past the end of the file {files[1]}" in refusal(source)


def entry(index, value):
    """A change of an L2 entry of a qcow2 with clusters of 4 KiB."""

    def change(path):
        data = bytearray(path.read_bytes())
        (l1,) = struct.unpack_from(">Q", data, 40)
        (table,) = struct.unpack_from(">Q", data, l1)
        struct.pack_into(">Q", data, (table & ~(1 << 63)) + index * 8, value)
        path.write_bytes(data)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (entry(1, 1 << 63), "different offsets"),
        (entry(1, 1 << 63 | 0x3000), "different offsets"),
        (entry(1, 0x5000), "different offsets"),
        (entry(1, 1 << 62 | 0x1000), "compressed"),
        (entry(1, 1 << 63 | 0x1000 | 2), "reserved"),
    ],
)
def test_a_cluster_with_another_place_in_the_data_file_is_refused(tmp_path, change, words):
    source, _ = made(tmp_path, many_files.DATA_FILE)
    change(tmp_path / "image.qcow2")
    assert words in refusal(source)
    done = subprocess.run(
        ["qemu-io", "-r", "-f", "qcow2", "-c", "read 4k 4k", source.path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert words in {"reserved"} or "error" in done.stdout + done.stderr


@pytest.mark.parametrize("kind", many_files.KINDS)
def test_every_file_is_held(tmp_path, kind):
    source, files = made(tmp_path, kind)
    with open_image(source) as image:
        with hold(image, Purpose.GUEST) as held:
            assert not held.alone().objection
            with files[-1].open("rb"):
                assert "has it open" in held.alone().objection
        with files[-1].open("r+b"), pytest.raises(GuestError, match="is in use"), hold(image, Purpose.GUEST):
            pass


def test_extents_among_files(tmp_path):
    source, files = made(tmp_path, many_files.SPARSE)
    alone = tmp_path / "alone.vmdk"
    notation.run("qemu-img", "create", "-q", "-f", "vmdk", str(alone), "1M")
    claimer = tmp_path / "claimer.vmdk"
    claimer.write_text(many_files.descriptor(many_files.FLAT, [(8, "alone.vmdk"), (8, "image.vmdk"), (8, "no")]))
    images = [source.path, str(claimer), str(alone), str(tmp_path / "missing")]
    found = extents_among([*images, *map(str, files)], images)
    assert {inode for _, _, inode in found} == {file.stat().st_ino for file in files}
    # A file that nobody asked about is not even opened.
    assert extents_among(images, images) == frozenset()
