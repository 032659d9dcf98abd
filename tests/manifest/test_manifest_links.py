"""Guests that are reached by a symbolic link: what QEMU finds by the link must be what the file names."""

import os
from pathlib import Path

import notation
import pytest
from manifest_texts import problems, read
from oracle import assert_same

CLONES = "template: {path: tpl/t.img, format: raw}\nretire: quarantine\n"
SAME = "overlay: {path: same, backing_path: relative}"


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """``disks`` and ``tpl`` side by side, and folders for links beside them and one level further down."""
    monkeypatch.chdir(tmp_path)
    for folder in ("tpl", "disks", "vms", "far/vms"):
        os.makedirs(folder)
    notation.write_raw("tpl/t.img", "64k:A")
    notation.write_raw("disks/lun7.img", "64k:B")
    return tmp_path


def manifest(*items, head=CLONES):
    return f"version: 1\n{head}guests:\n" + "".join(f"  - {item}\n" for item in items)


def guest(path, more=SAME):
    return f"{{path: {path}, format: raw, {more}}}"


def found_by_qemu(link, name):
    """Whether QEMU finds the template, by a link to an overlay of that backing name."""
    target = os.path.realpath(link)
    Path(target).unlink()
    notation.run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", "raw", target, "64k")
    try:
        return notation.qemu_content(link, "qcow2") == notation.content("64k:A")
    except AssertionError:  # it finds no such file
        return False


LINKS = {
    "beside": ("vms/web01.img", "../disks/lun7.img", True),
    "in the same folder": ("disks/web01.img", "lun7.img", True),
    "further down": ("far/vms/web01.img", "../../disks/lun7.img", False),
    "above": ("web01.img", "disks/lun7.img", False),
}


@pytest.mark.parametrize(("link", "target", "works"), LINKS.values(), ids=LINKS)
@pytest.mark.parametrize("absolute", [True, False], ids=["absolute-link", "relative-link"])
def test_a_link_to_the_guest(pool, link, target, works, absolute):
    os.symlink(os.path.abspath("disks/lun7.img") if absolute else target, link)
    text = manifest(guest(link))
    if works:
        assert read(text).guests[0].overlay_path == f"{pool}/disks/lun7.img"
    else:
        (problem,) = problems(text)
        assert problem.startswith(f'm.yaml:5: guests[0].path: "{pool}/{link}" is a symbolic link to ')
        assert "`backing_path: absolute`" in problem
        assert f'or use the path "{pool}/disks/lun7.img" here and in the VM\'s definition' in problem
    assert found_by_qemu(link, "../tpl/t.img") is works


def test_a_path_to_use_is_shown_in_full(pool):
    long = "disks/" + "x" * 220 + ".img"
    os.rename("disks/lun7.img", long)
    os.symlink(f"../../{long}", "far/vms/web01.img")
    (problem,) = problems(manifest(guest("far/vms/web01.img")))
    assert f'or use the path "{pool}/{long}" here and in the VM\'s definition' in problem


@pytest.mark.parametrize("more", ["overlay: {path: same}", "overlay: {backing_path: relative}"])
def test_where_the_link_makes_no_difference(pool, more):
    """The template named absolutely, or an overlay of its own beside the link."""
    os.symlink("../../disks/lun7.img", "far/vms/web01.img")
    (entry,) = read(manifest(guest("far/vms/web01.img", more))).guests
    assert entry.in_place is ("same" in more)


def test_the_file_itself(pool):
    os.symlink("../../disks/lun7.img", "far/vms/web01.img")
    assert read(manifest(guest("disks/lun7.img"))).guests


def test_a_link_among_the_folders_is_resolved_by_the_kernel(pool):
    os.symlink("../disks", "far/here")
    assert read(manifest(guest("far/here/lun7.img"))).guests
    assert found_by_qemu("far/here/lun7.img", "../tpl/t.img")


@pytest.mark.parametrize("middle", ["far/vms/mid.img", "vms/mid.img"])
def test_of_a_chain_of_links_the_first_one_counts(pool, middle):
    os.symlink(os.path.abspath("disks/lun7.img"), middle)
    os.symlink(os.path.abspath(middle), "vms/web01.img")
    os.symlink(os.path.abspath(middle), "far/vms/web01.img")
    assert read(manifest(guest("vms/web01.img"))).guests
    assert "is a symbolic link" in problems(manifest(guest("far/vms/web01.img")))[0]
    assert found_by_qemu("vms/web01.img", "../tpl/t.img")
    assert not found_by_qemu("far/vms/web01.img", "../tpl/t.img")


def test_another_file_of_the_templates_name_is_not_the_template(pool):
    """The link works and shows other content: worse than an error."""
    os.makedirs("far/tpl")
    notation.write_raw("far/tpl/t.img", "64k:C")
    os.symlink("../../disks/lun7.img", "far/vms/web01.img")
    (problem,) = problems(manifest(guest("far/vms/web01.img")))
    assert f'"{pool}/far/tpl/t.img"' in problem
    assert not found_by_qemu("far/vms/web01.img", "../tpl/t.img")


def test_the_template_by_a_link(pool):
    """The overlay names the file that the link leads to."""
    os.symlink("../tpl/t.img", "far/t.img")
    head = CLONES.replace("tpl/t.img", "far/t.img")
    assert read(manifest(guest("disks/lun7.img"), head=head)).template.path == f"{pool}/tpl/t.img"
    os.symlink("../../disks/lun7.img", "far/vms/web01.img")
    assert "is a symbolic link" in problems(manifest(guest("far/vms/web01.img"), head=head))[0]


