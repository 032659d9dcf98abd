"""Chains: what shows through where, against QEMU; and chains that are not as declared.

Guards image/backing_names.py, image/image.py.
"""

from __future__ import annotations

import os
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import many_files
import notation
import pytest
from devices import attached
from oracle import assert_reads_like_qemu, assert_same, guest_bytes, read_all, source, within
from patching import Patched
from seeds import seeded

from batchdiff.errors import ImageError
from batchdiff.image.backing_names import resolved_backing
from batchdiff.image.open import inspect, open_image, open_layer
from batchdiff.image_source import MAX_CHAIN, ImageFormat, ImageSource
from batchdiff.qcow2.geometry import Geometry
from batchdiff.qcow2.header import Header
from batchdiff.qcow2.header_writing import build

LOW = "64k:A 64k:- 128k:B 64k:0 64k:C"

TWO_LAYERS = {
    "nothing-written": (LOW, "384k:-"),
    "all-written": (LOW, "384k:D"),
    "zero-over-data": (LOW, "64k:0 64k:D 64k:- 64k:0 128k:-"),
    "compressed-over-data": (LOW, "64k:d 256k:- 64k:e"),
    "parts-of-clusters": (LOW, "4k:D 70k:- 3k:0 200k:- 1k:E 106k:-"),
    "backing-smaller": ("100k:A", "64k:- 64k:D 256k:-"),
    "backing-smaller-by-a-sector": ("130560:A", "64k:- 64k:- 64k:0"),
    "backing-ends-in-a-hole": ("64k:A 32k:-", "192k:-"),
    "backing-larger": (LOW, "64k:D 128k:-"),
    "backing-larger-by-a-sector": (LOW, "64k:D 195k:-"),
}


@pytest.mark.parametrize("options", ["", "cluster_size=4k", "extended_l2=on", "compression_type=zstd"])
@pytest.mark.parametrize("low_format", ["raw", "qcow2"])
@pytest.mark.parametrize(("low", "top"), TWO_LAYERS.values(), ids=TWO_LAYERS)
def test_two_layers(tmp_path, low, top, low_format, options):
    write = notation.write_raw if low_format == "raw" else notation.write_qcow2
    backing = write(tmp_path / f"low.{low_format}", low)
    path = notation.write_qcow2(
        tmp_path / "top.qcow2", top, options=options, backing=backing, backing_format=low_format
    )
    assert_reads_like_qemu(path, backing, expected=notation.content(top, below=notation.content(low)))


def test_backing_of_an_odd_size(tmp_path):
    backing = notation.write_raw(tmp_path / "low.raw", "70001:A")
    path = notation.write_qcow2(tmp_path / "top.qcow2", "64k:- 512:B 192k:-", backing=backing)
    assert_reads_like_qemu(path, backing)


def test_discarded_above_a_backing_file_reads_as_zeros(tmp_path):
    backing = notation.write_raw(tmp_path / "low.raw", LOW)
    path = notation.write_qcow2(tmp_path / "top.qcow2", "384k:D", backing=backing)
    notation.qemu_io(path, "discard 64k 128k")
    assert_reads_like_qemu(path, backing, expected=notation.content("64k:D 128k:0 192k:D"))


def test_subclusters_over_a_backing_file(tmp_path):
    backing = notation.write_raw(tmp_path / "low.raw", LOW)
    text = "2k:D 2k:- 2k:0 58k:- 64k:0 62k:- 2k:D 64k:e 128k:-"
    path = notation.write_qcow2(tmp_path / "top.qcow2", text, options="extended_l2=on", backing=backing)
    assert_reads_like_qemu(path, backing, expected=notation.content(text, below=notation.content(LOW)))


@pytest.mark.parametrize("low_format", ["raw", "qcow2"])
def test_three_layers_of_three_sizes(tmp_path, low_format):
    texts = "64k:A 192k:B", "64k:- 64k:0 64k:C", "128k:- 32k:D 64k:- 96k:-"
    write = notation.write_raw if low_format == "raw" else notation.write_qcow2
    low = write(tmp_path / f"low.{low_format}", texts[0])
    mid = notation.write_qcow2(tmp_path / "mid.qcow2", texts[1], backing=low, backing_format=low_format)
    top = notation.write_qcow2(tmp_path / "top.qcow2", texts[2], backing=mid, backing_format="qcow2")
    expected = b""
    for text in texts:
        expected = notation.content(text, below=expected)
    assert_reads_like_qemu(top, mid, low, expected=expected)
    with open_image(source(top, mid, low)) as image:
        assert [each.inode for each in image.fingerprints()] == [os.stat(each).st_ino for each in (top, mid, low)]


