"""The format of a file that no manifest declares. Guards discovery/image_format.py."""

import pytest

from batchdiff.discovery.exclusion import Cause, Exclusion
from batchdiff.discovery.image_files import FileToSample
from batchdiff.discovery.image_format import format_of
from batchdiff.image_source import ImageFormat

QCOW2, LUKS, RAW = b"QFI\xfb" + bytes(600), b"LUKS\xba\xbe" + bytes(600), b"\xeb" * 600
VHD = bytes(600) + b"conectix" + bytes(504)


def found(folder, name, head, declared=None):
    (folder / name).write_bytes(head)
    return format_of(FileToSample(str(folder / name), declared))


@pytest.mark.parametrize(
    ("name", "head", "form"),
    [
        ("a.img", RAW, ImageFormat.RAW),
        ("a.img", QCOW2, ImageFormat.QCOW2),
        ("a", QCOW2, ImageFormat.QCOW2),
        ("a.qcow2", QCOW2, ImageFormat.QCOW2),
        ("A.QCOW2", QCOW2, ImageFormat.QCOW2),
        ("a.raw", RAW, ImageFormat.RAW),
        ("a.vhd", VHD, ImageFormat.VPC),
    ],
)
def test_name_and_first_bytes_agree(tmp_path, name, head, form):
    assert found(tmp_path, name, head) is form


@pytest.mark.parametrize(
    ("name", "head"), [("a.raw", QCOW2), ("a.qcow2", RAW), ("a.vmdk", QCOW2), ("a.img", LUKS)]
)
def test_a_contradiction_is_left_out(tmp_path, name, head):
    """A guest can write a header of any format to its own raw disk."""
    result = found(tmp_path, name, head)
    assert isinstance(result, Exclusion)
    assert result.cause is Cause.DOUBTFUL
    assert "in a manifest with" in result.reason


def test_a_footer_is_not_called_a_beginning(tmp_path):
    result = found(tmp_path, "a.raw", VHD)
    assert isinstance(result, Exclusion)
    assert result.reason.startswith("it is named like a raw image, but looks like a vpc image, and a guest could")
    assert "first bytes" not in result.reason


def test_a_declared_format_counts(tmp_path):
    assert found(tmp_path, "a.raw", QCOW2, ImageFormat.RAW) is ImageFormat.RAW
    assert found(tmp_path, "a.img", LUKS, ImageFormat.RAW) is ImageFormat.RAW


def test_what_cannot_be_read_is_left_out(tmp_path):
    result = format_of(FileToSample(str(tmp_path / "gone.img")))
    assert isinstance(result, Exclusion)
    assert result.cause is Cause.UNREADABLE
