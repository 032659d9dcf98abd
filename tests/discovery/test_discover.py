"""The search on real images.

Guards discovery/discover.py, discovery/sampling_job.py, discovery/sampled_image.py.
"""

import json
import os
import shutil

import notation
import pytest
import real_holders
from commands import rarely, run_here
from devices import attached
from filesystems import mounted, tmpfs

from batchdiff.discovery import sampling_job
from batchdiff.discovery.discover import discover
from batchdiff.discovery.exclusion import Cause
from batchdiff.discovery.image_files import FileToSample, find_files
from batchdiff.discovery.samples import SCATTERED, SEQUENTIAL, SampleShape, take_samples
from batchdiff.errors import ImageError, WorkerError
from batchdiff.image_source import ImageFormat
from batchdiff.plan.sidecar import OverlayOrigin, Sidecar, encode_sidecar, sidecar_path, to_document
from batchdiff.report.discovery.discovery_text import discovery_text

BASE = "2M:A 1M:- 1M:B 2M:C"
COPIES = {
    "one.img": "64k:X 1984k:A 1M:- 1M:B 2M:C",
    "two.qcow2": "1M:A 64k:Y 960k:A 1M:- 1M:B 2M:C",
    "three.img": BASE,
}


def write(folder, images):
    for name, text in images.items():
        (notation.write_qcow2 if name.endswith("qcow2") else notation.write_raw)(folder / name, text)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, {"base.img": BASE} | COPIES)
    os.utime(tmp_path / "base.img", (1, 1))
    return tmp_path


def run(*paths, jobs=1, shape=SCATTERED, more=(), templates=()):
    return discover(find_files(map(str, paths), more), shape=shape, jobs=jobs, templates=templates)


def copies(found):
    return {
        os.path.basename(group.template.path): {os.path.basename(copy.image.path) for copy in group.copies}
        for group in found.groups
    }


def left(found):
    return {os.path.basename(each.path): (each.cause, each.reason) for each in found.exclusions}


@pytest.mark.parametrize("shape", [SCATTERED, SEQUENTIAL])
@pytest.mark.parametrize("jobs", [1, 3])
def test_copies_are_found_in_any_format(folder, shape, jobs):
    found = run(folder, shape=shape, jobs=jobs)
    assert copies(found) == {"base.img": set(COPIES)}
    (group,) = found.groups
    similar = {os.path.basename(copy.image.path): copy.similarity.estimate for copy in group.copies}
    assert similar == {"one.img": 79 / 80, "two.qcow2": 79 / 80, "three.img": 1}
    assert (found.images, found.exclusions) == (4, ())
    assert 0 < found.reads <= 4 * shape.probes


@pytest.mark.long
def test_what_qemu_must_read_is_sampled(folder):
    options = ("-O", "vmdk", "-o", "subformat=streamOptimized")
    notation.run("qemu-img", "convert", *options, str(folder / "one.img"), str(folder / "stream.vmdk"))
    assert "stream.vmdk" in copies(run(folder, jobs=2))["base.img"]


@pytest.mark.parametrize("form", ["vmdk", "vdi", "qed", "parallels", *rarely("vhdx", "vpc")])
def test_other_formats_are_sampled(folder, form):
    suffix = {"vpc": "vhd", "parallels": "hdd"}.get(form, form)
    notation.run("qemu-img", "convert", "-O", form, str(folder / "one.img"), str(folder / f"other.{suffix}"))
    assert f"other.{suffix}" in copies(run(folder))["base.img"]


def test_overlays_and_their_backing_files_are_shown_as_such(folder):
    notation.write_qcow2(folder / "mid.qcow2", "6M:-", backing=folder / "base.img")
    notation.write_qcow2(folder / "top.qcow2", "6M:-", backing="mid.qcow2", backing_format="qcow2")
    found = run(folder)
    assert copies(found) == {"base.img": set(COPIES)}
    assert left(found) == {
        "mid.qcow2": (Cause.OVERLAY, f"it is already an overlay on {folder}/base.img"),
        "top.qcow2": (
            Cause.OVERLAY,
            f"it is already an overlay on {folder}/mid.qcow2 on {folder}/base.img",
        ),
    }


