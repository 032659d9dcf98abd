"""Templates and guests on block devices, by names that last: what a reboot makes of numbers harms nothing.

Guards cli/warnings.py.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack

import notation
import pytest
from commands import batchdiff
from devices import attached, shows_now, turn
from notation import run
from oracle import assert_same

from batchdiff.cli.console import Console
from batchdiff.cli.main import run as main
from batchdiff.cli.warnings import warn_of_manifest
from batchdiff.errors import EXIT_DONE, EXIT_SOME_GUESTS, PlanError, VerificationError
from batchdiff.linux import device_names
from batchdiff.manifest.file import read_manifest

TEMPLATE = "2M:A 1M:- 1M:B"
GUEST = "1M:A 64k:X 960k:A 1M:- 1M:B"
OTHER = "2M:A 1M:- 512k:B 512k:Y"


@pytest.fixture
def attach():
    """Attaches loop devices; they are detached at the end, the last one first."""
    with ExitStack() as stack:
        yield lambda path, *options: stack.enter_context(attached(path, *options))


@pytest.fixture
def dev(tmp_path):
    """A folder for names as udev gives them."""
    (tmp_path / "dev").mkdir()
    return tmp_path / "dev"


def write_manifest(folder, *guests, template="{path: dev/base, format: raw}", more=""):
    items = "".join(f"  - {guest}\n" for guest in guests)
    (folder / "m.yaml").write_text(f"version: 1\ntemplate: {template}\n{more}guests:\n{items}")


def document(folder):
    return json.loads((folder / "m.plan.json").read_text())


def names_below(path):
    return json.loads(run("qemu-img", "info", "--output=json", str(path)))["backing-filename"]


@pytest.fixture
def template(tmp_path, dev, attach):
    """A template on a read-only loop device, called dev/base, and a guest that is a file."""
    path = notation.write_raw(tmp_path / "template.img", TEMPLATE)
    device = attach(path, "--read-only")
    (dev / "base").symlink_to(device)
    notation.write_raw(tmp_path / "web01.img", GUEST)
    write_manifest(tmp_path, "{path: web01.img, format: raw}")
    return device


def renumber(folder, attach, device):
    """What a reboot does: the template has another number, and another disk has the template's."""
    number = attach(folder / "template.img", "--read-only")
    shows_now(device, notation.write_raw(folder / "other.img", OTHER))
    turn(folder / "dev" / "base", number)


def test_an_overlay_names_its_template_as_the_manifest_does(tmp_path, attach, template):
    batchdiff("plan", "m.yaml", cwd=tmp_path)
    assert document(tmp_path)["template"]["path"] == f"{tmp_path}/dev/base"
    batchdiff("apply", "m.plan.json", cwd=tmp_path)
    assert names_below(tmp_path / "web01.qcow2") == f"{tmp_path}/dev/base"
    renumber(tmp_path, attach, template)
    assert_same(notation.qemu_content(tmp_path / "web01.qcow2", "qcow2"), notation.content(GUEST))
    batchdiff("verify", "m.plan.json", cwd=tmp_path)
    batchdiff("restore", "m.plan.json", cwd=tmp_path)
    assert not (tmp_path / "web01.qcow2").exists()
    assert_same((tmp_path / "web01.img").read_bytes(), notation.content(GUEST))


def test_a_plan_holds_after_a_reboot(tmp_path, attach, template):
    batchdiff("plan", "m.yaml", cwd=tmp_path)
    renumber(tmp_path, attach, template)
    batchdiff("apply", "m.plan.json", "--retire", "quarantine", cwd=tmp_path)
    assert_same(notation.qemu_content(tmp_path / "web01.qcow2", "qcow2"), notation.content(GUEST))


def test_a_relative_name_leads_through_the_link_too(tmp_path, attach, template):
    overlay = "overlay: {path: thin/web01.qcow2, backing_path: relative}"
    (tmp_path / "thin").mkdir()
    write_manifest(tmp_path, f"{{path: web01.img, format: raw, {overlay}}}")
    batchdiff("plan", "m.yaml", cwd=tmp_path)
    batchdiff("apply", "m.plan.json", cwd=tmp_path)
    assert names_below(tmp_path / "thin" / "web01.qcow2") == "../dev/base"
    renumber(tmp_path, attach, template)
    assert_same(notation.qemu_content(tmp_path / "thin" / "web01.qcow2", "qcow2"), notation.content(GUEST))


