"""Which files a glob takes in as guests.

Guards manifest/guests.py.
"""

from __future__ import annotations

import os

import pytest
from manifest_texts import guests, make, problems, raw, read, write

from batchdiff.manifest.file import read_manifest


def test_globs_expand_sorted_in_the_order_of_the_manifest(folder):
    os.makedirs("deep/er")
    make("deep/z.img", "deep/er/y.img")
    manifest = read(guests('{glob: "deep/**/*.img", format: raw}', '{glob: "clones/[ba].img", format: raw}'))
    assert [guest.name for guest in manifest.guests] == ["y", "z", "a", "b"]


def test_an_absolute_glob(folder):
    manifest = read(guests(f'{{glob: "{folder}/clones/*.img", format: raw}}'))
    assert [guest.name for guest in manifest.guests] == ["a", "b"]


def test_a_glob_in_a_folder_whose_name_is_a_pattern(folder):
    os.mkdir("[x]")
    make("[x]/t.img", "[x]/g.img")
    write(guests('{glob: "g*", format: raw}'), "[x]/m.yaml")
    assert [guest.name for guest in read_manifest("[x]/m.yaml").guests] == ["g"]


def test_what_a_glob_never_takes_in(folder):
    os.mkdir("clones/dir.img")
    os.mkfifo("clones/fifo.img")
    os.symlink("nowhere", "clones/dangling.img")
    os.link("t.img", "clones/template.img")
    make("clones/mid.qcow2", "clones/explicit.qcow2", "clones/b.qcow2", "clones/given.img")
    make("clones/a.img.batchdiff-original", "clones/x.batchdiff-tmp", "clones/c.overlay.qcow2", "clones/d.img")
    head = (
        "version: 1\ntemplate: {path: t.img, format: qcow2, backing: [{path: clones/mid.qcow2, format: qcow2}]}\n"
    )
    manifest = read(
        guests(
            raw("clones/a.img", ", overlay: {path: clones/explicit.qcow2}"),
            raw("clones/given.img"),
            '{glob: "clones/*", format: raw}',
            head=head,
        ),
        allow_existing_overlays=True,
    )
    # b.qcow2 is the default overlay of b.img, c.overlay.qcow2 that of c.qcow2.
    assert [guest.name for guest in manifest.guests] == ["a", "given", "b", "c", "d"]


def test_a_default_overlay_that_is_a_hard_link_of_its_guest_does_not_hide_it(folder):
    os.link("clones/a.img", "clones/a.qcow2")
    (problem,) = problems(guests('{glob: "clones/a.*", format: raw}'))
    assert "is also the guest" in problem


def test_a_guest_listed_by_path_is_left_out_also_behind_a_link(folder):
    os.symlink("a.img", "clones/link.img")
    manifest = read(guests('{glob: "clones/*.img", format: qcow2}', raw("clones/a.img")))
    assert [(guest.name, guest.image.format) for guest in manifest.guests] == [("b", "qcow2"), ("a", "raw")]


def test_a_glob_without_matches(folder):
    (problem,) = problems(guests('{glob: "none-*.img", format: raw}'))
    words = f'no image matches "none-*.img" in "{folder}"; correct the pattern, or leave it out'
    assert problem == f"m.yaml:4: guests[0].glob: {words}"


def test_an_absolute_glob_without_matches(folder):
    (problem,) = problems(guests('{glob: "/none/*.img", format: raw}'))
    assert 'no image matches "/none/*.img"; correct the pattern' in problem


def test_a_glob_with_nothing_but_taken_files(folder):
    (problem,) = problems(guests(raw("clones/a.img"), '{glob: "[t]*.img", format: raw}'))
    assert problem.startswith('m.yaml:5: guests[1].glob: no guest matches "[t]*.img": its only match is')


def test_globs_that_overlap_give_a_guest_twice(folder):
    (problem,) = problems(guests('{glob: "clones/a*.img", format: raw}', '{glob: "clones/*.img", format: raw}'))
    assert 'guests[1] ("clones/a.img") is the same file as guests[0] ("clones/a.img")' in problem


def test_missing_format_of_a_globs_matches_has_a_hint(folder):
    (problem,) = problems(guests('{glob: "clones/c*"}'))
    named = '"clones/c.qcow2", which the glob matches, looks like a qcow2 image, so if you trust'
    assert problem.startswith(f"m.yaml:4: guests[0]: format is missing; {named}")
    # Of several that look alike, the first is named.
    found = problems(guests('{glob: "clones/[abc].*"}'))
    assert [each.partition("; ")[2].partition(" looks like ")[0] for each in found] == [
        '"clones/a.img", which the glob matches,',
        '"clones/c.qcow2", which the glob matches,',
    ]


def test_a_glob_leaves_out_the_backing_files_of_its_own_guests(folder):
    make("clones/below.qcow2")
    manifest = read(
        guests('{glob: "clones/*.qcow2", format: qcow2, backing: [{path: clones/below.qcow2, format: qcow2}]}')
    )
    assert [guest.name for guest in manifest.guests] == ["c"]


@pytest.mark.parametrize(
    "suffix",
    [
        ".batchdiff-original",
        ".batchdiff-deleting",
        ".batchdiff-overlay",
        ".batchdiff-tmp",
        ".batchdiff-template.json",
    ],
)
def test_batchdiffs_own_files_are_no_guests(folder, suffix):
    make(f"clones/a.img{suffix}")
    os.symlink(f"a.img{suffix}", "clones/z.img")
    found = read(guests("{glob: 'clones/[abz].img*', format: raw}")).guests
    assert [os.path.basename(guest.image.path) for guest in found] == ["a.img", "b.img"]
    (problem,) = problems(guests("{glob: 'clones/a.img?*', format: raw}"))
    assert "its only match is the template" in problem
    assert "a file of batchdiff's own" in problem
