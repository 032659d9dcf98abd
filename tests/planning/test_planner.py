"""Plans of small fleets, compared with what a naive reader finds.

Guards planning/assessment.py, planning/scan_all.py.
"""

import dataclasses
import errno
import fcntl
import multiprocessing
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess

import naive
import notation
import pytest
from disk_cases import layers
from filesystems import look_again, mounted
from oracle import source, within

from batchdiff.choices import OF_OVERLAYS, Loss, Retire, Verdict
from batchdiff.errors import ImageError, WorkerError
from batchdiff.image.image import Image
from batchdiff.image.storage.shared_blocks import SharedExtent
from batchdiff.linux import fiemap
from batchdiff.manifest.manifest import GuestEntry, Manifest
from batchdiff.plan.document import to_dict
from batchdiff.plan.extents import extents_of
from batchdiff.plan.file import checksum_of
from batchdiff.plan.overlay_options import Compression, OverlayOptions
from batchdiff.plan.plan import Similarity, why_unlike
from batchdiff.planning import planner
from batchdiff.planning.planner import make_plan
from batchdiff.planning.scan import one_range, range_progress
from batchdiff.units import GIB, KIB, MIB, TIB, format_size

OPTIONS = OverlayOptions()
TEMPLATE = "2M:A 1M:- 2M:B 1M:0 2M:C"


@pytest.fixture
def template(tmp_path):
    return notation.write_raw(tmp_path / "template.img", TEMPLATE)


def manifest(template, *guests, options=OPTIONS, **changes):
    entries = tuple(
        GuestEntry(path.name, source(path), str(path.parent / f"{path.name}.overlay"), options) for path in guests
    )
    found = Manifest(
        path="/fleet.yaml",
        sha256="00" * 32,
        template=source(template),
        guests=entries,
        retire=Retire.KEEP,
        minimum_savings=0.0,
        protect_template=True,
        allow_loss=frozenset(),
    )
    return dataclasses.replace(found, **changes)


def planned(template, *guests, jobs=1, **changes):
    return make_plan(manifest(template, *guests, **changes), jobs=jobs)


def only_guest(template, *guests, **changes):
    (guest,) = planned(template, *guests, **changes).guests
    return guest


def checksum(plan):
    return checksum_of(to_dict(plan))


def fleet(folder, template):
    """Raw, qcow2, larger, unchanged, zeroed."""
    notation.write_raw(folder / "raw.img", "2M:A 1M:- 1M:X 1M:B 1M:0 2M:C")
    notation.write_qcow2(folder / "thick.qcow2", "2M:A 1M:D 2M:B 1M:0 1M:C 1M:E")
    notation.write_raw(folder / "large.img", f"{TEMPLATE} 3M:- 100k:E")
    notation.write_raw(folder / "same.img", TEMPLATE)
    notation.write_raw(folder / "zeroed.img", "2M:0 1M:- 2M:B 1M:0 2M:C")
    return [folder / name for name in ("raw.img", "thick.qcow2", "large.img", "same.img", "zeroed.img")]


def test_a_fleet(tmp_path, template, small_ranges):
    plan = planned(template, *fleet(tmp_path, template))
    assert [guest.verdict for guest in plan.guests] == [Verdict.CONVERT] * 5
    texts = ["2M:A 1M:- 1M:X 1M:B 1M:0 2M:C", "2M:A 1M:D 2M:B 1M:0 1M:C 1M:E", f"{TEMPLATE} 3M:- 100k:E"]
    texts += [TEMPLATE, "2M:0 1M:- 2M:B 1M:0 2M:C"]
    for guest, text in zip(plan.guests, texts, strict=True):
        expected = naive.differences(notation.content(TEMPLATE), notation.content(text))
        assert extents_of(guest.diff).runs() == naive.to_write(expected, 65536)
        assert guest.image.virtual_size == notation.size(text)
    assert plan.totals.convert == plan.totals.guests == 5