def test_a_template_in_a_file_on_a_backing_device(tmp_path, attach, template):
    notation.write_qcow2(tmp_path / "upper.qcow2", "64k:U 4032k:-", backing=tmp_path / "dev" / "base")
    chain = "{path: upper.qcow2, format: qcow2, backing: [{path: dev/base, format: raw}]}"
    write_manifest(tmp_path, "{path: web01.img, format: raw}", template=chain)
    batchdiff("plan", "m.yaml", cwd=tmp_path)
    assert document(tmp_path)["template"]["backing"][0]["path"] == f"{tmp_path}/dev/base"
    batchdiff("apply", "m.plan.json", cwd=tmp_path)
    renumber(tmp_path, attach, template)
    assert_same(notation.qemu_content(tmp_path / "web01.qcow2", "qcow2"), notation.content(GUEST))
    batchdiff("verify", "m.plan.json", cwd=tmp_path)


@pytest.mark.parametrize("mode", ["full", "changed", "native"])
@pytest.mark.parametrize("other", [OTHER, "2M:A 1M:-", f"{TEMPLATE} 1M:C"], ids=["content", "smaller", "larger"])
def test_a_template_whose_name_leads_elsewhere_when_the_plan_is_applied(tmp_path, attach, template, other, mode):
    batchdiff("plan", "m.yaml", cwd=tmp_path)
    path = notation.write_raw(tmp_path / "other.img", other)
    turn(tmp_path / "dev" / "base", attach(path, "--read-only"))
    done = batchdiff("apply", "m.plan.json", "--retire", "quarantine", "--verify", mode, cwd=tmp_path, expect=None)
    assert done.returncode in {PlanError.exit_code, VerificationError.exit_code}
    assert_same((tmp_path / "web01.img").read_bytes(), notation.content(GUEST))
    assert_same(path.read_bytes(), notation.content(other))
    assert not (tmp_path / "web01.qcow2").exists()


@pytest.mark.parametrize("name", ["base", "node"])
def test_a_guest_on_a_block_device_that_is_an_overlay_already(tmp_path, dev, attach, template, name):
    """By the name of the template in the overlay's header, and by another name of the same device."""
    os.mknod(dev / "node", 0o60600, os.stat(template).st_rdev)
    thin = notation.write_qcow2(tmp_path / "thin.img", "64k:T 4032k:-", backing=dev / name)
    os.truncate(thin, 8 << 20)
    (dev / "web01").symlink_to(attach(thin))
    write_manifest(tmp_path, "{path: dev/web01, format: qcow2, overlay: {path: web02.qcow2}}")
    batchdiff("plan", "m.yaml", cwd=tmp_path)
    (guest,) = document(tmp_path)["guests"]
    assert guest["verdict"] == "skip"
    assert guest["reason"].startswith("it is already an overlay of this template, on a block device")


@pytest.fixture(params=["raw", "qcow2"])
def guest(request, tmp_path, dev, attach):
    """A guest on a loop device, called dev/web01: the disk itself, or a qcow2 image that the volume holds."""
    notation.write_raw(tmp_path / "template.img", TEMPLATE)
    write = notation.write_raw if request.param == "raw" else notation.write_qcow2
    path = write(tmp_path / "volume.img", GUEST)
    os.truncate(path, 4 << 20 if request.param == "raw" else 8 << 20)
    (dev / "web01").symlink_to(attach(path))
    write_manifest(
        tmp_path,
        f"{{path: dev/web01, format: {request.param}, overlay: {{path: web01.qcow2}}}}",
        template="{path: template.img, format: raw}",
    )
    batchdiff("plan", "m.yaml", cwd=tmp_path)
    return path, request.param


def test_a_guest_on_a_block_device_goes_and_comes_back(tmp_path, guest):
    volume, kind = guest
    before = volume.read_bytes()
    assert document(tmp_path)["guests"][0]["path"] == f"{tmp_path}/dev/web01"
    batchdiff("apply", "m.plan.json", cwd=tmp_path)
    assert_same(notation.qemu_content(tmp_path / "web01.qcow2", "qcow2"), notation.content(GUEST))
    batchdiff("verify", "m.plan.json", cwd=tmp_path)
    batchdiff("restore", "m.plan.json", cwd=tmp_path)
    assert not (tmp_path / "web01.qcow2").exists()
    assert_same(volume.read_bytes(), before)
    assert_same(notation.qemu_content(tmp_path / "dev" / "web01", kind), notation.content(GUEST))
    assert os.listdir(tmp_path / "dev") == ["web01"]


