"""Guests that are overlays of the template already, and become thinner with ``rethin: true``.

Guards manifest/converted.py.
"""

import json
import os
from contextlib import closing

import notation
import pytest
from commands import rarely, run_here

from batchdiff.extents import Kind
from batchdiff.image.open import open_image
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.planning import assessment
from batchdiff.planning.scan.one_range import Scanner

TEMPLATE = "2M:A 1M:- 1M:B 2M:C 2M:-"
CHANGED = "1M:A 64k:X 448k:A 512k:0 1M:- 1M:B 1M:C 64k:Y 960k:C 2M:-"
"""What the guest sees: the template but for two clusters of data and 512 KiB of zeros."""
FAT = "1M:A 64k:X 448k:A 512k:- 1M:0 1M:B 1M:- 64k:Y 448k:C 512k:- 1M:0 1M:-"
ASIDE = ".batchdiff-original"


def manifest(*guests, retire="quarantine", more=""):
    lines = "".join(f"  - {{{guest}}}\n" for guest in guests)
    return f"version: 1\ntemplate: {{path: template.img, format: raw}}\nretire: {retire}\n{more}guests:\n{lines}"


RETHIN = "path: web.qcow2, format: qcow2, rethin: true"


def make_fat(path, template):
    """An overlay that carries equal clusters, data of zeros, and zero clusters over the template's zeros."""
    notation.write_qcow2(path, FAT, backing=template)
    notation.run("qemu-io", "-f", "qcow2", "-c", "write -P 0 1536k 512k", str(path))


class Folder:
    """A folder with a template, a fat overlay, and the disk that its VM must see."""

    def __init__(self, path):
        self.path = path
        notation.write_raw(path / "template.img", TEMPLATE)
        make_fat(path / "web.qcow2", path / "template.img")
        notation.write_raw(path / "expected", CHANGED)

    def run(self, verb, document, *arguments, expect=0):
        return run_here(verb, self.path / document, *arguments, expect=expect)

    def plan(self, text, *, plan="p.json", expect=0):
        (self.path / "m.yaml").write_text(text)
        return self.run("plan", "m.yaml", "-o", str(self.path / plan), "-j", "1", expect=expect)

    def guest(self, plan="p.json"):
        (guest,) = json.loads((self.path / plan).read_text())["guests"]
        return guest

    def assert_sees(self, name="web.qcow2", image_format="qcow2"):
        pair = [str(self.path / name), str(self.path / "expected")]
        notation.run("qemu-img", "compare", "-f", image_format, "-F", "raw", *pair)

    def is_overlay(self, name="web.qcow2"):
        info = json.loads(notation.run("qemu-img", "info", "--output=json", "-f", "qcow2", str(self.path / name)))
        return info.get("backing-filename") == str(self.path / "template.img")

    def vm_writes(self, at="5M", name="web.qcow2", image_format="qcow2"):
        for path, how in ((name, image_format), ("expected", "raw")):
            notation.run("qemu-io", "-f", how, "-c", f"write -P 9 {at} 64k", str(self.path / path))

    def sidecar(self):
        return json.loads((self.path / "template.img.batchdiff-template.json").read_text())["overlays"]


@pytest.fixture
def folder(tmp_path):
    found = Folder(tmp_path)
    found.assert_sees()
    return found


@pytest.mark.parametrize("retire", ["quarantine", "delete"])
def test_a_thinner_overlay_takes_its_place(folder, retire):
    folder.plan(manifest(RETHIN, retire=retire))
    guest, before = folder.guest(), (folder.path / "web.qcow2").stat()
    assert (guest["verdict"], guest["overlay"]["path"]) == ("convert", guest["path"])
    assert guest["backing"] == [{"path": str(folder.path / "template.img"), "format": "raw"}]
    folder.run("apply", "p.json", "--yes")
    after = (folder.path / "web.qcow2").stat()
    folder.assert_sees()
    assert folder.is_overlay()
    assert "No errors" in notation.run("qemu-img", "check", str(folder.path / "web.qcow2"))
    assert (folder.path / f"web.qcow2{ASIDE}").exists() == (retire == "quarantine")
    savings = guest["savings"]
    assert (savings["overlay_bytes"], savings["overlay_disk_bytes"]) == (after.st_size, after.st_blocks * 512)
    assert savings["saved_bytes"] == (before.st_blocks - after.st_blocks) * 512 > 1 << 20
    # Nothing is gained by doing it again.
    if retire == "quarantine":
        folder.plan(manifest(RETHIN), plan="again.json")
        assert folder.guest("again.json")["reason"] == f"done by {folder.path}/p.json"
        folder.run("purge", "p.json", "--yes")
    folder.plan(manifest(RETHIN, retire=retire), plan="again.json")
    reason = "it is already an overlay of this template; a new one would not be smaller"
    assert folder.guest("again.json")["reason"].startswith(reason)


