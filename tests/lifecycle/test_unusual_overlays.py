"""QED and encrypted overlays, from plan to purge and restore, with VMs that write to them, and QEMU as the judge.

Guards applying/writer/qed_writer.py, applying/guests/overlay_source.py, qemu/encryption.py.
"""

import contextlib
import os
import subprocess

import encrypted
import notation
import pytest
from commands import COMMAND, batchdiff

TEMPLATE = "1M:A 512k:- 512k:B 1M:-"
GUEST = "1M:A 512k:- 64k:X 448k:B 64k:0 960k:-"
OVERLAYS = {
    "qed": "format: qed",
    "luks": "encryption: {format: luks, secret_file: secret, iter_time: 10}",
}
RETIRE = [pytest.param("quarantine", marks=pytest.mark.long), "delete"]


def make_fleet(folder, *, in_place=False, names=tuple(OVERLAYS)):
    notation.write_raw(folder / "t.img", TEMPLATE)
    encrypted.secret_file(folder / "secret")
    place = ", path: same" if in_place else ""
    lines = ["version: 1", "template: {path: t.img, format: raw}", "defaults: {format: raw}", "guests:"]
    for name in names:
        notation.write_raw(folder / f"{name}.img", GUEST)
        lines.append(f"  - {{path: {name}.img, overlay: {{{OVERLAYS[name]}{place}}}}}")
    lines.append("retire: quarantine")
    (folder / "fleet.yaml").write_text("\n".join(lines))
    batchdiff("plan", "fleet.yaml", cwd=folder)


def overlay_of(folder, name, *, in_place=False):
    suffix = "img" if in_place else {"qed": "qed", "luks": "qcow2"}[name]
    return folder / f"{name}.{suffix}"


def options_of(path, name):
    return encrypted.opened(path, "qcow2") if name == "luks" else f"driver=qed,file.filename={path}"


def write_as_a_vm(folder, name, path):
    secret = f"secret,id=s,file={folder / 'secret'}"
    command = ["-c", "write -P 7 2M 64k", "-c", "write -z 0 128k", options_of(path, name)]
    notation.run("qemu-io", "--object", secret, "--image-opts", *command)


def written():
    content = bytearray(notation.content(GUEST))
    content[2 << 20 : (2 << 20) + (64 << 10)] = b"\7" * (64 << 10)
    content[: 128 << 10] = bytes(128 << 10)
    return bytes(content)


@pytest.mark.parametrize("retire", RETIRE)
@pytest.mark.parametrize(
    "in_place", [pytest.param(False, marks=pytest.mark.long), True], ids=["beside", "in place"]
)
def test_from_apply_to_restore(tmp_path, retire, in_place):
    make_fleet(tmp_path, in_place=in_place)
    batchdiff("apply", "fleet.plan.json", "--retire", retire, "--yes", cwd=tmp_path)
    for name in OVERLAYS:
        write_as_a_vm(tmp_path, name, overlay_of(tmp_path, name, in_place=in_place))
    assert batchdiff("verify", "fleet.plan.json", cwd=tmp_path).stdout.count("no error found") == 2
    if retire == "quarantine":
        said = batchdiff("purge", "fleet.plan.json", "--yes", cwd=tmp_path)
        assert "--used" in said.stdout + said.stderr
    batchdiff("restore", "fleet.plan.json", cwd=tmp_path)
    for name in OVERLAYS:
        assert (tmp_path / f"{name}.img").read_bytes() == written()
        assert in_place or not overlay_of(tmp_path, name).exists()


@pytest.mark.long
def test_purged_with_the_vms_consent(tmp_path):
    make_fleet(tmp_path)
    batchdiff("apply", "fleet.plan.json", cwd=tmp_path)
    write_as_a_vm(tmp_path, "qed", overlay_of(tmp_path, "qed"))
    said = batchdiff("purge", "fleet.plan.json", "--yes", cwd=tmp_path)
    assert "luks: deleted" in said.stdout
    assert [path.name for path in tmp_path.glob("*.batchdiff-original")] == ["qed.img.batchdiff-original"]
    batchdiff("purge", "fleet.plan.json", "--used", "--yes", cwd=tmp_path)
    assert not list(tmp_path.glob("*.batchdiff-original"))


