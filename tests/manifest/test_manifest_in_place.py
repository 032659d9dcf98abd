"""``overlay: {path: same}``: the overlay takes its guest's own path."""

import os

import pytest
from manifest_texts import guests, make, problems, raw, read

from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.manifest.images import FoundGuest, FoundImage
from batchdiff.manifest.names import Naming
from batchdiff.manifest.paths import Place
from batchdiff.manifest.text.problems import Problems
from batchdiff.manifest.text.written import WrittenGuest, WrittenImage
from batchdiff.plan.overlay_options import OverlayOptions

SAME = ", overlay: {path: same}"
RETIRE = "retire: quarantine\n"


@pytest.mark.parametrize("retire", ["quarantine", "delete"])
@pytest.mark.parametrize("allow", [True, False])
def test_the_overlay_has_the_guests_own_path(folder, retire, allow):
    text = guests(raw("clones/a.img", SAME), raw("clones/b.img"), tail=f"retire: {retire}\n")
    first, second = read(text, allow_existing_overlays=allow).guests
    assert first.overlay_path == first.image.path == f"{folder}/clones/a.img"
    assert first.in_place
    assert not second.in_place


@pytest.mark.parametrize("tail", ["", "retire: keep\n"])
def test_a_kept_guest_keeps_its_place(folder, tail):
    (problem,) = problems(guests(raw("clones/a.img", SAME), tail=tail))
    assert problem.startswith("m.yaml:4: guests[0].overlay.path: ")
    assert "write `retire: quarantine` or `retire: delete`" in problem
    assert "`./same`" in problem


def test_keep_is_reported_once_where_the_defaults_have_it(folder):
    tail = "defaults: {overlay: {path: same}}\n"
    (problem,) = problems(guests(raw("clones/a.img"), raw("clones/b.img"), tail=tail))
    assert problem.startswith("m.yaml:6: defaults.overlay.path: ")


def test_an_invalid_retire_is_the_only_problem_reported(folder):
    (problem,) = problems(guests(raw("clones/a.img", SAME), tail="retire: keeep\n"))
    assert 'did you mean "keep"?' in problem


def test_in_the_defaults_and_for_a_glob(folder):
    tail = RETIRE + "defaults: {format: raw, overlay: {path: same}}\n"
    one, two, other = read(
        guests("glob: clones/*.img", "{path: clones/c.qcow2, format: qcow2, overlay: {path: x}}", tail=tail)
    ).guests
    assert one.in_place
    assert two.in_place
    assert other.overlay_path == f"{folder}/x"
    again = guests("{glob: clones/*.img, format: raw, overlay: {path: same}}", tail=RETIRE)
    assert [guest.in_place for guest in read(again).guests] == [True, True]


def test_a_glob_in_place_leaves_out_no_file_of_a_default_overlays_name(folder):
    make("clones/a.qcow2")
    item = "{glob: clones/a.*, format: raw%s}"
    assert len(read(guests(item % SAME, tail=RETIRE)).guests) == 2
    (problem,) = problems(guests(item % "", tail=RETIRE))
    assert "already exists" in problem


def test_a_file_of_that_name(folder):
    (guest,) = read(guests(raw("clones/a.img", ", overlay: {path: ./same}"))).guests
    assert guest.overlay_path == f"{folder}/same"
    make("same")
    (problem,) = problems(guests(raw("clones/a.img", ", overlay: {path: ./same}")))
    assert "already exists" in problem


@pytest.mark.parametrize(
    ("item", "tail"),
    [
        ("{glob: clones/*.img, format: raw, overlay: {path: ./same}}", ""),
        (raw("clones/a.img"), "defaults: {overlay: {path: ./same}}\n"),
    ],
)
def test_no_other_path_for_several_guests(folder, item, tail):
    (problem,) = problems(guests(item, tail=RETIRE + tail))
    assert "overlay.path: only a" in problem
    assert "the only value allowed here is `same`" in problem


def test_a_link_stays_where_it_is(folder):
    os.symlink("clones/a.img", "link.img")
    (guest,) = read(guests(raw("link.img", SAME), tail=RETIRE)).guests
    assert guest.overlay_path == f"{folder}/clones/a.img"


def test_the_own_path_of_another_guest_is_none(folder):
    text = guests(raw("clones/a.img", SAME), raw("clones/b.img", ", overlay: {path: clones/a.img}"), tail=RETIRE)
    found = problems(text)
    assert "is also the guest guests[0]" in found[0]


def test_a_template_is_no_guest_in_place_either(folder):
    (problem,) = problems(guests(raw("t.img", SAME), tail=RETIRE))
    assert "is the template" in problem


def test_no_file_takes_the_place_of_a_device():
    where = ("guests", 0)
    place = Place((*where, "path"), "/dev/vg/web01", "/dev/vg/web01", "/dev/dm-1", ("device", 1, 0))
    written = WrittenImage(where, place.written, ImageFormat.RAW)
    image = FoundImage(ImageSource(place.path, ImageFormat.RAW), place, ())
    found = Problems()
    overlay_at = (*where, "overlay", "path")
    guest = FoundGuest(WrittenGuest(written, None, "same", overlay_at, OverlayOptions()), image)
    assert Naming("/", found).overlay_paths([guest]) == [None]
    assert "is a block device, which no file can replace" in found.report("m.yaml")
