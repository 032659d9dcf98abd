"""Images that are missing, are none, or have two parts to play.

Guards manifest/conflicts.py, manifest/paths.py.
"""

from __future__ import annotations

import os
import socket
import stat
import time

import pytest
from access import as_user
from manifest_texts import guests, make, problems, raw, read, write

from batchdiff.errors import ManifestError
from batchdiff.files.identity import identity_of
from batchdiff.image_source import MAX_CHAIN, ImageFormat, ImageSource
from batchdiff.manifest.file import read_manifest
from batchdiff.manifest.images import FoundGuest, FoundImage
from batchdiff.manifest.names import Naming
from batchdiff.manifest.paths import Place, is_image
from batchdiff.manifest.text.problems import Problems
from batchdiff.manifest.text.written import WrittenGuest, WrittenImage
from batchdiff.plan.overlay_options import OverlayOptions


def test_a_guest_that_is_the_template(folder):
    os.link("t.img", "hard.img")
    os.symlink("t.img", "soft.img")
    found = problems(guests(raw("t.img"), raw("hard.img"), raw("soft.img")))
    assert sum("is the template, so it cannot also be a guest; leave it out" in problem for problem in found) == 3


def test_an_image_in_a_folder_that_may_not_be_entered(folder):
    write(guests(raw("closed/a.img"), raw("clones/a.img", ", overlay: {path: closed/in/a.qcow2}")))
    os.makedirs("closed/in")
    os.chmod("closed", 0o700)
    os.chmod(".", 0o755)
    with pytest.raises(ManifestError) as caught:
        as_user(3001, os.getcwd(), lambda: read_manifest("/m.yaml"))
    image, overlay = caught.value.what.split("\n")
    why = "may not enter the folder /closed, which belongs to uid 0 and has mode 700"
    assert why in image.partition('"/closed/a.img" cannot be checked: ')[2]
    assert why in overlay.partition('folder "/closed/in" cannot be checked: ')[2]


@pytest.mark.parametrize("depth", [MAX_CHAIN - 1, MAX_CHAIN])
def test_a_template_that_is_too_deep_for_an_overlay(folder, depth):
    """Apply would refuse to open the overlay; guests that share blocks get none."""
    below = [f"below{number}.qcow2" for number in range(depth - 1)]
    for name in below:
        make(name)
    listed = ", ".join(f"{{path: {name}, format: qcow2}}" for name in below)
    head = f"version: 1\ntemplate: {{path: clones/c.qcow2, format: qcow2, backing: [{listed}]}}\n"
    shared = read(guests(raw("clones/a.img"), head=head, tail="strategy: share\n"))
    assert len(shared.template.backing) == depth - 1
    text = guests(raw("clones/a.img"), head=head)
    if depth < MAX_CHAIN:
        assert read(text).guests
        return
    (problem,) = problems(text)
    assert problem.startswith(
        "m.yaml:2: template.backing: with an overlay, the chain would have 201 images, and at most 200 are"
        " allowed; copy the template into a single image with"
    )


def test_a_guest_that_is_a_backing_file(folder):
    head = "version: 1\ntemplate: {path: clones/c.qcow2, format: qcow2, backing: [{path: t.img, format: raw}]}\n"
    (problem,) = problems(guests(raw("t.img"), head=head))
    assert problem == (
        'm.yaml:4: guests[0].path: "t.img" is a backing file (template.backing[0].path), so it cannot also be'
        " a guest; leave it out"
    )


def test_a_guest_that_another_guest_rests_on(folder):
    item = "{path: clones/c.qcow2, format: qcow2, backing: [{path: clones/a.img, format: raw}]}"
    (problem,) = problems(guests(item, raw("clones/a.img")))
    assert "is a backing file (guests[0].backing[0].path)" in problem


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("link", " through a hard link or a bind mount; list it once"),
        ("symlink", " through a symbolic link; list it once"),
    ],
)
def test_a_guest_twice_through_a_link(folder, how, words):
    getattr(os, how)(f"{folder}/clones/a.img", "other.img")
    (problem,) = problems(guests(raw("clones/a.img"), raw("other.img")))
    assert problem == (
        'm.yaml:5: guests[1].path: guests[1] ("other.img") is the same file as guests[0] ("clones/a.img")' + words
    )


def test_a_guest_twice(folder):
    (problem,) = problems(guests(raw("clones/a.img"), raw("clones/../clones/a.img")))
    assert "is the same file as" in problem


@pytest.mark.parametrize(
    ("overlay", "part"),
    [
        ("t.img", "the template"),
        ("clones/b.img", 'the guest guests[1] ("clones/b.img")'),
        ("clones/a.img", 'the guest guests[0] ("clones/a.img")'),
        ("hard.img", "the template"),
    ],
)
@pytest.mark.parametrize("allow", [True, False])
def test_an_overlay_in_the_place_of_another_part(folder, overlay, part, allow):
    os.link("t.img", "hard.img")
    text = guests(raw("clones/a.img", f", overlay: {{path: {overlay}}}"), raw("clones/b.img"))
    (problem,) = problems(text, allow_existing_overlays=allow)
    assert problem.startswith("m.yaml:4: guests[0].overlay.path: the overlay ")
    assert problem.endswith(f"is also {part}; choose another overlay.path")