@pytest.mark.parametrize("used", [False, True])
def test_restore_after_a_rethin(folder, used):
    folder.plan(manifest(RETHIN))
    folder.run("apply", "p.json")
    if used:
        folder.vm_writes()
    folder.run("verify", "p.json")
    folder.run("restore", "p.json", "--guest", "web")
    folder.assert_sees()
    assert folder.sidecar() == {}
    assert folder.is_overlay() is not used, "what the VM wrote is only in a rebuilt image"
    assert (folder.path / f"web.qcow2{ASIDE}").exists() is used


def test_no_definition_must_change_if_the_disk_keeps_its_name_and_format(folder):
    folder.plan(manifest(RETHIN))
    said = [folder.run(verb, "p.json") for verb in ("apply", "restore")]
    assert "path and format in the VM's definition stay the same" in said[0]
    assert [text for text in said if "must name" in text or "must change" in text] == []


EARLIER = "path: vm.img, format: raw"


def converted(folder, retire, *, in_place="", image_format="raw"):
    """A guest that an earlier plan converted, and whose VM has written since: much of that is needless by now."""
    (folder.path / "web.qcow2").unlink()
    write = {"raw": notation.write_raw, "qcow2": notation.write_qcow2}[image_format]
    write(folder.path / "vm.img", CHANGED)
    folder.plan(manifest(in_place or EARLIER, retire=retire), plan="old.json")
    folder.run("apply", "old.json", "--yes")
    name = "vm.img" if in_place else "vm.qcow2"
    (folder.path / "same").write_bytes((folder.path / "template.img").read_bytes()[4 << 20 : 5 << 20])
    notation.run("qemu-io", "-f", "qcow2", "-c", f"write -s {folder.path}/same 4M 1M", str(folder.path / name))
    folder.vm_writes("7M", name)
    return name


@pytest.mark.parametrize(
    ("retire", "how"),
    [
        ("keep", "the same manifest"),
        ("quarantine", "a glob"),
        ("delete", "the overlay by path"),
        *rarely(
            ("keep", "a glob"),
            ("keep", "the overlay by path"),
            ("quarantine", "the same manifest"),
            ("quarantine", "the overlay by path"),
            ("delete", "the same manifest"),
            ("delete", "a glob"),
        ),
    ],
)
def test_a_guest_that_an_earlier_plan_converted(folder, retire, how):
    converted(folder, retire)
    entry = {
        "the same manifest": EARLIER + ", rethin: true",
        "the overlay by path": "path: vm.qcow2, format: qcow2, rethin: true",
        "a glob": "glob: '*.qcow2', format: qcow2, rethin: true",
    }[how]
    folder.plan(manifest(entry, retire="delete"))
    guest = folder.guest()
    assert (guest["verdict"], guest["path"]) == ("convert", str(folder.path / "vm.qcow2"))
    folder.run("apply", "p.json", "--yes")
    folder.assert_sees("vm.qcow2")
    # The earlier plan still knows its overlay.
    folder.run("verify", "old.json", expect=0 if retire != "keep" else None)
    folder.plan(manifest(EARLIER, retire="delete"), plan="again.json")
    assert folder.guest("again.json")["reason"] == f"done by {folder.path}/old.json"
    if retire == "keep":
        folder.run("restore", "old.json", "--guest", "vm", expect=1)  # two disks: only the operator knows
        folder.assert_sees("vm.qcow2")
        return
    folder.run("restore", "old.json", "--guest", "vm")
    folder.assert_sees("vm.img", "raw")
    assert not (folder.path / "vm.qcow2").exists()
    assert folder.sidecar() == {}


