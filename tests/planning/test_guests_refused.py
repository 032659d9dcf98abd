"""Guests that must not be converted because something else would be lost with them."""

import errno
import os
import subprocess

import notation
import pytest
from commands import batchdiff
from notation import run
from sidecars import write_sidecar

from batchdiff.choices import Verdict
from batchdiff.errors import EXIT_SOME_GUESTS
from batchdiff.image.backing.heads import Heads
from batchdiff.manifest.file import read_manifest
from batchdiff.planning.planner import make_plan


def manifest_of(folder, template, *guests, retire="keep"):
    lines = [
        f"  - {{path: {path}, format: {kind}, overlay: {{path: {n}.thin}}}}"
        for n, (path, kind) in enumerate(guests)
    ]
    manifest = folder / "manifest.yaml"
    manifest.write_text(
        f"version: 1\nretire: {retire}\ntemplate: {{path: {template}, format: raw}}\nguests:\n"
        + "\n".join(lines)
        + "\n"
    )
    return manifest


def planned(*arguments, **options):
    return make_plan(read_manifest(str(manifest_of(*arguments, **options))), jobs=1).guests


@pytest.fixture
def lower(tmp_path):
    """A guest that others can rest on, and its template."""
    notation.write_raw(tmp_path / "template.img", "2M:A")
    return notation.write_raw(tmp_path / "lower.img", "1M:A 1M:B")


def above(path, backing, kind="raw"):
    return notation.write_qcow2(path, "64k:C 1984k:-", backing=backing, backing_format=kind)


def test_a_guest_that_another_guest_rests_on(tmp_path, lower):
    above(tmp_path / "upper.qcow2", lower)
    below, upper = planned(tmp_path, "template.img", ("lower.img", "raw"), ("upper.qcow2", "qcow2"))
    assert (below.verdict, upper.verdict) == (Verdict.REFUSE, Verdict.REFUSE)
    assert "needed by the guest upper" in below.reason


def test_a_guest_that_is_the_data_file_of_an_image(tmp_path, lower):
    options = f"data_file={lower},data_file_raw=on"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(tmp_path / "disk.qcow2"), "2M")
    (guest,) = planned(tmp_path, "template.img", ("lower.img", "raw"))
    assert guest.verdict is Verdict.REFUSE
    assert guest.reason.startswith(f"it is needed by {tmp_path}/disk.qcow2, which would be lost without it")


def test_a_guest_far_below_another_one(tmp_path, lower):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    middle = above(elsewhere / "middle.qcow2", above(elsewhere / "low.qcow2", lower), "qcow2")
    above(tmp_path / "upper.qcow2", middle, "qcow2")
    below, _ = planned(tmp_path, "template.img", ("lower.img", "raw"), ("upper.qcow2", "qcow2"))
    assert below.verdict is Verdict.REFUSE
    assert "needed by the guest upper" in below.reason


def test_a_guest_below_another_one_by_a_hard_link(tmp_path, lower):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    os.link(lower, elsewhere / "other-name.img")
    above(tmp_path / "upper.qcow2", elsewhere / "other-name.img")
    below, _ = planned(tmp_path, "template.img", ("lower.img", "raw"), ("upper.qcow2", "qcow2"))
    assert "needed by the guest upper" in below.reason


@pytest.mark.parametrize("name", ["file:{}", 'json:{{"driver": "raw", "file": {{"filename": "{}"}}}}'])
def test_a_guest_below_another_one_that_names_a_protocol(tmp_path, lower, name):
    upper = above(tmp_path / "upper.qcow2", lower)
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", name.format(lower), str(upper))
    below, _ = planned(tmp_path, "template.img", ("lower.img", "raw"), ("upper.qcow2", "qcow2"))
    assert "needed by the guest upper" in below.reason


def test_a_guest_below_a_damaged_one(tmp_path, lower):
    upper = above(tmp_path / "upper.qcow2", lower)
    with upper.open("r+b") as file:
        file.seek(79)
        file.write(b"\x01")  # dirty
    below, _ = planned(tmp_path, "template.img", ("lower.img", "raw"), ("upper.qcow2", "qcow2"))
    assert "needed by the guest upper" in below.reason


def test_a_guest_below_an_image_beside_it(tmp_path, lower):
    snapshot = above(tmp_path / "lower.snapshot1", lower)
    (below,) = planned(tmp_path, "template.img", ("lower.img", "raw"))
    assert below.verdict is Verdict.REFUSE
    assert str(snapshot) in below.reason