def test_two_guests_with_one_overlay(folder):
    os.symlink("clones", "link")
    (problem,) = problems(
        guests(
            raw("clones/a.img", ", overlay: {path: clones/x}"), raw("clones/b.img", ", overlay: {path: link/x}")
        )
    )
    assert "have the same overlay" in problem


def test_a_chain_in_a_circle(folder):
    make("x.qcow2")
    head = "version: 1\ntemplate: {path: x.qcow2, format: qcow2, backing: [{path: ./x.qcow2, format: qcow2}]}\n"
    (problem,) = problems(guests(raw("clones/a.img"), head=head))
    assert "is in the chain twice, first as template.path; list it once" in problem


def test_a_raw_image_has_nothing_below_it(folder):
    make("x.qcow2", "y.qcow2")
    chain = "[{path: x.qcow2, format: raw}, {path: y.qcow2, format: qcow2}]"
    found = problems(
        guests(
            raw("clones/a.img", ", backing: [{path: y.qcow2, format: qcow2}]"),
            f"{{path: clones/c.qcow2, format: qcow2, backing: {chain}}}",
        )
    )
    assert found == [
        "m.yaml:4: guests[0]: a raw image has no backing file; leave `backing` out, or correct the format",
        "m.yaml:5: guests[1].backing[0]: a raw image has no backing file; leave the images below it out, or"
        " correct the format",
    ]


def test_missing_images_are_problems_with_a_near_name(folder):
    head = "version: 1\ntemplate: {path: tt.img, format: qcow2, backing: [{path: nowhere/x, format: raw}]}\n"
    found = problems(guests(raw("clones/aa.img"), raw("~/x.img"), head=head))
    assert found == [
        f'm.yaml:2: template.path: no such file: "{folder}/tt.img"; did you mean "t.img"?',
        f'm.yaml:2: template.backing[0].path: no such file: "{folder}/nowhere/x"; '
        "its folder does not exist or cannot be listed",
        f'm.yaml:4: guests[0].path: no such file: "{folder}/clones/aa.img"; did you mean "a.img"?',
        f'm.yaml:5: guests[1].path: no such file: "{folder}/~/x.img"; ~ is not expanded, so write the full path',
    ]


def test_a_folder_is_no_backing_file_and_no_glob_would_help(folder):
    (problem,) = problems(guests("{path: clones/c.qcow2, format: qcow2, backing: [{path: clones, format: raw}]}"))
    assert problem.endswith("is a folder; an image is a regular file or a block device")


def test_a_link_that_leads_nowhere(folder):
    os.symlink("nowhere.img", "link.img")
    (problem,) = problems(guests("{path: link.img, format: raw}"))
    assert problem.endswith(f'"{folder}/link.img" is a symbolic link to "nowhere.img", which does not exist')


def test_what_is_no_image(folder):
    os.mkfifo("fifo")
    os.symlink("loop", "loop")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        found = problems(guests(*map(raw, ["clones", "fifo", "socket", "/dev/null", "loop", "clones/a.img/x"])))
    reasons = [
        'a folder; for all images in it, write `glob: "clones/*"`',
        "a FIFO",
        "a socket",
        "a character device",
        "symbolic links",
        "Not a directory",
    ]
    assert len(found) == len(reasons)
    assert all(reason in problem for reason, problem in zip(reasons, found, strict=True))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ('"a\\nb"', "a line break (\\n)"),
        ('"a\\0b"', "a control character (\\x00)"),
        ('"\\x1b[31m"', "a control character (\\x1b)"),
        ('"x\\u2029"', "a line break (\\u2029)"),
        ('"a\\u202eb"', "the character \\u202e, which changes the direction"),
    ],
)
def test_control_characters_in_paths(folder, path, words):
    found = problems(
        guests(raw(path), f"{{glob: {path}, format: raw}}", raw("clones/a.img", f", overlay: {{path: {path}}}"))
    )
    assert len(found) == 3
    assert all(f"has {words}" in problem for problem in found)
    assert all(problem.isprintable() for problem in found)


def test_control_characters_in_folders(folder):
    found = problems(
        guests(
            raw('"a\\0/b"'),
            raw("clones/a.img", ', overlay: {path: "a\\0/b"}'),
            '{path: clones/c.qcow2, format: qcow2, backing: [{path: "a\\0/b", format: raw}]}',
            '{glob: "clones/b*", format: raw}',
        )
    )
    assert [problem.split(":")[1] for problem in found] == ["4", "5", "6"]