def test_a_glob_that_matches_the_guest_that_is_gone_and_its_overlay(folder):
    converted(folder, "delete")
    folder.plan(manifest("glob: 'vm.*', format: qcow2, rethin: true"))
    assert folder.guest()["path"] == str(folder.path / "vm.qcow2")


def test_both_plans_can_be_undone_one_after_the_other(folder):
    converted(folder, "quarantine")
    folder.plan(manifest(EARLIER + ", rethin: true"))
    folder.run("apply", "p.json")
    (record,) = folder.sidecar().values()
    assert [each["original"] for each in (record, *record["before"])] == [
        str(folder.path / name) for name in ("vm.qcow2", "vm.img")
    ]
    folder.run("restore", "p.json", "--guest", "vm")
    (record,) = folder.sidecar().values()
    assert (record["original"], "before" in record) == (str(folder.path / "vm.img"), False)
    folder.assert_sees("vm.qcow2")
    assert folder.is_overlay("vm.qcow2")
    folder.run("restore", "old.json", "--guest", "vm")
    folder.assert_sees("vm.img", "raw")
    assert folder.sidecar() == {}


def test_the_earlier_plan_is_undone_first(folder):
    """Then the newer plan finds its overlay gone, and keeps the older one in quarantine."""
    converted(folder, "quarantine")
    folder.plan(manifest(EARLIER + ", rethin: true"))
    folder.run("apply", "p.json")
    folder.run("restore", "old.json", "--guest", "vm")
    folder.assert_sees("vm.img", "raw")
    for verb in ("restore", "purge"):
        said = folder.run(verb, "p.json", *(["--yes"] if verb == "purge" else ["--guest", "vm"]), expect=1)
        assert "missing" in said
    folder.assert_sees("vm.img", "raw")
    assert (folder.path / f"vm.qcow2{ASIDE}").exists()


@pytest.mark.parametrize(
    ("retire", "image_format"), [("quarantine", "raw"), ("delete", "qcow2"), *rarely(("delete", "raw"))]
)
def test_an_earlier_plan_in_place(folder, retire, image_format):
    """Its quarantined original has the name that a thinner overlay's original needs, until it is purged."""
    entry = f"path: vm.img, format: {image_format}, overlay: {{path: same}}"
    name = converted(folder, retire, in_place=entry, image_format=image_format)
    folder.plan(manifest(f"{entry}, rethin: true"), expect=None)
    if retire == "quarantine":
        purge = f"delete it with `batchdiff purge {folder.path}/old.json --guest vm --used`"
        assert f"{purge}, or move it away" in folder.guest()["reason"]
        folder.plan(manifest(f"{entry}, rethin: true", retire="delete"), expect=1)  # it needs that name, too
        folder.run("purge", "old.json", "--used", "--yes")
        folder.plan(manifest(f"{entry}, rethin: true"))
    folder.run("apply", "p.json")
    folder.assert_sees(name)
    # The original in quarantine is the newer plan's: the older one must not take it for its own.
    status = folder.run("status", "old.json")
    assert "nothing; or restore: rebuild the original from the overlay" in status
    said = folder.run("restore", "old.json", "--guest", "vm", "--dry-run")
    said += folder.run("restore", "old.json", "--guest", "vm")
    assert ASIDE not in said + folder.run("status", "old.json")
    assert "purge" not in said
    folder.assert_sees(name, image_format)
    assert folder.is_overlay(f"vm.img{ASIDE}")
    for verb, options in (("restore", ("--guest", "vm")), ("purge", ("--used", "--yes"))):
        folder.run(verb, "p.json", *options, expect=None)
        folder.assert_sees(name, image_format)


def test_a_lost_journal_of_each_plan(folder):
    converted(folder, "quarantine")
    folder.plan(manifest(EARLIER + ", rethin: true"))
    folder.run("apply", "p.json")
    for name in ("old.json", "p.json"):
        (folder.path / f"{name}.journal").unlink()
        assert "quarantine" in folder.run("status", name)
    folder.run("restore", "p.json", "--guest", "vm")
    folder.run("restore", "old.json", "--guest", "vm")
    folder.assert_sees("vm.img", "raw")


