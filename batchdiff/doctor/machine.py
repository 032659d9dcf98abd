"""Facts about the machine and its QEMU."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
import sys
import sysconfig
import tempfile
from contextlib import ExitStack, closing

from batchdiff import __version__
from batchdiff.doctor.fact import Ability, Fact
from batchdiff.errors import BatchdiffError, ImageError, ProgramError
from batchdiff.image_source import ImageFormat
from batchdiff.linux.machine import available_memory, usable_cpus
from batchdiff.qemu import installed, landlock
from batchdiff.qemu.export import BlockDevice, Export
from batchdiff.qemu.programs import MEMORY
from batchdiff.units import format_size

MACHINE, QEMU = "machine", "QEMU"

_TRIAL = bytes(range(256)) * 16
"""A trial image: a whole number of sectors."""

_NO_VERSION = "0.0.0"
"""The version in the metadata of Debian's isal, whose build does not find the real one."""

_FULL_LANDLOCK = 4
"""The first version of Landlock that can also deny TCP connections."""


def machine_facts() -> list[Fact]:
    """Return facts about the machine."""
    memory = available_memory()
    return [
        Fact(MACHINE, "batchdiff", __version__),
        Fact(MACHINE, "Python", platform.python_version()),
        Fact(MACHINE, "kernel", f"Linux {os.uname().release}"),
        Fact(MACHINE, "CPUs", f"{usable_cpus()} usable"),
        Fact(MACHINE, "memory", "unknown" if memory is None else f"{format_size(memory)} available"),
        _inflate(),
        _landlock(),
        _limits(),
    ]


def _inflate() -> Fact:
    try:
        found = importlib.metadata.version("isal")
    except importlib.metadata.PackageNotFoundError:
        effect = f"Images compressed with zlib are decompressed at half the speed; {_how_to_install_isal()}."
        return Fact(MACHINE, "ISA-L", "not installed", Ability.LIMITED, effect)
    return Fact(MACHINE, "ISA-L", "isal" if found == _NO_VERSION else f"isal {found}")


def _how_to_install_isal() -> str:
    # PEP 668: pip refuses to install into a Python that the distribution marks as its own.
    marker = os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")
    if sys.prefix == sys.base_prefix and os.path.exists(marker):
        return "install isal from the distribution (Debian 13 and later: python3-isal)"
    return "`pip install isal` fixes that"


def _limits() -> Fact:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY and hard < MEMORY:
        effect = (
            f"QEMU may need up to {format_size(MEMORY)} of memory for a large image. Have root raise the hard"
            " limit (`ulimit -Hv`)."
        )
        return Fact(MACHINE, "limits (rlimits)", f"{format_size(hard)} of memory", Ability.LIMITED, effect)
    value = f"QEMU gets at most {format_size(MEMORY)} of memory, and qemu-img a limited amount of CPU time"
    return Fact(MACHINE, "limits (rlimits)", value)


def _landlock() -> Fact:
    version = landlock.version()
    if version >= _FULL_LANDLOCK:
        return Fact(MACHINE, "Landlock", f"version {version}: qemu-img reads only the images it is given")
    if version:
        effect = (
            "qemu-img can read only the images it is given, but it can reach the network: only Linux 6.7 or later"
            " can prevent that."
        )
        return Fact(MACHINE, "Landlock", f"version {version}", Ability.LIMITED, effect)
    effect = (
        "qemu-img runs unconfined. Images are checked for references to other files before it sees them. Linux"
        " 5.13 or later can confine qemu-img, if /sys/kernel/security/lsm lists landlock."
    )
    return Fact(MACHINE, "Landlock", "not available", Ability.LIMITED, effect)


def qemu_facts() -> list[Fact]:
    """Return facts about QEMU; only one, about qemu-img, if it is missing or fails."""
    path = shutil.which("qemu-img")
    if path is None:
        effect = (
            "Without it, `apply` cannot verify overlays, except with `--verify native` or `changed`, and no"
            " original can be deleted. Install it (Debian: qemu-utils)."
        )
        return [Fact(QEMU, "qemu-img", "not on the PATH", Ability.MISSING, effect)]
    try:
        version = installed.installed_version()
        formats = installed.known_formats()
        options = installed.create_options("qcow2")
    except ProgramError as error:
        return [Fact(QEMU, "qemu-img", f"{path}: {error.reason}", Ability.MISSING, error.remedy)]
    facts = [Fact(QEMU, "qemu-img", f"{version} ({path})"), _formats(formats), _exports()]
    return [*facts, _overlays(formats, options), Fact(QEMU, "options of qcow2", ", ".join(options))]


def _overlays(formats: list[str], options: list[str]) -> Fact:
    there = {"qcow2": True, "qed": "qed" in formats, "encrypted with LUKS": "encrypt.format" in options}
    lacking = [kind for kind, is_there in there.items() if not is_there]
    value = ", ".join(kind for kind in there if kind not in lacking)
    if not lacking:
        return Fact(QEMU, "overlays", value)
    forms = " or ".join("in the qed format" if kind == "qed" else kind for kind in lacking)
    effect = f"Overlays {forms} cannot be made, because this QEMU does not support them."
    return Fact(QEMU, "overlays", value, Ability.LIMITED, effect)


def _exports() -> Fact:
    name = "exports (qemu-nbd)"
    try:
        with ExitStack() as opened:
            file = opened.enter_context(tempfile.TemporaryFile())
            file.write(_TRIAL)
            file.flush()
            export = Export("a trial image", file.fileno(), BlockDevice(ImageFormat.RAW))
            opened.callback(export.close)
            connection = opened.enter_context(closing(export.connect()))
            connection.read(0, found := memoryview(bytearray(len(_TRIAL))))
    except (BatchdiffError, OSError) as error:
        why = error.reason if isinstance(error, BatchdiffError) else error.strerror or str(error)
        remedy = error.remedy if isinstance(error, ProgramError) else ""
        if isinstance(error, ImageError):  # its remedy is for an image of the user's
            remedy = "Install another QEMU."
        effect = f"Images that only QEMU can read, such as a compressed vmdk, are refused. {remedy}".strip()
        return Fact(QEMU, name, why, Ability.LIMITED, effect)
    if found != _TRIAL:
        return Fact(QEMU, name, "return wrong bytes", Ability.MISSING, "Install another QEMU.")
    return Fact(QEMU, name, "work: images that only QEMU can read, such as a compressed vmdk, can be converted")


def _formats(formats: list[str]) -> Fact:
    """Report QEMU's image formats. Its list also includes protocols, which are left out."""
    lacking = [name for name in ("qcow2", "raw") if name not in formats]
    value = ", ".join(name for name in ImageFormat if name in formats)
    if not lacking:
        return Fact(QEMU, "formats", value)
    effect = f"This QEMU was built without {' and '.join(lacking)}, which batchdiff needs. Install another QEMU."
    return Fact(QEMU, "formats", value, Ability.MISSING, effect)