@pytest.mark.parametrize("assessed_together", [1, 8])
@pytest.mark.parametrize("compression", Compression)
def test_the_same_plan_for_any_number_of_jobs(
    tmp_path, template, small_ranges, monkeypatch, compression, assessed_together
):
    monkeypatch.setattr(planner, "_GUESTS_OF_A_WORKER", assessed_together)
    guests = fleet(tmp_path, template)
    options = OverlayOptions(cluster_size=None, compression=compression)
    plans = [planned(template, *guests, jobs=jobs, options=options) for jobs in (1, 2, 3)]
    assert len({checksum(plan) for plan in plans}) == 1
    assert multiprocessing.active_children() == []


def test_the_digest_does_not_depend_on_the_format(tmp_path, template, small_ranges):
    copy = notation.write_qcow2(tmp_path / "copy.qcow2", TEMPLATE, options="cluster_size=4k")
    guest = shutil.copy(template, tmp_path / "g.img")
    found = [planned(path, tmp_path / guest, jobs=2).template_digest for path in (template, copy)]
    assert found[0] == found[1]
    with template.open("r+b") as file:
        file.seek(5 * MIB - 1)
        file.write(b"?")
    assert planned(template, tmp_path / guest).template_digest != found[0]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_template_whose_folder_is_swapped_during_the_scan(tmp_path, jobs):
    """Each batch of guests opens the template again, and its own times do not say that other names led to it."""
    names = ("images", "away")
    for name, text in zip(names, ("2M:A", "1M:A 1M:B"), strict=True):
        (tmp_path / name).mkdir()
        notation.write_raw(tmp_path / name / "template.img", text)
    guest = notation.write_raw(tmp_path / "guest.img", "1M:A 1M:B")

    def swap(*_):
        there, other = (tmp_path / name for name in names)
        there.rename(tmp_path / "between")
        other.rename(there)
        (tmp_path / "between").rename(other)

    def progress(done, total):
        if done in {0, total}:
            swap()

    with pytest.raises(ImageError) as caught:
        make_plan(manifest(tmp_path / "images/template.img", guest), jobs=jobs, progress=progress)
    assert str(caught.value) == (
        f"another file took the place of {tmp_path}/images/template.img while this command was running."
        " Find out what moved the file or mounted something over it, and run the same command again."
    )


def test_progress(tmp_path, template, small_ranges, monkeypatch):
    """Of each range, and, without workers, of each window, if windows take long enough."""
    guests = fleet(tmp_path, template)
    monkeypatch.setattr(range_progress, "_BETWEEN_REPORTS", 0)
    reports = {}
    for jobs in (1, 2):
        seen = []
        make_plan(manifest(template, *guests), jobs=jobs, progress=lambda *numbers, s=seen: s.append(numbers))
        totals = {total for _, total in seen}
        assert len(totals) == 1
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert seen[0][0] == 0
        assert seen[-1][0] == totals.pop() > 0
        reports[jobs] = len(seen)
    assert reports[1] > reports[2]


@pytest.mark.parametrize("text", ["8M:A", "9M:A 1M:B"])
def test_a_smaller_guest_is_refused(tmp_path, text):
    template = notation.write_raw(tmp_path / "t.img", "12M:A")
    guest = only_guest(template, notation.write_raw(tmp_path / "g.img", text))
    assert guest.verdict is Verdict.REFUSE
    assert "smaller than the template" in guest.reason
    assert guest.diff is None


def test_smaller_by_a_byte_is_what_qemu_shows(tmp_path):
    """Raw sizes are rounded up to 512: less than a sector is no difference, a sector is."""
    (tmp_path / "t.img").write_bytes(b"x" * MIB)
    for missing, verdict in ((1, Verdict.CONVERT), (511, Verdict.CONVERT), (512, Verdict.REFUSE)):
        (tmp_path / "g.img").write_bytes(b"x" * (MIB - missing))
        assert only_guest(tmp_path / "t.img", tmp_path / "g.img").verdict is verdict


