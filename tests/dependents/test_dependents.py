"""What rests on a file, with images and names as QEMU makes them.

Guards image/backing/heads.py, image/backing/links.py.
"""

import errno
import fcntl
import os
import resource
import signal
import sys

import notation
import pytest
from filesystems import tmpfs
from notation import run
from sidecars import write_sidecar

from batchdiff.dependents.dependents import Dependents, Forbidden
from batchdiff.image.backing import heads


def above(path, backing, kind="raw"):
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", kind, "-b", str(backing), str(path), "4M")
    return path


def renamed_backing(path, name, kind="raw"):
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", kind, "-b", name, str(path))
    return path


@pytest.fixture
def pool(tmp_path):
    (tmp_path / "pool").mkdir()
    return tmp_path / "pool"


@pytest.fixture
def other(tmp_path):
    """A folder that nobody is told to look into."""
    (tmp_path / "other").mkdir()
    return tmp_path / "other"


@pytest.fixture
def guest(pool):
    return notation.write_raw(pool / "guest.img", "4M:A")


def on(path, *folders, **options):
    return Dependents(map(str, folders)).on(str(path), **options).words


def test_nothing_rests_on_it(pool, guest):
    notation.write_qcow2(pool / "whole.qcow2", "4M:A")
    above(pool / "another.qcow2", notation.write_raw(pool / "another.img", "4M:A"))
    assert on(guest) == []


NAMES = ["new.qcow2", "guest.snapshot1", "new.img", "new.raw", "new", "guest.img.batchdiff-original"]


@pytest.mark.parametrize("name", NAMES)
def test_an_image_beside_it_whatever_it_is_called(pool, guest, name):
    path = above(pool / name, guest)
    assert on(guest) == [str(path)]


@pytest.mark.parametrize(
    "name",
    [
        "{folder}/guest.img",
        "guest.img",
        "../pool/./guest.img",
        "file:{folder}/guest.img",
        "file:guest.img",
        'json:{{"driver": "raw", "file": {{"driver": "file", "filename": "{folder}/guest.img"}}}}',
        'json:{{"file.filename": "{folder}/guest.img"}}',
    ],
)
def test_every_way_to_name_it(pool, guest, name):
    path = renamed_backing(above(pool / "new.qcow2", guest), name.format(folder=pool))
    if name != "file:guest.img":  # which QEMU looks for where it was started
        run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(path), str(guest))
    assert on(guest) == [str(path)]


def test_a_name_through_symbolic_links(pool, guest, other):
    (other / "link.img").symlink_to(guest)
    (other / "folder").symlink_to(pool)
    one = above(pool / "one.qcow2", other / "link.img")
    two = above(pool / "two.qcow2", other / "folder" / "guest.img")
    assert on(guest) == [str(one), str(two)]


def test_a_folder_that_is_a_symbolic_link(tmp_path, pool, guest, other):
    path = above(other / "new.qcow2", "../pool/guest.img")
    (tmp_path / "link").symlink_to(other)
    assert on(guest, tmp_path / "link") == [str(path)]
    assert on(tmp_path / "pool" / ".." / "pool" / "guest.img", tmp_path / "link") == [str(path)]


def test_an_image_that_a_symbolic_link_beside_it_leads_to(pool, guest, other):
    path = above(other / "new.qcow2", guest)
    (pool / "new.qcow2").symlink_to(path)
    assert on(guest) == [str(path)]


def test_a_relative_name_starts_at_the_folder_of_a_link_or_of_the_file(pool, guest, other):
    """QEMU goes by the name that it is given."""
    path = above(pool / "made-here.qcow2", "guest.img").rename(other / "new.qcow2")
    (pool / "link.qcow2").symlink_to(path)
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(pool / "link.qcow2"), str(guest))
    assert on(guest) == [str(path)]
    elsewhere = notation.write_raw(other / "guest.img", "4M:A")
    assert on(elsewhere) == [str(path)]
    assert on(elsewhere, pool) == [str(path)]


def test_chains_of_three(pool, guest, other):
    low = above(other / "low.qcow2", guest)
    middle = above(other / "middle.qcow2", low, "qcow2")
    top = above(pool / "top.qcow2", middle, "qcow2")
    everything = sorted(map(str, (low, middle, top)))
    assert on(guest) == everything
    assert on(guest, but=[str(top)]) == sorted(map(str, (low, middle))), "the others still do"
    assert on(low, pool) == sorted(map(str, (middle, top)))
    assert on(middle, pool) == [str(top)]


