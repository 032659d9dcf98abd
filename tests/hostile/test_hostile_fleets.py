"""Hostile images of every kind as guests of one fleet: each is refused for its reason, or read as QEMU reads it.

One plan of all kinds of a format shows that a refusal stops no other guest, that nothing outside is opened, that
no image changes, and how long and how much memory the worst of them take.

Guards foreign/header.py.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import encrypted
import notation
import pytest
from commands import COMMAND, assert_no_traceback, batchdiff
from hostile_fleet import CONTENT, HostileFleet, baits, sound_images
from kinds import NAMES_OUTSIDE, READ, Kind
from oracle import assert_same

from batchdiff import __main__

TABLES = {
    "qcow2": "qcow2",
    "qcow2_data": "qcow2",
    "vmdk": "vmdk",
    "vmdk_stream": "vmdk",
    "vdi": "vdi",
    "vhdx": "vhdx",
    "vpc": "vpc",
    "qed": "qed",
    "parallels": "parallels",
    "luks": "luks",
    "raw": "raw",
}
"""The format of most images in each table of kinds. For one format a module ``FORMAT_kinds.py`` is enough.

Such a module may have KEYS for the manifest, sound images of its own, files beside them, and files that may be
opened.
"""
FEWEST = {"qcow2_data": 70}
"""Kinds in each table, if they are not 100; those with a data file are the rest of the table for qcow2."""

FOLLOWED = {"qcow2", "qed", "vmdk"}
"""Formats whose header names a backing file by path; the guest of a raw image could write anything there.

Extents and data files have names of their own (:func:`kinds.of_data`), which nothing may open."""

OF_OTHER_FILES = ("smaller than the template", " is also ", "the template is stored inside this guest")
"""Words of reasons that name other files than the image, or none."""

OF_THE_MACHINE = (
    "/sys/block/loopN/",
    "/sys/devices/system/cpu/",
    "/sys/fs/",
    "/proc/self/uid_map",
    "/etc/ld.so.",
    "/lib",
)
"""Paths that only some runs open: of the loop devices of other tests, of filesystems, of CPUs, of user IDs, and
of the loader, whose ``ld.so.preload`` and folders may come and go."""

SECONDS, MEMORY = 30, 200 << 20
"""CPU time for a fleet of 100 to 300 images, and the memory of each process."""


def table_of(name):
    return importlib.import_module(f"{name}_kinds")


@pytest.mark.parametrize("name", TABLES)
def test_there_are_enough_kinds(name):
    """And each is a kind of its own: no two images are the same, or have one name."""
    found = table_of(name).kinds(NAMES_OUTSIDE)
    assert len(found) >= FEWEST.get(name, 100)
    assert len({kind.name for kind in found}) == len(found)


@pytest.fixture(params=TABLES)
def fleet(request, tmp_path):
    table, image_format = table_of(request.param), TABLES[request.param]
    keys, beside = getattr(table, "KEYS", {}), getattr(table, "beside", lambda folder: None)
    with baits(tmp_path) as outside:
        kinds = table.kinds(outside)
        made = getattr(table, "sound_images", sound_images)(tmp_path, image_format, kinds, CONTENT)
        found = HostileFleet(tmp_path / "fleet", image_format, kinds, made, keys)
        found.sound = sound_fleet(tmp_path / "sound fleet", image_format, made, keys)
        found.may_open = getattr(table, "may_open", lambda folder: set())(tmp_path)
        for each in (found, found.sound):
            beside(each.folder)
        before = found.state()
        yield found
        assert found.state() == before


def outcome(guest):
    """Returns the reason for which a guest is refused; READ if it is not."""
    return guest["reason"] if guest["verdict"] == "refuse" else READ


def test_each_kind_is_refused_for_its_reason_or_read(fleet):
    opened = planned_under_strace(fleet)
    wrong = {}
    found = fleet.planned()
    assert found.keys() == fleet.kinds.keys()
    for name, kind in fleet.kinds.items():
        said, path = outcome(found[name]), f"{fleet.folder}/images/{name}"
        if kind.expected not in said or (kind.expected == READ) != (said == READ):
            wrong[name] = f"{said!r} instead of {kind.expected!r}"
        elif said != READ and path not in said and not any(words in said for words in OF_OTHER_FILES):
            wrong[name] = f"{said!r} does not name the file"
    assert wrong == {}
    # Whatever they name, only the images are opened and what a plan of sound images opens; and, in the search for
    # dependents, a regular file that an image names as its backing file.

    known = {without_numbers(f"/images/{name}") for name in fleet.kinds}
    known |= others(fleet.sound, planned_under_strace(fleet.sound))
    known |= {without_numbers(as_strace_prints(path)) for path in fleet.may_open}
    if fleet.image_format in FOLLOWED:
        known.add(without_numbers(f"{fleet.folder.parent}/outside/secret"))
    assert others(fleet, opened) - known == set()


def others(fleet, opened):
    """Returns the paths, without the fleet's own folder in each, temporary files, our own code and Python's."""
    folder = without_numbers(str(fleet.folder))
    # The first process that runs after a change of the code compiles it: it opens other files than the next one.
    code = tuple(without_numbers(os.path.dirname(module.__file__)) for module in (__main__, os))
    return {
        path if folder not in path else path.replace(folder, "")
        for path in opened
        if not path.endswith(("-tmp", ".partial")) and not path.startswith((*code, *OF_THE_MACHINE))
        if without_numbers(str(fleet.temporary)) not in path
    }


MEASURE = """
import json, resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    json.dump([used.ru_utime + used.ru_stime, used.ru_maxrss], file)
sys.exit(code)
"""
"""Runs a command and writes its CPU time and its largest process, in a process of its own, because a new process
counts the memory of the one that started it, and pytest's is large."""