@pytest.mark.parametrize("count", [10, pytest.param(500, marks=pytest.mark.long)])
def test_random_chains(tmp_path, count):
    chosen = seeded()
    for _ in range(count):
        paths, expected, backing_format = [], b"", "raw"
        for depth in range(chosen.randrange(2, 5)):
            parts = (f"{chosen.randrange(1, 300)}:{chosen.choice('AB0---')}" for _ in range(9))
            text = " ".join(part.replace(":", "k:") for part in parts)
            options = chosen.choice(["", "cluster_size=512", "cluster_size=16k,extended_l2=on"])
            print(depth, options, text)
            if depth == 0:
                paths = [notation.write_raw(tmp_path / "0.raw", text)]
            else:
                path, backing_format = tmp_path / f"{depth}.qcow2", "raw" if depth == 1 else "qcow2"
                notation.write_qcow2(path, text, options=options, backing=paths[0], backing_format=backing_format)
                paths.insert(0, path)
            expected = notation.content(text, below=expected)
        assert_reads_like_qemu(*paths, expected=expected)


@pytest.mark.parametrize("name", ["../low/a.raw", "../low/../low/./a.raw", "../link/../low/a.raw"])
def test_relative_names_are_relative_to_the_image(tmp_path, monkeypatch, name):
    (tmp_path / "low").mkdir()
    (tmp_path / "top").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "top")
    low = notation.write_raw(tmp_path / "low" / "a.raw", LOW)
    top = notation.write_qcow2(tmp_path / "top" / "a.qcow2", "384k:-", backing=name)
    monkeypatch.chdir("/")
    assert_reads_like_qemu(top, low, expected=notation.content(LOW))


def test_dots_after_a_link_mean_what_the_kernel_says(tmp_path):
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    low = notation.write_raw(tmp_path / "far" / "a.raw", "64k:A")
    notation.write_raw(tmp_path / "a.raw", "64k:B")
    top = notation.write_qcow2(tmp_path / "top.qcow2", "64k:-", backing="link/../a.raw")
    assert_reads_like_qemu(top, low, expected=notation.content("64k:A"))
    assert resolved_backing(source(top), open_layer(source(top)).backing) == str(low)


def test_a_device_keeps_the_name_that_lasts(tmp_path):
    disk = notation.write_raw(tmp_path / "disk.raw", LOW)
    (tmp_path / "volumes").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "volumes")
    with attached(disk, "--read-only") as device:
        (tmp_path / "volumes" / "lv").symlink_to(device)
        top = notation.write_qcow2(tmp_path / "top.qcow2", "384k:-", backing="link/lv")
        assert resolved_backing(source(top), open_layer(source(top)).backing) == f"{tmp_path}/volumes/lv"


def test_a_backing_name_through_a_symbolic_link_may_be_declared_by_the_real_one(tmp_path):
    low = notation.write_raw(tmp_path / "low.raw", LOW)
    (tmp_path / "link.raw").symlink_to(low)
    top = notation.write_qcow2(tmp_path / "top.qcow2", "384k:-", backing="link.raw")
    assert_reads_like_qemu(top, low, expected=notation.content(LOW))


def deep_chain(folder, depth):
    """Empty overlays on a raw image, from our own header: QEMU would take a second for every 50."""
    paths = [notation.write_raw(folder / "low.raw", "64k:A")]
    for number in range(1, depth):
        header = Header(
            version=3,
            geometry=Geometry(512),
            virtual_size=65536,
            l1_offset=512,
            l1_entries=2,
            refcount_offset=1024,
            refcount_bytes=512,
            snapshots=0,
            bitmaps=0,
            backing_name=paths[0].name,
            backing_format="raw" if number == 1 else "qcow2",
            lazy_refcounts=False,
        )
        paths.insert(0, folder / f"{number}.qcow2")
        paths[0].write_bytes(build(header).ljust(1536, b"\0"))
    return paths


def test_a_deep_chain_reads(tmp_path):
    with within(10):
        assert read_all(*deep_chain(tmp_path, MAX_CHAIN)) == notation.content("64k:A")


def test_a_deeper_chain_is_refused(tmp_path):
    with pytest.raises(ImageError, match=f"more than {MAX_CHAIN} images deep"):
        read_all(*deep_chain(tmp_path, MAX_CHAIN + 1))


