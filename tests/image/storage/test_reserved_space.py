"""Which images count as preallocated: those that someone reserved space for, and no ordinary copy.

Guards image/storage/preallocated.py.
"""

import os

import pytest
from filesystems import mounted
from notation import run

from batchdiff.image.storage.preallocated import reserved_bytes
from batchdiff.units import MIB

SIZE = 40 * MIB


@pytest.fixture(scope="module", params=["ext4", "xfs", "btrfs"])
def folder(request, tmp_path_factory):
    """A filesystem with a full copy of a disk that has data, holes and zeros, all larger than what counts."""
    with mounted(tmp_path_factory.mktemp("reserved"), request.param, 600 << 20) as point:
        with (point / "disk.img").open("wb") as file:
            for at in (0, 14 * MIB, 30 * MIB):
                file.seek(at)
                file.write(os.urandom(6 * MIB))
            file.truncate(SIZE)
        yield point


def reserved(path, virtual_size=SIZE):
    fd = os.open(path, os.O_RDONLY)
    try:
        return reserved_bytes(fd, str(path), virtual_size)
    finally:
        os.close(fd)


def copied(folder, name, *command):
    path = folder / name
    if path.exists():
        path.unlink()
    run(
        *(
            str(path) if word == "COPY" else str(folder / "disk.img") if word == "DISK" else word
            for word in command
        )
    )
    return path


CONVERT = ("qemu-img", "convert", "-f", "raw", "DISK", "COPY", "-O")
ORDINARY = {
    "cp": ("cp", "DISK", "COPY"),
    "cp sparse": ("cp", "--sparse=always", "DISK", "COPY"),
    "cp reflink": ("cp", "--reflink=auto", "DISK", "COPY"),
    "dd": ("dd", "if=DISK", "of=COPY", "bs=1M", "status=none"),
    "dd sparse": ("dd", "if=DISK", "of=COPY", "bs=1M", "conv=sparse", "status=none"),
    "convert raw": (*CONVERT, "raw"),
    "convert qcow2": (*CONVERT, "qcow2"),
    "convert qcow2 2M": (*CONVERT, "qcow2", "-o", "cluster_size=2M"),
    "qcow2 metadata": (*CONVERT, "qcow2", "-o", "preallocation=metadata"),
    "convert vdi": (*CONVERT, "vdi"),
    "convert raw full": (*CONVERT, "raw", "-o", "preallocation=full", "-S", "0"),
}


@pytest.mark.parametrize("command", ORDINARY.values(), ids=ORDINARY)
def test_ordinary_copies_do_not_count(folder, command):
    words = [word.replace("DISK", str(folder / "disk.img")) if "=" in word else word for word in command]
    words = [word.replace("COPY", str(folder / "copy")) if "=" in word else word for word in words]
    path = copied(folder, "copy", *words)
    assert reserved(path) == 0


def test_a_plain_copy_whose_holes_xfs_has_filled_does_not_count(folder):
    """XFS reserves space past the end of a file that grows, and keeps it in the holes that follow."""
    path = folder / "grown.img"
    with path.open("wb") as file:
        for _ in range(4):
            file.write(os.urandom(8 * MIB))
            file.seek(4 * MIB, os.SEEK_CUR)
        file.write(bytes(4096))
    if folder.name == "xfs":
        assert path.stat().st_blocks * 512 > 0.99 * path.stat().st_size, "or this test is blind"
    assert reserved(path, path.stat().st_size) == 0
    path.unlink()


def test_written_zeros_do_not_count(folder):
    path = folder / "zeros.img"
    path.write_bytes(bytes(SIZE))
    assert reserved(path) == 0


def test_reserved_images_count(folder):
    raw = folder / "raw.img"
    run("fallocate", "-l", str(SIZE), str(raw))
    run("dd", f"if={folder}/disk.img", f"of={raw}", "bs=1M", "conv=notrunc,sparse", "status=none")
    assert reserved(raw) == 22 * MIB
    qcow2 = folder / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=falloc", str(qcow2), str(SIZE))
    assert 38 * MIB < reserved(qcow2) <= SIZE
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 20M", str(qcow2))
    assert 18 * MIB < reserved(qcow2) < 22 * MIB
    for path in (raw, qcow2):
        path.unlink()


def test_what_lies_past_the_end_does_not_count(folder):
    """Nor does any filesystem show it to a VM."""
    path = folder / "past.img"
    path.write_bytes(bytes(SIZE))
    run("fallocate", "--keep-size", "--offset", str(SIZE), "-l", str(SIZE), str(path))
    assert reserved(path) == 0
    path.unlink()


def test_small_parts_do_not_count(folder):
    """Such as those that VMs make: here 1 MiB at every second one, and then one part of 3 MiB of 40."""
    path = folder / "parts.img"
    path.write_bytes(b"x" * SIZE)
    for at in range(0, 40, 2):
        run("fallocate", "--zero-range", "--offset", str(at * MIB), "-l", str(MIB), str(path))
    assert reserved(path) == 0
    run("fallocate", "--zero-range", "--offset", str(20 * MIB), "-l", str(4 * MIB), str(path))
    assert reserved(path) == 5 * MIB, "with the one that follows it"
    assert reserved(path, 51 * MIB) == 0, "less than a tenth of the disk"
    path.unlink()


def test_a_tail_that_was_reserved(folder):
    """On XFS only if nothing else is a hole: it leaves such space in the holes of plain copies."""
    path = copied(folder, "tail.img", "cp", "--sparse=always", "DISK", "COPY")
    run("fallocate", "--offset", str(SIZE), "-l", str(20 * MIB), str(path))
    expected = 0 if folder.name == "xfs" else 20 * MIB
    assert reserved(path, 60 * MIB) == expected
    path.unlink()


def test_what_has_no_extents_has_nothing_reserved(tmp_path):
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        assert reserved_bytes(fd, "/dev/null", SIZE) == 0
    finally:
        os.close(fd)
