"""What `exclude` leaves out of globs, and what it says if it leaves out nothing."""

from __future__ import annotations

import os

import pytest
from manifest_texts import guests, make, named, problems, raw, read
from recorded_sidecars import PLAN, put_overlay, write_sidecar

from batchdiff.manifest.names import default_overlay
from batchdiff.plan.sidecar import OverlayOrigin

ALL = '{glob: "clones/**/*.img", format: raw}'


def excluding(*patterns: str) -> str:
    return f"exclude: [{', '.join(patterns)}]\n"


@pytest.fixture
def archive(folder):
    os.makedirs("clones/archive/2024")
    make("clones/old-a.img", "clones/archive/x.img", "clones/archive/2024/y.img")
    return folder


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        ((), ["x", "y", "a", "b", "old-a"]),
        (("clones/old-*.img",), ["x", "y", "a", "b"]),
        (('"clones/archive/**"',), ["a", "b", "old-a"]),
        (('"**/[xy].img"', "clones/b.img"), ["a", "old-a"]),
    ],
)
def test_what_is_left(archive, patterns, left):
    manifest = read(guests(ALL, tail=excluding(*patterns)))
    assert sorted(guest.name for guest in manifest.guests) == sorted(left)
    assert manifest.warnings == ()


def test_absolute_patterns_and_links(archive):
    os.symlink("a.img", "clones/link.img")
    manifest = read(guests(ALL, tail=excluding(f'"{archive}/clones/a.img"', '"clones/archive/**"')))
    assert [guest.name for guest in manifest.guests] == ["b", "old-a"]  # the link leads to what is excluded


@pytest.mark.parametrize("pattern", ["clones/a.img", "./clones/a.img", "clones/[a].*", "clones/link.img"])
def test_a_guest_that_is_listed_stays_and_a_warning_says_so(folder, pattern):
    os.symlink("a.img", "clones/link.img")
    manifest = read(guests(raw("clones/a.img"), ALL, tail=excluding(f'"{pattern}"')))
    assert [guest.name for guest in manifest.guests] == ["a", "b"]
    words = f'"{pattern}" is listed by path, so it stays a guest; remove its entry to exclude it'
    if "*" in pattern:
        words = (
            f'every image that "{pattern}" matches is listed by path, so this pattern excludes no existing image;'
            " to exclude an image, remove its entry"
        )
    assert manifest.warnings == (f"6: exclude[0]: {words}",)
    followed = read(guests(ALL, tail=excluding(f'"{pattern}"', '"clones/l*"'))).guests
    assert [guest.name for guest in followed] == (["a", "b"] if "link" in pattern else ["b"])


def test_no_warning_about_a_pattern_that_leaves_others_out(folder):
    make("clones/d.img")
    manifest = read(guests(raw("clones/a.img"), ALL, tail=excluding('"clones/[ab].img"')))
    assert [guest.name for guest in manifest.guests] == ["a", "d"]
    assert manifest.warnings == ()


def test_the_overlay_of_an_excluded_image_hides_no_guest(folder):
    make("clones/a.qcow2")
    text = guests('{glob: "clones/a.*", format: qcow2}', tail=excluding("clones/a.img"))
    assert named(read(text), folder) == {"a": "clones/a.overlay.qcow2"}


def test_all_excluded(folder):
    found = problems(guests('{glob: "clones/a*.img", format: raw}', raw("clones/b.img"), tail=excluding('"**"')))
    assert found == [
        'm.yaml:4: guests[0].glob: no guest matches "clones/a*.img": its only match is the template, a backing'
        " file, an extent, an overlay, a data file, a secret file, a file of batchdiff's own, a guest that is"
        " listed by path, or an excluded image; correct the pattern, or leave it out"
    ]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (
            "clones/olf-*.img",
            'nothing matches "clones/olf-*.img" in "{folder}", so this pattern excludes no existing image',
        ),
        ("/none/*", 'nothing matches "/none/*", so this pattern excludes no existing image'),
        (
            "clones/archive",
            '"clones/archive" is a folder, so it excludes nothing; write "clones/archive/**" to exclude all files'
            " in it",
        ),
        (r"a\b", r'"a\b" is a folder, so it excludes nothing; write "a\\b/**" to exclude all files in it'),
        ("clones/archive/", 'write "clones/archive/**" to exclude all files in it'),
        (
            "clones/arch*",
            '"clones/arch*" matches only folders, so it excludes no existing image; write "clones/arch*/**" to'
            " exclude all files in them",
        ),
    ],
)
def test_a_pattern_that_leaves_nothing_out_is_a_warning(archive, pattern, words):
    os.mkdir(r"a\b")
    (warning,) = read(guests(ALL, tail=excluding(pattern))).warnings
    assert warning.startswith("5: exclude[0]: ")
    assert words.format(folder=archive) in warning


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("clones/*.img", "exclude: expected a list, found the text"),
        ("[7]", "exclude[0]: expected a string, found the number 7; put it in quotes"),
        ('[""]', "exclude[0]: must not be empty"),
        ('["a\\nb"]', 'exclude[0]: "a\\nb" has a line break (\\n); write ? in its place'),
    ],
)
def test_what_is_no_list_of_patterns(folder, value, words):
    (problem,) = problems(guests(ALL, tail=f"exclude: {value}\n"))
    assert words in problem