def test_an_image_that_rests_on_itself_is_refused(tmp_path):
    path = notation.write_qcow2(tmp_path / "a.qcow2", "64k:A")
    notation.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", str(path))
    with pytest.raises(ImageError, match="which the manifest does not declare"):
        open_image(source(path))
    with pytest.raises(ImageError):
        open_image(source(path, *[path] * MAX_CHAIN))


def overlay(folder, **changes):
    """A raw image and an overlay on it, whose header may be changed."""
    low = notation.write_raw(folder / "low.raw", "64k:A")
    top = notation.write_qcow2(folder / "top.qcow2", "64k:-", backing="low.raw")
    image = Patched(top)
    for field, value in changes.items():
        image[field] = value
    return image.save(top), low


def test_an_undeclared_backing_file_is_refused_and_not_opened(tmp_path):
    top, low = overlay(tmp_path)
    low.unlink()
    with pytest.raises(ImageError, match=r"has the backing file .*low\.raw, which the manifest does not"):
        open_image(source(top))


def test_a_declared_backing_file_that_no_header_names_is_refused(tmp_path):
    top, low = overlay(tmp_path, backing_offset=0)
    with pytest.raises(ImageError, match="as its backing file, but its header names none"):
        open_image(source(top, low))
    raw = notation.write_raw(tmp_path / "other.raw", "64k:A")
    with pytest.raises(ImageError, match="as its backing file, but its header names none"):
        open_image(source(raw, low))


def test_another_backing_file_than_the_declared_is_refused(tmp_path):
    top, _ = overlay(tmp_path)
    other = notation.write_raw(tmp_path / "other.raw", "64k:A")
    with pytest.raises(
        ImageError, match=r"names the backing file .*low\.raw, but the manifest or plan declares .*other\.raw"
    ):
        open_image(source(top, other))


@pytest.mark.parametrize("name", ["{folder}/new.raw", "new.raw", "./new.raw"])
def test_the_command_that_corrects_the_header_of_images_that_moved(tmp_path, name):
    """As it is printed: also for names that a shell or QEMU would take for something else."""
    folder = tmp_path / "it's here"
    folder.mkdir()
    old = notation.write_raw(folder / "new.raw", "64k:A")
    top = notation.write_qcow2(folder / "top.qcow2", "64k:-", backing=name.format(folder=folder))
    new = old.rename(folder / "a:b.raw")
    with pytest.raises(ImageError) as caught:
        open_image(source(top, new))
    command = caught.value.remedy.split("`")[1]
    subprocess.run(["sh", "-c", command], check=True, cwd="/")
    assert_reads_like_qemu(top, new, expected=notation.content("64k:A"))
    assert os.path.isabs(open_layer(source(top)).backing.name) == name.startswith("{")


def test_a_backing_format_that_contradicts_the_declared_is_refused(tmp_path):
    low = notation.write_qcow2(tmp_path / "low.qcow2", "64k:A")
    top = notation.write_qcow2(tmp_path / "top.qcow2", "64k:-", backing=low, backing_format="raw")
    with pytest.raises(ImageError, match=r"QEMU would not read its backing file .* as qcow2") as caught:
        open_image(source(top, low))
    follow(caught.value)
    assert_reads_like_qemu(top, low, expected=notation.content("64k:A"))


def follow(error):
    """Do what the first command of a message says."""
    subprocess.run(["sh", "-c", error.remedy.split("`")[-2]], check=True, cwd="/")


@pytest.mark.parametrize("form", ["nonsense", "host_device", "vmdk"])
def test_a_backing_format_of_something_else_is_refused(tmp_path, form):
    top, low = overlay(tmp_path)
    name_format(top, form.encode())
    with pytest.raises(ImageError, match=r"QEMU would not read its backing file .* as raw") as caught:
        open_image(source(top, low))
    assert qemu_cannot_open(top)
    follow(caught.value)
    assert_reads_like_qemu(top, low, expected=notation.content("64k:A"))


def name_format(path, form):
    """Another backing format in a header, which has room for 8 bytes of it, or none at all."""
    image = Patched(path)
    at = image.data.index(struct.pack(">II", 0xE2792ACA, 3))
    room, name = image["backing_offset"] - at, image["backing_offset"]
    rest = bytes(image.data[at + 16 : name + image["backing_size"]])
    packed = struct.pack(">II", 0xE2792ACA, len(form)) + form + bytes(-len(form) % 8) if form else b""
    image.put(at, packed + rest)
    image["backing_offset"] = at + room - 16 + len(packed)
    image.save(path)


def qemu_cannot_open(path):
    return subprocess.run(
        ["qemu-img", "map", "-f", "qcow2", str(path)], capture_output=True, check=False
    ).returncode


