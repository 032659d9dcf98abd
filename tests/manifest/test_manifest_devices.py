"""Block devices in a manifest: their names stay as they are given, and nothing is put into /dev."""

from __future__ import annotations

import os

import notation
import pytest
from devices import attached
from manifest_texts import guests, make, named, problems, raw, read

from batchdiff.image_source import ImageFormat, ImageSource

THIN = ", overlay: {path: thin.qcow2}"


@pytest.fixture
def device(folder):
    """A loop device, and the names that udev would give it."""
    with attached(notation.write_raw(f"{folder}/disk.img", "64k:A")) as path:
        os.makedirs("dev/vg")
        os.makedirs("dev/mapper")
        os.symlink(path, "dev/vg/lv")
        os.symlink(path, "dev/mapper/vg-lv")
        os.symlink("dev/vg", "volumes")
        yield path


@pytest.fixture
def other(folder):
    """Another loop device."""
    with attached(notation.write_raw(f"{folder}/other.img", "64k:B")) as path:
        yield path


def head(template: str) -> str:
    return f"version: 1\ntemplate: {template}\n"


def test_the_name_of_a_template_stays_as_it_is_given(folder, device):
    for written in ("dev/vg/lv", "volumes/lv", "dev/vg/../vg/lv", f"{folder}/volumes/../vg/lv"):
        manifest = read(guests(raw("clones/a.img"), head=head(raw(written))))
        assert manifest.template == ImageSource(f"{folder}/dev/vg/lv", ImageFormat.RAW)
    assert read(guests(raw("clones/a.img"), head=head(raw(device)))).template.path == device


def test_the_names_of_guests_and_backing_devices_stay_as_they_are_given(folder, device, other):
    os.symlink(other, "dev/vg/web01")
    template = "{path: clones/c.qcow2, format: qcow2, backing: [{path: volumes/lv, format: raw}]}"
    manifest = read(guests(raw("volumes/web01", THIN), head=head(template)))
    assert manifest.template.backing == (ImageSource(f"{folder}/dev/vg/lv", ImageFormat.RAW),)
    assert manifest.guests[0].image == ImageSource(f"{folder}/dev/vg/web01", ImageFormat.RAW)


def test_a_regular_file_is_still_the_one_at_the_end_of_all_links(folder):
    os.symlink("../t.img", "clones/link.img")
    manifest = read(guests(raw("clones/a.img"), head=head(raw("clones/link.img"))))
    assert manifest.template.path == f"{folder}/t.img"


def test_a_default_overlay_is_beside_a_link_to_a_device(folder, device):
    os.symlink(device, "clones/web01.img")
    assert named(read(guests(raw("clones/web01.img"))), folder) == {"web01": "clones/web01.qcow2"}


def test_an_overlay_cannot_take_the_place_of_a_device(folder, device):
    (problem,) = problems(guests(raw("dev/vg/lv", ", overlay: {path: same}"), tail="retire: quarantine\n"))
    assert "is a block device, which no file can replace" in problem


@pytest.mark.parametrize("path", ["/dev/web01.qcow2", "/dev/../dev/./web01.qcow2", "devices/web01.qcow2"])
def test_no_overlay_goes_into_dev(folder, path):
    os.symlink("/dev", "devices")
    (problem,) = problems(guests(raw("clones/a.img", f", overlay: {{path: {path}}}")))
    assert problem == (
        'm.yaml:4: guests[0].overlay.path: the overlay "/dev/web01.qcow2" would be gone after a reboot;'
        " put it outside /dev"
    )


def test_one_device_has_one_part_whatever_its_names(folder, device):
    found = problems(guests(raw("dev/vg/lv", THIN), raw("dev/mapper/vg-lv", ", overlay: {path: b.qcow2}")))
    assert [problem.split("is the same block device as")[1] for problem in found if "the same" in problem] == [
        ' guests[0] ("dev/vg/lv") under another name; list it once'
    ]
    (problem,) = problems(guests(raw("dev/vg/lv", THIN), head=head(raw("dev/mapper/vg-lv"))))
    assert "is the template, so it cannot also be a guest" in problem


def test_a_glob_takes_in_no_other_name_of_a_device_that_is_listed_or_the_template(folder, device, other):
    os.symlink(other, "clones/lv2.img")
    os.symlink(device, "clones/lv.img")
    text = guests(raw("dev/vg/lv", THIN), "{glob: 'clones/l*.img', format: raw}")
    assert [guest.image.path for guest in read(text).guests] == [f"{folder}/dev/vg/lv", f"{folder}/clones/lv2.img"]
    text = guests("{glob: 'clones/l*.img', format: raw}", head=head(raw("dev/vg/lv")))
    assert [guest.image.path for guest in read(text).guests] == [f"{folder}/clones/lv2.img"]


@pytest.mark.parametrize("length", [0, 1])
def test_the_sidecar_of_a_device_needs_a_name_beside_the_overlays(folder, device, length):
    """It is that of the whole path, and so longer than the name of the device."""
    longest = os.pathconf(folder, "PC_NAME_MAX")
    before = len(f"{folder}/".strip("/").replace("-", "%2D")) + len("/")
    link = "l" * (longest - before - len(".batchdiff-template.json") + length)
    os.symlink(device, link)
    text = guests(raw("clones/a.img"), raw("clones/b.img"), head=head(raw(link)))
    if not length:
        assert len(read(text).guests) == 2
    else:
        (problem,) = problems(text)
        assert problem.startswith("m.yaml:2: template.path: the file that is put beside the overlays of ")
        assert f"would have a name of {longest + 1} bytes" in problem
        assert "shorten the template's path by 1 byte or more" in problem


def test_a_device_is_no_file_whose_name_could_get_longer(folder, device):
    link = "l" * os.pathconf(folder, "PC_NAME_MAX")
    os.symlink(device, link)
    make("thin")
    assert len(read(guests(raw(link, ", overlay: {path: web01.qcow2}"), tail="retire: delete\n")).guests) == 1


@pytest.mark.parametrize("through", ["clones/link.qcow2", "dev/top.qcow2"])
def test_a_relative_name_of_a_device_by_the_path_that_the_vm_uses(folder, device, through):
    """From the folder of the link there is no such device; from that of the image there is."""
    os.mkdir("dev/more")
    os.symlink("../vg/lv", "dev/more/base")
    notation.write_qcow2("dev/more/top.qcow2", "64k:-", backing="base")
    os.symlink(f"{folder}/dev/more/top.qcow2", through)
    item = (
        "{{path: {}, format: qcow2, overlay: {{path: thin.qcow2}}, backing: [{{path: dev/vg/lv, format: raw}}]}}"
    )
    (problem,) = problems(guests(item.format(through)))
    assert 'has the relative backing file name "base"' in problem
    assert len(read(guests(item.format("dev/more/top.qcow2"))).guests) == 1
    os.symlink("vg/lv", "dev/base")
    if through.startswith("dev/"):
        assert len(read(guests(item.format(through))).guests) == 1
