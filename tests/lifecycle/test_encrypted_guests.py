"""Encrypted guests and templates, from plan to purge and restore, with QEMU as the judge.

Rebuilding an encrypted image takes QEMU seconds of CPU time, so most tests with it are slow ones.
"""

import os
import shutil
import subprocess
from pathlib import Path

import encrypted
import notation
import pytest
from commands import COMMAND, batchdiff, rarely

KINDS = ["luks", "qcow2"]
TEMPLATE = "2M:A 1M:- 2M:B 3M:-"
CHANGED = "2M:A 1M:- 1M:B 100k:X 924k:B 1M:- 70k:Y 1978k:-"
PLAN = "fleet.plan.json"


class Fleet:
    """A template and a guest of each kind; ``copy`` is what the guests read as."""

    def __init__(self, folder: Path, template: str, guests: list[str], head: str = "allow_loss: [encryption]"):
        self.folder, self.template = folder, template
        self.secret = encrypted.secret_file(folder / "secret")
        self.other = encrypted.secret_file(folder / "other-secret", "another secret, of the template")
        raw, self.copy = (
            notation.write_raw(folder / "t.raw", TEMPLATE),
            notation.write_raw(folder / "copy", CHANGED),
        )
        shutil.copy(raw, folder / "template.img")
        declared = "template: {path: template.img, format: raw}"
        if template != "raw":
            encrypted.convert(raw, folder / "template.img", template, self.other)
            declared = f"template: {{path: template.img, format: {template}, secret_file: other-secret}}"
        lines = ["version: 1", declared, head, "guests:"]
        for kind in guests:
            self.make(kind)
            key = "" if kind == "raw" else ", secret_file: secret"
            lines.append(f"  - {{path: {kind}.img, format: {kind}{key}}}")
        (folder / "fleet.yaml").write_text("\n".join(lines))

    def make(self, kind: str) -> None:
        path = self.folder / f"{kind}.img"
        if kind == "raw":
            shutil.copy(self.copy, path)
        else:
            encrypted.convert(self.copy, path, kind, self.secret)

    def run(self, *argv: str, **options: object):
        return batchdiff(*argv, cwd=self.folder, **options)

    def convert(self, retire: str):
        self.run("plan", "fleet.yaml")
        return self.run("apply", PLAN, "--retire", retire, "--yes")

    def assert_overlay(self, kind: str) -> None:
        overlay = self.folder / f"{kind}.qcow2"
        assert overlay.stat().st_size < 1 << 20
        below = "" if self.template == "raw" else self.template
        if below:
            encrypted.assert_same(overlay, "qcow2", self.other, self.copy, backing=below)
        else:
            notation.run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(overlay), str(self.copy))

    def write(self, kind: str) -> None:
        """A VM writes to the overlay."""
        below = "" if self.template == "raw" else self.template
        overlay = self.folder / f"{kind}.qcow2"
        if below:
            encrypted.qemu_io(overlay, "qcow2", self.other, "write -P 9 3M 8k", backing=below)
        else:
            notation.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 9 3M 8k", str(overlay))
        notation.run("qemu-io", "-f", "raw", "-c", "write -q -P 9 3M 8k", str(self.copy))


RETIRE = [
    pytest.param("keep", marks=pytest.mark.long),
    pytest.param("quarantine", marks=pytest.mark.long),
    "delete",
]


@pytest.mark.parametrize("retire", RETIRE)
def test_encrypted_guests(tmp_path, retire):
    fleet = Fleet(tmp_path, "raw", KINDS)
    said = fleet.convert(retire)
    for kind in KINDS:
        fleet.assert_overlay(kind)
        assert (tmp_path / f"{kind}.img").exists() == (retire == "keep")
    assert "the overlay is not encrypted: remove the secret of the original" in said.stderr
    fleet.run("verify", PLAN)


@pytest.mark.parametrize("retire", RETIRE)
@pytest.mark.parametrize("template", [KINDS[0], *rarely(KINDS[1])])
def test_an_encrypted_template(tmp_path, template, retire):
    fleet = Fleet(tmp_path, template, ["raw", "luks"])
    said = fleet.convert(retire)
    option = {"luks": "backing.key-secret=SECRET", "qcow2": "backing.encrypt.key-secret=SECRET"}[template]
    assert f"the template is encrypted: give the VM its secret (QEMU: {option};" in said.stderr
    for kind in ("raw", "luks"):
        fleet.assert_overlay(kind)
    fleet.run("verify", PLAN)


def test_restored_from_quarantine_to_the_byte(tmp_path):
    fleet = Fleet(tmp_path, "luks", KINDS)
    before = {kind: (tmp_path / f"{kind}.img").read_bytes() for kind in KINDS}
    fleet.convert("quarantine")
    fleet.run("restore", PLAN)
    assert {kind: (tmp_path / f"{kind}.img").read_bytes() for kind in KINDS} == before
    assert not list(tmp_path.glob("*.qcow2"))


