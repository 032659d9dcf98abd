"""Which of a guest's files stand where, after everything that administrators and reused inode numbers can do."""

import dataclasses
import os

import plans
import pytest

from batchdiff.applying.guests import guest_files
from batchdiff.applying.guests.guest_files import (
    find_original,
    find_overlay,
    on_disk,
    original_is,
    rebuilt_is_in_place,
)
from batchdiff.applying.journal.records import Fate, Goal, GuestState, History, Step
from batchdiff.errors import GuestError, ImageError
from batchdiff.files.fingerprint import Fingerprint, fingerprint_at

PUBLISHED = GuestState(Step.RETIRED, published=True)


def write(path, content=b"content"):
    path.write_bytes(content)
    return fingerprint_at(str(path))


def guest_of(tmp_path, original, *, in_place=False):
    """A guest whose original has that fingerprint in the plan."""
    path = str(tmp_path / "vm.img")
    image = dataclasses.replace(plans.planned_image(path), fingerprints=(original,))
    return plans.guest_plan(path=path, image=image, overlay_path=path if in_place else str(tmp_path / "vm.qcow2"))


@pytest.mark.parametrize("name", ["vm.img", "vm.img.batchdiff-original", "vm.img.batchdiff-deleting"])
def test_an_unwritten_original_is_proven_wherever_it_is(tmp_path, name):
    known = write(tmp_path / name)
    found = find_original(guest_of(tmp_path, known), PUBLISHED)
    assert (found.path, found.proven) == (str(tmp_path / name), True)


def test_its_mode_may_change(tmp_path):
    known = write(tmp_path / "vm.img")
    os.chmod(tmp_path / "vm.img", 0o600)
    assert find_original(guest_of(tmp_path, known), PUBLISHED).proven


@pytest.mark.parametrize("in_place", [False, True])
def test_a_copy_in_quarantine_counts_by_its_name(tmp_path, in_place):
    """The pool was copied: the inode is another, and content must decide."""
    known = write(tmp_path / "elsewhere")
    write(tmp_path / "vm.img.batchdiff-original")
    found = find_original(guest_of(tmp_path, known, in_place=in_place), PUBLISHED)
    assert (found.path, found.proven) == (str(tmp_path / "vm.img.batchdiff-original"), False)


def test_an_original_that_was_written_to_is_not_proven(tmp_path):
    known = write(tmp_path / "vm.img")
    write(tmp_path / "vm.img", b"other content")
    assert not find_original(guest_of(tmp_path, known), PUBLISHED).proven


def test_what_stands_at_the_own_name_of_an_overlay_is_not_the_original(tmp_path):
    known = write(tmp_path / "elsewhere")
    write(tmp_path / "vm.img")
    guest = guest_of(tmp_path, known, in_place=True)
    assert find_original(guest, PUBLISHED) is None
    assert find_overlay(guest, PUBLISHED).path == str(tmp_path / "vm.img")


def test_an_original_at_its_own_name_is_not_the_overlay(tmp_path):
    known = write(tmp_path / "vm.img")
    guest = guest_of(tmp_path, known, in_place=True)
    assert find_overlay(guest, PUBLISHED) is None
    assert find_original(guest, PUBLISHED).path == str(tmp_path / "vm.img")


def test_two_files_that_could_be_the_disk(tmp_path):
    known = write(tmp_path / "vm.img.batchdiff-original")
    write(tmp_path / "vm.img", b"somebody else's")
    with pytest.raises(GuestError, match="batchdiff-original"):
        find_original(guest_of(tmp_path, known), PUBLISHED)


def test_two_files_that_could_be_the_overlay(tmp_path):
    known = write(tmp_path / "vm.img")
    write(tmp_path / "vm.qcow2")
    write(tmp_path / "vm.qcow2.batchdiff-deleting")
    with pytest.raises(GuestError, match="batchdiff-deleting"):
        find_overlay(guest_of(tmp_path, known), PUBLISHED)


def test_before_it_was_published_only_the_verified_file_is_the_overlay(tmp_path):
    known = write(tmp_path / "vm.img")
    verified = write(tmp_path / "vm.qcow2")
    guest = guest_of(tmp_path, known)
    assert find_overlay(guest, GuestState(Step.VERIFIED, overlay=verified)).proven
    assert find_overlay(guest, GuestState(Step.CHECKED)) is None
    other = dataclasses.replace(verified, inode=verified.inode + 1)
    assert find_overlay(guest, GuestState(Step.VERIFIED, overlay=other)) is None
    assert not find_overlay(guest, GuestState(Step.PUBLISHED, overlay=other, published=True)).proven


def test_the_verified_file_is_the_overlay_also_if_its_vm_ran_before_apply_noted_that_it_was_published(tmp_path):
    known = write(tmp_path / "vm.img")
    verified = dataclasses.replace(write(tmp_path / "vm.qcow2"), mtime_ns=1)
    found = find_overlay(guest_of(tmp_path, known), GuestState(Step.VERIFIED, overlay=verified))
    assert (found.path, found.proven) == (str(tmp_path / "vm.qcow2"), False)


