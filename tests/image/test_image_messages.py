"""The exact text of the refusals of an image (image/open.py, backing_names.py, files.py, in_use/check.py)."""

from __future__ import annotations

import errno

import notation
import pytest

from batchdiff.errors import ImageError
from batchdiff.image import files
from batchdiff.image.in_use.check import Purpose, in_use
from batchdiff.image.open import open_image
from batchdiff.image_source import MAX_CHAIN, ImageFormat, ImageSource


def source(path: object, form: str = "raw", backing: list[ImageSource] | None = None) -> ImageSource:
    return ImageSource(str(path), ImageFormat(form), tuple(backing or ()))


def refusal(image: ImageSource) -> str:
    with pytest.raises(ImageError) as caught:
        open_image(image)
    return str(caught.value)


def test_an_empty_image(tmp_path):
    path = tmp_path / "a.img"
    path.touch()
    assert refusal(source(path)) == (
        f"cannot use {path}: it is empty (virtual size 0). If it should have content, restore it from a backup."
    )


def test_a_chain_that_is_too_deep():
    chain = [source("/b.qcow2", "qcow2")] * MAX_CHAIN
    assert refusal(source("/a.qcow2", "qcow2", chain)) == (
        f"cannot use /a.qcow2: its backing chain is more than {MAX_CHAIN} images deep. Merge the chain into one"
        " image with `qemu-img convert`."
    )


def test_files_of_other_kinds(tmp_path):
    assert refusal(source(tmp_path)) == (
        f"cannot use {tmp_path}: it is neither a regular file nor a block device. Put the image itself there, or"
        " give the path of the image."
    )
    (tmp_path / "dead").symlink_to("nowhere")
    assert refusal(source(tmp_path / "dead")) == (
        f"cannot open {tmp_path}/dead: it is a symbolic link whose target does not exist. If it names a volume,"
        " activate the volume; otherwise correct the path."
    )
    (tmp_path / "file").write_bytes(bytes(512))
    (tmp_path / "link").symlink_to("file")
    assert refusal(source(tmp_path / "link")) == (
        f"cannot open {tmp_path}/link: it is a symbolic link, and not one to a block device. Put the file itself"
        " there, or give its own path."
    )


def test_reads_that_fail(tmp_path):
    path = tmp_path / "a.img"
    path.write_bytes(bytes(512))
    file = files.ImageFile(str(path))
    try:
        with pytest.raises(ImageError) as caught:
            file.fill(memoryview(bytearray(1024)), 0)
    finally:
        file.close()
    assert str(caught.value) == (
        f"cannot read {path} at byte 0: it ends before byte 1024, so either it is truncated, or it changed while"
        " it was being read. If nothing is writing to it, restore it from a backup."
    )
    failed = files.failed_read("/a.img", 4096, OSError(errno.EIO, "Input/output error"))
    assert str(failed) == (
        "cannot read /a.img at byte 4096: Input/output error. The disk that stores it, or the filesystem, has a"
        " fault: see the kernel log (`dmesg`)."
    )


@pytest.fixture
def chain(tmp_path):
    """Return an overlay and its raw backing file."""
    backing = notation.write_raw(tmp_path / "low.img", "64k:A")
    return notation.write_qcow2(tmp_path / "top.qcow2", "64k:B", backing=backing, backing_format="raw"), backing


def test_a_backing_file_that_is_not_declared(chain):
    top, low = chain
    assert refusal(source(top, "qcow2")) == (
        f"cannot use {top}: it has the backing file {low}, which the manifest does not declare. If that is right,"
        " add the file to the `backing` list of top.qcow2."
    )


def test_a_declared_backing_file_that_is_not_named(chain):
    _, low = chain
    alone = notation.write_qcow2(low.parent / "alone.qcow2", "64k:B")
    assert refusal(source(alone, "qcow2", [source(low)])) == (
        f"cannot use {alone}: the manifest or plan declares {low} as its backing file, but its header names none."
        " Correct the `backing` list in the manifest or, if the list is right, restore the image from a backup."
    )


def test_a_backing_file_of_another_name(chain):
    top, low = chain
    moved = low.rename(low.parent / "moved.img")
    assert refusal(source(top, "qcow2", [source(moved)])) == (
        f"cannot use {top}: its header names the backing file {low}, but the manifest or plan declares {moved}."
        f" If {moved} is the same file under a new name, correct the header: `qemu-img rebase -u -f qcow2 -F raw"
        f" -b {moved} {top}`. QEMU does not check this, and any other file would damage the guest's data."
        f" Otherwise bring back {low} and, if the `backing` list in the manifest is wrong, correct the list."
    )


def test_a_backing_file_in_another_format(tmp_path):
    low = notation.write_qcow2(tmp_path / "low.qcow2", "64k:A")
    top = notation.write_qcow2(tmp_path / "top.qcow2", "64k:B", backing=low, backing_format="qcow2")
    assert refusal(source(top, "qcow2", [source(low)])) == (
        f"cannot use {top}: QEMU would not read its backing file {low} as raw, the format that the manifest"
        " or plan declares. Correct the `backing` list in the manifest or, if the list is right, the header:"
        f" `qemu-img rebase -u -f qcow2 -F raw -b {low} {top}`."
    )


NAMES = {
    "nbd://host/x": (
        "cannot use {0}: its backing file name 'nbd://host/x' is not a plain path, and batchdiff follows only"
        " plain paths. If you trust the image, make a standalone copy and use that:"
        " `qemu-img convert -f qcow2 -O qcow2 {0} {0}.whole`."
    ),
    "file:low.img": (
        "cannot use {0}: its backing file name 'file:low.img' is relative to the folder in which QEMU is started."
        " If {1}/low.img is meant, correct the header: `qemu-img rebase -u -f qcow2 -F raw -b {1}/low.img {0}`."
    ),
}


@pytest.mark.parametrize(("name", "message"), NAMES.items(), ids=["protocol", "relative"])
def test_backing_names_that_are_not_followed(chain, name, message):
    top, _ = chain
    notation.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", name, str(top))
    assert refusal(source(top, "qcow2")) == message.format(top, top.parent)


@pytest.mark.parametrize(
    ("purpose", "message"),
    [
        (
            Purpose.GUEST,
            "/a.img is in use: by a VM. Stop what is using it: shut down the VM, end the program, or unmount or"
            " detach the device.",
        ),
        (
            Purpose.TEMPLATE,
            "/a.img, which must not change, is in use: by a VM. Stop what is using it: shut down the VM,"
            " end the program, or unmount or detach the device. VMs running on its overlays can stay up.",
        ),
    ],
)
def test_an_image_in_use(purpose, message):
    assert str(in_use("/a.img", purpose, "by a VM")) == message