@pytest.mark.parametrize(
    ("template", "kinds"),
    [
        *(
            pytest.param(*each, marks=pytest.mark.long)
            for each in (("luks", KINDS), ("qcow2", KINDS), ("raw", KINDS))
        ),
    ],
)
def test_rebuilt_encrypted_with_the_same_secret(tmp_path, template, kinds):
    fleet = Fleet(tmp_path, template, kinds)
    fleet.convert("delete")
    for kind in kinds:
        fleet.write(kind)
        shutil.copy(fleet.copy, tmp_path / f"{kind}.copy")
        notation.write_raw(fleet.copy, CHANGED)
    said = fleet.run("restore", PLAN)
    for kind in kinds:
        restored = tmp_path / f"{kind}.img"
        encrypted.assert_same(restored, kind, fleet.secret, tmp_path / f"{kind}.copy")
        assert notation.data("X", 4 << 20, 4096) not in restored.read_bytes()
    assert not list(tmp_path.glob("*.qcow2"))
    assert "it will be encrypted with aes-256 in xts mode and have one key slot" in said.stderr


def test_in_place(tmp_path):
    """Also if the sidecar, which shows that the guests are converted, is lost."""
    fleet = Fleet(tmp_path, "raw", KINDS, "allow_loss: [encryption]\nretire: quarantine")
    before = {kind: (tmp_path / f"{kind}.img").read_bytes() for kind in KINDS}
    manifest = tmp_path / "fleet.yaml"
    manifest.write_text(manifest.read_text().replace("secret}", "secret, overlay: {path: same}}"))
    fleet.run("plan", "fleet.yaml")
    fleet.run("apply", PLAN)
    for kind in KINDS:
        notation.run(
            "qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(tmp_path / f"{kind}.img"), str(fleet.copy)
        )
    sidecar = tmp_path / "template.img.batchdiff-template.json"
    sidecar.rename(tmp_path / "kept.json")
    said = " ".join(fleet.run("plan", "fleet.yaml", "-o", "again.json").stdout.split())
    for kind in KINDS:
        assert f"skip {kind}: it is already an overlay of this template" in said
    (tmp_path / "kept.json").rename(sidecar)
    fleet.run("restore", PLAN)
    assert {kind: (tmp_path / f"{kind}.img").read_bytes() for kind in KINDS} == before


@pytest.mark.long
def test_purged(tmp_path):
    fleet = Fleet(tmp_path, "qcow2", KINDS)
    fleet.convert("quarantine")
    fleet.run("purge", PLAN, "--yes")
    assert not list(tmp_path.glob("*.batchdiff-original"))
    for kind in KINDS:
        fleet.assert_overlay(kind)


@pytest.mark.parametrize("head", ["allow_loss: []", "allow_loss: [snapshots, bitmaps]"])
def test_encryption_is_a_loss(tmp_path, head):
    fleet = Fleet(tmp_path, "luks", ["raw", *KINDS], head)
    said = " ".join(fleet.run("plan", "fleet.yaml", expect=1).stdout.split())
    assert "each is encrypted, and its overlay would not be" in said
    assert "`overlay: {encryption: ...}` encrypts the overlay too" in said
    assert "`allow_loss: [encryption]` accepts an unencrypted overlay" in said
    assert "1 of 3" in said


def test_a_guest_is_as_encrypted_as_its_backing_file(tmp_path):
    fleet = Fleet(tmp_path, "raw", ["luks"], "allow_loss: []")
    top = tmp_path / "top.qcow2"
    notation.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(fleet.copy), str(top))
    notation.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "luks.img", "-F", "luks", str(top))
    below = "backing: [{path: luks.img, format: luks, secret_file: secret}]"
    manifest = (tmp_path / "fleet.yaml").read_text().rpartition("\n")[0]
    (tmp_path / "fleet.yaml").write_text(f"{manifest}\n  - {{path: {top.name}, format: qcow2, {below}}}")
    said = " ".join(fleet.run("plan", "fleet.yaml", expect=1).stdout.split())
    assert "it is partly encrypted (in an image below it), and its overlay would not be" in said
    text = (tmp_path / "fleet.yaml").read_text().replace("allow_loss: []", "allow_loss: [encryption]")
    (tmp_path / "fleet.yaml").write_text(text)
    fleet.convert("keep")
    overlay = str(tmp_path / "top.overlay.qcow2")
    notation.run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", overlay, str(fleet.copy))


def test_a_wrong_secret_concerns_its_guest_only(tmp_path):
    fleet = Fleet(tmp_path, "raw", ["raw", *KINDS])
    encrypted.secret_file(fleet.secret, f"{encrypted.SECRET}\n")
    said = " ".join(fleet.run("plan", "fleet.yaml", expect=1).stdout.split())
    assert said.count("no key slot opens with the secret in") == 2
    assert "truncate -s -1" in said
    assert "1 of 3" in said


