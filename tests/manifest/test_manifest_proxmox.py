"""``overlay: {layout: proxmox}`` in manifests.

Guards manifest/names.py, managers/manifest_keys.py.
"""

import os

import notation
import pytest
from manifest_texts import guests, make, named, problems, read, write

from batchdiff.errors import ManifestError
from batchdiff.manifest.selection import read_selected
from batchdiff.plan.overlay_options import BackingPath

BASE = "images/9000/base-9000-disk-0.qcow2"
HEAD = f"version: 1\ntemplate: {{path: {BASE}, format: qcow2}}\n"
LAYOUT = "defaults: {format: raw, overlay: {layout: proxmox}}\n"
RETIRE = "retire: quarantine\n"


@pytest.fixture
def storage(tmp_path, monkeypatch):
    """A folder like /var/lib/vz."""
    monkeypatch.chdir(tmp_path)
    for vmid in ("9000", "101", "102"):
        os.makedirs(f"images/{vmid}")
    make(BASE, "images/101/vm-101-disk-0.raw", "images/102/vm-102-disk-0.qcow2", "images/9000/web.img", "web.img")
    return str(tmp_path)


def laid_out(*items, tail=LAYOUT):
    return guests(*items, head=HEAD, tail=tail)


def own(path, keys=""):
    return f"{{path: {path}, format: raw, overlay: {{layout: proxmox{keys}}}}}"


def test_a_glob_of_all_disks(storage):
    found = read(laid_out('{glob: "images/*/vm-*.*"}', tail=LAYOUT + RETIRE))
    assert named(found, storage) == {
        "vm-101-disk-0": "images/101/vm-101-disk-0.qcow2",
        "vm-102-disk-0": "images/102/vm-102-disk-0.qcow2",
    }
    assert [guest.in_place for guest in found.guests] == [False, True]
    assert {guest.options.backing_path for guest in found.guests} == {BackingPath.RELATIVE}


def test_an_image_from_elsewhere(storage):
    (guest,) = read(laid_out(own("web.img", ", vmid: 101, disk: 1"), tail="")).guests
    assert guest.overlay_path == f"{storage}/images/101/vm-101-disk-1.qcow2"
    (problem,) = problems(laid_out(own("web.img", ", vmid: 103, disk: 0"), tail=""))
    assert f"mkdir -p {storage}/images/103" in problem


@pytest.mark.parametrize("occupy", [make, os.mkdir], ids=["file", "folder"])
def test_an_overlay_that_exists(storage, occupy):
    """The advice names the key that gives the overlay its path, also if only some guests are chosen."""
    occupy("images/101/vm-101-disk-0.qcow2")
    text = laid_out(own("images/101/vm-101-disk-0.raw"), tail="")
    (problem,) = problems(text)
    with pytest.raises(ManifestError) as caught:
        read_selected(write(text), ["vm-101-disk-0"])
    for each in (problem, caught.value.what):
        assert each.endswith("leave the guest out, or give it another overlay.disk")


def test_an_overlay_that_cannot_become_thinner_elsewhere(storage):
    """The advice names the key that gives the overlay its path."""
    base = ("-b", f"{storage}/{BASE}", "-F", "qcow2")
    notation.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", *base, "thin.qcow2", "1M")
    item = own("thin.qcow2", ", vmid: 101, disk: 1").replace("format: raw", "format: qcow2, rethin: true")
    (problem,) = problems(laid_out(item, tail=RETIRE))
    assert "leave overlay.layout out, or write `rethin: false` in its entry" in problem


def test_a_path_of_its_own_replaces_the_default_layout(storage):
    text = laid_out("{path: web.img, overlay: {path: thin.qcow2}}")
    (guest,) = read(text).guests
    assert (guest.overlay_path, guest.options.backing_path) == (f"{storage}/thin.qcow2", BackingPath.ABSOLUTE)