def test_a_guest_that_had_its_name_back_before_the_overlay_was_unlinked_is_no_overlay(tmp_path):
    """A restore in place died between the unlink and its note; then the VM wrote to the guest."""
    guest = guest_of(tmp_path, write(tmp_path / "elsewhere"), in_place=True)
    write(tmp_path / "vm.img", b"its VM ran")
    state = dataclasses.replace(PUBLISHED, goal=Goal.RESTORE, deleting=True)
    assert find_overlay(guest, state) is None
    assert find_original(guest, state).path == str(tmp_path / "vm.img")


@pytest.mark.parametrize("kind", ["link", "folder"])
@pytest.mark.parametrize("name", ["vm.qcow2", "vm.img", "vm.img.batchdiff-original"])
def test_links_and_folders_are_not_guest_files(tmp_path, name, kind):
    """Not even at the original's own path: a link there may lead to the overlay, for the VM's definition."""
    known = write(tmp_path / "target")
    if kind == "link":
        (tmp_path / name).symlink_to(tmp_path / "target")
    else:
        (tmp_path / name).mkdir()
    guest = guest_of(tmp_path, dataclasses.replace(known, inode=known.inode + 1))
    assert find_overlay(guest, PUBLISHED) is None
    assert find_original(guest, PUBLISHED) is None


def test_a_block_device_is_an_original(tmp_path, monkeypatch):
    """A link to it is its name."""
    device, real = Fingerprint(1, 0, 4096, 0, 0), guest_files.fingerprint_at
    guest = guest_of(tmp_path, device)
    (tmp_path / "vm.img").symlink_to("/dev/null")
    monkeypatch.setattr(
        guest_files, "fingerprint_at", lambda path: device if path.endswith("vm.img") else real(path)
    )
    assert find_original(guest, PUBLISHED).path == str(tmp_path / "vm.img")


@pytest.mark.parametrize("rebuilt", ["as it was", "renamed since", "another one"])
def test_a_rebuilt_image_is_not_the_original(tmp_path, rebuilt):
    """Filesystems use the inode numbers of deleted files again, so an image may have that of the original."""
    there = write(tmp_path / "vm.img")
    original = dataclasses.replace(there, size=100, mtime_ns=1)
    known = {
        "as it was": there,
        "renamed since": dataclasses.replace(there, ctime_ns=2),
        "another one": dataclasses.replace(there, size=3),
    }[rebuilt]
    state = dataclasses.replace(PUBLISHED, rebuilt=known)
    guest = guest_of(tmp_path, original)
    is_rebuilt = rebuilt != "another one"
    assert rebuilt_is_in_place(guest, state) is is_rebuilt
    assert (find_original(guest, state) is None) is is_rebuilt


def test_only_an_original_that_is_unwritten_is_as_it_was(tmp_path):
    path = str(tmp_path / "vm.img")
    guest = guest_of(tmp_path, write(tmp_path / "vm.img"))
    assert original_is(path, guest.image) == f", as it was before the conversion, is {path}"
    write(tmp_path / "vm.img", b"written")
    os.utime(path, ns=(0, 0))
    changed = f", which has changed since it was planned, is {path}"
    assert original_is(path, guest.image) == changed


def test_a_part_of_an_original_counts_too(tmp_path):
    path, part = str(tmp_path / "vm.img"), tmp_path / "vm.data"
    image = guest_of(tmp_path, write(tmp_path / "vm.img")).image
    source = dataclasses.replace(image.source, other_files=(str(part),))
    image = dataclasses.replace(image, source=source, fingerprints=(*image.fingerprints, write(part)))
    assert original_is(path, image).startswith(", as it was")
    os.utime(part, ns=(0, 0))
    assert original_is(path, image).startswith(", which has changed since it was planned")
    part.unlink()
    assert original_is(path, image).startswith(", which has changed since it was planned")


def test_nothing_shows_whether_a_block_device_is_as_it_was(tmp_path, monkeypatch):
    device = Fingerprint(1, 0, 4096, 0, 0)
    monkeypatch.setattr("batchdiff.applying.guests.guest_files.fingerprint_at", lambda _path: device)
    assert original_is("/dev/vg/vm", guest_of(tmp_path, device).image) == " is /dev/vg/vm"


def test_what_to_do_if_two_files_could_be_the_original(tmp_path):
    guest = guest_of(tmp_path, write(tmp_path / "vm.img.batchdiff-original"))
    write(tmp_path / "vm.img")
    there = on_disk(plans.small_plan(guest), History({guest.name: PUBLISHED}))[guest.name]
    assert there.doubt.startswith(f"move one away: both {tmp_path}/vm.img and ")
    assert (there.overlay, there.original) == (None, None)


def test_a_file_that_cannot_be_examined_is_not_missing(tmp_path):
    """No filesystem has names that long, so nothing can be said of the file."""
    folder = tmp_path / ("x" * 300)
    guest = guest_of(folder, Fingerprint(1, 2, 3, 4, 5))
    for find in (find_original, find_overlay):
        with pytest.raises(ImageError, match=f"cannot examine {folder}/vm"):
            find(guest, PUBLISHED)
    assert find_original(guest, dataclasses.replace(PUBLISHED, fate=Fate.DELETED)) is None, "it was deleted"
    there = on_disk(plans.small_plan(guest), History({guest.name: PUBLISHED}))[guest.name]
    assert there.doubt.startswith(f"fix this first: cannot examine {folder}/vm.qcow2: ")