def test_what_rests_on_an_image_that_may(pool, guest):
    overlay = above(pool / "overlay.qcow2", guest)
    assert on(guest, but=[str(overlay)]) == []
    snapshot = above(pool / "snapshot.qcow2", overlay, "qcow2")
    assert on(guest, but=[str(overlay)]) == [str(snapshot)]


def test_an_image_in_another_folder(guest, other):
    path = above(other / "new.qcow2", guest)
    assert on(guest) == [], "docs/safety.md says so"
    assert on(guest, other) == [str(path)]


def test_an_image_that_is_named_is_looked_at_wherever_it_is(guest, other):
    path = above(other / "new.qcow2", guest)
    found = Dependents([], images=[str(path), str(other / "gone.qcow2")]).on(str(guest)).words
    assert found == [str(path)]


@pytest.mark.parametrize("how", ["gone", "file", "loop", "dangling"])
def test_a_folder_that_is_none(tmp_path, guest, how):
    """No image can be there, so one guest with such a folder does not make the others depend on anything."""
    folder = tmp_path / "none"
    match how:
        case "file":
            folder.write_text("")
        case "loop":
            folder.symlink_to("none")
        case "dangling":
            folder.symlink_to("nowhere")
    assert on(guest, folder) == []


def test_a_hard_link_to_it_is_no_other_file(pool, guest, other):
    os.link(guest, other / "name.img")
    os.link(guest, pool / "name.qcow2")
    path = above(pool / "new.qcow2", other / "name.img")
    assert on(guest) == [str(path)]


def test_a_header_in_a_raw_image_is_not_followed(pool, guest, other):
    forged = above(other / "forged.img", guest)
    above(pool / "new.qcow2", forged, "raw")
    assert on(guest) == []


def test_a_data_file(pool, other):
    path = other / "image.qcow2"
    options = f"data_file={pool}/guest.img,data_file_raw=on"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(path), "4M")
    assert on(pool / "guest.img", other) == [str(path)]


@pytest.mark.parametrize("kind", ["qed", "vmdk"])
def test_images_of_other_formats(pool, other, kind):
    lower = pool / f"lower.{kind}"
    run("qemu-img", "create", "-q", "-f", kind, str(lower), "4M")
    path = other / f"new.{kind}"
    run("qemu-img", "create", "-q", "-f", kind, "-F", kind, "-b", str(lower), str(path))
    assert on(lower, other) == [str(path)]


def test_circles_end(pool, guest):
    one = above(pool / "one.qcow2", guest)
    two = above(pool / "two.qcow2", one, "qcow2")
    renamed_backing(one, str(two), "qcow2")
    own = above(pool / "own.qcow2", guest)
    renamed_backing(own, "sub/../own.qcow2", "qcow2")
    assert on(guest) == []
    assert on(one) == [str(two)]
    assert on(own) == []


def test_a_chain_that_leads_to_no_file_or_to_a_fifo(pool, guest):
    low = above(pool / "low.qcow2", guest)
    above(pool / "top.qcow2", low, "qcow2")
    low.unlink()
    assert on(guest) == []
    os.mkfifo(low)
    assert on(guest) == []


def test_a_former_name(pool, guest, other):
    """It was renamed aside a moment ago, so the names that lead to it lead nowhere now."""
    (other / "link.img").symlink_to(guest)
    images = [above(pool / "absolute.qcow2", guest), above(pool / "relative.qcow2", "guest.img")]
    images += [
        above(other / "linked.qcow2", other / "link.img"),
        above(pool / "top.qcow2", pool / "relative.qcow2", "qcow2"),
    ]
    aside = guest.rename(pool / "guest.img.batchdiff-deleting")
    assert on(aside, other) == []
    assert on(aside, other, former=[str(guest)]) == sorted(map(str, images))
    assert on(guest, other) == sorted(map(str, images)), "also if nothing is left of it"


def test_a_former_name_that_another_file_has_now(pool, guest):
    path = above(pool / "new.qcow2", guest)
    aside = guest.rename(pool / "guest.img.batchdiff-original")
    above(guest, aside)
    assert on(aside) == [str(guest), str(path)]
    assert on(aside, former=[str(guest)], but=[str(guest)]) == [str(path)]


def test_our_own_files(pool, guest):
    above(pool / ".x.qcow2.12345678.batchdiff-tmp", guest)
    assert on(guest) == []
    whole = [above(pool / f"x.qcow2.batchdiff-{what}", guest) for what in ("deleting", "original", "overlay")]
    assert on(guest) == list(map(str, whole))