def test_a_conflict_under_a_glob_has_advice_that_works(folder):
    make("clones/a.raw")
    glob = '{glob: "clones/a.*", format: raw}'
    (problem,) = problems(guests(glob))
    assert problem.endswith("`exclude` one of them, or list one by path and give it another overlay.path")
    assert named(read(guests(glob, tail=excluding("clones/a.raw"))), folder) == {"a": "clones/a.qcow2"}
    listed = raw("clones/a.raw", ", name: second, overlay: {path: clones/second.qcow2}")
    assert named(read(guests(glob, listed)), folder) == {"a": "clones/a.qcow2", "second": "clones/second.qcow2"}


def test_excluded_guests_that_were_converted_are_not_the_manifests(folder):
    put_overlay("clones/gone.qcow2", f"{folder}/t.img")
    origin = OverlayOrigin("gone", PLAN, original=f"{folder}/clones/gone.img")
    write_sidecar(f"{folder}/t.img", {f"{folder}/clones/gone.qcow2": origin})
    assert [guest.name for guest in read(guests(ALL)).guests] == ["a", "b", "gone"]
    left = read(guests(ALL, tail=excluding('"clones/g*.img"')))
    assert [guest.name for guest in left.guests] == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "overlay"),
    [
        ("/c/web01.img", "/c/web01.qcow2"),
        ("/c/WEB01.IMG", "/c/WEB01.qcow2"),
        ("/c/web-1.0", "/c/web-1.0.qcow2"),
        ("/c/web-1.0.raw", "/c/web-1.0.qcow2"),
        ("/c/web01", "/c/web01.qcow2"),
        ("/c/centos7.std.template", "/c/centos7.std.template.qcow2"),
        ("/c/web01.qcow2", "/c/web01.overlay.qcow2"),
        ("/c/.img", "/c/.img.qcow2"),
        ("/c.d/x", "/c.d/x.qcow2"),
        ("/c/a.iso", "/c/a.iso.qcow2"),
    ],
)
def test_only_image_suffixes_are_replaced(path, overlay):
    assert default_overlay(path, ()) == overlay


def test_names_follow_the_same_rule(folder):
    make("clones/web-1.0", "clones/web-1.1", "clones/web-1.0.img")
    manifest = read(guests('{glob: "clones/web-*", format: raw}', tail=excluding("clones/web-1.0.img")))
    assert named(manifest, folder) == {
        "web-1.0": "clones/web-1.0.qcow2",
        "web-1.1": "clones/web-1.1.qcow2",
    }


def test_an_overlay_of_the_former_rule_is_known(folder):
    make("clones/web.dd", "clones/web.disk")
    put_overlay("clones/web.qcow2", f"{folder}/t.img")
    origin = OverlayOrigin("web", PLAN, original=f"{folder}/clones/web.dd")
    write_sidecar(f"{folder}/t.img", {f"{folder}/clones/web.qcow2": origin})
    found = read(guests('{glob: "clones/web.d*", format: raw}')).guests
    assert [(guest.name, guest.converted == origin) for guest in found] == [("web.dd", True), ("web.disk", False)]
    assert found[0].overlay_path == f"{folder}/clones/web.qcow2"


@pytest.mark.parametrize(
    ("link", "how", "remedy"),
    [
        (os.symlink, "symbolic link", "`exclude` the link"),
        (os.link, "hard link or a bind mount", "`exclude` one of the names"),
    ],
)
def test_two_names_of_one_file_under_a_glob_have_advice_that_works(folder, link, how, remedy):
    link(f"{folder}/clones/a.img", "clones/z.img")
    glob = '{glob: "clones/[az].img", format: raw}'
    assert problems(guests(glob))[-1].endswith(f"through a {how}; {remedy}")
    assert [guest.name for guest in read(guests(glob, tail=excluding("clones/z.img"))).guests] == ["a"]


def test_two_globs_that_match_one_name_have_advice_that_works(folder):
    both = '{glob: "clones/a.img", format: raw}', '{glob: "clones/a.i*", format: raw}'
    assert problems(guests(*both))[-1].endswith("; change the manifest's globs so that they match it once")
    assert [guest.name for guest in read(guests(both[0])).guests] == ["a"]


def test_the_warning_is_there_beside_errors(folder):
    """Else the advice to `exclude` one of two guests reads as if nobody had."""
    make("clones/b.raw")
    text = guests('{glob: "clones/b.*", format: raw}', tail=excluding("b.raw"))
    conflict, warning = problems(text)
    assert "have the same overlay" in conflict
    assert "`exclude` one of them" in conflict
    assert warning.startswith('m.yaml:5: warning: exclude[0]: nothing matches "b.raw" in ')
