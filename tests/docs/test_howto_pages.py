"""The how-to pages, command by command, each on a small fleet of its own: what a page promises has happened.

docs/moving.md, new-template.md, recipes.md and others have modules of their own.
"""

import json
import os

import notation
import pytest
from commands import run_here
from domains import domain_xml, embedded_libvirt
from filesystems import mounted
from oracle import assert_same
from page_runner import PageRunner, page_fences

TEMPLATE = "2M:A 1M:- 1M:B"
GUESTS = {
    "web01": "64k:X 1984k:A 1M:- 1M:B",
    "web02": "2M:A 64k:Y 960k:- 1M:B",
    "web03": "2M:A 512k:Z 512k:- 1M:B",
    "web04": "2M:A 1M:- 1M:B",
}
FLEET = """\
version: 1
template: {path: debian-12.img, format: raw}
defaults: {format: raw}
guests: [{glob: clones/*.img}]
"""


@pytest.fixture
def page(tmp_path):
    """A machine with /images: a template, and four copies of it in a folder."""
    page = PageRunner(tmp_path, "/backup")
    fill(page)
    return page


def fill(page):
    (page.images / "clones").mkdir()
    notation.write_raw(page.images / "debian-12.img", TEMPLATE)
    for name, text in GUESTS.items():
        notation.write_raw(page.images / "clones" / f"{name}.img", text)
    page.write("fleet.yaml", FLEET)


def planned(page):
    run_here("plan", page.images / "fleet.yaml", "-q", "-j", 1)


def applied(page, retire="quarantine"):
    planned(page)
    run_here("apply", page.images / "fleet.plan.json", "-q", "--verify", "native", "--retire", retire)


def vm_writes(page, name):
    """The VM has run on its overlay."""
    notation.run(
        "qemu-io", "-f", "qcow2", "-c", "write -P 77 3M 64k", str(page.images / "clones" / f"{name}.qcow2")
    )


def assert_overlay(path, text):
    assert_same(notation.qemu_content(path, "qcow2"), notation.content(text))


def test_one_vm(page):
    plan, apply, purge = page_fences("one-vm", "sh")
    (manifest,) = page_fences("one-vm", "yaml")
    notation.write_raw(page.images / "web01.img", GUESTS["web01"])
    page.write("web01.yaml", manifest)
    assert "will write 1 overlay" in " ".join(page.run(plan).split())
    page.run(apply)
    assert "change the VM's definition: /images/web01.img (raw) -> /images/web01.qcow2 (qcow2)" in page.messages
    assert (page.images / "web01.img.batchdiff-original").exists()
    page.run(purge)
    assert not (page.images / "web01.img.batchdiff-original").exists()
    assert_overlay(page.images / "web01.qcow2", GUESTS["web01"])


def test_a_hundred_vms_and_small_savings(page):
    plan, review, first, others, free = page_fences("many-vms", "sh")
    (manifest,) = page_fences("many-vms", "yaml")
    clones = page.images / "clones"
    for name in GUESTS:
        (clones / f"{name}.img").rename(clones / f"{name.replace('web', 'web0')}.img")
    (clones / "web004.img").unlink()
    notation.write_raw(clones / "old-a.img", "1M:Q")
    page.write("fleet.yaml", manifest)
    assert "3 of 3" in page.run(plan)
    assert "web001" in page.run(review)
    assert "<!DOCTYPE html>" in (page.images / "fleet.html").read_text()
    small, sizes = page_fences("small-savings", "sh")
    page.run(small)
    assert json.loads(page.run(sizes))["65536"] > 0
    page.run(first)
    assert [path.name for path in clones.glob("*.qcow2")] == ["web001.qcow2"]
    assert "web003" in page.run(others)
    vm = clones / "web002.qcow2"
    notation.run("qemu-io", "-f", "qcow2", "-c", "write -P 77 3M 64k", str(vm))
    page.run(free)
    assert sorted(path.name for path in clones.iterdir()) == [
        "old-a.img",
        *(f"web00{n}.qcow2" for n in range(1, 4)),
    ]


def test_under_the_same_names(page):
    convert, free = page_fences("in-place", "sh")
    (manifest,) = page_fences("in-place", "yaml")
    clones = page.images / "clones"
    notation.write_qcow2(page.images / "debian-12.qcow2", TEMPLATE)
    for name, text in GUESTS.items():
        notation.write_qcow2(clones / f"{name}.qcow2", text)
        (clones / f"{name}.img").unlink()
    page.write("fleet.yaml", manifest)
    page.run(convert)
    assert (clones / "web01.qcow2.batchdiff-original").exists()
    page.run(free)
    assert sorted(path.stem for path in clones.iterdir()) == sorted(GUESTS)
    for name, text in GUESTS.items():
        assert_overlay(clones / f"{name}.qcow2", text)