def test_each_match_of_a_glob(pool):
    notation.write_raw("disks/lun8.img", "64k:B")
    os.symlink("../../disks/lun7.img", "far/vms/web07.img")
    os.symlink("../../disks/lun8.img", "far/vms/web08.img")
    found = problems(manifest(f"{{glob: far/vms/*.img, format: raw, {SAME}}}"))
    assert [problem.split(" is a")[0] for problem in found] == [
        f'm.yaml:5: guests[0].glob: "{pool}/far/vms/web0{number}.img"' for number in (7, 8)
    ]


def test_in_the_defaults(pool):
    os.symlink("../../disks/lun7.img", "far/vms/web01.img")
    head = f"{CLONES}defaults: {{format: raw, {SAME}}}\n"
    (problem,) = problems(manifest("{path: far/vms/web01.img}", head=head))
    assert "m.yaml:6: guests[0].path: " in problem
    assert read(manifest("{path: far/vms/web01.img, overlay: {backing_path: absolute}}", head=head)).guests


@pytest.mark.parametrize("target", ["../disks/lun7.img", "nothing.img"])
def test_an_overlay_path_that_is_a_link_already(pool, target):
    os.symlink(target, "vms/thin.qcow2")
    (problem,) = problems(manifest(guest("disks/lun7.img", "overlay: {path: vms/thin.qcow2}")))
    assert "already exists" in problem or "is also the guest" in problem


def thin(path, backing, form="raw"):
    return notation.write_qcow2(path, "64k:-", backing=backing, backing_format=form)


def chain(path, *below):
    backing = ", ".join(f"{{path: {each}, format: {form}}}" for each, form in below)
    return f"{{path: {path}, format: qcow2, backing: [{backing}]}}"


def test_a_guests_own_backing_file(pool):
    """The VM sees another disk through the link than the file and its neighbour are."""
    notation.write_raw("disks/own.img", "64k:D")
    notation.write_raw("vms/own.img", "64k:E")
    thin("disks/web.qcow2", "own.img")
    os.symlink("../disks/web.qcow2", "vms/web.qcow2")
    (problem,) = problems(manifest(chain("vms/web.qcow2", ("disks/own.img", "raw"))))
    assert problem == (
        f'm.yaml:5: guests[0].path: "{pool}/vms/web.qcow2" is a symbolic link to "{pool}/disks/web.qcow2", which '
        f'has the relative backing file name "own.img": through the link, QEMU opens "{pool}/vms/own.img", not '
        f'"{pool}/disks/own.img". Use the path "{pool}/disks/web.qcow2" here and in the VM\'s definition'
    )
    assert_same(notation.qemu_content("vms/web.qcow2", "qcow2"), notation.content("64k:E"))
    assert_same(notation.qemu_content("disks/web.qcow2", "qcow2"), notation.content("64k:D"))
    assert read(manifest(chain("disks/web.qcow2", ("disks/own.img", "raw")))).guests


@pytest.mark.parametrize("backing", ["{pool}/disks/own.img", "../disks/own.img"])
def test_a_backing_file_that_the_link_leads_to_as_well(pool, backing):
    notation.write_raw("disks/own.img", "64k:D")
    thin("disks/web.qcow2", backing.format(pool=pool))
    os.symlink("../disks/web.qcow2", "vms/web.qcow2")
    assert read(manifest(chain("vms/web.qcow2", ("disks/own.img", "raw")))).guests
    assert_same(notation.qemu_content("vms/web.qcow2", "qcow2"), notation.content("64k:D"))


@pytest.mark.parametrize("of", ["guest", "template"])
def test_a_link_in_the_middle_of_a_chain(pool, of):
    notation.write_raw("disks/root.img", "64k:D")
    notation.write_raw("vms/root.img", "64k:E")
    thin("disks/mid.qcow2", "root.img")
    os.symlink("../disks/mid.qcow2", "vms/mid.qcow2")
    thin("vms/top.qcow2", "mid.qcow2", "qcow2")
    entry = chain("vms/top.qcow2", ("disks/mid.qcow2", "qcow2"), ("disks/root.img", "raw"))
    head = CLONES if of == "guest" else f"template: {entry}\n"
    (problem,) = problems(manifest(entry if of == "guest" else guest("disks/lun7.img", "name: x"), head=head))
    place = "guests[0].backing[0]" if of == "guest" else "template.backing[0]"
    assert f'{place}.path: "{pool}/vms/mid.qcow2" is a symbolic link to "{pool}/disks/mid.qcow2"' in problem
    assert f'here and in the header of "{pool}/vms/top.qcow2"' in problem
    assert_same(notation.qemu_content("vms/top.qcow2", "qcow2"), notation.content("64k:E"))


def test_a_template_by_a_link_is_opened_by_its_own_path(pool):
    notation.write_raw("disks/root.img", "64k:D")
    notation.write_raw("vms/root.img", "64k:E")
    thin("disks/t.qcow2", "root.img")
    os.symlink("../disks/t.qcow2", "vms/t.qcow2")
    head = f"template: {chain('vms/t.qcow2', ('disks/root.img', 'raw'))}\n"
    assert read(manifest(guest("disks/lun7.img", "name: x"), head=head)).template.path == f"{pool}/disks/t.qcow2"


def test_an_image_that_cannot_be_read_is_for_plan_to_refuse(pool):
    Path("disks/web.qcow2").write_bytes(b"QFI\xfb")
    os.symlink("../disks/web.qcow2", "vms/web.qcow2")
    assert read(manifest(chain("vms/web.qcow2", ("disks/lun7.img", "raw")))).guests