@pytest.mark.parametrize("size", ["64k", "1k"])
def test_a_raw_backing_file_that_qemu_would_take_for_another_format_is_refused(tmp_path, size):
    """Without a format in the header QEMU guesses; and a guest's OS writes what it likes to its first sectors."""
    low = notation.write_qcow2(tmp_path / "low.raw", f"{size}:A")
    top = notation.write_qcow2(tmp_path / "top.qcow2", "64k:-", backing=low)
    name_format(top, b"")
    with pytest.raises(ImageError, match=r"QEMU would not read its backing file .* as raw") as caught:
        open_image(source(top, low))
    follow(caught.value)
    assert_reads_like_qemu(top, low, expected=low.read_bytes()[: 64 << 10])


@pytest.mark.parametrize("low_format", ["vdi", "vhdx", "vmdk", "parallels", "qed", "vpc"])
def test_a_backing_file_of_another_format_that_qemu_guesses_is_accepted(tmp_path, low_format):
    low = notation.write_raw(tmp_path / "low.raw", "1M:A")
    notation.run("qemu-img", "convert", "-f", "raw", "-O", low_format, str(low), str(tmp_path / "low"))
    top, below = without_format(tmp_path, low_format)
    with open_image(replace(source(top), backing=(below,))) as opened:
        assert_same(guest_bytes(opened, 0, 1 << 20), notation.qemu_content(top, "qcow2"))


def without_format(folder, low_format):
    """An overlay of the image ``low`` whose header does not give the image's format, and the image as declared."""
    low = folder / "low"
    top = notation.write_qcow2(folder / "top.qcow2", "1M:-", backing=low)
    name_format(top, b"")
    return top, ImageSource(str(low), ImageFormat(low_format))


def test_a_backing_file_that_qemu_would_take_for_raw_is_refused(tmp_path):
    """It would show the footer of a fixed VHD at the end of the disk, and the text of a descriptor."""
    low = notation.write_raw(tmp_path / "low.raw", "1M:A")
    options = ["-o", "subformat=fixed,force_size=on"]
    notation.run("qemu-img", "convert", "-f", "raw", "-O", "vpc", *options, str(low), str(tmp_path / "low"))
    top, below = without_format(tmp_path, "vpc")
    with pytest.raises(ImageError, match=r"QEMU would not read its backing file .* as vpc") as caught:
        open_image(replace(source(top), backing=(below,)))
    follow(caught.value)
    with open_image(replace(source(top), backing=(below,))) as opened:
        assert_same(guest_bytes(opened, 0, 1 << 20), notation.content("1M:A"))
    assert_same(notation.qemu_content(top, "qcow2"), notation.content("1M:A"))

    many_files.write(tmp_path / "low", many_files.FLAT, notation.content("1M:A"))
    text = (tmp_path / "low").read_text()
    for written, is_recognised in ((text, True), (text.replace("version=1\n", ""), False)):
        (tmp_path / "low").write_text(written)
        top, below = without_format(tmp_path, "vmdk")
        if is_recognised:
            open_image(replace(source(top), backing=(below,))).close()
            continue
        with pytest.raises(ImageError, match=r"QEMU would not read its backing file .* as vmdk"):
            open_image(replace(source(top), backing=(below,)))


def test_a_backing_file_of_a_qed_image_that_qemu_would_take_for_raw_is_refused(tmp_path):
    """Its header cannot name another format, so no command can correct it."""
    notation.run(
        "qemu-img", "create", "-q", "-f", "vpc", "-o", "subformat=fixed,force_size=on", str(tmp_path / "low"), "1M"
    )
    notation.run(
        "qemu-img", "create", "-q", "-f", "qed", "-b", "low", "-F", "vpc", str(tmp_path / "top.qed"), "1M"
    )
    below = ImageSource(str(tmp_path / "low"), ImageFormat.VPC)
    with pytest.raises(ImageError, match=r"QEMU would not read its backing file .* as vpc") as caught:
        open_image(ImageSource(str(tmp_path / "top.qed"), ImageFormat.QED, (below,)))
    assert "can name no format but raw" in caught.value.remedy
    assert "qemu-img" not in caught.value.remedy


@pytest.mark.parametrize("head", [b"COWD", b"# any comment\nversion=1\n", b"Bochs Virtual HD Image"])
def test_a_raw_backing_file_that_begins_like_an_image_of_another_kind_is_refused(tmp_path, head):
    low = notation.write_raw(tmp_path / "low.raw", "64k:A")
    low.write_bytes(head + low.read_bytes()[len(head) :])
    top = notation.write_qcow2(tmp_path / "top.qcow2", "64k:-", backing=low)
    name_format(top, b"")
    with pytest.raises(ImageError, match=r"QEMU would not read its backing file .* as raw") as caught:
        open_image(source(top, low))
    follow(caught.value)
    assert_reads_like_qemu(top, low, expected=low.read_bytes())


