"""Guests that an earlier plan has converted are known, wherever their originals are by now."""

import os
import shutil
from pathlib import Path

import notation
import pytest
from filesystems import mounted
from manifest_texts import guests, make, problems, raw, read
from recorded_sidecars import PLAN, VERSIONS, put_overlay, write_sidecar

from batchdiff.manifest.file import read_manifest
from batchdiff.plan.sidecar import OverlayOrigin

GLOB = "{glob: clones/*.img, format: raw}"
QUARANTINE = ".batchdiff-original"


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def converted(folder, version):
    """Converts guests, given by their names in ``clones`` and those of their overlays; the originals stay."""
    known = {}

    def convert(**overlays):
        for guest, overlay in overlays.items():
            original, path = f"{folder}/clones/{guest}.img", f"{folder}/clones/{overlay}"
            put_overlay(path, f"{folder}/t.img")
            known[path] = OverlayOrigin(guest, PLAN, f"{folder}/m.plan.json", original)
        write_sidecar(f"{folder}/t.img", known, version=version)

    return convert


def done(manifest):
    """The guests that are done, and their overlays' names; then the names of the others."""
    settled = {g.name: os.path.basename(g.overlay_path) for g in manifest.guests if g.converted}
    return settled, [guest.name for guest in manifest.guests if not guest.converted]


def retire(how, *originals):
    for each in originals:
        if how == "quarantine":
            os.rename(each, each + QUARANTINE)
        elif how == "delete":
            os.unlink(each)


@pytest.mark.parametrize("how", ["keep", "quarantine", "delete"])
@pytest.mark.parametrize("given", [False, True])
def test_listed_by_path(folder, converted, how, given):
    converted(a="thin.qcow2" if given else "a.qcow2")
    retire(how, "clones/a.img")
    more = ", overlay: {path: clones/thin.qcow2}" if given else ""
    manifest = read(guests(raw("clones/a.img", more), raw("clones/b.img")))
    assert done(manifest) == ({"a": "thin.qcow2" if given else "a.qcow2"}, ["b"])
    entry = manifest.guests[0]
    assert entry.image.path == f"{folder}/clones/a.img"
    assert entry.converted.plan == PLAN
    assert done(read(guests(raw("clones/a.img", more)))) == (done(manifest)[0], [])


@pytest.mark.parametrize("how", ["keep", "quarantine"])
@pytest.mark.parametrize("everything", [False, True])
def test_taken_in_by_a_glob(folder, converted, how, everything):
    converted(**({"a": "a.qcow2", "b": "b.qcow2"} if everything else {"a": "a.qcow2"}))
    retire(how, "clones/a.img", *(["clones/b.img"] if everything else []))
    manifest = read(guests(GLOB))
    overlays = {"a": "a.qcow2", "b": "b.qcow2"}
    assert done(manifest) == ((overlays, []) if everything else ({"a": "a.qcow2"}, ["b"]))
    assert [guest.name for guest in manifest.guests] == ["a", "b"]


def test_deleted_ones_taken_in_by_a_glob(folder, converted, version):
    """Version 1.0 does not say what the overlay was made from, and no file shows it."""
    converted(a="a.qcow2")
    retire("delete", "clones/a.img")
    assert done(read(guests(GLOB))) == ({} if version == "1.0" else {"a": "a.qcow2"}, ["b"])


def test_a_glob_of_nothing_but_deleted_ones(folder):
    for name in "ab":
        put_overlay(f"clones/{name}.qcow2", f"{folder}/t.img")
        os.unlink(f"clones/{name}.img")
    overlays = {
        f"{folder}/clones/{name}.qcow2": OverlayOrigin(name, PLAN, "", f"{folder}/clones/{name}.img")
        for name in "ab"
    }
    write_sidecar(f"{folder}/t.img", overlays)
    assert done(read(guests(GLOB))) == ({"a": "a.qcow2", "b": "b.qcow2"}, [])


@pytest.mark.parametrize("how", ["keep", "quarantine", "delete"])
def test_overlays_that_a_glob_matches_are_not_guests(folder, converted, version, how):
    """``clones/*.qcow2`` with overlays ``NAME.overlay.qcow2``, whose guests are gone by now."""
    os.rename("clones/a.img", "clones/a.qcow2")
    put_overlay("clones/a.overlay.qcow2", f"{folder}/t.img")
    origin = OverlayOrigin("a", PLAN, "", f"{folder}/clones/a.qcow2")
    write_sidecar(f"{folder}/t.img", {f"{folder}/clones/a.overlay.qcow2": origin}, version=version)
    retire(how, "clones/a.qcow2")
    os.unlink("clones/c.qcow2")
    manifest = read(guests("{glob: clones/*.qcow2, format: qcow2}"))
    lost = version == "1.0" and how == "delete"
    assert done(manifest) == ({} if lost else {"a": "a.overlay.qcow2"}, [])