@pytest.mark.parametrize("allowed", [[], [Loss.SNAPSHOTS], [Loss.BITMAPS], list(Loss)])
@pytest.mark.parametrize("loss", OF_OVERLAYS)
def test_what_would_be_lost(tmp_path, template, loss, allowed):
    path = notation.write_qcow2(tmp_path / "g.qcow2", TEMPLATE)
    what = ("snapshot", "-c", "s1") if loss is Loss.SNAPSHOTS else ("bitmap", "--add")
    notation.run("qemu-img", *what, str(path), *(["b1"] if loss is Loss.BITMAPS else []))
    guest = only_guest(template, path, allow_loss=frozenset(allowed))
    if loss in allowed:
        assert guest.verdict is Verdict.CONVERT
    else:
        assert guest.verdict is Verdict.REFUSE
        assert f"allow_loss: [{loss}]" in guest.reason
        assert guest.reason.startswith("it has 1 ")


@pytest.mark.parametrize("declared", [False, True])
def test_an_overlay_of_this_template_is_skipped(tmp_path, template, declared):
    path = notation.write_qcow2(tmp_path / "g.qcow2", "8M:-", backing=template)
    found = manifest(template, path)
    if declared:
        entry = dataclasses.replace(found.guests[0], image=source(path, template))
        found = dataclasses.replace(found, guests=(entry,))
    (guest,) = make_plan(found, jobs=1).guests
    assert guest.verdict is Verdict.SKIP
    assert "already an overlay" in guest.reason


def test_an_overlay_of_something_else_is_refused(tmp_path, template):
    other = notation.write_raw(tmp_path / "other.img", TEMPLATE)
    path = notation.write_qcow2(tmp_path / "g.qcow2", "8M:-", backing=other)
    guest = only_guest(template, path)
    assert guest.verdict is Verdict.REFUSE
    assert str(other) in guest.reason


def test_unreadable_guests_do_not_stop_the_others(tmp_path, template):
    good = tmp_path / "good.img"
    shutil.copy(template, good)
    (tmp_path / "garbage.qcow2").write_bytes(b"no image" * 1000)
    (tmp_path / "empty.img").touch()
    (tmp_path / "folder.img").mkdir()
    os.mkfifo(tmp_path / "fifo.img")
    (tmp_path / "link.img").symlink_to(good)
    names = ["garbage.qcow2", "good.img", "empty.img", "missing.img", "folder.img", "fifo.img", "link.img"]
    with within(5):
        plan = planned(template, *(tmp_path / name for name in names), jobs=2)
    for guest in plan.guests:
        expected = Verdict.CONVERT if guest.name == "good.img" else Verdict.REFUSE
        assert guest.verdict is expected, guest.name
        assert expected is Verdict.CONVERT or str(tmp_path / guest.name) in guest.reason
    assert plan.totals.refuse == 6


def failing_after(monkeypatch, name, after):
    """EIO from an offset on, in the planner and, through fork, in its workers."""
    real = os.preadv

    def preadv(fd, buffers, offset, *rest):
        if offset + len(buffers[0]) > after and os.readlink(f"/proc/self/fd/{fd}").endswith(name):
            raise OSError(5, "Input/output error")
        return real(fd, buffers, offset, *rest)

    monkeypatch.setattr(os, "preadv", preadv)


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("after", [0, 5 * MIB, 7 * MIB + 512])
def test_a_guest_that_fails_in_the_middle(tmp_path, template, small_ranges, monkeypatch, jobs, after):
    guests = fleet(tmp_path, template)
    sound = {guest.name: guest for guest in planned(template, *guests).guests}
    failing_after(monkeypatch, "raw.img", after)
    plan = planned(template, *guests, jobs=jobs)
    failed, *others = plan.guests
    assert failed.verdict is Verdict.REFUSE
    assert "Input/output error" in failed.reason
    assert "raw.img" in failed.reason
    assert {guest.name: guest for guest in others}.items() <= sound.items()


def untold(monkeypatch, name):
    """EIO where the filesystem is asked where a file is on its disk."""
    real = fcntl.ioctl

    def ioctl(fd, request, *rest):
        if request == fiemap.REQUEST and os.readlink(f"/proc/self/fd/{fd}").endswith(name):
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, request, *rest)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)