def planned_under_strace(fleet):
    """Runs ``plan``; returns the paths that it and its programs opened, and calls that connect."""
    trace, said, used = (fleet.folder.parent / name for name in ("trace", "said", "used"))
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-s", "4096", "-e", "trace=open,openat,openat2,connect,bind"]
    command = ["timeout", "300", *strace, "-o", str(trace), *COMMAND, "plan", "fleet.yaml", "-q", "-j", "1"]
    with open(said, "wb") as output:
        code = subprocess.call(
            [sys.executable, "-c", MEASURE, str(used), *command],
            cwd=fleet.folder,
            env=os.environ | {"TMPDIR": str(fleet.temporary)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    assert_no_traceback(said.read_text())
    assert code in {0, 1}, said.read_text()
    seconds, kilobytes = json.loads(used.read_text())
    assert seconds < SECONDS
    assert kilobytes << 10 < MEMORY
    return set(filter(None, map(touched, whole_calls(trace.read_text(errors="replace").splitlines()))))


def whole_calls(lines):
    """Yields the lines of a trace, each call in one: strace cuts it where another process comes in between."""
    begun = {}
    for line in lines:
        process, _, call = line.partition(" ")
        if call.endswith("<unfinished ...>"):
            begun[process] = call.removesuffix("<unfinished ...>")
        elif (resumed := re.match(r" *<\.\.\. \w+ resumed>(.*)", call)) and process in begun:
            yield f"{process} {begun.pop(process)}{resumed[1]}"
        else:
            yield line
    yield from (f"{process} {call}" for process, call in begun.items())


def touched(line):
    """The path that a line of a trace opens, or the address that it connects; None for a file that is missing."""
    if "connect(" in line or "bind(" in line:
        # In the trace of a sound fleet are the sockets of qemu-nbd, at `/proc/self/fd/N`.
        return without_numbers(line.partition("}")[0].partition(" ")[2].lstrip())
    found = re.search(r'open(?:at2?)?\((?:[^"]*, )?"((?:[^"\\]|\\.)*)"', line)
    return None if found is None or "= -1 ENOENT" in line else without_numbers(found[1])


def without_numbers(text):
    return re.sub(r"\d+", "N", text)


def as_strace_prints(path):
    return "".join(chr(byte) if 32 <= byte < 127 else f"\\{byte:o}" for byte in os.fsencode(path))


def sound_fleet(folder, image_format, made, keys):
    """A fleet of sound images only."""
    sound = [Kind(f"sound-{number}", lambda image: None, READ, base) for number, base in enumerate(made)]
    return HostileFleet(folder, image_format, sound, made, keys)


@pytest.mark.long
def test_what_is_read_is_what_qemu_reads(fleet):
    """Checked by QEMU when the overlays are written, and here for the content of some."""
    batchdiff("plan", "fleet.yaml", "-q", cwd=fleet.folder, expect=None)
    done = batchdiff("apply", "fleet.plan.json", "-q", "--json", cwd=fleet.folder, expect=None, timeout=600)
    converted = [guest for guest in fleet.planned().values() if guest["verdict"] == "convert"]
    assert converted
    for guest in converted:
        overlay = Path(guest["overlay"]["path"])
        assert overlay.exists(), done.stderr
        if os.path.getsize(guest["path"]) < 16 << 20 and guest["virtual_size"] < 16 << 20:
            assert_same(
                notation.qemu_content(overlay, "qcow2"),
                by_qemu(fleet, Path(guest["path"]), guest["format"]),
            )


def by_qemu(fleet, path, image_format):
    """The content of an image; a fleet of encrypted ones has their secret beside its manifest."""
    secret = fleet.folder / "secret"
    if secret.exists():
        return encrypted.content(path, image_format, secret, fleet.temporary / "copy")
    return notation.qemu_content(path, image_format)