def test_the_kept_original_of_an_overlay_is_neither_guest_nor_template(folder):
    os.utime(folder / "one.img", (0, 0))  # by its age, it would be the template
    notation.write_qcow2(folder / "one.qcow2", "6M:-", backing=folder / "base.img")
    found = run(folder)
    assert copies(found) == {"base.img": {"two.qcow2", "three.img"}}
    why = "it seems to be the original of the overlay beside it, which a VM may already be using"
    assert left(found)["one.img"] == (Cause.UNUSABLE, why)
    with pytest.raises(ImageError, match=r"cannot use .*/one\.img as the template: it seems to be the orig"):
        run(folder, templates=[str(folder / "one.img")])


@pytest.mark.parametrize("where", ["one", "both"])
def test_the_sidecar_of_a_template_shows_originals_of_overlays_elsewhere(folder, where):
    os.mkdir(folder / "thin")
    overlay = folder / "thin" / "vm1.qcow2"
    notation.write_qcow2(overlay, "6M:-", backing=folder / "base.img")
    origin = OverlayOrigin("one", "sha256:0", original=str(folder / "one.img"))
    gone = OverlayOrigin("two", "sha256:0", original=str(folder / "two.qcow2"))
    overlays = {str(overlay): origin, str(folder / "gone.qcow2"): gone}
    document = to_document(Sidecar("sha256:0", (), overlays), {})
    (folder / "base.img.batchdiff-template.json").write_text("".join(encode_sidecar(document)))
    # The template shows it, and so does the overlay, which leads to the template.
    others = [folder / "base.img", folder / "two.qcow2"] if where == "one" else [overlay, folder / "two.qcow2"]
    found = run(folder / "one.img", folder / "three.img", *others)
    why = f"it seems to be the original of {overlay}, which a VM may already be using"
    assert left(found)["one.img"] == (Cause.UNUSABLE, why)
    assert "two.qcow2" not in left(found)


def test_savings_agree_with_the_plan(tmp_path):
    """Of changed clusters, an overlay stores only what the guest has written, and a table for cleared ones."""
    write(tmp_path, {"base.img": "2M:A 2M:B 1M:C 1020M:- 1M:D"})
    guest = "4k:X 60k:- 64k:Y 1920k:A 8k:Z 56k:- 64k:- 1920k:B 1M:C 1020M:-"
    write(tmp_path, {"vm.img": f"{guest} 1M:D", "cleared.img": f"{guest} 1M:-"})
    (group,) = run(tmp_path, templates=[str(tmp_path / "base.img")]).groups
    estimates = {os.path.basename(copy.image.path): copy.saved for copy in group.copies}
    images = "".join(f"  - {{path: {name}, format: raw, overlay: {{path: {name}.thin}}}}\n" for name in estimates)
    (tmp_path / "fleet.yaml").write_text(
        f"version: 1\ntemplate: {{path: base.img, format: raw}}\nguests:\n{images}", encoding="utf-8"
    )
    run_here("plan", tmp_path / "fleet.yaml", "-q", "-o", tmp_path / "p.json", "-j", 1)
    guests = json.loads((tmp_path / "p.json").read_text())["guests"]
    planned = {f"{each['name']}.img": each["savings"]["saved_bytes"] for each in guests}
    for name, saved in estimates.items():
        assert saved.low <= planned[name] <= saved.high
        # The block in which the filesystem lists the extents of the overlay.
        assert saved.estimate - planned[name] in {0, 4096}


def test_a_backing_file_is_preferred_as_template_and_never_a_guest(folder):
    notation.write_qcow2(folder / "top.qcow2", "6M:-", backing=folder / "three.img")
    found = run(folder)
    assert copies(found) == {"three.img": {"base.img", "one.img", "two.qcow2"}}
    found = run(folder, templates=[str(folder / "base.img")])
    cause, reason = left(found)["three.img"]
    assert cause is Cause.UNUSABLE
    assert reason.startswith(f"it is the backing file of {folder}/top.qcow2, which would be lost without it; 100%")


def assert_no_guest(found, path, overlay):
    """The file at a path is the backing file of an overlay, and offered as a template at most."""
    assert os.path.basename(path) not in set().union(*copies(found).values())
    assert left(found)[os.path.basename(overlay)][1] == f"it is already an overlay on {path}"
    chosen = {group.template.path for group in found.groups}
    reason = left(found).get(os.path.basename(path), (None, ""))[1]
    assert path in chosen or reason.startswith(f"it is the backing file of {overlay}, which would be lost without")