@pytest.mark.parametrize("sharing", [False, True])
def test_a_guest_whose_blocks_the_filesystem_cannot_tell(tmp_path, template, monkeypatch, sharing):
    guests = fleet(tmp_path, template)
    untold(monkeypatch, "raw.img")
    if sharing:
        everything = [SharedExtent(0, 2 * MIB, 1, 0)]
        real = one_range.shared_extents
        monkeypatch.setattr(planner, "has_shared_extents", lambda _: True)
        monkeypatch.setattr(one_range, "shared_extents", lambda image, s: real(image, s) or everything)
    failed, *others = planned(template, *guests).guests
    assert failed.verdict is Verdict.REFUSE
    assert re.search(r"cannot determine where .*raw.img is on its disk: Input/output error", failed.reason)
    assert {guest.verdict for guest in others} == {Verdict.CONVERT}


def test_a_template_whose_blocks_the_filesystem_cannot_tell(tmp_path, template, monkeypatch):
    untold(monkeypatch, "template.img")
    with pytest.raises(ImageError, match=r"where .*template.img is on its disk: Input/output error"):
        planned(template, *fleet(tmp_path, template))


def test_an_overlay_folder_that_is_gone(tmp_path, template):
    """Removed during the scan; only that guest is refused."""
    found = manifest(template, *fleet(tmp_path, template))
    first, *others = found.guests
    lost = dataclasses.replace(first, overlay_path=str(tmp_path / "gone" / "raw.qcow2"))
    guest, *rest = make_plan(dataclasses.replace(found, guests=(lost, *others)), jobs=1).guests
    assert guest.verdict is Verdict.REFUSE
    assert re.fullmatch(
        r"cannot access (.*gone), the folder of its overlay: \1, or a folder above it, does not exist\. Correct"
        r" the path, or put back what is missing, then run the same command again\.",
        guest.reason,
    )
    assert {other.verdict for other in rest} == {Verdict.CONVERT}