@pytest.mark.parametrize("listed", [True, False])
def test_in_place(folder, version, listed):
    os.unlink("clones/a.img")
    put_overlay("clones/a.img", f"{folder}/t.img")
    path = f"{folder}/clones/a.img"
    write_sidecar(f"{folder}/t.img", {path: OverlayOrigin("a", PLAN, "", path)}, version=version)
    item = raw("clones/a.img", ", overlay: {path: same}") if listed else GLOB[:-1] + ", overlay: {path: same}}"
    settled, left = done(read(guests(item, tail="retire: quarantine\n")))
    assert settled == {"a": "a.img"}
    assert left == ([] if listed else ["b"])


def test_in_place_once_and_beside_now(folder, version):
    """The manifest has changed; what lies at the guest's path is an overlay all the same."""
    os.unlink("clones/a.img")
    put_overlay("clones/a.img", f"{folder}/t.img")
    path = f"{folder}/clones/a.img"
    write_sidecar(f"{folder}/t.img", {path: OverlayOrigin("a", PLAN, "", path)}, version=version)
    assert done(read(guests(raw("clones/a.img")))) == ({"a": "a.img"}, [])


def test_beside_once_and_in_place_now(folder):
    put_overlay("clones/a.qcow2", f"{folder}/t.img")
    origin = OverlayOrigin("a", PLAN, "", f"{folder}/clones/a.img")
    write_sidecar(f"{folder}/t.img", {f"{folder}/clones/a.qcow2": origin})
    retire("quarantine", "clones/a.img")
    item = raw("clones/a.img", ", overlay: {path: same}")
    assert done(read(guests(item, tail="retire: quarantine\n"))) == ({"a": "a.qcow2"}, [])


@pytest.mark.parametrize("what", ["gone", "other", "flat", "raw", "folder", "template"])
def test_an_entry_counts_only_while_the_overlay_rests_on_the_template(folder, converted, what):
    converted(a="a.qcow2")
    overlay = Path("clones/a.qcow2")
    match what:
        case "gone":
            overlay.unlink()
        case "other":
            shutil.copy("t.img", "other.img")
            overlay.unlink()
            put_overlay(overlay, f"{folder}/other.img")
        case "flat":
            overlay.unlink()
            notation.run("qemu-img", "create", "-q", "-f", "qcow2", str(overlay), "1M")
        case "raw":
            overlay.write_bytes(b"x" * 65536)
        case "folder":
            overlay.unlink()
            overlay.mkdir()
        case "template":
            os.rename("t.img", "moved.img")
            make("t.img")  # another file: a sidecar goes by paths, and so does the overlay's header
    if what == "template":
        assert done(read(guests(raw("clones/a.img")))) == ({"a": "a.qcow2"}, [])
    elif what == "gone":
        assert done(read(guests(raw("clones/a.img")))) == ({}, ["a"])
    else:
        (problem,) = problems(guests(raw("clones/a.img")))
        assert ("is a folder" if what == "folder" else "already exists") in problem
    retire("quarantine", "clones/a.img")
    if what != "template":
        (problem,) = problems(guests(raw("clones/a.img")))
        assert problem.startswith("m.yaml:4: guests[0].path: no such file")
        assert f'it is in quarantine, as "{folder}/clones/a.img{QUARANTINE}"; bring it back' in problem


def test_a_snapshot_between_overlay_and_template(folder, converted):
    converted(a="a.qcow2")
    os.rename("clones/a.qcow2", "clones/a.1.qcow2")
    notation.run(
        *("qemu-img", "create", "-q", "-f", "qcow2", "-b", f"{folder}/clones/a.1.qcow2"),
        *("-F", "qcow2", "clones/a.qcow2"),
    )
    assert done(read(guests(raw("clones/a.img")))) == ({"a": "a.qcow2"}, [])


def test_an_overlay_that_moved_and_left_a_link(folder, converted):
    converted(a="a.qcow2")
    os.mkdir("fast")
    os.rename("clones/a.qcow2", "fast/a.qcow2")
    os.symlink("../fast/a.qcow2", "clones/a.qcow2")
    assert done(read(guests(raw("clones/a.img")))) == ({"a": "a.qcow2"}, [])