@pytest.mark.parametrize("name", ["lv", "other-lv", "the device itself"])
@pytest.mark.parametrize("template", [None, "one.img"])
def test_a_backing_file_on_a_device_is_never_a_guest(folder, tmp_path_factory, name, template):
    """Whichever name the overlay has for the device: links to it last, but its own name does not."""
    disk = tmp_path_factory.mktemp("disks") / "disk.raw"
    shutil.copy(folder / "three.img", disk)
    os.remove(folder / "base.img")
    with attached(disk, "--read-only") as device:
        for link in ("lv", "other-lv"):
            (folder / link).symlink_to(device)
        named = folder / name if name in {"lv", "other-lv"} else device
        notation.write_qcow2(folder / "top.qcow2", "6M:-", backing=named)
        templates = [] if template is None else [str(folder / template)]
        found = run(folder / "lv", *sorted(folder.glob("*.*")), templates=templates)
        assert_no_guest(found, str(folder / "lv"), str(folder / "top.qcow2"))


def test_a_backing_file_is_recognised_through_a_device_that_shows_it(folder, tmp_path_factory):
    disk = tmp_path_factory.mktemp("disks")
    with attached(folder / "one.img", "--read-only") as device:
        notation.write_qcow2(disk / "top.qcow2", "6M:-", backing=device)
        found = run(folder, disk, templates=[str(folder / "base.img")])
        assert_no_guest(found, str(folder / "one.img"), str(disk / "top.qcow2"))


