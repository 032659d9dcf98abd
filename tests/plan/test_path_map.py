"""Paths of a pool that moved."""

import dataclasses
import json
import os

import notation
import pytest
from access import as_user
from hypothesis import given
from hypothesis import strategies as st
from plans import guest_plan, planned_image, plans, refused_guest, small_plan

from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.plan.document import to_dict
from batchdiff.plan.overlay_options import Encryption, OverlayOptions
from batchdiff.plan.path_map import Move, PathMap, move_in
from batchdiff.plan.sidecar import OverlayOrigin, Sidecar


def mapped(path, *moves):
    return PathMap(tuple(Move(*move.split("=")) for move in moves)).path(path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/images/web01.img", "/fast/web01.img"),
        ("/images", "/fast"),
        ("/images/a/b.img", "/fast/a/b.img"),
        ("/images2/web01.img", "/images2/web01.img"),
        ("/srv/images/web01.img", "/srv/images/web01.img"),
        ("/fast/web01.img", "/fast/web01.img"),
        ("", ""),
        ("relative", "relative"),
    ],
)
def test_whole_names_count(path, expected):
    assert mapped(path, "/images=/fast") == expected


def test_a_single_file():
    assert mapped("/images/t.img", "/images/t.img=/fast/other.img") == "/fast/other.img"
    assert mapped("/images/t.img.old", "/images/t.img=/fast/other.img") == "/images/t.img.old"


def test_the_longest_old_wins_in_any_order():
    moves = ["/images=/a", "/images/thin=/b", "/images/thin/old=/c", "/images/th=/d"]
    for ordered in (moves, moves[::-1]):
        assert mapped("/images/x", *ordered) == "/a/x"
        assert mapped("/images/thin/x", *ordered) == "/b/x"
        assert mapped("/images/thin/old/x", *ordered) == "/c/x"


def test_a_new_place_under_the_old_one():
    """A folder cannot be moved into itself, so what is under NEW either was there before or is there now."""
    move = "/images=/images/pool2"
    assert mapped("/images/web01.img", move) == "/images/pool2/web01.img"
    assert mapped("/images/pool2/web01.img", move) == "/images/pool2/web01.img"
    assert mapped("/images/pool2", move) == "/images/pool2"
    assert mapped("/images/pool22", move) == "/images/pool2/pool22"


def test_an_old_place_under_the_new_one():
    assert mapped("/images/pool2/web01.img", "/images/pool2=/images") == "/images/web01.img"
    assert mapped("/images/pool2", "/images/pool2=/images") == "/images"


def test_the_root():
    """A system that was started from another disk."""
    assert mapped("/images/web01.img", "/=/mnt") == "/mnt/images/web01.img"
    assert mapped("/mnt/images/web01.img", "/=/mnt") == "/mnt/images/web01.img"
    assert mapped("/mnt/images/web01.img", "/mnt=/") == "/images/web01.img"
    assert mapped("/mnt", "/mnt=/") == "/"


def the_plan():
    below = ImageSource("/images/low.img", ImageFormat.RAW)
    template = planned_image("/images/t.qcow2", "qcow2")
    source = dataclasses.replace(template.source, backing=(below,))
    template = dataclasses.replace(template, source=source, fingerprints=template.fingerprints * 2)
    guests = (
        guest_plan("a", path="/images/a.img", overlay_path="/thin/a.qcow2"),
        refused_guest("b", path="/other/b.img", overlay_path="/images/b.qcow2"),
        refused_guest("c", path="/other/c.img", overlay_path="/thin/b.qcow2"),
    )
    left_out = (ImageSource("/images/d.img", ImageFormat.RAW),)
    return small_plan(
        *guests, template=template, manifest_path="/images/m.yaml", checksum="sha256:1", left_out=left_out
    )


def test_every_path_of_a_plan_and_nothing_else():
    plan = the_plan()
    found = PathMap((Move("/images", "/fast/x"),)).plan(plan)
    expected = json.dumps(to_dict(plan), default=str).replace('"/images/', '"/fast/x/')
    assert expected.count("/fast/x/") == 6
    assert json.dumps(to_dict(found), default=str) == expected
    assert [found.guests[0].image.source, found.guests[1].image] == [found.guests[0].source, None]
    assert found.checksum == plan.checksum == "sha256:1"


def test_a_plan_that_did_not_move_is_the_same():
    plan = the_plan()
    assert PathMap().plan(plan) is plan


@pytest.mark.parametrize(
    ("moves", "said"),
    [
        ("/imges=/fast", "no path in the plan is under /imges; the template is /images/t.qcow2"),
        ("/imges=/fast /image=/fast", "is under /imges or /image;"),
        ("/images=/a /images=/b", "/images cannot have moved both to /a and to /b"),
        ("/images=/thin /thin=/images", "would be moved to /thin/m.yaml, and from there to /images/m.yaml"),
        ("/images=/a /a=/b", "/images/m.yaml would be moved to /a/m.yaml, and from there to /b/m.yaml"),
        ("/images=/images/x /images/x=/b", "and from there to /b/m.yaml"),
        (
            "/images=/new /other=/new /thin=/new",
            "/images/b.qcow2 and /thin/b.qcow2 would both become /new/b.qcow2",
        ),
    ],
)
def test_moves_that_make_no_sense(moves, said):
    path_map = PathMap(tuple(Move(*move.split("=")) for move in moves.split()))
    with pytest.raises(ValueError, match=said):
        path_map.plan(the_plan())