def test_undo(page):
    one, before, fleet, without = page_fences("undo", "sh")
    clones = page.images / "clones"
    applied(page)
    vm_writes(page, "web02")
    vm_writes(page, "web03")
    page.run(one)
    assert_same((clones / "web01.img").read_bytes(), notation.content(GUESTS["web01"]))
    assert not (clones / "web01.qcow2").exists()
    page.run(before)
    assert_same((clones / "web02.img").read_bytes(), notation.content(GUESTS["web02"]))
    page.run(without)
    assert_same((page.images / "web04-full.img").read_bytes(), notation.content(GUESTS["web04"]))
    page.run(fleet)
    rebuilt = (clones / "web03.img").read_bytes()
    assert rebuilt[3 << 20 : (3 << 20) + 65536] == bytes([77]) * 65536, "what the VM wrote is kept"
    assert (clones / "web03.img.batchdiff-original").exists()


def test_undo_refuses_between_two_disks(page):
    """The row for an original that was kept."""
    applied(page, "keep")
    vm_writes(page, "web01")
    said = run_here("restore", page.images / "fleet.plan.json", "--guest", "web01", expect=1)
    assert "only you know" in said
    assert (page.images / "clones/web01.img").exists()
    assert (page.images / "clones/web01.qcow2").exists()


def test_reflinks(tmp_path):
    shows, copies = page_fences("reflinks", "sh")
    with mounted(tmp_path, "xfs") as point:
        (tmp_path / "images").symlink_to(point)
        page = PageRunner(tmp_path)
        notation.write_raw(page.images / "debian-12.img", "8M:A")
        page.write("fleet.yaml", FLEET.replace("clones/*.img", "web*.img"))
        assert "reflinks              supported" in page.run(shows)
        assert "There is nothing to convert" in page.run(copies)
        page.run("echo 'minimum_savings: none' >> fleet.yaml")
        planned(page)
        (guest,) = json.loads((page.images / "fleet.plan.json").read_text())["guests"]
        assert guest["verdict"] == "convert"
        assert guest["savings"]["saved_bytes"] <= 0


def test_labels(page):
    """Without SELinux the kernel keeps a label all the same, as an attribute."""
    (apply,) = page_fences("security-labels", "sh")
    label = b"system_u:object_r:virt_image_t:s0\0"
    clones = page.images / "clones"
    os.setxattr(clones / "web01.img", "security.selinux", label)
    os.setxattr(clones / "web01.img", "trusted.libvirt.security.ref_dac", b"1")
    planned(page)
    page.run(apply)
    assert os.getxattr(clones / "web01.qcow2", "security.selinux") == label
    assert "trusted.libvirt.security.ref_dac" not in os.listxattr(clones / "web01.qcow2")


def test_backups_and_chains(page):
    save, back, single = page_fences("backups", "sh")
    applied(page)
    (page.folder / "backup").mkdir()
    page.run(save)
    page.run("rm -r /images/clones /images/debian-12.img* /images/fleet.*")
    said = page.run(back)
    assert "damaged" not in said
    assert "touched" in said
    for name, text in GUESTS.items():
        assert_overlay(page.images / "clones" / f"{name}.qcow2", text)
    (show_chain,) = page_fences("deep-chains", "sh")
    assert page.run(show_chain).count("image: ") == 2
    page.run(single)
    assert_same((page.images / "web01-full.img").read_bytes(), notation.content(GUESTS["web01"]))


def test_libvirt(page):
    """With libvirt's real QEMU driver, in a folder of its own."""
    uri = embedded_libvirt(page.folder / "libvirt")
    preview, change, back, files = (
        text.replace("qemu:///system", f"'{uri}'") for text in page_fences("libvirt", "sh")
    )
    dump = f"virsh --connect '{uri}' dumpxml --inactive --domain web01"
    page.write("domain.xml", domain_xml("/images/clones/web01.img", name="web01"))
    for name in ("web02", "web03", "web04"):
        (page.images / "clones" / f"{name}.img").unlink()
    planned(page)
    page.run(f"virsh --connect '{uri}' define domain.xml")
    assert "+      <source file='/images/clones/web01.qcow2'/>" in page.run(preview)
    page.run(change)
    assert "/images/clones/web01.qcow2" in page.run(dump)
    page.run(back)
    assert "/images/clones/web01.img" in page.run(dump)
    run_here("apply", page.images / "fleet.plan.json", "-q", "--verify", "native", "--guest", "web01")
    page.run(files)
    assert "<driver name='qemu' type='qcow2'/>" in (page.images / "changed" / "web01.xml").read_text()


def test_discover(page):
    """The templates and copies of the page, in small."""
    docker = "1M:A 1M:E 1M:- 1M:B"
    notation.write_raw(page.images / "docker.img", docker)
    (page.images / "docker.img").chmod(0o444)
    for number, letter in enumerate("MN"):
        notation.write_qcow2(page.images / f"db{number}.qcow2", f"64k:{letter} 960k:A 1M:E 1M:- 1M:B")
    notation.write_qcow2(page.images / "build.qcow2", "4M:-", backing="debian-12.img")
    first, named = page_fences("discover", "sh")
    printed = " ".join(page.run(first).split())
    assert "6 copies of 2 templates in /images, 1 left out" in printed
    assert "build.qcow2: it is already an overlay on /images/debian-12.img" in printed
    names = sorted(os.listdir(page.images / "manifests"))
    assert names == ["debian-12.plan.json", "debian-12.yaml", "docker.yaml"]
    assert "7 copies of 1 template" in page.run(named)
    assert (page.images / "debian-12.yaml").exists()