@pytest.mark.parametrize(
    ("item", "where", "what"),
    [
        (own("images/101/vm-101-disk-0.raw", ", vmid: 102"), "guests[0].overlay.vmid", "write `vmid: 101`"),
        (own("web.img", ", vmid: 9000, disk: 1"), "guests[0].overlay.vmid", "VM 9000 is the template's own"),
        (own("images/9000/web.img", ", vmid: 9000, disk: 1"), "guests[0].path", "moved it out of that folder"),
        (own("images/9000/web.img", ", vmid: 101, disk: 1"), "guests[0].path", "moved it out of that folder"),
        (own("web.img", ", vmid: 99, disk: 1"), "guests[0].overlay.vmid", "99 is below 100"),
        (own("web.img", ", vmid: 101"), "guests[0].path", "write `disk: N`"),
        (own("web.img", ", vmid: 101, disk: 0, path: x.qcow2"), "guests[0].overlay.path", "leave out either"),
        (own("web.img", ", vmid: 101, disk: 0, backing_path: absolute"), "backing_path", "leave backing_path out"),
        (own("web.img", ", vmid: 101, disk: 0, format: qed"), "guests[0].overlay.format", "is a qcow2 image"),
        (own("web.img").replace("layout: proxmox", "disk: 0"), "guests[0].overlay.disk", "`layout: proxmox`"),
        (own("web.img").replace("proxmox", "ovirt"), "guests[0].overlay.layout", "expected proxmox, found"),
        ('{glob: "*.img", format: raw, overlay: {layout: proxmox, vmid: 101}}', "overlay.vmid", "not with glob"),
        (
            '{glob: "*.img", format: raw, overlay: {layout: proxmox}}',
            "guests[0].glob",
            "`exclude` it, or list it by",
        ),
        (own("images/102/vm-102-disk-0.qcow2"), "guests[0].path", "`retire: keep` (the default) leaves"),
    ],
)
def test_what_is_wrong_and_what_to_write(storage, item, where, what):
    found = problems(laid_out(item, tail=""))
    assert any(where in problem and what in problem for problem in found), found


def test_the_template_must_be_a_base(storage):
    os.rename(BASE, "images/9000/vm-9000-disk-0.qcow2")
    (problem,) = problems(
        laid_out("{path: images/101/vm-101-disk-0.raw}").replace(BASE, "images/9000/vm-9000-disk-0.qcow2")
    )
    assert "template.path: " in problem
    assert "run `qm template 9000`" in problem


def test_another_storage(storage):
    os.makedirs("other/images/101")
    make("other/images/101/vm-101-disk-0.raw")
    (problem,) = problems(laid_out("{path: other/images/101/vm-101-disk-0.raw}"))
    assert f"it is in {storage}/other/images, not in the template's storage" in problem
    assert "write both `vmid` and `disk`" in problem


def test_two_guests_with_one_disk(storage):
    both = (own("web.img", ", vmid: 101, disk: 0"), own("images/101/vm-101-disk-0.raw"))
    (problem,) = problems(laid_out(*both, tail=""))
    assert "have the same overlay" in problem
    assert "give one of them another overlay.disk" in problem


def test_an_overlay_that_exists_is_not_replaced(storage):
    make("images/101/vm-101-disk-0.qcow2")
    (problem,) = problems(laid_out("{path: images/101/vm-101-disk-0.raw}"))
    assert "already exists" in problem
    assert "give it another overlay.disk" in problem


def test_a_glob_does_not_take_the_place_of_an_overlay_for_a_guest(storage):
    make("images/101/vm-101-disk-1.qcow2")
    both = (own("web.img", ", vmid: 101, disk: 1"), "{glob: images/101/*}")
    (problem,) = problems(laid_out(*both))
    assert "vm-101-disk-1.qcow2" in problem
    assert "already exists" in problem
    os.unlink("images/101/vm-101-disk-1.qcow2")
    assert len(read(laid_out(*both)).guests) == 2


@pytest.mark.parametrize("name", ["vm-101-disk-0.raw", "vm-101-disk-1.qcow2"])
def test_the_folder_of_a_vm_that_is_a_link(storage, name):
    """The relative name ../9000/base-9000-disk-0.qcow2 would lead nowhere from its target."""
    os.makedirs("fast")
    make(f"images/101/{name}")
    os.rename("images/101", "fast/101")
    os.symlink("../fast/101", "images/101")
    form = name.rpartition(".")[2]
    (problem,) = problems(laid_out(f"{{path: images/101/{name}, format: {form}}}", tail=LAYOUT + RETIRE))
    link, target = f"{storage}/images/101", f"{storage}/fast/101"
    assert f'"{link}" is a symbolic link to "{target}"' in problem
    assert f"`rm {link} && mv {target} {link}`" in problem
    assert f"mount --bind {target} {link}`" in problem
    os.unlink(link)
    os.rename(target, link)
    assert len(read(laid_out(f"{{path: images/101/{name}, format: {form}}}", tail=LAYOUT + RETIRE)).guests) == 1


def test_a_link_cannot_be_replaced_by_a_linked_clone(storage):
    os.rename("images/102/vm-102-disk-0.qcow2", "far.qcow2")
    os.symlink("../../far.qcow2", "images/102/vm-102-disk-0.qcow2")
    (problem,) = problems(laid_out("{path: images/102/vm-102-disk-0.qcow2}", tail=LAYOUT + RETIRE))
    assert f"mv {storage}/far.qcow2 {storage}/images/102/vm-102-disk-0.qcow2" in problem