@pytest.mark.parametrize("how", [("quarantine",), ("delete", "--yes", "--unseen")])
def test_a_block_device_is_not_retired(tmp_path, guest, how):
    volume, _ = guest
    before = volume.read_bytes()
    for _ in range(2):
        done = batchdiff("apply", "m.plan.json", "--retire", *how, cwd=tmp_path)
        assert "Originals that are block devices are always kept." in done.stderr
        assert "--retire quarantine" not in done.stderr
        assert f"than before this command: {tmp_path}/dev" not in done.stderr
        assert os.path.islink(tmp_path / "dev" / "web01")
        assert_same(volume.read_bytes(), before)
    assert_same(notation.qemu_content(tmp_path / "web01.qcow2", "qcow2"), notation.content(GUEST))
    status = batchdiff("status", "m.plan.json", cwd=tmp_path).stdout
    assert "the original is a block device; remove it yourself once you trust the overlay" in status
    assert "--retire" not in status


@pytest.mark.parametrize("retire", ["keep", "quarantine", "delete"])
def test_a_plan_keeps_block_devices(tmp_path, guest, retire):
    """Nothing is asked, nothing is said to be deleted, and the disk space that apply needs counts it as there."""
    _, kind = guest
    item = f"{{path: dev/web01, format: {kind}, overlay: {{path: web01.qcow2}}}}"
    template = "{path: template.img, format: raw}"
    write_manifest(tmp_path, item, template=template, more=f"retire: {retire}\n")
    said = " ".join(batchdiff("plan", "m.yaml", cwd=tmp_path).stdout.split())
    despite = "" if retire == "keep" else f" despite `retire: {retire}`"
    assert f"web01: the original is a block device, so it is kept{despite}. Its space comes back only once" in said
    assert "and keep the original" in said
    notation.write_raw(tmp_path / "web02.img", OTHER)
    write_manifest(tmp_path, item, "{path: web02.img, format: raw}", template=template, more=f"retire: {retire}\n")
    said = " ".join(batchdiff("plan", "m.yaml", cwd=tmp_path).stdout.split())
    doing = {
        "keep": "keep the originals",
        "quarantine": "then quarantine the original that is a file, under the name NAME.batchdiff-original",
        "delete": "then delete the original that is a file",
    }
    assert f"and {doing[retire]}" in said
    batchdiff("apply", "m.plan.json", "--yes", "--unseen", cwd=tmp_path)
    assert (tmp_path / "web02.img").exists() is (retire == "keep")
    assert (tmp_path / "dev" / "web01").is_symlink()
    shown = " ".join(batchdiff("show", "m.plan.json", cwd=tmp_path).stdout.split())
    alone = "once you remove the block device that is kept, or discard what is on it."
    assert (alone in shown) is (retire != "keep")


def test_apply_does_not_ask_to_delete_a_block_device(tmp_path, guest):
    """There is no terminal, so it would refuse."""
    batchdiff("apply", "m.plan.json", "--retire", "delete", cwd=tmp_path)
    assert (tmp_path / "dev" / "web01").is_symlink()


def test_no_image_is_rebuilt_in_dev(tmp_path, dev, guest, monkeypatch, capsys):
    """The volume was removed, as one does after a conversion: a file of its name would be in memory alone."""
    batchdiff("apply", "m.plan.json", cwd=tmp_path)
    (dev / "web01").unlink()
    monkeypatch.setattr(device_names, "_DEV", str(dev))
    assert main(["restore", str(tmp_path / "m.plan.json"), "--yes"]) == EXIT_SOME_GUESTS
    assert "a file in /dev would be gone after a reboot" in capsys.readouterr().err
    assert os.listdir(dev) == []
    assert_same(notation.qemu_content(tmp_path / "web01.qcow2", "qcow2"), notation.content(GUEST))


@pytest.mark.parametrize("other", [OTHER, f"{TEMPLATE} 8M:C"], ids=["content", "larger"])
def test_a_guest_whose_name_leads_elsewhere_when_the_plan_is_applied(tmp_path, attach, guest, other):
    volume, _ = guest
    path = notation.write_raw(tmp_path / "other.img", other)
    os.truncate(path, max(volume.stat().st_size, path.stat().st_size))
    before = volume.read_bytes(), path.read_bytes()
    turn(tmp_path / "dev" / "web01", attach(path))
    done = batchdiff("apply", "m.plan.json", cwd=tmp_path, expect=None)
    assert done.returncode != EXIT_DONE
    assert (volume.read_bytes(), path.read_bytes()) == before
    assert not (tmp_path / "web01.qcow2").exists()