def test_a_move_beside_others_may_concern_nothing():
    """After two moves: /images=/b is for the plan, /a=/b for what the journal noted between the two."""
    path_map = PathMap((Move("/images", "/b"), Move("/a", "/b")))
    assert path_map.plan(the_plan()).template.source.path == "/b/t.qcow2"
    assert path_map.path("/a/x") == path_map.path("/images/x") == path_map.path("/b/x") == "/b/x"
    path_map.plan(the_plan())


_NAMES = st.sampled_from(["a", "b", "ab"])
_SHORT = st.lists(_NAMES, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))
_MOVES = st.lists(st.builds(Move, _SHORT, _SHORT), min_size=1, max_size=3).map(tuple)


@given(_MOVES, _SHORT)
def test_what_a_plan_lets_through_is_mapped_once(moves, path):
    """Whatever is recorded under a new path can be read with the map again."""
    plan = small_plan(guest_plan(path=path, overlay_path=f"{path}.qcow2"))
    path_map = PathMap(moves)
    try:
        found = path_map.plan(plan)
    except ValueError:
        return
    for now in (found.guests[0].source.path, found.guests[0].overlay_path):
        assert path_map.path(now) == now


@given(plans())
def test_any_plan_under_the_root(plan):
    """Also paths that are no UTF-8, and chains; there and back again is what it was."""
    there = PathMap((Move("/", "/new place"),)).plan(plan)
    assert there.template.source.path == f"/new place{plan.template.source.path}"
    assert PathMap((Move("/new place", "/"),)).plan(there) == plan


def test_a_sidecar():
    known = Sidecar(
        digest="d",
        fingerprints=(),
        overlays={
            "/images/a.qcow2": OverlayOrigin("a", "p", "/images/p.json", "/images/a.img"),
            "/fast/b.qcow2": OverlayOrigin("b", "p"),
            "/other/c.qcow2": OverlayOrigin("c", "p", "/other/p.json", "/images/c.img"),
        },
    )
    found = PathMap((Move("/images", "/fast"),)).sidecar(known)
    assert found.overlays == {
        "/fast/a.qcow2": OverlayOrigin("a", "p", "/fast/p.json", "/fast/a.img"),
        "/fast/b.qcow2": OverlayOrigin("b", "p"),
        "/other/c.qcow2": OverlayOrigin("c", "p", "/other/p.json", "/fast/c.img"),
    }
    assert (found.digest, found.fingerprints) == ("d", ())


def test_reading_a_map(tmp_path, monkeypatch):
    (tmp_path / "new").mkdir()
    (tmp_path / "a=b").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "new")
    monkeypatch.chdir(tmp_path)
    assert move_in("/old=new") == move_in(f"/old/={tmp_path}/new/") == Move("/old", f"{tmp_path}/new")
    assert move_in("//old/./x/../y=link/.") == Move("/old/y", f"{tmp_path}/new")
    assert move_in("/old=a=b") == Move("/old", f"{tmp_path}/a=b"), "split at the first ="
    assert move_in("/=/") == Move("/", "/")
    file = notation.write_raw(tmp_path / "t.img", "4k:A")
    assert move_in("/old/t.img=t.img") == Move("/old/t.img", str(file))


def test_the_name_of_a_block_device_stays(tmp_path, monkeypatch):
    """It lasts; what is behind it may be another one after a reboot."""
    os.mknod(tmp_path / "device", 0o60600, os.makedev(7, 200))
    (tmp_path / "lv").symlink_to("device")
    monkeypatch.chdir(tmp_path)
    assert move_in("/images/t.img=lv") == Move("/images/t.img", f"{tmp_path}/lv")


def test_a_new_place_that_may_not_be_entered(tmp_path):
    (tmp_path / "closed" / "in").mkdir(parents=True)
    (tmp_path / "closed").chmod(0o700)
    tmp_path.chmod(0o755)
    with pytest.raises(ValueError, match=r"may not enter the folder /closed, which belongs to .* has mode 700"):
        as_user(3001, tmp_path, lambda: move_in("/images=/closed/in"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/images", "does not have the form OLD=NEW"),
        ("=/images", "does not have the form OLD=NEW"),
        ("/images=", "does not have the form OLD=NEW"),
        ("images=/", "'images' is not an absolute path"),
        ("/images=/nowhere", r"'/nowhere' cannot be found \(No such file or directory\)$"),
        ("/a=b=/nowhere", "'b=/nowhere' cannot be found .*OLD ends at the first ="),
        ("/images\n=/", "has a line break"),
    ],
)
def test_a_map_that_means_nothing(text, said):
    with pytest.raises(ValueError, match=said):
        move_in(text)


def test_moves_of_secret_files_and_allowed_folders_alone():
    """Several images may share one; that is no conflict."""
    template = planned_image("/images/t.luks", "luks")
    source = dataclasses.replace(template.source, secret_file="/secrets/key", allow_folders=("/parts",))
    options = OverlayOptions(encryption=Encryption("/overlay-secrets/key"))
    guests = [
        guest_plan(
            name, source=dataclasses.replace(guest_plan(name).source, secret_file="/secrets/key"), options=options
        )
        for name in "ab"
    ]
    guests[0] = dataclasses.replace(guests[0], alias="/links/a")
    plan = small_plan(*guests, template=dataclasses.replace(template, source=source))
    for old in ("/secrets", "/parts", "/overlay-secrets", "/links"):
        found = json.dumps(to_dict(PathMap((Move(old, "/new"),)).plan(plan)), default=str)
        assert f'"{old}' not in found
    with pytest.raises(ValueError, match="/secrets/key would be moved to /images/key, and from there to /new/key"):
        PathMap((Move("/secrets", "/images"), Move("/images", "/new"))).plan(plan)
