"""A file on which another image rests, or might rest, is left alone."""

from __future__ import annotations

import notation
import pytest

from batchdiff.applying.checks.no_dependents import require_no_dependents
from batchdiff.dependents.dependents import Dependents
from batchdiff.errors import GuestError


@pytest.fixture
def image(tmp_path):
    return notation.write_raw(tmp_path / "vm.img", "64k:A")


def clone(image, name="clone.qcow2"):
    path = image.with_name(name)
    arguments = ["-f", "qcow2", "-u", "-b", str(image), "-F", "raw", str(path), "64k"]
    notation.run("qemu-img", "create", "-q", *arguments)
    return path


def refused(image, *former):
    with pytest.raises(GuestError) as caught:
        require_no_dependents(Dependents([str(image.parent)]), str(image), *former)
    assert caught.value.what == f"{image} was left alone"
    return caught.value


def test_none(image):
    require_no_dependents(Dependents([str(image.parent)]), str(image))


def test_an_image_that_rests_on_it(image):
    clone(image)
    error = refused(image)
    assert error.why == f"{image.parent}/clone.qcow2 cannot be read without it"
    assert "standalone" in error.remedy


def test_an_image_whose_data_file_it_is(image):
    path = image.with_name("disk.qcow2")
    options = f"data_file={image},data_file_raw=on"
    notation.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(path), "64k")
    assert refused(image).why == f"{path} cannot be read without it"


def test_an_image_that_knows_it_by_a_former_name(image):
    clone(image)
    aside = image.rename(image.with_name("vm.img.batchdiff-deleting"))
    assert "clone.qcow2" in refused(aside, str(image)).why


def test_what_cannot_be_read_might_rest_on_it(image):
    """Repair comes first: nobody would make a standalone image of it."""
    sidecar = image.with_name("vm.img.batchdiff-template.json")
    sidecar.write_text("damaged")
    error = refused(image)
    assert error.why == f"it may be needed by an overlay listed in {sidecar} (unreadable)"
    assert "repair it or move it away" in error.remedy


def test_with_one_that_surely_does_both_are_named(image):
    clone(image)
    image.with_name("vm.img.batchdiff-template.json").write_text("damaged")
    error = refused(image)
    assert error.why.startswith(f"{image.parent}/clone.qcow2 and perhaps an overlay listed in ")
    assert error.why.endswith(" (unreadable) cannot be read without it")