def test_a_lost_journal_whose_original_was_deleted(folder):
    """Only the sidecar's record of the former overlay shows what the earlier plan did."""
    converted(folder, "delete")
    folder.plan(manifest(EARLIER + ", rethin: true"))
    folder.run("apply", "p.json")
    (folder.path / "old.json.journal").unlink()
    folder.run("restore", "old.json", "--guest", "vm")
    folder.assert_sees("vm.img", "raw")


def test_an_overlay_on_top_forbids_it(folder):
    notation.run(
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "web.qcow2",
        "-F",
        "qcow2",
        str(folder.path / "snap.qcow2"),
    )
    folder.plan(manifest(RETHIN), expect=1)
    assert "it is needed by " in folder.guest()["reason"]


def test_snapshots_are_lost(folder):
    notation.run("qemu-img", "snapshot", "-c", "one", str(folder.path / "web.qcow2"))
    folder.plan(manifest(RETHIN), expect=1)
    assert "1 internal snapshot" in folder.guest()["reason"]
    folder.plan(manifest(RETHIN, more="allow_loss: [snapshots]\n"))
    folder.run("apply", "p.json")
    folder.assert_sees()


def test_without_the_key_it_is_named(folder):
    folder.plan(manifest("path: web.qcow2, format: qcow2"))
    said = folder.guest()["reason"]
    assert "`rethin: true` compares it with the template, and may make it thinner" in said


def test_a_minimum_counts(folder):
    folder.plan(manifest(RETHIN, more="minimum_savings: 99%\n"))
    assert "below the minimum of 99.0%" in folder.guest()["reason"]


def test_full_copies_are_planned_as_ever(folder):
    notation.write_raw(folder.path / "copy.img", CHANGED)
    notation.write_qcow2(folder.path / "full.qcow2", CHANGED)
    defaults = "defaults: {rethin: true}\n"
    folder.plan(manifest("path: copy.img, format: raw", "glob: '*.qcow2', format: qcow2", more=defaults))
    paths = {
        each["name"]: each["overlay"]["path"]
        for each in json.loads((folder.path / "p.json").read_text())["guests"]
    }
    assert paths == {
        "copy": str(folder.path / "copy.qcow2"),
        "full": str(folder.path / "full.overlay.qcow2"),
        "web": str(folder.path / "web.qcow2"),
    }
    folder.run("apply", "p.json")
    for name in ("copy.qcow2", "full.overlay.qcow2", "web.qcow2"):
        folder.assert_sees(name)


@pytest.mark.parametrize(
    ("entry", "more", "message"),
    [
        (RETHIN, "", "guests[0].rethin: a thinner overlay takes its guest's place, but `retire: keep`"),
        ("path: web.qcow2, format: qcow2", "defaults: {rethin: true}\n", "defaults.rethin: a thinner overlay"),
    ],
)
def test_keep_is_an_error(folder, entry, more, message):
    said = folder.plan(manifest(entry, retire="keep", more=more), expect=3)
    assert message in said


def test_another_path_is_an_error(folder):
    said = folder.plan(manifest(RETHIN + ", overlay: {path: other.qcow2}"), expect=3)
    assert "guests[0].overlay.path:" in said
    assert "is already an overlay of the template" in said


def test_a_chain_in_between_is_declared(folder):
    """A guest on another overlay becomes an overlay of the template itself, in its own place if asked for."""
    notation.run(
        "qemu-img", "create", "-q", "-f", "qcow2", "-b", "web.qcow2", "-F", "qcow2", str(folder.path / "top.qcow2")
    )
    below = "backing: [{path: web.qcow2, format: qcow2}, {path: template.img, format: raw}]"
    entry = f"path: top.qcow2, format: qcow2, rethin: true, overlay: {{path: same}}, {below}"
    folder.plan(manifest(entry), expect=None)
    guest = folder.guest()
    assert (guest["verdict"], "would not be smaller" in guest["reason"]) == ("skip", True)
    folder.plan(manifest("path: top.qcow2, format: qcow2, rethin: true"), expect=1)
    assert "add the file to the `backing` list" in folder.guest()["reason"]