def test_an_encrypted_guest_loses_nothing_by_an_encrypted_overlay(tmp_path):
    """What it stores is read through QEMU, and encrypted anew with the overlay's own key."""
    notation.write_raw(tmp_path / "t.img", TEMPLATE)
    raw = notation.write_raw(tmp_path / "g.raw", GUEST)
    old = encrypted.secret_file(tmp_path / "old", "another secret")
    secret = encrypted.secret_file(tmp_path / "secret")
    for name in ("kept", "leaked"):
        encrypted.convert(raw, tmp_path / f"{name}.qcow2", "qcow2", old)
    guest = "format: qcow2, secret_file: old"
    lines = ["version: 1", "template: {path: t.img, format: raw}", "guests:"]
    lines.append(f"  - {{path: kept.qcow2, {guest}, overlay: {{path: o.qcow2, {OVERLAYS['luks']}}}}}")
    lines.append(f"  - {{path: leaked.qcow2, {guest}}}")
    (tmp_path / "fleet.yaml").write_text("\n".join(lines))
    said = batchdiff("plan", "fleet.yaml", cwd=tmp_path, expect=1)
    assert "leaked: it is encrypted" in " ".join(said.stdout.split())
    batchdiff("apply", "fleet.plan.json", cwd=tmp_path, expect=None)
    encrypted.assert_same(tmp_path / "o.qcow2", "qcow2", secret, raw)


def test_a_wrong_or_missing_secret_is_named(tmp_path):
    make_fleet(tmp_path, names=("luks",))
    batchdiff("apply", "fleet.plan.json", cwd=tmp_path)
    (tmp_path / "secret").write_text("wrong")
    said = batchdiff("verify", "fleet.plan.json", cwd=tmp_path, expect=None)
    assert "no key slot opens with the secret" in " ".join(said.stdout.split())
    (tmp_path / "secret").unlink()
    said = batchdiff("restore", "fleet.plan.json", cwd=tmp_path, expect=None)
    assert str(tmp_path / "secret") in said.stdout + said.stderr
    assert (tmp_path / "luks.img.batchdiff-original").exists()


@pytest.mark.long
def test_no_secret_is_shown_while_it_works(tmp_path):
    """Command lines and environments of all its processes, its output and its files."""
    make_fleet(tmp_path, names=("luks",))
    seen, shown = set(), b""
    argv = [*COMMAND, "apply", "fleet.plan.json", "-v"]
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while process.poll() is None:
            shown += b"".join(of_processes(tmp_path, seen))
        shown += process.stdout.read()
    assert any(b"qemu-img" in each for each in seen), "no program was seen"
    assert process.returncode == 0
    for path in tmp_path.iterdir():
        shown += b"" if path.name == "secret" else path.read_bytes()
    assert encrypted.SECRET.encode() not in shown


def of_processes(folder, seen):
    """Yields the command line and the environment of each process that works in a folder's files."""
    for number in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{number}/cmdline", "rb") as file:
                line = file.read()
            if os.fsencode(folder) in line:
                seen.add(line)
                with open(f"/proc/{number}/environ", "rb") as file:
                    yield line + file.read()


def test_a_lost_secret_is_no_damage_to_the_overlay(tmp_path):
    make_fleet(tmp_path, names=["luks"])
    batchdiff("apply", "fleet.plan.json", cwd=tmp_path)
    (tmp_path / "secret").unlink()
    said = batchdiff("verify", "fleet.plan.json", cwd=tmp_path, expect=None).stdout
    assert "unknown  luks: cannot use the secret file" in said
    assert "damaged" not in said


def test_a_restore_says_what_it_decrypts(tmp_path):
    """If an image must be rebuilt, and before that is done: an original that is there gets its name back."""
    make_fleet(tmp_path)
    batchdiff("apply", "fleet.plan.json", cwd=tmp_path)
    assert "rebuilt" not in batchdiff("restore", "fleet.plan.json", "-n", cwd=tmp_path).stderr
    batchdiff("apply", "fleet.plan.json", "--retire", "delete", "--yes", cwd=tmp_path)
    said = batchdiff("restore", "fleet.plan.json", "-n", cwd=tmp_path).stderr
    assert "note: if the image of luks has to be rebuilt, what its VM wrote to the encrypted overlay" in said