def test_many_files_in_one_look(pool, guest, other):
    second = notation.write_raw(pool / "second.img", "4M:A")
    image = above(other / "new.qcow2", guest)
    snapshot = above(other / "snapshot.qcow2", image, "qcow2")
    found = Dependents([str(other)]).on_each(map(str, (guest, second, image)))
    words = {path: each.words for path, each in found.items()}
    assert words == {str(guest): [str(image), str(snapshot)], str(second): [], str(image): [str(snapshot)]}


def test_a_sidecar_names_overlays_elsewhere(guest, other):
    overlay, another = (above(other / name, guest) for name in ("overlay.qcow2", "another.qcow2"))
    write_sidecar(guest, overlay)
    assert on(guest) == [str(another), str(overlay)], "what is beside the overlay is found as well"
    aside = guest.rename(f"{guest}.batchdiff-original")
    assert on(aside) == []
    assert on(aside, former=[str(guest)]) == [str(another), str(overlay)]


def test_a_snapshot_elsewhere_of_an_overlay_in_a_sidecar(tmp_path, guest, other):
    overlay = above(other / "overlay.qcow2", guest)
    write_sidecar(guest, overlay)
    snapshot = above(other / "snapshot.qcow2", "overlay.qcow2", "qcow2")
    assert on(guest, but=[str(overlay)]) == [str(snapshot)]
    far = tmp_path / "far"
    far.mkdir()
    snapshot.unlink()
    snapshot = above(far / "snapshot.qcow2", overlay, "qcow2")
    write_sidecar(overlay, snapshot)
    assert on(overlay) == [str(snapshot)]


def test_an_overlay_of_a_sidecar_that_was_copied_away_or_flattened(guest, other):
    overlay = above(other / "overlay.qcow2", guest)
    write_sidecar(guest, overlay)
    copy = other / "copy.qcow2"
    copy.write_bytes(overlay.read_bytes())
    run("qemu-img", "rebase", "-f", "qcow2", "-b", "", str(overlay))
    assert on(guest) == [str(copy)]
    copy.unlink()
    assert on(guest) == []
    overlay.unlink()
    assert on(guest) == []


@pytest.mark.parametrize(
    "damage", ["damaged", '{"overlays": {}}', '{"format_version": "9.0", "overlays": {}}', None]
)
def test_a_sidecar_that_cannot_be_read_might_name_anything(pool, guest, damage):
    sidecar = pool / "guest.img.batchdiff-template.json"
    sidecar.mkdir() if damage is None else sidecar.write_text(damage)
    expected = [f"perhaps an overlay listed in {sidecar} (unreadable)"]
    assert on(guest) == on(guest, forbidden=Forbidden.IGNORED) == expected


def test_names_that_no_file_can_have(pool, guest):
    write_sidecar(guest, "/images/a\0b", "/images/\ud800", "relative")
    path = above(pool / "new.qcow2", guest)
    content = path.read_bytes().replace(str(guest).encode(), b"\0" * len(str(guest)))
    path.write_bytes(content)
    assert on(guest) == []
    renamed_backing(path, r'json:{"driver": "raw", "file": {"driver": "file", "filename": "\ud800"}}')
    assert on(guest) == []
    renamed_backing(path, rf'json:{{"filename": "\ud800", "file.filename": "{guest}"}}')
    assert on(guest) == [str(path)], "the other name counts"


def test_what_is_new_is_seen_and_what_was_seen_is_not_read_again(pool, guest, monkeypatch):
    opened = []
    real = os.open
    monkeypatch.setattr(
        heads.os, "open", lambda path, flags: opened.append(os.path.basename(path)) or real(path, flags)
    )
    monkeypatch.setattr(heads.time, "time_ns", lambda: 1 << 62)  # all is long ago
    images = [above(pool / f"{number}.qcow2", guest) for number in range(3)]
    dependents = Dependents([str(pool)])
    assert dependents.on(str(guest)).words == list(map(str, images))
    assert sorted(opened) == ["0.qcow2", "1.qcow2", "2.qcow2"], "never the file that is to go"
    opened.clear()
    renamed_backing(images[0], "")
    images.append(above(pool / "new.qcow2", guest))
    assert dependents.on(str(guest)).words == list(map(str, images[1:]))
    assert sorted(opened) == ["0.qcow2", "new.qcow2"]


