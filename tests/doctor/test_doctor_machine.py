"""batchdiff.doctor.machine: versions, confinement and QEMU."""

import os
import platform
import shutil
import subprocess

import pytest

from batchdiff.doctor import machine
from batchdiff.doctor.fact import Ability
from batchdiff.doctor.machine import machine_facts, qemu_facts


def fake_qemu_img(folder, monkeypatch, script):
    program = folder / "qemu-img"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_versions():
    found = {fact.name: fact.value for fact in machine_facts()}
    assert found["Python"] == platform.python_version()
    assert found["kernel"] == f"Linux {os.uname().release}"


def test_the_limits_on_qemu_are_those_of_its_programs():
    """A qemu-nbd serves an image for as long as it is needed."""
    (fact,) = (fact for fact in machine_facts() if fact.name.startswith("limits"))
    assert fact.value == "QEMU gets at most 2 GiB of memory, and qemu-img a limited amount of CPU time"


def test_a_hard_limit_that_only_root_can_raise(monkeypatch):
    monkeypatch.setattr(machine.resource, "getrlimit", lambda _: (1 << 20, 1 << 30))
    (fact,) = (fact for fact in machine_facts() if fact.name.startswith("limits"))
    assert fact.ability is Ability.LIMITED
    assert fact.effect.endswith("Have root raise the hard limit (`ulimit -Hv`).")


@pytest.mark.parametrize(
    ("version", "ability", "words"),
    [(0, "limited", "unconfined"), (3, "limited", "network"), (4, "good", ""), (7, "good", "")],
)
def test_confinement_by_kernel(monkeypatch, version, ability, words):
    monkeypatch.setattr(machine.landlock, "version", lambda: version)
    (fact,) = (fact for fact in machine_facts() if fact.name == "Landlock")
    assert fact.ability == ability
    assert words in fact.effect


def _missing(name):
    raise machine.importlib.metadata.PackageNotFoundError(name)


def test_without_isal(monkeypatch):
    monkeypatch.setattr(machine.importlib.metadata, "version", _missing)
    (fact,) = (fact for fact in machine_facts() if fact.name == "ISA-L")
    assert (fact.value, fact.ability) == ("not installed", Ability.LIMITED)
    assert "`pip install isal` fixes that" in fact.effect


def test_where_pip_is_refused_the_package_of_the_distribution_is_named(monkeypatch, tmp_path):
    """PEP 668: the marker of Debian's Python, outside a virtual environment."""
    monkeypatch.setattr(machine.importlib.metadata, "version", _missing)
    monkeypatch.setattr(machine.sys, "prefix", machine.sys.base_prefix)
    monkeypatch.setattr(machine.sysconfig, "get_path", lambda _name: str(tmp_path))
    (tmp_path / "EXTERNALLY-MANAGED").touch()
    (fact,) = (fact for fact in machine_facts() if fact.name == "ISA-L")
    assert "python3-isal" in fact.effect
    assert "pip" not in fact.effect


def test_a_version_that_a_distribution_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setattr(machine.importlib.metadata, "version", lambda _name: "0.0.0")
    (fact,) = (fact for fact in machine_facts() if fact.name == "ISA-L")
    assert (fact.value, fact.ability) == ("isal", Ability.GOOD)


def test_qemu_as_it_describes_itself():
    program, formats, exports, overlays, options = qemu_facts()
    assert overlays.value == "qcow2, qed, encrypted with LUKS"
    said = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, check=True).stdout
    version, path = program.value.split(" ", 1)
    assert said.startswith(f"qemu-img version {version} ")
    assert path == f"({shutil.which('qemu-img')})"
    assert {"raw", "qcow2", "vmdk", "vdi"} <= set(formats.value.split(", "))
    assert {"cluster_size", "extended_l2", "preallocation"} <= set(options.value.split(", "))
    assert exports.value.startswith("work: ")
    assert all(fact.ability is Ability.GOOD for fact in (program, formats, exports, options))


def test_exports_that_do_not_work(monkeypatch, tmp_path):
    program = tmp_path / "qemu-nbd"
    program.write_text("#!/bin/sh\necho no; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (fact,) = (fact for fact in qemu_facts() if "export" in fact.name)
    assert fact.ability is Ability.LIMITED
    assert "QEMU cannot open a trial image" in fact.value
    assert fact.effect == (
        "Images that only QEMU can read, such as a compressed vmdk, are refused. Install another QEMU."
    )


def test_no_folder_for_temporary_files(monkeypatch):
    def refuse():
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(machine.tempfile, "TemporaryFile", refuse)
    (fact,) = (fact for fact in qemu_facts() if "export" in fact.name)
    assert fact.value == "No usable temporary directory found in ['/tmp']"


def test_no_qemu_nbd(monkeypatch, tmp_path):
    for name in ("qemu-img", "sh"):
        (tmp_path / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(tmp_path))
    (fact,) = (fact for fact in qemu_facts() if "export" in fact.name)
    assert fact.ability is Ability.LIMITED
    assert "Install it (Debian: qemu-utils)" in fact.effect


def test_no_qemu(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    (fact,) = qemu_facts()
    assert fact.ability is Ability.MISSING
    assert "qemu-utils" in fact.effect


def test_a_qemu_that_fails(monkeypatch, tmp_path):
    fake_qemu_img(tmp_path, monkeypatch, "echo no library >&2; exit 127")
    (fact,) = qemu_facts()
    assert fact.ability is Ability.MISSING
    assert "no library" in fact.value


def test_a_qemu_without_qcow2(monkeypatch, tmp_path):
    script = 'case $1 in --version) echo "qemu-img version 9.0";; --help) echo "Supported formats: raw vdi";; esac'
    fake_qemu_img(tmp_path, monkeypatch, script)
    program, formats, _, overlays, _ = qemu_facts()
    assert (overlays.value, overlays.ability) == ("qcow2", Ability.LIMITED)
    assert "Overlays in the qed format or encrypted with LUKS cannot be made" in overlays.effect
    assert program.value.startswith("9.0 ")
    assert formats.value == "raw, vdi"
    assert formats.ability is Ability.MISSING
    assert "without qcow2" in formats.effect
