"""With which chain an overlay is read, weeks after it was written, and what would be lost with it."""

import notation
import plans
import pytest

from batchdiff.applying.checks.overlay_losses import check_losses, counted_losses, not_given_back
from batchdiff.applying.guests.overlay_source import current_overlay, planned_overlay
from batchdiff.choices import Loss
from batchdiff.errors import GuestError, ImageError
from batchdiff.image_source import ImageFormat, ImageSource


@pytest.fixture
def files(tmp_path):
    """An overlay on a template that rests on another image."""
    base = notation.write_raw(tmp_path / "base.img", "1M:A")
    template = notation.write_qcow2(tmp_path / "template.qcow2", "1M:-", backing=base)
    overlay = notation.write_qcow2(tmp_path / "vm.qcow2", "1M:-", backing=template, backing_format="qcow2")
    return overlay, template, base


def declared(files):
    overlay, template, base = map(str, files)
    below = ImageSource(template, ImageFormat.QCOW2, (ImageSource(base, ImageFormat.RAW),))
    return planned_overlay(plans.guest_plan(overlay_path=overlay), below)


def test_the_whole_chain(files):
    source = declared(files)
    assert (source.path, source.format) == (str(files[0]), ImageFormat.QCOW2)
    assert [each.path for each in source.backing] == [str(path) for path in files[1:]]
    assert current_overlay(source) == source


def test_flattened(files):
    notation.run("qemu-img", "rebase", "-f", "qcow2", "-b", "", str(files[0]))
    assert current_overlay(declared(files)).backing == ()


@pytest.mark.parametrize("what", ["missing", "garbage"])
def test_whoever_opens_it_says_what_is_wrong(files, what):
    files[0].unlink()
    if what == "garbage":
        files[0].write_bytes(b"garbage")
    assert current_overlay(declared(files)) == declared(files)


@pytest.mark.parametrize("snapshots", [0, 1, 2])
@pytest.mark.parametrize("bitmaps", [0, 1, 2])
def test_losses(files, snapshots, bitmaps):
    path = str(files[0])
    for number in range(snapshots):
        notation.run("qemu-img", "snapshot", "-c", f"s{number}", path)
    for number in range(bitmaps):
        notation.run("qemu-img", "bitmap", "--add", "-f", "qcow2", path, f"b{number}")
    words = {
        Loss.SNAPSHOTS: ["", "1 internal snapshot", "2 internal snapshots"][snapshots],
        Loss.BITMAPS: ["", "1 persistent bitmap", "2 persistent bitmaps"][bitmaps],
    }
    there = {loss: text for loss, text in words.items() if text}
    overlay = ImageSource(path, ImageFormat.QCOW2)
    assert counted_losses(overlay) == there
    check_losses("vm", overlay, frozenset(Loss))
    for allowed in (frozenset(), *(frozenset({loss}) for loss in Loss)):
        left = [loss for loss in there if loss not in allowed]
        if not left:
            check_losses("vm", overlay, allowed)
            continue
        with pytest.raises(GuestError) as caught:
            check_losses("vm", overlay, allowed)
        assert " and ".join(there[loss] for loss in left) in caught.value.why
        flags = " ".join(f"--allow-loss {loss}" for loss in there)  # else it would be refused for the other loss
        assert f"`batchdiff restore PLAN --guest vm {flags}`" in caught.value.remedy


def test_what_cannot_be_read_may_have_any(files):
    files[0].write_bytes(b"garbage")
    with pytest.raises(ImageError):
        check_losses("vm", declared(files), frozenset(Loss))


def test_a_raw_image_gets_back_all_it_had():
    assert not_given_back(ImageSource("/vm.img", ImageFormat.RAW)) == []
    assert "uncompressed" in not_given_back(ImageSource("/vm.qcow2", ImageFormat.QCOW2))[0]
    encrypted = ImageSource("/vm.qcow2", ImageFormat.QCOW2, secret_file="/secret")
    assert [words.partition(",")[0] for words in not_given_back(encrypted)] == [
        "it will be qcow2 version 3 with clusters of 64 KiB",
        "it will be encrypted with aes-256 in xts mode and have one key slot",
    ]
