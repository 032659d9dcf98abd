import contextlib
import errno
import os
import sys
from contextlib import closing

import encrypted
import notation
import plans
import pytest
from commands import rarely
from disk_cases import layers
from filesystems import look_again, mounted
from oracle import source

from batchdiff.applying.checks import space
from batchdiff.applying.checks.space import Room, check_space, check_space_for_image, free_bytes, standalone_bytes
from batchdiff.applying.writer.standalone import write_standalone
from batchdiff.choices import Retire
from batchdiff.errors import GuestError
from batchdiff.image.open import open_image
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.units import GIB, KIB, MIB


def guest(folder, name="web01", overlay_folder=None, **savings):
    path = folder / f"{name}.img"
    path.touch()
    target = str((overlay_folder or folder) / f"{name}.qcow2")
    return plans.guest_plan(name, path=str(path), overlay_path=target, savings=plans.savings(**savings))


@pytest.fixture
def free(tmp_path):
    return free_bytes(tmp_path)


def test_nothing_to_write():
    check_space([], Retire.KEEP)


def test_there_is_room(tmp_path):
    check_space([guest(tmp_path, overlay=MIB)], Retire.KEEP)


def test_there_is_none(tmp_path, free):
    with pytest.raises(GuestError, match="not enough space") as caught:
        check_space([guest(tmp_path, overlay=free + GIB)], Retire.KEEP)
    assert str(tmp_path) in str(caught.value)
    assert caught.value.remedy == "Make room first."