def test_a_backing_file_is_recognised_through_a_bind_mount(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    notation.run("mount", "--bind", str(folder), str(other))
    try:
        notation.write_qcow2(folder / "top.qcow2", "6M:-", backing=other / "one.img")
        found = run(folder, templates=[str(folder / "base.img")])
        assert_no_guest(found, str(folder / "one.img"), str(folder / "top.qcow2"))
    finally:
        notation.run("umount", str(other))


def test_the_original_of_an_overlay_of_a_device_is_recognised(folder, tmp_path_factory):
    """The template's name that lasts is in the name of its sidecar; the original is a device with two names."""
    disks = tmp_path_factory.mktemp("disks")
    for name in ("base.img", "one.img"):
        shutil.copy(folder / name, disks / name)
    with attached(disks / "base.img", "--read-only") as base, attached(disks / "one.img", "--read-only") as one:
        for link, device in (("base", base), ("one", one), ("same-one", one)):
            (folder / link).symlink_to(device)
        overlay = folder / "thin.qcow2"
        notation.write_qcow2(overlay, "6M:-", backing=folder / "base")
        origin = OverlayOrigin("one", "sha256:0", original=str(folder / "same-one"))
        document = to_document(Sidecar("sha256:0", (), {str(overlay): origin}), {})
        place = sidecar_path(str(folder / "base"), str(overlay))
        with open(place, "w", encoding="utf-8") as file:
            file.write("".join(encode_sidecar(document)))
        found = run(folder / "one", folder / "two.qcow2", folder / "three.img", overlay)
    why = f"it seems to be the original of {overlay}, which a VM may already be using"
    assert left(found)["one"] == (Cause.UNUSABLE, why)


def test_damaged_and_unreadable_images_are_left_out(folder):
    with open(folder / "two.qcow2", "r+b") as file:
        file.truncate(300_000)
    (folder / "no.qcow2").write_text("nothing")
    (folder / "zero.img").write_bytes(b"")
    (folder / "hole.img").touch()
    os.truncate(folder / "hole.img", 1 << 30)
    found = run(folder)
    causes = {name: cause for name, (cause, _) in left(found).items()}
    assert causes == {
        "two.qcow2": Cause.UNREADABLE,
        "no.qcow2": Cause.DOUBTFUL,
        "zero.img": Cause.UNREADABLE,
        "hole.img": Cause.EMPTY,
    }
    assert copies(found) == {"base.img": {"one.img", "three.img"}}


def test_no_data_is_claimed_only_if_all_of_it_was_read(tmp_path):
    write(tmp_path, {"small.img": "1M:0", "large.img": "8M:0"})
    assert left(run(tmp_path, shape=SampleShape(32, 0))) == {
        "small.img": (Cause.EMPTY, "it has no data"),
        "large.img": (Cause.EMPTY, "no data was found in its samples"),
    }


def test_an_image_whose_other_files_change_meanwhile_is_left_out(folder, monkeypatch):
    notation.run(
        "qemu-img", "convert", "-O", "vmdk", "-o", "subformat=monolithicFlat",
        str(folder / "one.img"), str(folder / "vm.vmdk"),
    )  # fmt: skip

    def changing(image, *arguments):
        if image.path.endswith("vm.vmdk"):
            os.utime(folder / "vm-flat.vmdk", (1, 1))
        return take_samples(image, *arguments)

    monkeypatch.setattr(sampling_job, "take_samples", changing)
    why = "it changed while it was being read; shut its VM down"
    assert left(run(folder))["vm.vmdk"] == (Cause.IN_USE, why)


def test_an_image_that_is_written_to_is_left_out(folder):
    with tmpfs(folder) as point:
        for name in ("base.img", "one.img", "three.img"):
            shutil.copy2(folder / name, point / name)
        with open(point / "one.img", "r+b"):
            found = run(point)
        assert copies(found) == {"base.img": {"three.img"}}
        cause, reason = left(found)["one.img"]
        assert cause is Cause.IN_USE
        assert "for writing" in reason


@pytest.mark.long
def test_the_backing_file_of_a_running_vm_can_be_a_template(folder):
    with tmpfs(folder) as point:
        for name in ("base.img", "one.img", "three.img"):
            shutil.copy2(folder / name, point / name)
        with real_holders.vm_on_overlay(point / "three.img"):
            found = run(point)
        assert copies(found) == {"three.img": {"base.img", "one.img"}}
        assert {cause for cause, _ in left(found).values()} == {Cause.OVERLAY}


@pytest.mark.long
def test_encrypted_images_are_left_out(folder):
    options = ("--object", "secret,id=s,data=x", "-o", "encrypt.format=luks,encrypt.key-secret=s")
    notation.run("qemu-img", "create", "-q", "-f", "qcow2", *options, str(folder / "secret.qcow2"), "6M")
    cause, why = left(run(folder))["secret.qcow2"]
    assert cause is Cause.UNREADABLE
    assert why.endswith("list it in a manifest with `format: qcow2` and `secret_file: PATH`")


def test_a_domain_that_runs_elsewhere_counts(folder):
    running = FileToSample(str(folder / "one.img"), ImageFormat.RAW, "the domain web is running")
    found = run(folder, more=[running])
    assert left(found)["one.img"] == (Cause.IN_USE, "the domain web is running")


def test_extents_and_data_files_are_parts(folder):
    notation.run(
        "qemu-img", "convert", "-O", "vmdk", "-o", "subformat=monolithicFlat",
        str(folder / "one.img"), str(folder / "vm.vmdk"),
    )  # fmt: skip
    notation.run(
        "qemu-img", "create", "-q", "-f", "qcow2", "-o",
        f"data_file={folder}/split.raw,data_file_raw=on", str(folder / "split.qcow2"), "6M",
    )  # fmt: skip
    notation.write_into(folder / "split.qcow2", COPIES["one.img"])
    found = run(folder)
    assert {name: cause for name, (cause, _) in left(found).items()} == {
        "vm-flat.vmdk": Cause.PART,
        "split.raw": Cause.PART,
    }
    assert copies(found)["base.img"] == {*COPIES, "vm.vmdk", "split.qcow2"}


def test_first_bytes_alone_never_name_another_file(folder):
    """Otherwise a guest could write a header to its raw disk that names the disk of another guest as its data."""
    notation.run(
        "qemu-img", "create", "-q", "-f", "qcow2", "-o",
        f"data_file={folder}/one.img,data_file_raw=on", str(folder / "forged.qcow2"), "6M",
    )  # fmt: skip
    write(folder, {"one.img": COPIES["one.img"]})
    os.rename(folder / "forged.qcow2", folder / "forged.img")
    found = run(folder)
    cause, reason = left(found)["forged.img"]
    assert cause is Cause.DOUBTFUL
    assert f"it starts like a qcow2 image and refers to {folder}/one.img" in reason
    assert "one.img" in copies(found)["base.img"]


def test_a_given_template_that_cannot_be_one_is_an_error(folder):
    notation.write_qcow2(folder / "top.qcow2", "6M:-", backing=folder / "base.img")
    for name in ("top.qcow2", "gone.img"):
        with pytest.raises(ImageError, match=f"cannot use .*/{name} as the template"):
            run(folder, templates=[str(folder / name)])


def test_the_reason_against_a_given_template_may_come_from_the_search(folder):
    os.mkfifo(folder / "pipe.img")
    with pytest.raises(ImageError, match="as the template: it is not a regular file or block device"):
        run(folder, templates=[str(folder / "pipe.img")])


def test_a_given_template_that_is_a_link_is_refused_for_the_reason_of_the_link(folder):
    (folder / "gone.img").symlink_to("nowhere.img")
    os.mkfifo(folder / "pipe")
    (folder / "pipe.img").symlink_to("pipe")
    for name, target, why in (
        ("gone.img", "nowhere.img", f"it is a symbolic link to {folder}/nowhere.img, which does not exist"),
        ("pipe.img", "pipe", "it is not a regular file or block device"),
    ):
        with pytest.raises(ImageError) as caught:
            run(folder / name, folder / "base.img", templates=[str(folder / target)])
        assert str(caught.value) == f"cannot use {folder}/{name} as the template: {why}. Name another template."


def test_what_was_read_of_images_that_are_left_out_counts(folder, monkeypatch):
    """One is all zeros, one the original of an overlay, and one changes while it is read."""
    write(folder, {"zeros.img": "1M:0", "late.img": BASE})
    notation.write_qcow2(folder / "one.qcow2", "6M:-", backing=folder / "base.img")
    each = {name: run(folder / name) for name in ("base.img", *COPIES, "zeros.img", "late.img")}
    fingerprint_at, seen = sampling_job.fingerprint_at, []

    def changing(path):
        seen.append(path)
        return len(seen) if path.endswith("late.img") else fingerprint_at(path)

    monkeypatch.setattr(sampling_job, "fingerprint_at", changing)
    found = run(folder)
    assert {name: cause for name, (cause, _) in left(found).items()} == {
        "zeros.img": Cause.EMPTY,
        "one.img": Cause.UNUSABLE,
        "one.qcow2": Cause.OVERLAY,
        "late.img": Cause.IN_USE,
    }
    assert found.images == 3
    assert found.reads == sum(alone.reads for alone in each.values())
    assert found.read_bytes == sum(alone.read_bytes for alone in each.values())
    assert each["zeros.img"].read_bytes == 1 << 20


def test_the_death_of_a_worker_is_reported_with_what_it_means(folder, monkeypatch):
    monkeypatch.setattr(sampling_job, "_examine", lambda *_: os._exit(3))
    with pytest.raises(WorkerError, match=r"No image was changed, and no manifest was written\. Check"):
        run(folder, jobs=2)


def test_identical_images_have_one_template(tmp_path):
    write(tmp_path, {f"{name}.img": BASE for name in "cab"})
    for name, moment in (("a", 30), ("b", 20), ("c", 40)):
        os.utime(tmp_path / f"{name}.img", (moment, moment))
    assert copies(run(tmp_path)) == {"b.img": {"a.img", "c.img"}}
    os.chmod(tmp_path / "c.img", 0o444)
    assert copies(run(tmp_path)) == {"c.img": {"a.img", "b.img"}}


def test_one_image_only(tmp_path):
    write(tmp_path, {"a.img": BASE})
    found = run(tmp_path)
    assert (found.groups, left(found)) == (
        (),
        {"a.img": (Cause.UNLIKE, "there is no other image to compare it with")},
    )


def test_images_smaller_than_a_sample(tmp_path):
    write(tmp_path, {"a.img": "512:A", "b.img": "512:A 512:B", "c.img": "3k:C", "d.img": "512:A"})
    found = run(tmp_path)
    assert copies(found) == {"a.img": {"d.img"}}


def test_many_tiny_files(tmp_path):
    for number in range(500):
        (tmp_path / f"{number:04}.img").write_bytes(number.to_bytes(2, "big") * 300)
    found = run(tmp_path, jobs=2)
    assert found.groups == ()
    assert len(found.exclusions) == 500


@pytest.mark.parametrize("kind", ["ext4", *rarely("xfs", "btrfs")])
def test_savings_count_only_what_a_deletion_frees(tmp_path, kind):
    with mounted(tmp_path, kind) as point:
        write(point, {"base.img": BASE, "one.img": COPIES["one.img"]})
        os.utime(point / "base.img", (1, 1))
        (group,) = run(point).groups
        size = (point / "one.img").stat().st_blocks * 512
        assert group.saved.estimate == size - 65536 - 4 * 4096 - 65536
        if kind != "ext4":
            notation.run("cp", "--reflink=always", str(point / "base.img"), str(point / "clone.img"))
            os.sync()
            clone = next(each for each in run(point).groups[0].copies if each.image.path.endswith("clone.img"))
            assert clone.saved.estimate <= 0
            text = " ".join(discovery_text(run(point), SCATTERED).split())
            assert (
                "of the copies of base.img stays allocated even if the copies are deleted (because of reflinks,"
                in text
            )