def test_an_overlay_folder_that_may_not_be_used(tmp_path, template, monkeypatch):
    def denied(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    guests = fleet(tmp_path, template)
    monkeypatch.setattr("batchdiff.planning.assessment.volume_of", denied)
    guest, *_ = planned(template, *guests).guests
    assert guest.verdict is Verdict.REFUSE
    assert f"Permission denied ({tmp_path}), though owners and modes allow it" in guest.reason


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_template_that_fails_is_fatal(tmp_path, template, small_ranges, monkeypatch, jobs):
    guests = fleet(tmp_path, template)
    failing_after(monkeypatch, "template.img", 5 * MIB)
    with pytest.raises(ImageError, match=r"template.img .*Input/output error"):
        planned(template, *guests, jobs=jobs)
    assert multiprocessing.active_children() == []


def while_scanning(monkeypatch, action):
    """Does something when the first range is being scanned."""
    real = one_range.Scanner.scan

    def scanning(self, number):
        if number == 0:
            action()
        return real(self, number)

    monkeypatch.setattr(one_range.Scanner, "scan", scanning)


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("change", ["write", "touch", "chmod", "grow"])
@pytest.mark.parametrize("which", ["guest", "template"])
def test_changed_while_it_was_scanned(tmp_path, template, small_ranges, monkeypatch, jobs, change, which):
    guests = fleet(tmp_path, template)
    target = template if which == "template" else guests[0]

    def act():
        match change:
            case "write":
                with target.open("r+b") as file:
                    file.write(b"?")
            case "touch":
                target.touch()
            case "chmod":
                target.chmod(0o600)
            case "grow":
                os.truncate(target, 20 * MIB)

    while_scanning(monkeypatch, act)
    if which == "template":
        with pytest.raises(ImageError, match=r"^the template changed while the plan was being made: ") as caught:
            planned(template, *guests, jobs=jobs)
        assert caught.value.remedy == "Shut down the VM or program that changes it, and plan again."
        return
    first, *others = planned(template, *guests, jobs=jobs).guests
    assert first.verdict is Verdict.REFUSE
    assert "it changed while this command was running" in first.reason
    assert all(guest.verdict is Verdict.CONVERT for guest in others)


def test_truncated_while_it_was_scanned(tmp_path, template, small_ranges, monkeypatch):
    guests = fleet(tmp_path, template)
    while_scanning(monkeypatch, lambda: os.truncate(guests[0], MIB))
    first, *others = planned(template, *guests).guests
    assert first.verdict is Verdict.REFUSE
    assert all(guest.verdict is Verdict.CONVERT for guest in others)


def test_a_killed_worker_names_the_range(tmp_path, template, small_ranges, monkeypatch):
    guests = fleet(tmp_path, template)
    planner_id = os.getpid()

    def die():
        assert os.getpid() != planner_id
        os.kill(os.getpid(), signal.SIGKILL)

    while_scanning(monkeypatch, die)
    with within(10), pytest.raises(WorkerError, match="SIGKILL while scanning bytes 0 to 2097152"):
        planned(template, *guests, jobs=2)
    assert multiprocessing.active_children() == []


def test_nothing_to_gain(tmp_path):
    template = notation.write_raw(tmp_path / "t.img", "4M:A")
    guest = only_guest(template, notation.write_raw(tmp_path / "g.img", "1M:A 3M:B"), minimum_savings=0.5)
    assert guest.verdict is Verdict.SKIP
    assert "it would save " in guest.reason
    # Of each cluster 4 KiB differ, so the overlay is as large as the guest.
    spread = " ".join(["4k:B 60k:A"] * 64)
    guest = only_guest(template, notation.write_raw(tmp_path / "h.img", spread))
    assert (guest.verdict, guest.reason) == (
        Verdict.SKIP,
        "its overlay would not be smaller than the guest is now; with clusters of 4 KiB, it would save about"
        " 3.7 MiB (`overlay: {cluster_size: auto}`)",
    )
    better = only_guest(template, tmp_path / "h.img", options=OverlayOptions(cluster_size=None))
    assert (better.verdict, better.options.cluster_size) == (Verdict.CONVERT, 4096)
    assert format_size(better.diff.savings.saved_bytes) == "3.7 MiB"


@pytest.mark.parametrize(("changed", "named"), [(13, True), (15, False), (16, False)])
def test_other_clusters_are_named_if_they_save_a_tenth(tmp_path, changed, named):
    """Of each cluster of 64 KiB so many of 16 units differ."""
    template = notation.write_raw(tmp_path / "t.img", "4M:A")
    text = " ".join([f"{4 * changed}k:B {64 - 4 * changed}k:A" if changed < 16 else "60k:B 4k:C"] * 64)
    guest = only_guest(template, notation.write_raw(tmp_path / "g.img", text))
    assert guest.verdict is Verdict.SKIP
    assert ("with clusters of 4 KiB, it would save about " in guest.reason) is named


@pytest.mark.parametrize(
    ("text", "verdict", "much"),
    [
        ("4M:B", Verdict.SKIP, "nothing"),
        ("4k:A 4092k:B", Verdict.SKIP, "next to nothing (0.10% of its data)"),
        ("1M:B 3M:0", Verdict.CONVERT, "nothing"),  # zeros are no likeness
        ("64k:A 4032k:B", Verdict.SKIP, None),
        ("1M:A 3M:B", Verdict.CONVERT, None),
        ("4M:0", Verdict.CONVERT, None),
    ],
)
def test_a_disk_that_was_not_copied_from_the_template(tmp_path, text, verdict, much):
    template = notation.write_raw(tmp_path / "t.img", "4M:A")
    guest = only_guest(template, notation.write_raw(tmp_path / "g.img", text))
    words = f"it has {much} in common with the template: was it copied from another one?" if much else ""
    assert (guest.verdict, why_unlike(guest.diff.similarity)) == (verdict, words)
    assert guest.reason == (words if verdict is Verdict.SKIP and much else guest.reason)


@pytest.mark.parametrize("text", ["12M:A", "2M:A 2M:B 8M:A", "2M:A 8k:- 4k:C 4M:0 1M:- 4084k:A 1M:D", "12M:B"])
def test_likeness_counts_every_unit_of_both(tmp_path, text):
    """Also where nothing differs for many MiB, of which the extents have nothing."""
    whole = "3M:A 4k:- 1020k:A 5M:A 3M:-"
    template = notation.write_raw(tmp_path / "t.img", whole)
    guest = only_guest(template, notation.write_raw(tmp_path / "g.img", text))
    ours, theirs = notation.content(whole), notation.content(text)
    units = [(ours[at : at + 4096], theirs[at : at + 4096]) for at in range(0, len(theirs), 4096)]
    data = [pair for pair in units if any(pair[1])]
    equal = sum(one == other for one, other in data)
    assert guest.diff.similarity == Similarity(equal * 4096, len(data) * 4096)


def test_a_hard_link_is_distinguished_from_shared_blocks(tmp_path):
    template = notation.write_raw(tmp_path / "t.img", "1M:A")
    path = notation.write_raw(tmp_path / "g.img", "1M:A")
    os.link(path, tmp_path / "second name")
    guest = only_guest(template, path)
    found = re.search(r"it has 2 names \(hard links\); `(.*)` lists those below /", guest.reason)
    assert found, guest.reason
    listed = subprocess.run(shlex.split(found[1]), capture_output=True, text=True, check=False).stdout
    assert set(listed.splitlines()) == {str(path), str(tmp_path / "second name")}


@pytest.mark.parametrize(
    ("minimum", "verdict"), [(0.0, Verdict.CONVERT), (0.4, Verdict.CONVERT), (0.5, Verdict.SKIP)]
)
def test_minimum_savings(tmp_path, minimum, verdict):
    """Half of it changed, so a little less than half comes back."""
    template = notation.write_raw(tmp_path / "t.img", "16M:A")
    path = notation.write_raw(tmp_path / "g.img", "8M:A 8M:B")
    plan = planned(template, path, minimum_savings=minimum)
    assert plan.minimum_savings == minimum
    (guest,) = plan.guests
    assert guest.verdict is verdict
    assert verdict is Verdict.CONVERT or "below the minimum of 50.0%" in guest.reason


def test_reflink_copies_save_little(tmp_path):
    """Nothing of an untouched reflink copy would come back."""
    with mounted(tmp_path, "xfs") as point:
        template = notation.write_raw(point / "t.img", "16M:A")
        copies = [point / "same.img", point / "ran-on.img"]
        for path in copies:
            notation.run("cp", "--reflink=always", str(template), str(path))
        with copies[1].open("r+b") as file:
            file.write(random.Random(1).randbytes(2 * MIB))
        same, changed = planned(template, *copies).guests
        assert same.verdict is Verdict.SKIP
        assert same.reason == "deleting it would free nothing: it shares all its blocks with other files"
        assert same.diff.savings.reclaimable_bytes == 0
        assert same.diff.savings.allocated_bytes == 16 * MIB
        assert changed.diff.savings.reclaimable_bytes == 2 * MIB


def test_two_reflink_copies_of_a_full_clone_are_judged_each_by_itself(tmp_path):
    """Both could go, and their blocks with them; but whether the other file is a guest is not known here."""
    with mounted(tmp_path, "xfs") as point:
        template = notation.write_raw(point / "t.img", "4M:A")
        clone = notation.write_raw(point / "a.img", "4M:A")
        notation.run("cp", "--reflink=always", str(clone), str(point / "b.img"))
        for guest in planned(template, clone, point / "b.img").guests:
            assert guest.verdict is Verdict.SKIP
            assert "it shares all its blocks with other files; if those are guests too, " in guest.reason
            assert guest.reason.endswith("planning for several together is not supported yet")


def test_a_guest_in_a_lower_layer_is_not_converted(tmp_path):
    """Its overlay would only take space."""
    with layers(tmp_path) as merged:
        notation.write_raw(tmp_path / "below" / "g.img", "4M:A")
        look_again(merged)
        template = notation.write_raw(merged / "t.img", "4M:A")
        (found,) = planned(template, merged / "g.img").guests
        assert found.verdict is Verdict.SKIP
        assert found.reason == "deleting it would free nothing: it is in a lower layer of its overlayfs"


def test_auto_takes_the_smallest_overlay(tmp_path):
    template = notation.write_raw(tmp_path / "t.img", "64M:A")
    scattered = " ".join(["4k:B 1020k:A"] * 64)
    path = notation.write_raw(tmp_path / "g.img", scattered)
    guest = only_guest(template, path, options=OverlayOptions(cluster_size=None))
    sizes = dict(guest.diff.savings.overlay_bytes_by_cluster_size)
    assert guest.options.cluster_size < 65536
    assert guest.diff.savings.overlay_bytes == sizes[guest.options.cluster_size] <= min(sizes.values()) * 1.01
    assert guest.diff.unit == guest.options.cluster_size


def test_auto_takes_subclusters_if_they_take_less_space(tmp_path):
    """Each overlay that was compared takes on disk what the plan says, when it is asked for."""
    template = notation.write_raw(tmp_path / "t.img", "64M:A")
    path = notation.write_raw(tmp_path / "g.img", " ".join(["4k:B 2044k:A"] * 32))
    auto = OverlayOptions(cluster_size=None, extended_l2=None)
    guest = only_guest(template, path, options=auto)
    assert guest.options.extended_l2
    table = {False: guest.diff.savings.standard_l2_disk_bytes, True: guest.diff.savings.extended_l2_disk_bytes}
    least = min(taken for sizes in table.values() for _, taken in sizes)
    # "auto" compares without the block in which ext4 lists the extents.
    assert guest.diff.savings.overlay_disk_bytes <= 1.01 * least + 4096
    for extended, sizes in table.items():
        assert sizes
        for cluster_size, taken in sizes:
            chosen = OverlayOptions(cluster_size=cluster_size, extended_l2=extended)
            found = only_guest(template, path, options=chosen).diff.savings.overlay_disk_bytes
            assert found - taken in {0, 4096}


def test_all_cluster_sizes_come_from_one_scan(tmp_path):
    """The table of sizes says what each cluster size gives when it is asked for."""
    template = notation.write_raw(tmp_path / "t.img", "8M:A")
    path = notation.write_raw(tmp_path / "g.img", "4k:B 1M:A 12k:0 3M:A 500k:C 3500k:A 1M:D")
    table = dict(only_guest(template, path).diff.savings.overlay_bytes_by_cluster_size)
    for cluster_size, size in table.items():
        alone = only_guest(template, path, options=OverlayOptions(cluster_size=cluster_size))
        assert alone.diff.savings.overlay_bytes == size


def test_a_cluster_size_that_cannot_map_the_disk(tmp_path):
    """512-byte clusters end at 128 GiB."""
    for name in ("t.img", "g.img"):
        with (tmp_path / name).open("wb") as file:
            file.write(b"x")
            file.truncate(TIB)
    guest = only_guest(tmp_path / "t.img", tmp_path / "g.img", options=OverlayOptions(cluster_size=512))
    assert guest.verdict is Verdict.REFUSE
    assert "cannot map a disk of 1 TiB" in guest.reason


@pytest.mark.parametrize(("cluster_size", "verdict"), [(512, Verdict.REFUSE), (1024, Verdict.CONVERT)])
def test_a_backing_name_that_does_not_fit_into_the_first_cluster(tmp_path, cluster_size, verdict):
    """Said by the plan, for apply could only fail."""
    folder = tmp_path / ("n" * 200) / ("n" * 200)
    folder.mkdir(parents=True)
    template = notation.write_raw(folder / "template.img", TEMPLATE)
    guest = notation.write_raw(tmp_path / "guest.img", "2M:A 1M:- 1M:X 1M:B 1M:0 2M:C")
    found = only_guest(template, guest, options=OverlayOptions(cluster_size=cluster_size))
    assert found.verdict is verdict
    assert ("one cluster of 512" in found.reason) is (verdict is Verdict.REFUSE)


@pytest.mark.parametrize("form", ["img", "qcow2"])
def test_a_huge_sparse_pair_is_quick(tmp_path, form):
    for name in ("t.img", "g.img"):
        with (tmp_path / name).open("wb") as file:
            for at in (0, 7 * TIB + 5, 15 * TIB - 1):
                file.seek(at)
                file.write(b"x" if name == "t.img" else b"y")
    guest = tmp_path / f"g.{form}"
    if form == "qcow2":
        notation.run("qemu-img", "create", "-q", "-f", "qcow2", str(guest), "15T")
        notation.qemu_io(guest, "write -P 1 9T 64k")
    with within(5):
        found = only_guest(tmp_path / "t.img", guest, jobs=2)
    assert sum(extents_of(found.diff).count) == (3 if form == "img" else 4)


def test_many_guests(tmp_path, small_ranges):
    template = notation.write_raw(tmp_path / "t.img", "1M:A 3M:- 1M:B")
    paths = [
        notation.write_raw(tmp_path / f"{number}.img", f"1M:A {number * 4}k:C {(768 - number) * 4}k:- 1M:B")
        for number in range(64)
    ]
    plan = planned(template, *paths, jobs=2)
    for number, guest in enumerate(plan.guests):
        expected = naive.differences(
            notation.content("1M:A 3M:- 1M:B"),
            notation.content(f"1M:A {number * 4}k:C {(768 - number) * 4}k:- 1M:B"),
        )
        assert extents_of(guest.diff).runs() == naive.to_write(expected, 65536)


def test_more_guests_than_descriptors_at_first(tmp_path):
    """The soft limit is for select(); the hard one is the system's, and need not hold all of them."""
    template = notation.write_raw(tmp_path / "t.img", "64k:A")
    paths = [notation.write_raw(tmp_path / f"{number}.img", "64k:A") for number in range(100)]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (80, before[1]))
    try:
        plan = planned(template, *paths)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert plan.totals.refuse == 0