def test_a_header_in_a_raw_image_is_not_followed(tmp_path, lower):
    forged = above(tmp_path / "forged.img", lower)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    forged.rename(elsewhere / "forged.img")
    above(tmp_path / "upper.qcow2", elsewhere / "forged.img", "raw")
    below, _ = planned(tmp_path, "template.img", ("lower.img", "raw"), ("upper.qcow2", "qcow2"))
    assert below.verdict is not Verdict.REFUSE


def test_chains_that_go_in_circles_or_lead_to_no_file_end(tmp_path, lower):
    one = above(tmp_path / "one.qcow2", lower)
    two = above(tmp_path / "two.qcow2", one, "qcow2")
    for name in (two, tmp_path / "gone"):
        run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", str(name), str(one))
        (below,) = planned(tmp_path, "template.img", ("lower.img", "raw"))
        assert below.verdict is not Verdict.REFUSE


@pytest.mark.parametrize("where", ["template", "overlays", "manifest"])
def test_a_guest_below_an_image_in_another_folder_of_the_manifest(tmp_path, lower, where):
    folder = tmp_path / where
    folder.mkdir()
    snapshot = above(folder / "snapshot", lower)
    template, overlay = "template.img", "new.qcow2"
    match where:
        case "template":
            (tmp_path / "template.img").rename(folder / "template.img")
            template = "template/template.img"
        case "overlays":
            overlay = "overlays/new.qcow2"
    manifest = (folder if where == "manifest" else tmp_path) / "manifest.yaml"
    manifest.write_text(
        f"version: 1\ntemplate: {{path: {tmp_path}/{template}, format: raw}}\n"
        f"guests: [{{path: {lower}, format: raw, overlay: {{path: {tmp_path}/{overlay}}}}}]\n"
    )
    (below,) = make_plan(read_manifest(str(manifest)), jobs=1).guests
    assert below.verdict is Verdict.REFUSE
    assert str(snapshot) in below.reason


def test_a_guest_below_an_image_beside_overlays_of_an_earlier_plan(tmp_path, lower):
    thin = tmp_path / "thin"
    thin.mkdir()
    write_sidecar(tmp_path / "template.img", above(thin / "other.qcow2", tmp_path / "template.img"))
    snapshot = above(thin / "snapshot", lower)
    (below,) = planned(tmp_path, "template.img", ("lower.img", "raw"))
    assert str(snapshot) in below.reason


def test_a_guest_that_holds_the_data_of_another_image(tmp_path, lower):
    options = f"data_file={lower},data_file_raw=on"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(tmp_path / "disk.qcow2"), "2M")
    (below,) = planned(tmp_path, "template.img", ("lower.img", "raw"))
    assert str(tmp_path / "disk.qcow2") in below.reason


def test_a_guest_below_one_that_is_called_raw_and_is_not(tmp_path, lower):
    """By mistake, or because its VM forged a header: in doubt nothing goes."""
    above(tmp_path / "upper.img", lower)
    below, _ = planned(tmp_path, "template.img", ("lower.img", "raw"), ("upper.img", "raw"))
    assert "needed by the guest upper" in below.reason


def test_a_guest_below_several_images(tmp_path, lower):
    for number in range(3):
        above(tmp_path / f"a{number}.qcow2", lower)
    above(tmp_path / "upper.qcow2", lower)
    below, _ = planned(tmp_path, "template.img", ("lower.img", "raw"), ("upper.qcow2", "qcow2"))
    assert "needed by the guest upper and 3 more, which would be lost" in below.reason


def data_file_in(image, lower):
    other = lower.with_name("other.img")  # because qemu-img writes to it
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={other},data_file_raw=on", str(image), "2M")
    image.write_bytes(image.read_bytes().replace(b"other.img", b"lower.img"))


def extent_of(image, lower):
    image.write_text(
        '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
        f'RW 4096 FLAT "{lower}" 0\n'
    )


@pytest.mark.parametrize(("kind", "make"), [("qcow2", above), ("qcow2", data_file_in), ("vmdk", extent_of)])
def test_a_guest_that_one_which_is_not_chosen_rests_on(tmp_path, lower, kind, make):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    make(elsewhere / "upper", lower)
    manifest = manifest_of(
        tmp_path, "template.img", ("lower.img", "raw"), ("elsewhere/upper", kind), retire="delete"
    )
    done = batchdiff("plan", manifest, "--guest", "lower", cwd=tmp_path, expect=EXIT_SOME_GUESTS)
    assert "needed by the guest upper" in " ".join(done.stdout.split())