def test_a_file_that_has_just_changed_is_read_again(pool, guest, monkeypatch):
    """Its clock may be coarse: it could change once more and keep its size and times."""
    path = above(pool / "new.qcow2", guest)
    times = path.stat()
    monkeypatch.setattr(heads.time, "time_ns", lambda: times.st_ctime_ns + 10**9)
    dependents = Dependents([str(pool)])
    assert dependents.on(str(guest)).words == [str(path)]
    same_state = heads._state(times)
    monkeypatch.setattr(heads, "_state", lambda _: same_state)
    renamed_backing(path, "")
    assert dependents.on(str(guest)).words == []


def test_a_lease_on_the_file_is_not_broken(tmp_path):
    with tmpfs(tmp_path) as folder:
        guest = notation.write_raw(folder / "guest.img", "4M:A")
        path = above(folder / "new.qcow2", guest)
        os.link(guest, folder / "link.qcow2")
        fd = os.open(guest, os.O_RDONLY)
        try:
            fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            assert on(guest) == [str(path)]
            assert fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_WRLCK
        finally:
            os.close(fd)


LOOK = """
import sys
from batchdiff.dependents.dependents import Dependents, Forbidden
for each in Dependents(sys.argv[3:]).on(sys.argv[1], forbidden=Forbidden(sys.argv[2])).words:
    print(each)
"""
WITHOUT_PRIVILEGES = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")


def looked_unprivileged(path, forbidden, *folders):
    return run(
        *WITHOUT_PRIVILEGES, sys.executable, "-c", LOOK, *map(str, (path, forbidden, *folders))
    ).splitlines()


@pytest.mark.parametrize(
    "what", ["image", "folder of the image below it", "folder of the image behind a link", "folder"]
)
def test_what_this_user_may_not_read_counts_before_a_file_goes(pool, guest, other, what):
    """A snapshot that only another user may read would lose its ground. Planning shows what can be known."""
    closed = above(other / "new.qcow2", guest)
    match what:
        case "image":
            os.chown(closed, 1234, 1234)
            closed.chmod(0o600)
        case "folder of the image below it":
            above(pool / "top.qcow2", closed, "qcow2")
        case "folder of the image behind a link":
            (pool / "link.qcow2").symlink_to(closed)
        case "folder":
            closed = other
    if what != "image":
        other.chmod(0)
    folders = [] if what.startswith("folder of") else [other]
    image = f"an image in {closed}" if what == "folder" else closed
    expected = [f"perhaps {image} (unreadable: Permission denied)"]
    assert looked_unprivileged(guest, "counts", *folders) == expected
    assert looked_unprivileged(guest, "ignored", *folders) == []


def test_an_overlay_of_a_sidecar_that_this_user_may_not_read_always_counts(guest, other):
    overlay = above(other / "overlay.qcow2", guest)
    write_sidecar(guest, overlay)
    overlay.chmod(0)
    expected = [f"perhaps {overlay} (unreadable: Permission denied)"]
    for forbidden in ("counts", "ignored"):
        assert looked_unprivileged(guest, forbidden) == expected


def test_an_image_that_is_declared_raw_rests_on_nothing_also_if_its_disk_fails(pool, guest, monkeypatch):
    """One bad disk keeps no other guest from being converted. What may be anything is another matter."""
    raw, anything = notation.write_raw(pool / "raw.img", "4M:A"), notation.write_raw(pool / "other.img", "4M:A")

    def failing(path, flags, *, real=os.open):
        if path in {str(raw), str(anything)}:
            raise OSError(errno.EIO, "Input/output error")
        return real(path, flags)

    monkeypatch.setattr(heads.os, "open", failing)
    dependents = Dependents([str(pool)], raw=[str(raw)])
    expected = [f"perhaps {anything} (unreadable: Input/output error)"]
    for forbidden in Forbidden:
        assert dependents.on(str(guest), forbidden=forbidden).words == expected
        assert dependents.on_each([str(guest)], forbidden=forbidden)[str(guest)].words == expected


def test_too_many_open_files_are_no_reason_to_see_nothing(pool, guest):
    """Also for planning, which has every guest open."""
    path = above(pool / "new.qcow2", guest)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    listing = os.open(pool, os.O_RDONLY)  # the folder can be listed, the image not opened
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (listing + 1, hard))
        found = on(guest, forbidden=Forbidden.IGNORED)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(listing)
    assert found == [f"perhaps an image in {pool} (unreadable: Too many open files)"], path