@pytest.mark.parametrize(
    ("name", "near"),
    [("A.img", "a.img"), ("wbe01.img", "web01.img"), ("web01.raw", None), ("nope.img", None), ("x.img", None)],
)
def test_only_names_that_are_near_are_suggested(folder, name, near):
    """What all images end with does not make them near."""
    make("clones/web01.img", "clones/other.img")
    (problem,) = problems(guests(raw(f"clones/{name}")))
    assert problem.endswith(f'"; did you mean "{near}"?' if near else f'clones/{name}"')


def test_a_thousand_missing_images_do_not_take_long(folder):
    make(*(f"clones/g{number:04}.img" for number in range(1000)))
    start = time.process_time()
    found = problems(guests(*(raw(f"clones/gg{number:04}.img") for number in range(1000))))
    assert len(found) == 1000
    assert "did you mean" in found[0]
    assert time.process_time() - start < 10


def test_control_characters_in_a_name_that_a_glob_finds(folder):
    make("clones/a\nb.img", "clones/x\x1b[2J.img")
    found = read(guests('{glob: "clones/*.img", format: raw}')).guests
    assert [(guest.name, guest.objection) for guest in found] == [
        ("a\\nb", "its name has a line break (\\n); rename it, or `exclude` it"),
        ("a", ""),
        ("b", ""),
        ("x\\x1b[2J", "its name has a control character (\\x1b); rename it, or `exclude` it"),
    ]


def test_a_name_that_is_not_utf8_found_by_a_glob(folder):
    make(os.fsdecode(b"clones/\xff.img"))
    found = read(guests('{glob: "clones/?.img", format: raw}')).guests
    assert [(guest.name, guest.objection) for guest in found] == [("a", ""), ("b", ""), ("\\udcff", "")]
    assert os.fsencode(found[2].overlay_path).endswith(b"clones/\xff.qcow2")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("thin/x.qcow2", "mkdir -p "),
        ("clones/", "names a folder; write the overlay's file name too"),
        ("..", "names a folder"),
        (
            "clones",
            "is a folder; name a file in that folder, such as `overlay: {path: {folder}/clones/overlay.qcow2}`",
        ),
        (
            '"a, b"',
            'is a folder; name a file in that folder, such as `overlay: {path: "{folder}/a, b/overlay.qcow2"}`',
        ),
    ],
)
def test_where_no_overlay_can_go(folder, path, words):
    os.mkdir("a, b")
    (problem,) = problems(guests(raw("clones/a.img", f", overlay: {{path: {path}}}")))
    assert problem.startswith("m.yaml:4: guests[0].overlay.path: ")
    assert words.replace("{folder}", str(folder)) in problem


def test_a_folder_whose_name_looks_like_a_pattern(folder):
    os.mkdir("a[1], b")
    (problem,) = problems(guests(raw('"a[1], b"')))
    assert problem.endswith('is a folder; for all images in it, write `glob: "a[[]1], b/*"`')


# Block devices, which only root could make here


def device_status(number: int, inode: int) -> os.stat_result:
    return os.stat_result((stat.S_IFBLK | 0o600, inode, 1, 1, 0, 0, 0, 0, 0, 0), {"st_rdev": number})


def test_a_block_device_is_known_by_its_number(monkeypatch):
    nodes = {"/dev/a": device_status(7, 1), "/tmp/a": device_status(7, 2), "/dev/b": device_status(8, 3)}
    monkeypatch.setattr(os, "stat", nodes.__getitem__)
    assert is_image("/dev/a")
    assert identity_of("/dev/a") == identity_of("/tmp/a")
    assert identity_of("/dev/a") != identity_of("/dev/b")


def test_no_overlay_is_put_beside_a_device(folder):
    where = ("guests", 0, "path")
    place = Place(where, "/dev/vg/web01", "/dev/vg/web01", "/dev/dm-1", ("device", 1, 0))
    written = WrittenImage(where[:2], place.written, ImageFormat.RAW)
    image = FoundImage(ImageSource(place.path, ImageFormat.RAW), place, ())
    found = Problems()
    guest = FoundGuest(WrittenGuest(written, None, None, where, OverlayOptions()), image)
    assert Naming(folder, found).overlay_paths([guest]) == [None]
    assert 'no overlay can be written beside "/dev/vg/web01", in /dev; set overlay.path' in found.report("m")
    guest = FoundGuest(WrittenGuest(written._replace(is_glob=True), None, None, where, OverlayOptions()), image)
    assert Naming(folder, found).overlay_paths([guest]) == [None]
    assert "in /dev; list it by path and set overlay.path" in found.report("m")
    guest = FoundGuest(WrittenGuest(written, None, "web01.qcow2", where, OverlayOptions()), image)
    assert Naming(folder, Problems()).overlay_paths([guest]) == [f"{folder}/web01.qcow2"]