def test_all_overlays_together_count(tmp_path, free):
    guests = [guest(tmp_path, f"web{number}", overlay=free // 3 + GIB) for number in range(3)]
    check_space(guests[:1], Retire.KEEP)
    with pytest.raises(GuestError, match="choose fewer guests with `--guest`"):
        check_space(guests, Retire.KEEP)
    with pytest.raises(GuestError):
        check_space(guests, Retire.QUARANTINE)


@pytest.mark.parametrize("retire", Retire)
def test_what_an_interrupted_apply_left_is_not_needed_once_more(tmp_path, retire, monkeypatch):
    """Its temporary files are discarded, or used, when the guests' turns come."""
    names = ("web0", "web1")
    for name in names:
        (tmp_path / f"{name}.temporary").write_bytes(b"x" * 8 * MIB)
    left = {name: (str(tmp_path / f"{name}.temporary"),) for name in names}
    free = free_bytes(tmp_path)
    monkeypatch.setattr(space, "free_bytes", lambda _folder: free)  # other tests write here, too
    guests = [guest(tmp_path, name, overlay=free // 2 + 6 * MIB) for name in names]
    check_space(guests, retire, unfinished=left)
    with pytest.raises(GuestError):
        check_space(guests, retire)
    with pytest.raises(GuestError):
        check_space(guests, retire, unfinished={"web0": left["web0"], "web1": (str(tmp_path / "gone"),)})


def test_what_a_deletion_gives_back_counts_for_the_next(tmp_path, free):
    changes = {"overlay": free // 4, "allocated": free}
    guests = [guest(tmp_path, f"web{number}", **changes) for number in range(6)]
    check_space(guests, Retire.DELETE)
    with pytest.raises(GuestError):
        check_space(guests, Retire.QUARANTINE)


@pytest.mark.parametrize(("asked", "jobs"), [(1, 1), (2, 2), (3, 2), (64, 2)])
def test_fewer_guests_at_once_if_there_is_no_space_for_more(tmp_path, free, asked, jobs):
    """Three overlays fit: two beside their originals, and one whose original has just been deleted."""
    changes = {"overlay": free // 7 * 2, "allocated": free}
    guests = [guest(tmp_path, f"web{number}", **changes) for number in range(6)]
    assert check_space(guests, Retire.DELETE, jobs=asked) == Room(jobs, "" if asked == jobs else str(tmp_path))


def test_fewer_at_once_do_not_help_if_no_original_goes(tmp_path, free):
    guests = [guest(tmp_path, f"web{number}", overlay=free // 5 * 2) for number in range(3)]
    for retire in (Retire.KEEP, Retire.QUARANTINE):
        assert check_space(guests[:2], retire, jobs=8) == Room(8)
        with pytest.raises(GuestError, match="not enough space"):
            check_space(guests, retire, jobs=8)


def test_a_single_guest_for_which_there_is_no_space(tmp_path, free):
    with pytest.raises(GuestError, match="not enough space"):
        check_space([guest(tmp_path, overlay=free + GIB)], Retire.DELETE, jobs=8)


def test_the_error_of_an_estimate_counts(tmp_path, free):
    with pytest.raises(GuestError):
        check_space([guest(tmp_path, overlay=MIB, error=free)], Retire.KEEP)


def test_each_filesystem_for_itself(tmp_path, free):
    """Overlays on a full filesystem: what the originals' one has, or gets back, is of no use there."""
    with mounted(tmp_path, "ext4", 16 * MIB) as small:
        changes = {"overlay": 8 * MIB, "allocated": GIB}
        guests = [guest(tmp_path, f"web{number}", small, **changes) for number in range(2)]
        check_space(guests[:1], Retire.KEEP)
        with pytest.raises(GuestError, match=str(small)):
            check_space(guests, Retire.DELETE)
        check_space([guests[0], guest(tmp_path, overlay=free // 2)], Retire.KEEP)


def test_a_folder_that_is_gone_is_that_guests_failure(tmp_path):
    """It is said when its turn comes; the others must not be kept from theirs."""
    (tmp_path / "there").mkdir()
    lost = guest(tmp_path, overlay_folder=tmp_path / "gone", overlay=MIB)
    check_space([lost, guest(tmp_path / "there", overlay=MIB)], Retire.KEEP)


# An image that is rebuilt from an overlay.

FEW = 1100 * KIB
"""What is allowed for header, tables and rounding."""


def overlay_in(folder, template="8M:A 4M:B 4M:-", overlay="4M:- 4M:X 4M:0 2M:- 1M:y 1M:-"):
    """An overlay on a template: 4 MiB of its own, 1 MiB compressed, 4 MiB of zeros; 4 MiB of the template show."""
    below = notation.write_raw(folder / "template.img", template)
    return notation.write_qcow2(folder / "vm.qcow2", overlay, backing=below), below


def estimate(overlay, below, folder, form=ImageFormat.QCOW2):
    with closing(open_image(source(overlay, below))) as image:
        return standalone_bytes(image, str(folder), ImageSource("", form))


def really_taken(overlay, below, folder, form):
    """By how much less is free on the filesystem once the image is there."""
    with closing(open_image(source(overlay, below))) as image:
        os.sync()
        before = free_bytes(str(folder))
        path = folder / "rebuilt"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            write_standalone(fd, image, ImageSource(str(path), form), image.virtual_size, check=lambda: None)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.sync()
        return before - free_bytes(str(folder))


@pytest.mark.parametrize("form", [ImageFormat.QCOW2, *rarely(ImageFormat.LUKS)])
def test_what_an_encrypted_image_takes(tmp_path, form):
    """Its header too; and QEMU writes all of a LUKS image, even zeros."""
    overlay, below = overlay_in(tmp_path)
    secret = encrypted.secret_file(tmp_path / "secret")
    raw = tmp_path / "raw"
    notation.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "-S", "0", str(overlay), str(raw))
    made = encrypted.convert(raw, tmp_path / "made", form.value, secret)
    with closing(open_image(source(overlay, below))) as image:
        needed = standalone_bytes(image, str(tmp_path), ImageSource("", form, secret_file=str(secret)))
    taken = made.stat().st_blocks * 512 if form is ImageFormat.QCOW2 else made.stat().st_size
    assert taken <= needed <= taken + 2 * FEW


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
@pytest.mark.parametrize("form", [ImageFormat.RAW, ImageFormat.QCOW2])
def test_what_a_rebuilt_image_takes(tmp_path, kind, form):
    """XFS shares what is not compressed. On btrfs only what others share already is: here the template's part."""
    with mounted(tmp_path, kind) as point:
        overlay, below = overlay_in(point)
        if kind == "btrfs":
            notation.run("cp", "--reflink=always", str(below), str(point / "copy"))
        expected = estimate(overlay, below, point)
        own = {"ext4": 9 * MIB, "xfs": MIB, "btrfs": 5 * MIB}[kind]
        assert own <= expected <= own + FEW
        taken = really_taken(overlay, below, point, form)
        assert taken <= expected
        assert taken >= own - MIB


@pytest.mark.parametrize("form", ["vdi", "vpc", "vmdk", "qed", "parallels"])
def test_what_an_image_takes_that_qemu_writes(tmp_path, form):
    """It shares nothing, not even on XFS, and 4 KiB take a whole cluster."""
    with mounted(tmp_path, "xfs") as point:
        overlay, below = overlay_in(point, "8M:A 16M:-", "12M:- 4k:X 4M:- 4k:Y 4088k:- 4M:-")
        expected = estimate(overlay, below, point, ImageFormat(form))
        assert 8 * MIB < expected < 15 * MIB
        assert really_taken(overlay, below, point, ImageFormat(form)) <= expected


def test_on_another_filesystem_nothing_is_shared(tmp_path):
    with mounted(tmp_path, "xfs") as point:
        overlay, below = overlay_in(point)
        assert 9 * MIB <= estimate(overlay, below, tmp_path) <= 9 * MIB + FEW


def test_only_what_is_on_the_same_filesystem_is_shared(tmp_path):
    """The template is elsewhere: its 4 MiB are copied."""
    with mounted(tmp_path, "xfs") as point:
        overlay, _ = overlay_in(point)
        below = notation.write_raw(tmp_path / "template.img", "8M:A 4M:B 4M:-")
        notation.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", str(below), str(overlay))
        assert 5 * MIB <= estimate(overlay, below, point) <= 5 * MIB + FEW


def test_tables_of_a_large_disk(tmp_path):
    """A qcow2 image of 1 TiB has 160 MiB of tables, however little is in it."""
    overlay, below = overlay_in(tmp_path, "1M:A", f"1M:X {1023 * 1024}M:- 1M:X {1024 * 1024 - 1023 * 1024 - 2}M:-")
    assert estimate(overlay, below, tmp_path) == 2 * MIB + MIB + (1 << 40) // 65536 * 10


def test_an_image_for_which_there_is_no_room(tmp_path):
    """Refused before a byte is written, with what is needed and what is free."""
    with mounted(tmp_path, "ext4", 64 << 20) as point:
        overlay, below = overlay_in(tmp_path)
        with closing(open_image(source(overlay, below))) as image:
            check_space_for_image(image, str(point), "web01", ImageSource("", ImageFormat.RAW))
            with (point / "filler").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, free_bytes(str(point)) - 9 * MIB)
            with pytest.raises(GuestError, match="to rebuild web01") as caught:
                check_space_for_image(image, str(point), "web01", ImageSource("", ImageFormat.RAW))
        assert "10" in caught.value.why
        assert str(point) in str(caught.value)


def test_a_folder_that_is_gone(tmp_path):
    overlay, below = overlay_in(tmp_path)
    with pytest.raises(GuestError, match="cannot examine") as caught:
        estimate(overlay, below, tmp_path / "gone")
    assert caught.value.why == f"{tmp_path / 'gone'}, or a folder above it, does not exist"
    assert caught.value.remedy == "Correct the path, or put back what is missing, then run the same command again."


def test_a_filesystem_that_does_not_answer(monkeypatch):
    def statvfs(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "statvfs", statvfs)
    with pytest.raises(GuestError, match="free space of /x: Input/output error"):
        free_bytes("/x")


def test_the_reserve_of_root_is_for_root(tmp_path, monkeypatch):
    with mounted(tmp_path, "ext4", 64 << 20) as point:
        status = os.statvfs(point)
        assert status.f_bavail < status.f_bfree
        assert status.f_bavail * status.f_frsize < free_bytes(str(point)) < status.f_bfree * status.f_frsize
        with monkeypatch.context() as patch:
            patch.setattr(os, "geteuid", lambda: 65534)
            assert free_bytes(str(point)) == status.f_bavail * status.f_frsize
        code = f"from batchdiff.applying.checks.space import free_bytes; print(free_bytes({str(point)!r}))"
        of_a_container = notation.run("unshare", "--user", "--map-root-user", sys.executable, "-c", code)
        assert int(of_a_container) == status.f_bavail * status.f_frsize
        _fill(point, free_bytes(str(point)))


def test_a_folder_that_vanishes_while_it_is_examined(tmp_path, monkeypatch):
    def vanished(folder):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)

    monkeypatch.setattr(space, "is_root_of_the_host", lambda: True)
    monkeypatch.setattr(space, "_kept_by_ext4", vanished)
    with pytest.raises(GuestError, match=f"^cannot determine the free space of {tmp_path}"):
        space.free_bytes(str(tmp_path))


def test_blocks_that_ext4_reserves_are_not_free(tmp_path):
    """Also where root has no reserve: statvfs counts it as free, but not as available."""
    with mounted(tmp_path, "ext4", 64 << 20, make=("-m", "0")) as point:
        status = os.statvfs(point)
        assert status.f_bavail < status.f_bfree
        assert free_bytes(str(point)) == status.f_bavail * status.f_frsize
        _fill(point, free_bytes(str(point)))


def _fill(point, size):
    """Nearly all of it can be written, and not much more."""
    with (point / "fill").open("wb", buffering=0) as file:
        written, wanted = 0, size + 2 * MIB
        with contextlib.suppress(OSError):
            while written < wanted:
                written += file.write(bytes(64 * KIB))
    written = (point / "fill").stat().st_blocks * 512
    assert size - 512 * KIB <= written <= size + 64 * KIB


def test_the_template_that_is_copied_to_be_protected_counts(tmp_path):
    """In a lower layer of an overlayfs; and only where it will be protected."""
    with layers(tmp_path) as merged:
        (tmp_path / "below" / "t.img").write_bytes(os.urandom(64 * MIB))
        look_again(merged)
        left = [guest(merged, overlay=free_bytes(str(merged)) - 32 * MIB)]
        with open_image(source(merged / "t.img")) as template:
            check_space(left, Retire.KEEP)
            with pytest.raises(GuestError, match="not enough space"):
                check_space(left, Retire.KEEP, template)
            os.chmod(merged / "t.img", 0o444)
            left = [guest(merged, overlay=free_bytes(str(merged)) - 32 * MIB)]
            check_space(left, Retire.KEEP, template)


def test_a_rebuilt_image_in_large_units(tmp_path):
    """ext4 with bigalloc: each of 64 pieces of 4 KiB takes 64 KiB."""
    with mounted(tmp_path, "ext4", make=("-O", "bigalloc", "-C", "65536")) as point:
        overlay, below = overlay_in(tmp_path, "8M:-", "4k:X 124k:- " * 64)
        expected = estimate(overlay, below, point)
        taken = really_taken(overlay, below, point, ImageFormat.RAW)
        assert 4 * MIB <= taken <= expected <= taken + FEW