@pytest.mark.parametrize("options", ["cluster_size=4k,compat=0.10", *rarely("cluster_size=128k,extended_l2=on")])
def test_other_overlays(folder, options):
    path = folder.path / "web.qcow2"
    path.unlink()
    chain = f"{options},backing_file={folder.path}/template.img,backing_fmt=raw"
    notation.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", chain, str(path))
    notation.run("qemu-img", "convert", "-n", "-O", "qcow2", "-f", "raw", str(folder.path / "expected"), str(path))
    folder.assert_sees()
    folder.plan(manifest(RETHIN + ", overlay: {cluster_size: auto}"))
    assert folder.guest()["verdict"] == "convert"
    folder.run("apply", "p.json")
    folder.assert_sees()


@pytest.mark.parametrize("mode", ["changed", *rarely("full", "native")])
def test_a_template_that_was_protected_meanwhile(folder, mode):
    """That is not a change of the guest's backing file, whatever verifies the overlay."""
    folder.plan(manifest(RETHIN))
    os.chmod(folder.path / "template.img", 0o444)
    folder.run("apply", "p.json", "--verify", mode)
    folder.assert_sees()


def test_a_lost_template_leaves_no_intact_original(folder):
    """The older overlay in quarantine needs the template as much as the thinner one does."""
    folder.plan(manifest(RETHIN))
    folder.run("apply", "p.json")
    (folder.path / "template.img").rename(folder.path / "gone")
    assert "intact" not in folder.run("verify", "p.json", expect=6)
    assert "intact" not in folder.run("restore", "p.json", "--guest", "web", expect=4)
    (folder.path / "gone").rename(folder.path / "template.img")
    folder.run("restore", "p.json", "--guest", "web")
    folder.assert_sees()


def test_zeros_beside_the_templates_own(folder):
    """A hole of the template, and zeros of the guest over its data right after that, are one stretch of zeros."""
    path = folder.path / "web.qcow2"
    path.unlink()
    notation.write_qcow2(path, "2M:- 1M:- 256k:0 768k:- 2M:- 1M:0 1M:-", backing=folder.path / "template.img")
    notation.write_raw(folder.path / "expected", "2M:A 1M:- 256k:- 768k:B 2M:C 2M:-")
    notation.run("qemu-io", "-f", "qcow2", "-c", "write -P 0 7M 512k", str(path))
    folder.plan(manifest(RETHIN))
    assert folder.guest()["extents"]["zero"] == [[48, 4]]
    folder.run("apply", "p.json")
    folder.assert_sees()


def test_what_is_saved_by_chance_does_not_count(folder, monkeypatch):
    monkeypatch.setattr(assessment, "list_bytes", lambda _fd, _path: 1 << 30)
    folder.plan(manifest(RETHIN))
    assert folder.guest()["verdict"] == "skip"


def test_only_its_own_clusters_are_read(folder):
    """The template is read once for all guests, and not again through each of them."""
    template = open_image(ImageSource(str(folder.path / "template.img"), ImageFormat.RAW))
    thin = open_image(ImageSource(str(folder.path / "web.qcow2"), ImageFormat.QCOW2, (template.source,)))
    read = []
    thin.layers[1].read = lambda segment, _buffer: read.append(segment)
    with closing(Scanner(template, [thin], sharing=False, shared=[None])) as scanner:
        result = scanner.scan(0)
    assert read == []
    assert result.differences[0].units(Kind.DATA) == 2 * 16
    assert result.differences[0].units(Kind.ZERO) == 128


def test_an_overlay_gets_another_secret(folder):
    """It is encrypted already, and is not taken for the overlay with the new secret that is to replace it."""
    for name in ("old", "new"):
        (folder.path / name).write_text(name)
        (folder.path / name).chmod(0o600)
    encryption = "overlay: {encryption: {format: luks, secret_file: %s, iter_time: 50}}"
    entry = f"path: expected, format: raw, {encryption % 'old'}"
    folder.plan(manifest(entry, retire="keep"))
    folder.run("apply", "p.json")
    overlay = "path: expected.qcow2, format: qcow2, secret_file: old, rethin: true"
    folder.plan(manifest(f"{overlay}, {encryption % 'new'}", more="minimum_savings: none\n"), plan="q.json")
    assert "rethin: true" not in folder.guest("q.json")["reason"]
    assert "virtual_size" in folder.guest("q.json")