@pytest.mark.parametrize("make", [above, data_file_in, extent_of])
def test_an_original_that_became_a_part_of_another_image_is_not_deleted(tmp_path, lower, make):
    """Even if that image was made after the plan, which does not know it."""
    manifest = manifest_of(tmp_path, "template.img", ("lower.img", "raw"))
    batchdiff("plan", manifest, "-o", "plan.json", cwd=tmp_path)
    content = lower.read_bytes()
    make(tmp_path / "upper", lower)
    done = batchdiff(*("apply", "plan.json", "--retire", "delete", "--yes"), cwd=tmp_path, expect=EXIT_SOME_GUESTS)
    told = " ".join(done.stdout.split() + done.stderr.split())
    assert f"{tmp_path}/upper cannot be read without it" in told
    assert lower.read_bytes() == content


@pytest.mark.parametrize("left", [2, 1, 0])
def test_a_guest_that_is_a_template_of_others_by_its_sidecar(tmp_path, lower, left):
    """Overlays that are still there count; those that have gone don't."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    overlays = [above(elsewhere / f"web0{number}.qcow2", lower) for number in (1, 2)]
    write_sidecar(lower, *overlays)
    for overlay in overlays[left:]:
        overlay.unlink()
    (guest,) = planned(tmp_path, "template.img", ("lower.img", "raw"))
    assert (guest.verdict is Verdict.REFUSE) is (left > 0)
    assert ("web01.qcow2 and 1 more" in guest.reason, "web01.qcow2" in guest.reason) == (left == 2, left > 0)


def test_a_guest_whose_sidecar_cannot_be_read(tmp_path, lower):
    (tmp_path / "lower.img.batchdiff-template.json").write_text("damaged")
    (guest,) = planned(tmp_path, "template.img", ("lower.img", "raw"))
    assert guest.verdict is Verdict.REFUSE
    assert guest.reason.startswith("it may be needed by an overlay listed in ")
    assert guest.reason.endswith(
        "(unreadable), which would be lost without it; make that file or folder readable, then plan again"
    )


def test_a_guest_beside_two_images_that_cannot_be_read(tmp_path, lower, monkeypatch):
    names = Heads.names

    def of_a_failing_disk(self, path, status):
        if path.endswith(".damaged"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return names(self, path, status)

    monkeypatch.setattr(Heads, "names", of_a_failing_disk)
    for name in ("a.damaged", "b.damaged"):
        above(tmp_path / name, lower)
    (guest,) = planned(tmp_path, "template.img", ("lower.img", "raw"))
    assert guest.reason == (
        f"it may be needed by {tmp_path}/a.damaged (unreadable: Input/output error) and 1 more, which would be"
        " lost without it; make those files or folders readable, then plan again"
    )


@pytest.fixture
def loops():
    """Attaches loop devices; they are detached again, the last one first."""
    devices = []

    def attach(path, *options):
        devices.append(run("losetup", "--find", "--show", *options, str(path)).strip())
        return devices[-1]

    yield attach
    for device in reversed(devices):
        subprocess.run(["losetup", "--detach", device], check=True, timeout=60)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_guest_that_the_template_is_a_loop_device_over(tmp_path, loops, levels):
    notation.write_raw(tmp_path / "other.img", "1M:A 1M:B")
    device = notation.write_raw(tmp_path / "guest.img", "2M:A")
    for _ in range(levels):
        # Read-only, for whoever has it open for writing is in use, and refused before anyone asks what is in what.
        device = loops(device, "--read-only")
    guest, other = planned(tmp_path, device, ("guest.img", "raw"), ("other.img", "raw"), retire="delete")
    assert guest.verdict is Verdict.REFUSE
    assert "the template is stored inside this guest" in guest.reason
    assert other.verdict is not Verdict.REFUSE


def test_nothing_is_deleted_where_the_template_cannot_be_traced(tmp_path, loops):
    notation.write_raw(tmp_path / "other.img", "1M:A 1M:B")
    device = loops(notation.write_raw(tmp_path / "gone.img", "2M:A"))
    os.link(tmp_path / "gone.img", tmp_path / "guest.img")
    (tmp_path / "gone.img").unlink()
    guests = ("guest.img", "raw"), ("other.img", "raw")
    assert [guest.verdict for guest in planned(tmp_path, device, *guests, retire="delete")] == [Verdict.REFUSE] * 2
    assert planned(tmp_path, device, *guests)[1].verdict is not Verdict.REFUSE


def test_a_guest_that_an_image_on_a_block_device_rests_on(tmp_path, loops, lower):
    """The device is no guest that can be compared, for its chain is not declared: it needs what is below it."""
    image = above(tmp_path / "upper.img", lower)
    os.truncate(image, 4 << 20)
    (tmp_path / "upper").symlink_to(loops(image))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    image.rename(elsewhere / "upper.img")
    below, upper = planned(tmp_path, "template.img", ("lower.img", "raw"), ("upper", "qcow2"), retire="delete")
    assert (below.verdict, upper.verdict) == (Verdict.REFUSE, Verdict.REFUSE)
    assert "needed by the guest upper" in below.reason


def test_no_block_device_is_opened_because_an_image_names_it(tmp_path, loops, lower, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    image = above(elsewhere / "upper.img", lower)
    os.truncate(image, 4 << 20)
    device = loops(image)
    above(tmp_path / "top.qcow2", device, "qcow2")
    (tmp_path / "link").symlink_to(device)
    opened = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest, **more: opened.append(path) or real(path, *rest, **more))
    (below,) = planned(tmp_path, "template.img", ("lower.img", "raw"))
    assert below.verdict is not Verdict.REFUSE
    assert str(tmp_path / "top.qcow2") in opened
    assert device not in opened


def test_images_of_a_vm_manager_with_a_database(tmp_path):
    """It would not know the overlay, nor that it rests on the template."""
    nova = tmp_path / "instances" / "0a0a0a0a-1111-2222-3333-0123456789ab"
    cache = tmp_path / "instances" / "_base"
    nova.mkdir(parents=True)
    cache.mkdir()
    for name in ("template.img", f"{nova}/disk", "web.img", f"{cache}/template.img"):
        notation.write_raw(tmp_path / name, "2M:A" if "template" in name else "1M:A 1M:B")
    own, free = planned(tmp_path, "template.img", (f"{nova}/disk", "raw"), ("web.img", "raw"))
    assert (own.verdict, free.verdict) == (Verdict.REFUSE, Verdict.CONVERT)
    assert f"{nova}/disk is in a folder of OpenStack Nova" in own.reason
    (tmp_path / "link.img").symlink_to(f"{nova}/disk")
    (own,) = planned(tmp_path, "template.img", ("link.img", "raw"))
    assert own.verdict is Verdict.REFUSE
    manifest = manifest_of(tmp_path, "template.img", ("web.img", "raw"))
    manifest.write_text(manifest.read_text().replace("0.thin", f"{nova}/web.qcow2"))
    (beside,) = make_plan(read_manifest(str(manifest)), jobs=1).guests
    assert beside.verdict is Verdict.REFUSE
    assert f"the overlay {nova}/web.qcow2 would be in a folder of OpenStack Nova" in beside.reason
    (below,) = planned(tmp_path, f"{cache}/template.img", ("web.img", "raw"))
    assert below.verdict is Verdict.REFUSE
    assert f"the template's file {cache}/template.img is in a folder of OpenStack Nova" in below.reason


def test_an_image_beside_a_guest_that_is_left_out(tmp_path, lower):
    """Made after planning: apply searches the folder as well, although its plan has only the chosen guest."""
    (tmp_path / "elsewhere").mkdir()
    other = notation.write_raw(tmp_path / "elsewhere" / "other.img", "2M:A")
    manifest = manifest_of(tmp_path, tmp_path / "template.img", (lower, "raw"), (other, "raw"), retire="delete")
    batchdiff("plan", manifest, "--guest", "lower", "-o", tmp_path / "plan.json", cwd=tmp_path)
    snapshot = above(tmp_path / "elsewhere" / "snapshot.qcow2", lower)
    done = batchdiff("apply", tmp_path / "plan.json", "--yes", cwd=tmp_path, expect=EXIT_SOME_GUESTS)
    assert f"{snapshot} cannot be read without it" in " ".join(done.stderr.split())
    assert lower.exists()