def test_a_backing_file_that_only_ends_like_another_format_is_raw(tmp_path):
    low = notation.write_raw(tmp_path / "low.raw", "64k:A")
    low.write_bytes(low.read_bytes()[:-512] + b"conectix".ljust(512, b"\1"))
    top = notation.write_qcow2(tmp_path / "top.qcow2", "64k:-", backing=low)
    name_format(top, b"")
    assert_reads_like_qemu(top, low, expected=low.read_bytes())


def test_a_device_named_by_the_driver_below_all_formats(tmp_path):
    with attached(notation.write_raw(tmp_path / "low.raw", "64k:A")) as device:
        top = notation.write_qcow2(tmp_path / "top.qcow2", "64k:-", backing=device, backing_format="host_device")
        assert_reads_like_qemu(top, Path(device), expected=notation.content("64k:A"))


@pytest.mark.parametrize("form", [b"raw", b"qcow2", b""])
def test_a_relative_name_after_its_protocol(tmp_path, form):
    """QEMU starts at its own folder then: of two that look at one image, each may see another."""
    low = (notation.write_qcow2 if form == b"qcow2" else notation.write_raw)(tmp_path / "it's.img", "64k:A")
    top = notation.write_qcow2(tmp_path / "top.qcow2", "64k:-", backing=low)
    image = Patched(top)
    image.put(image["backing_offset"], b"file:it's.img")
    image["backing_size"] = len(b"file:it's.img")
    image.save(top)
    name_format(top, form)
    below = ImageSource(str(low), ImageFormat(form.decode() or "raw"))
    with pytest.raises(ImageError, match="is relative to the folder in which QEMU is started") as caught:
        open_image(replace(source(top), backing=(below,)))
    assert qemu_cannot_open(top)
    error = caught.value
    if not form:  # it is not guessed: an untrusted header's file is not opened for that
        assert "correct the header, with that file's format in place of FORMAT: `" in error.remedy
        error = ImageError(error.what, remedy=error.remedy.replace("-F FORMAT", "-F raw"))
    follow(error)
    with open_image(replace(source(top), backing=(below,))) as opened:
        assert guest_bytes(opened, 0, 64 << 10) == notation.content("64k:A")
    assert_same(notation.qemu_content(top, "qcow2"), notation.content("64k:A"))


def test_a_missing_declared_backing_file_is_refused(tmp_path):
    top, low = overlay(tmp_path)
    low.unlink()
    with pytest.raises(ImageError, match="No such file"):
        open_image(source(top, low))


def test_a_fault_further_down_is_found(tmp_path):
    low = notation.write_qcow2(tmp_path / "low.qcow2", "64k:A")
    top = notation.write_qcow2(tmp_path / "top.qcow2", "64k:-", backing=low, backing_format="qcow2")
    damaged = Patched(low)
    damaged[damaged.l2(0)] += 512
    damaged.save(low)
    with open_image(source(top, low)) as image, pytest.raises(ImageError, match=r"low\.qcow2 as qcow2"):
        inspect(image)


def test_a_fault_further_down_leaks_no_descriptor(tmp_path):
    top, low = overlay(tmp_path)
    low.unlink()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ImageError):
        open_image(source(top, low))
    assert os.listdir("/proc/self/fd") == before


NAMES = {
    "nbd": "nbd://localhost/x",
    "http": "http://x/y",
    "json": 'json:{"driver":"raw"}',
    "rbd-without-slashes": "rbd:pool",
    "fat": "fat:rw:/tmp",
    "file-and-escape": "file:/low\x1b[31m.raw",
    "newline": "low\n.raw",
    "escape": "low\x1b[31m.raw",
    "right-to-left": "low\u202e.raw",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_backing_names_that_are_no_plain_path_are_refused(tmp_path, name):
    top, low = overlay(tmp_path)
    raw_name = name.encode()
    image = Patched(top)
    image.put(image["backing_offset"], raw_name)
    image["backing_size"] = len(raw_name)
    image.save(top)
    for below in ([], [low]):
        with pytest.raises(ImageError, match="not a plain path") as caught:
            open_image(source(top, *below))
        assert str(caught.value).isprintable()
        assert "a standalone copy" in caught.value.remedy
