"""Seeded mutants of qcow2 metadata: read as QEMU reads them, or refused with an ImageError; never slow."""

from __future__ import annotations

import re
import struct
import subprocess

import notation
import pytest
from oracle import assert_same, guest_bytes, source, within
from patching import OFFSET, Patched
from seeds import seeded

from batchdiff.errors import ImageError
from batchdiff.image.open import inspect, open_image
from batchdiff.units import MIB

SECONDS = 5
"""For one mutant; a sound image of this size takes a few milliseconds."""

SOUND = {
    "plain": ("16k:A 8k:b 4k:- 4k:0 2M:- 16k:C", "cluster_size=4k", False),
    "version-2": ("16k:A 8k:b 2M:- 16k:C", "cluster_size=4k,compat=0.10", False),
    "zstd": ("16k:A 8k:b 2M:- 16k:C", "cluster_size=4k,compression_type=zstd", False),
    "subclusters": ("32k:A 1k:0 31k:- 32k:b 512:C", "cluster_size=16k,extended_l2=on", False),
    "overlay": ("4k:A 60k:- 64k:b 64k:- 64k:0", "", True),
}


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.long)])
@pytest.mark.parametrize(("text", "options", "overlay"), SOUND.values(), ids=SOUND)
def test_mutants(tmp_path, text, options, overlay, count):
    below = [notation.write_raw(tmp_path / "low.raw", "192k:D")] if overlay else []
    path = notation.write_qcow2(tmp_path / "a.qcow2", text, options=options, backing=below[0] if below else None)
    sound = Patched(path)
    chosen = seeded()
    outcomes = []
    for _ in range(count):
        mutant = Patched(sound.save(path))
        for _ in range(chosen.choice([1, 1, 1, 2, 4])):
            mutate(mutant, sound, chosen)
        mutant.save(path)
        outcomes.append(judged(path, below))
    print(f"{outcomes.count('read')} read, {outcomes.count('refused')} refused")
    assert set(outcomes) == {"read", "refused"}


def mutate(mutant, sound, chosen):
    """Changes one place of the metadata and prints how, so that a failure can be had by hand."""
    places = (
        range(120),
        range(sound["header_length"] if sound["version"] == 3 else 72, 400),
        range(sound["l1_offset"], sound["l1_offset"] + 8 * sound["l1_entries"]),
        range(sound["refcount_offset"], sound["refcount_offset"] + 16),
        *(range(start, start + 320) for start in l2_tables(sound)),
        range(len(sound.data) - 8),
    )
    offset = chosen.choice(chosen.choice(places))
    width = chosen.choice([1, 1, 4, 8, 8])
    offset -= offset % width
    value = chosen.choice(interesting(sound, offset, chosen)) % (1 << 8 * width)
    data = value.to_bytes(width, "big")
    print(f"{width} bytes at {offset} become {data.hex()}", end="; ")
    mutant.put(offset, data)


def l2_tables(image):
    entries = (image[image.l1(index)] & OFFSET for index in range(image["l1_entries"]))
    return [entry for entry in entries if entry]


def interesting(sound, offset, chosen):
    here = struct.unpack_from(">Q", sound.data.ljust(offset + 8, b"\0"), offset)[0]
    return [
        0,
        1,
        (1 << 64) - 1,
        1 << chosen.randrange(64),
        here ^ (1 << chosen.randrange(64)),
        here + chosen.choice([-1, 1, 512, 4096, 65536]),
        chosen.getrandbits(64),
        len(sound.data),
        chosen.randrange(len(sound.data)) // 512 * 512,
        chosen.choice(l2_tables(sound)),
    ]


def judged(path, below):
    """``refused`` or ``read``; what is read and not too large must be what QEMU reads.

    What is accepted for planning must also be without errors for `qemu-img check`.
    """
    strict = is_accepted_for_planning(path, below)
    with within(SECONDS):
        try:
            with open_image(source(path, *below)) as image:
                inspect(image)
                print(image.layers[0].header, end=" ")
                content = guest_bytes(image, 0, min(image.virtual_size, 8 * MIB))
                guest_bytes(image, max(image.virtual_size - MIB, 0), MIB)
                assert image.next_data(0) is None or image.next_data(0) >= 0
                size = image.virtual_size
        except ImageError as error:
            print(f"refused: {error}")
            return "refused"
    print("read")
    if strict:
        assert_no_errors(path)
    if size <= 8 * MIB:
        assert_same(content, notation.qemu_content(path, "qcow2"))
    return "read"


def is_accepted_for_planning(path, below):
    with within(SECONDS):
        try:
            with open_image(source(path, *below)) as image:
                inspect(image, refcounts=True)
        except ImageError:
            return False
    return True


HARMLESS = re.compile(
    # A copied flag without need only makes QEMU copy a cluster, and a missing backing file is not check's subject.
    r"OFLAG_COPIED|non-zero subcluster allocation bitmap|Leaked|^$|errors were found|may be wasted|recheck"
    r"|leaked clusters|Data may be corrupted|waste of disk space|Image end offset|allocated|warning"
)


def assert_no_errors(path):
    done = subprocess.run(["qemu-img", "check", "-f", "qcow2", path], capture_output=True, text=True, check=False)
    if done.returncode == 2:
        found = [line for line in (done.stdout + done.stderr).splitlines() if not HARMLESS.search(line)]
        assert found == [], found