def test_a_secret_file_that_is_gone_when_an_image_must_be_rebuilt(tmp_path):
    fleet = Fleet(tmp_path, "raw", KINDS)
    fleet.convert("delete")
    overlays = {kind: (tmp_path / f"{kind}.qcow2").read_bytes() for kind in KINDS}
    fleet.secret.unlink()
    for argv in (["--dry-run"], []):
        said = " ".join(fleet.run("restore", PLAN, *argv, expect=4).stdout.split())
        assert said.count(f"cannot use the secret file {fleet.secret}: No such file") == 2
    assert {kind: (tmp_path / f"{kind}.qcow2").read_bytes() for kind in KINDS} == overlays
    assert not list(tmp_path.glob(".*tmp")) + list(tmp_path.glob("luks.img*"))


def test_a_secret_file_that_is_gone_when_the_original_is_there(tmp_path):
    fleet = Fleet(tmp_path, "raw", KINDS)
    fleet.convert("quarantine")
    fleet.secret.unlink()
    fleet.run("restore", PLAN, expect=4)
    assert len(list(tmp_path.glob("*.qcow2"))) == len(list(tmp_path.glob("*.batchdiff-original"))) == 2
    fleet.run("restore", PLAN, "--discard-changes", "--yes")
    assert not list(tmp_path.glob("*.qcow2"))
    for kind in KINDS:
        encrypted.assert_same(tmp_path / f"{kind}.img", kind, encrypted.secret_file(fleet.secret), fleet.copy)


@pytest.mark.parametrize("lost", ["secret", "other-secret"])
def test_a_secret_file_that_is_gone_is_not_damage(tmp_path, lost):
    fleet = Fleet(tmp_path, "luks", ["luks"])
    fleet.convert("quarantine")
    (tmp_path / lost).rename(tmp_path / "away")
    said = fleet.run("verify", PLAN, expect=None).stdout
    assert "damaged" not in said
    assert "unknown" in said
    (tmp_path / lost).write_text("not the secret")
    said = fleet.run("verify", PLAN, expect=None).stdout
    assert "damaged" not in said
    assert "no key slot opens with the secret" in " ".join(said.split())


def test_secrets_from_descriptors(tmp_path):
    """Two secrets from pipes, each of which a command can read only once; scanned by several processes."""
    fleet = Fleet(tmp_path, "luks", KINDS)
    text = (tmp_path / "fleet.yaml").read_text()

    def piped(*secrets: str) -> list[int]:
        readers = []
        for secret in secrets:
            reader, writer = os.pipe()
            os.write(writer, secret.encode())
            os.close(writer)
            readers.append(reader)
        return readers

    descriptors = piped(encrypted.SECRET, fleet.other.read_text())
    text = text.replace("secret_file: secret", f"secret_file: /dev/fd/{descriptors[0]}")
    text = text.replace("secret_file: other-secret", f"secret_file: /dev/fd/{descriptors[1]}")
    (tmp_path / "fleet.yaml").write_text(text)
    fleet.run("plan", "fleet.yaml", "-j", "2", pass_fds=descriptors)
    again = piped(encrypted.SECRET, fleet.other.read_text())
    for old, new in zip(descriptors, again, strict=True):
        os.dup2(new, old)
    fleet.run("apply", PLAN, "--retire", "delete", "--yes", pass_fds=descriptors)
    for kind in KINDS:
        fleet.assert_overlay(kind)
    for each in (*descriptors, *again):
        os.close(each)


def test_a_secret_that_was_passed_to_plan_but_not_to_apply(tmp_path):
    """The journal is the first file that apply opens, so it gets the number: it must not become the secret."""
    notation.write_raw(tmp_path / "template.img", "1M:A")
    original = notation.write_raw(tmp_path / "web.img", "960k:A 64k:B")
    secret = encrypted.secret_file(tmp_path / "secret")
    (tmp_path / "m.yaml").write_text(
        "version: 1\ntemplate: {path: template.img, format: raw}\nguests:\n  - path: web.img\n    format: raw\n"
        "    overlay: {encryption: {format: luks, iter_time: 10, secret_file: /dev/fd/3}}\n"
    )

    def run_with(redirection, *arguments):
        command = f'"$@" {redirection}'
        argv = ["sh", "-c", command, "sh", *COMMAND, *arguments]
        return subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    planned = run_with(f"3< {secret}", "plan", "m.yaml")
    assert planned.returncode == 0, planned.stderr
    done = run_with("", "apply", "m.plan.json", "--retire", "delete", "--yes")
    assert done.returncode != 0, done.stdout
    assert "that descriptor is not open" in " ".join((done.stdout + done.stderr).split())
    assert original.exists()
    assert not (tmp_path / "web.qcow2").exists()
    done = run_with(f"3< {secret}", "apply", "m.plan.json", "--retire", "delete", "--yes")
    assert done.returncode == 0, done.stderr


def test_the_plan_names_secret_files(tmp_path):
    """By absolute paths."""
    fleet = Fleet(tmp_path, "luks", ["qcow2"])
    fleet.run("plan", "fleet.yaml")
    text = (tmp_path / PLAN).read_text()
    assert f'"secret_file": "{fleet.secret}"' in text
    assert f'"secret_file": "{fleet.other}"' in text
