"""Which image a VM must use, by the journal. Guards definitions/guest_disks.py."""

from dataclasses import replace

import notation
import pytest
from plans import guest_plan, refused_guest, small_plan

from batchdiff.applying.journal.records import Goal, GuestState, History, Step
from batchdiff.definitions.guest_disks import BackingImage, VmImage, guest_disks
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.plan.overlay_options import BackingPath, Encryption, OverlayOptions

TEMPLATE = "/srv/images/template.qcow2"
CHAIN = (BackingImage(TEMPLATE, "qcow2"),)
ORIGINAL = VmImage("/srv/clones/web01.img", "raw", chain=())
OVERLAY = VmImage("/srv/clones/web01.qcow2", "qcow2", TEMPLATE, CHAIN)

PUBLISHED = GuestState(Step.PUBLISHED, published=True)
BACK = GuestState(Step.RESTORED, goal=Goal.RESTORE)
RESTORING = GuestState(Step.WRITTEN, goal=Goal.RESTORE, published=True)


def disk(*state, guest=None):
    history = History(states={"web01": state[0]} if state else {})
    (found,) = guest_disks(small_plan(guest or guest_plan("web01"), refused_guest("old")), history)
    return found


@pytest.mark.parametrize(
    ("state", "now", "planned", "unfinished"),
    [
        ((), ORIGINAL, OVERLAY, ""),
        ((GuestState(Step.CHECKED),), ORIGINAL, OVERLAY, ""),
        ((GuestState(Step.PUBLISHED, published=True),), OVERLAY, None, ""),
        ((GuestState(Step.PURGED, goal=Goal.PURGE, published=True),), OVERLAY, None, ""),
        (
            (GuestState(Step.WRITTEN, goal=Goal.RESTORE, published=True),),
            OVERLAY,
            None,
            "its restore has not finished",
        ),
        ((GuestState(Step.RESTORED, goal=Goal.RESTORE),), ORIGINAL, None, ""),
        ((GuestState(Step.WRITTEN, goal=Goal.APPLY),), ORIGINAL, OVERLAY, ""),
    ],
)
def test_by_the_journal(state, now, planned, unfinished):
    found = disk(*state)
    assert (found.now, found.planned, found.unfinished) == (now, planned, unfinished)


def test_it_is_known_by_all_its_names():
    found = disk(guest=guest_plan("web01", alias="/etc/links/web01.img"))
    assert {"/srv/clones/web01.img", "/srv/clones/web01.qcow2", "/etc/links/web01.img"} <= found.known_as


def test_in_place_of_a_link_the_link_stays_the_name():
    found = disk(guest=guest_plan("web01", alias="/links/web01", overlay_path="/srv/clones/web01.img"))
    assert (found.now.path, found.planned) == ("/links/web01", VmImage("/links/web01", "qcow2", TEMPLATE, CHAIN))


def test_what_is_below_a_restored_image_is_not_known():
    """Restore may have rebuilt an image that had a backing file without one."""
    source = replace(
        guest_plan().source, format=ImageFormat.QCOW2, backing=(ImageSource("/b.img", ImageFormat.RAW),)
    )
    assert disk(BACK, guest=guest_plan("web01", source=source)).now.chain is None


@pytest.mark.parametrize("is_rebuilt", [False, True])
def test_an_image_that_restore_rebuilt_is_no_linked_clone(tmp_path, is_rebuilt):
    """Proxmox VE reads the header; a plan has the backing file of the original."""
    (tmp_path / "images" / "101").mkdir(parents=True)
    (tmp_path / "images" / "9000").mkdir()
    base = notation.write_raw(tmp_path / "images" / "9000" / "base-9000-disk-0.raw", "64k:A")
    path = tmp_path / "images" / "101" / "vm-101-disk-0.qcow2"
    notation.write_qcow2(path, "64k:B", **({} if is_rebuilt else {"backing": base, "backing_format": "raw"}))
    below = (ImageSource(str(base), ImageFormat.RAW),)
    now = disk(BACK, guest=guest_plan("web01", source=ImageSource(str(path), ImageFormat.QCOW2, below))).now
    expected = ("", ()) if is_rebuilt else ("../9000/base-9000-disk-0.raw", None)
    assert (now.backing_name, now.chain) == expected