def test_the_overlay_of_another_guest_is_not_this_ones(folder):
    """``a.raw`` was converted; ``a.img``, which would get the same overlay, was not."""
    put_overlay("clones/a.qcow2", f"{folder}/t.img")
    origin = OverlayOrigin("a", PLAN, "", f"{folder}/clones/a.raw")
    write_sidecar(f"{folder}/t.img", {f"{folder}/clones/a.qcow2": origin})
    assert "already exists" in problems(guests(raw("clones/a.img")))[0]
    retire("delete", "clones/a.img")
    assert "no such file" in problems(guests(raw("clones/a.img")))[0]


def test_a_guest_behind_a_link(folder):
    """The link dangles once its guest is in quarantine; by path and by glob it is the same guest."""
    os.mkdir("pool")
    os.rename("clones/a.img", "pool/disk")
    os.symlink("../pool/disk", "clones/a.img")
    put_overlay("clones/a.qcow2", f"{folder}/t.img")
    overlays = {f"{folder}/clones/a.qcow2": OverlayOrigin("a", PLAN, "", f"{folder}/pool/disk")}
    write_sidecar(f"{folder}/t.img", overlays)
    for how in ("keep", "quarantine"):
        retire(how, "pool/disk")
        assert done(read(guests(raw("clones/a.img"), raw("clones/b.img")))) == ({"a": "a.qcow2"}, ["b"])
        assert done(read(guests(GLOB))) == ({"a": "a.qcow2"}, ["b"])


@pytest.mark.parametrize(
    ("pattern", "takes"),
    [
        ("clones/*.img", True),
        ("{folder}/clones/*.img", True),
        ("clones/../clones/a*", True),
        ("**/*.img", True),
        ("**", True),
        ("clones/**", True),
        ("cl*s/[a].img", True),
        ("link/*.img", True),
        ("clones/b*.img", False),
        ("other/*.img", False),
        ("*.img", False),
        ("clones/[!a]*.img", False),
    ],
)
def test_what_a_glob_would_take_in(folder, pattern, takes):
    if pattern.startswith("link"):
        os.symlink("clones", "link")
    os.mkdir("other")
    make("other/x.img", "z.img")
    os.unlink("clones/c.qcow2")
    put_overlay("clones/a.qcow2", f"{folder}/t.img")
    overlays = {f"{folder}/clones/a.qcow2": OverlayOrigin("a", PLAN, "", f"{folder}/clones/a.img")}
    write_sidecar(f"{folder}/t.img", overlays)
    os.unlink("clones/a.img")
    item = f'{{glob: "{pattern.format(folder=folder)}", format: raw}}'
    manifest = read(guests(item))
    assert ("a" in done(manifest)[0]) is takes


def test_a_glob_at_the_root_of_the_folder(folder):
    make("d.img")
    put_overlay("d.qcow2", f"{folder}/t.img")
    write_sidecar(f"{folder}/t.img", {f"{folder}/d.qcow2": OverlayOrigin("d", PLAN, "", f"{folder}/d.img")})
    os.unlink("d.img")
    for pattern in ("*.img", "**/d.img", "d.img"):
        assert "d" in done(read(guests(f'{{glob: "{pattern}", format: raw}}')))[0]


def test_hidden_files_are_taken_in_only_where_the_pattern_says_so(folder):
    put_overlay("clones/.a.qcow2", f"{folder}/t.img")
    overlays = {f"{folder}/clones/.a.qcow2": OverlayOrigin("a", PLAN, "", f"{folder}/clones/.a.img")}
    write_sidecar(f"{folder}/t.img", overlays)
    assert done(read(guests(GLOB))) == ({}, ["a", "b"])
    assert done(read(guests("{glob: clones/.*.img, format: raw}"))) == ({".a": ".a.qcow2"}, [])


def test_a_guest_that_is_gone_and_listed_is_not_taken_in_by_a_glob_too(folder, converted):
    converted(a="a.qcow2")
    retire("quarantine", "clones/a.img")
    manifest = read(guests(GLOB, raw("clones/a.img", ", name: web")))
    assert done(manifest) == ({"web": "a.qcow2"}, ["b"])


def test_names_stay_what_they_were_once_their_guests_are_gone(folder):
    os.mkdir("more")
    make("more/a.img")
    items = guests("{glob: clones/a.img, format: raw}", "{glob: more/*.img, format: raw}")
    before = [guest.name for guest in read(items).guests]
    put_overlay("clones/a.qcow2", f"{folder}/t.img")
    overlays = {f"{folder}/clones/a.qcow2": OverlayOrigin("a", PLAN, "", f"{folder}/clones/a.img")}
    write_sidecar(f"{folder}/t.img", overlays)
    os.unlink("clones/a.img")
    assert [guest.name for guest in read(items).guests] == before == ["clones/a.img", "more/a.img"]