@pytest.mark.parametrize("verb", ["plan", "validate"])
def test_names_that_do_not_last_are_warned_of(tmp_path, template, attach, verb):
    volume = attach(notation.write_raw(tmp_path / "volume.img", GUEST))
    write_manifest(
        tmp_path,
        "{path: web01.img, format: raw}",
        f"{{path: {volume}, format: raw, overlay: {{path: web02.qcow2}}}}",
    )
    said = batchdiff(verb, "m.yaml", cwd=tmp_path, expect=None).stderr
    assert (
        f"warning: the template, {tmp_path}/dev/base, is a link to {template}, which is numbered by the kernel"
        in said
    )
    assert f"warning: the guest {os.path.basename(volume)}, {volume}, is numbered by the kernel" in said
    assert said.count("Write a name that lasts, such as /dev/VG/LV") == 2
    assert said.count("warning: ") == 2


@pytest.fixture
def warnings(tmp_path, monkeypatch):
    """What is said of a manifest, where /dev is a folder of the test."""
    said = []
    monkeypatch.setattr(Console, "warn", lambda _console, text: said.append(text))
    monkeypatch.setattr(device_names, "_DEV", f"{tmp_path}/dev")

    def of_the_manifest():
        warn_of_manifest(Console(), read_manifest(str(tmp_path / "m.yaml")))
        return said

    return of_the_manifest


def test_a_better_name_is_named(tmp_path, dev, warnings):
    for number, name in enumerate(["dm-1", "dm-2"]):
        os.mknod(dev / name, 0o60600, os.makedev(250, number))
    (dev / "vg").mkdir()
    (dev / "vg" / "base").symlink_to("../dm-1")
    (dev / "vg" / "web01").symlink_to("../dm-2")
    backing = f"backing: [{{path: {dev}/dm-2, format: raw}}]"
    notation.write_qcow2(tmp_path / "web01.qcow2", GUEST)
    write_manifest(
        tmp_path,
        f"{{path: web01.qcow2, format: qcow2, {backing}}}",
        template=f"{{path: {dev}/dm-1, format: raw}}",
    )
    why = "is numbered by the kernel and can refer to another disk after a reboot"
    assert warnings() == [
        f"warning: the template, {dev}/dm-1, {why}. Write {dev}/vg/base instead: that name lasts",
        f"warning: a backing file of the guest web01, {dev}/dm-2, {why}."
        f" Write {dev}/vg/web01 instead: that name lasts",
    ]


def test_names_that_last_are_not_warned_of(tmp_path, dev, warnings):
    os.mknod(dev / "dm-1", 0o60600, os.makedev(250, 1))
    (dev / "vg").mkdir()
    (dev / "vg" / "base").symlink_to("../dm-1")
    (tmp_path / "base").symlink_to("dev/vg/base")
    notation.write_raw(tmp_path / "loop0", GUEST)
    for path in ("dev/vg/base", "base"):
        write_manifest(tmp_path, "{path: loop0, format: raw}", template=f"{{path: {path}, format: raw}}")
        assert warnings() == []


def test_many_names_that_do_not_last_are_counted(tmp_path, dev, warnings):
    for number in range(8):
        os.mknod(dev / f"sd{'abcdefgh'[number]}", 0o60600, os.makedev(250, number))
    items = [f"{{path: dev/sd{letter}, format: raw, overlay: {{path: {letter}.qcow2}}}}" for letter in "bcdefgh"]
    write_manifest(tmp_path, *items, template="{path: dev/sda, format: raw}")
    said = warnings()
    assert len(said) == 6
    assert said[-1] == "warning: the manifest lacks lasting names for 3 more block devices"


def test_a_renumbered_template_has_not_changed_for_a_report(tmp_path, attach, template):
    batchdiff("plan", "m.yaml", cwd=tmp_path)
    before = batchdiff("show", "m.plan.json", cwd=tmp_path).stdout
    renumber(tmp_path, attach, template)
    assert batchdiff("show", "m.plan.json", cwd=tmp_path).stdout == before