def test_the_definition_of_an_encrypted_guest_is_left_to_the_operator():
    source = replace(guest_plan().source, secret_file="/srv/keys/web01")
    found = disk(GuestState(Step.PUBLISHED, published=True), guest=guest_plan("web01", source=source))
    assert (found.unfinished, found.by_hand) == (
        "",
        "its overlay is not encrypted, unlike the original: remove the secret from the VM's definition",
    )
    assert disk(BACK, guest=guest_plan("web01", source=source)).by_hand == (
        "the original is encrypted, so the VM's definition needs a secret"
    )


def test_so_is_that_of_an_encrypted_overlay():
    """The secret is needed for the overlay, and must go with it."""
    guest = guest_plan("web01", options=OverlayOptions(encryption=Encryption("/srv/keys/web01")))
    needed = "its overlay is encrypted, so the VM's definition needs a secret"
    assert disk(guest=guest).by_hand == disk(PUBLISHED, guest=guest).by_hand == needed
    assert disk(BACK, guest=guest).by_hand == (
        "the restored image is not encrypted, unlike its overlay: remove the secret from the VM's definition"
    )


def test_only_the_images_that_are_encrypted_are_named():
    plan = small_plan(guest_plan("web01"))
    base = ImageSource("/srv/base.qcow2", ImageFormat.QCOW2, secret_file="/srv/keys/base")
    top = replace(plan.template.source, backing=(base,))
    (found,) = guest_disks(replace(plan, template=replace(plan.template, source=top)), History())
    assert found.by_hand == (
        "the backing file /srv/base.qcow2 is encrypted, so the VM's definition needs a secret"
    )
    both = replace(top, secret_file="/srv/keys/template")
    (found,) = guest_disks(replace(plan, template=replace(plan.template, source=both)), History())
    assert found.by_hand == (
        "the template and the backing file /srv/base.qcow2 are encrypted, so the VM's definition needs their"
        " secrets"
    )


def test_who_was_given_back_gets_no_overlay():
    """Until a later plan is to convert the guest again."""
    plan = small_plan(guest_plan("web01"))
    history = History(restored={"web01": "2099-01-01T00:00:00.000Z"})
    (found,) = guest_disks(plan, history)
    assert (found.now, found.planned) == (ORIGINAL, None)
    (found,) = guest_disks(replace(plan, created="2099-01-01T00:00:01Z"), history)
    assert (found.now, found.planned) == (ORIGINAL, OVERLAY)


def test_the_names_of_backing_files():
    """Proxmox VE knows a linked clone by that; its own clones have relative names."""
    base = ImageSource("/s/images/9000/base-9000-disk-0.raw", ImageFormat.RAW)
    thin = ImageSource("/s/images/101/vm-101-disk-0.qcow2", ImageFormat.QCOW2, (base,))
    assert disk(guest=guest_plan("web01", source=thin)).now.backing_name == "../9000/base-9000-disk-0.raw"
    elsewhere = replace(thin, backing=(replace(base, path="/t/base.raw"),))
    assert disk(guest=guest_plan("web01", source=elsewhere)).now.backing_name == "/t/base.raw"
    relative = OverlayOptions(backing_path=BackingPath.RELATIVE)
    assert disk(guest=guest_plan("web01", options=relative)).planned.backing_name == "../images/template.qcow2"


def test_luks_is_raw_to_libvirt():
    source = replace(guest_plan().source, format=ImageFormat.LUKS, secret_file="/srv/keys/web01")
    assert disk(guest=guest_plan("web01", source=source)).now.format == "raw"