def test_a_default_overlay_keeps_off_guests_that_are_gone(folder):
    """``a.qcow2`` was a guest and is in quarantine: its name must stay free for the way back."""
    put_overlay("clones/a.overlay.qcow2", f"{folder}/t.img")
    overlays = {f"{folder}/clones/a.overlay.qcow2": OverlayOrigin("a", PLAN, "", f"{folder}/clones/a.qcow2")}
    write_sidecar(f"{folder}/t.img", overlays)
    items = guests("{path: clones/a.qcow2, format: qcow2}", raw("clones/a.img", ", overlay: {path: x.qcow2}"))
    assert done(read(items)) == ({"clones/a.qcow2": "a.overlay.qcow2"}, ["clones/a.img"])
    # Both would have the same overlay, as when both were there.
    assert (
        "have the same overlay"
        in problems(guests("{path: clones/a.qcow2, format: qcow2}", raw("clones/a.img")))[0]
    )


def test_two_guests_of_one_overlay_are_reported_even_if_both_are_gone(folder):
    put_overlay("clones/a.qcow2", f"{folder}/t.img")
    write_sidecar(f"{folder}/t.img", {f"{folder}/clones/a.qcow2": OverlayOrigin("a", PLAN)}, version="1.0")
    (problem,) = problems(guests(raw("clones/a.vmdk"), raw("clones/a.vdi")))
    assert "have the same overlay" in problem


def test_a_guest_that_is_gone_needs_its_format_too(folder, converted):
    converted(a="a.qcow2")
    retire("delete", "clones/a.img")
    (problem,) = problems(guests("{path: clones/a.img}"))
    assert "format is missing" in problem


@pytest.mark.parametrize("path", ["relative.qcow2", "/a\0b", "/a\nb", ""])
def test_paths_that_are_none_in_a_sidecar(folder, path):
    write_sidecar(f"{folder}/t.img", {path: OverlayOrigin("a", PLAN, "", f"{folder}/clones/a.img")})
    assert done(read(guests(GLOB))) == ({}, ["a", "b"])


def test_an_unreadable_sidecar_marks_no_guest_as_converted(folder, converted):
    converted(a="a.qcow2")
    Path("t.img.batchdiff-template.json").write_text("{")
    assert "already exists" in problems(guests(raw("clones/a.img")))[0]


def test_without_a_template_no_guest_is_missing_whose_overlay_is_there(folder, converted):
    converted(a="a.qcow2")
    retire("quarantine", "clones/a.img")
    os.rename("t.img", "renamed.img")
    glob = '{glob: "clones/a*.img", format: raw}'
    (problem, other, unmatched) = problems(guests(raw("clones/a.img"), raw("clones/x.img"), glob))
    assert problem.startswith("m.yaml:2: template.path: no such file: ")
    assert "clones/x.img" in other
    assert unmatched.endswith(
        "; if the pattern used to match guests that have been converted, only the template entry is wrong;"
        " otherwise, correct the pattern"
    )


def test_without_a_template_no_overlay_is_taken_for_a_disk_in_use(folder, converted):
    """Who can tell whether a.qcow2 is one of its overlays? The advice to leave the guest out would be wrong."""
    converted(a="a.qcow2")
    os.rename("t.img", "renamed.img")
    (problem,) = problems(guests(raw("clones/a.img"), '{glob: "clones/b.img", format: raw}'))
    assert problem.startswith("m.yaml:2: template.path: no such file: ")


def test_a_template_on_a_block_device(tmp_path):
    """Its sidecar lies beside the overlays, one in each folder."""
    with mounted(tmp_path, "ext4", size=32 << 20) as place:
        make(*(str(place / name) for name in ("template.img", "a.img", "b.img")))
        os.truncate(place / "template.img", 1 << 20)
        device = notation.run("losetup", "-f", "--show", str(place / "template.img")).strip()
        try:
            put_overlay(place / "a.qcow2", device)
            write_sidecar(device, {str(place / "a.qcow2"): OverlayOrigin("a", PLAN, "", str(place / "a.img"))})
            text = f"version: 1\ntemplate: {{path: {device}, format: raw}}\nguests:\n"
            for item in ("  - {glob: '*.img', format: raw}\n", "  - {path: a.img, format: raw}\n"):
                (place / "m.yaml").write_text(text + item.replace("*", "[ab]"))
                for there in (True, False):
                    if not there:
                        (place / "a.img").unlink()
                    assert done(read_manifest(str(place / "m.yaml")))[0] == {"a": "a.qcow2"}
                make(str(place / "a.img"))
        finally:
            notation.run("losetup", "-d", device)