def test_nothing_is_written(tmp_path, template, small_ranges):
    guests = fleet(tmp_path, template)
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in tmp_path.iterdir()}
    planned(template, *guests, jobs=2)
    assert {path.name: (path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in tmp_path.iterdir()} == before


def test_images_are_closed(tmp_path, template, monkeypatch):
    guests = fleet(tmp_path, template)
    closed = []
    real = Image.close
    monkeypatch.setattr(Image, "close", lambda image: (closed.append(image.path), real(image)))
    planned(template, *guests)
    assert {str(template), *map(str, guests)} <= set(closed)


def test_a_guest_of_holes_only(tmp_path):
    for name in ("t.img", "g.img"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(GIB)
    guest = only_guest(tmp_path / "t.img", tmp_path / "g.img", jobs=2)
    assert guest.verdict is Verdict.SKIP
    assert len(extents_of(guest.diff)) == 0


def test_the_number_of_jobs_may_be_larger_than_the_work(tmp_path, monkeypatch):
    template = notation.write_raw(tmp_path / "t.img", "64k:A")
    shutil.copy(template, tmp_path / "g.img")
    forks, fork = [], os.fork
    monkeypatch.setattr(os, "fork", lambda: forks.append(1) or fork())
    planned(template, tmp_path / "g.img", jobs=1024)
    assert forks == []  # there is one range to scan


def test_compressed_overlays_are_estimated(tmp_path):
    """Few clusters: all are compressed, so the estimate is exact."""
    template = notation.write_raw(tmp_path / "t.img", "8M:A")
    path = notation.write_raw(tmp_path / "g.img", "1M:B 6M:A 1M:C")
    for compression in (Compression.ZLIB, Compression.ZSTD):
        guest = only_guest(template, path, options=OverlayOptions(compression=compression))
        assert guest.diff.savings.overlay_error_bytes == 0
        assert guest.diff.savings.overlay_bytes < 2 * MIB
        assert guest.diff.savings.overlay_bytes % (64 * KIB) == 0
