"""What a plan predicts of an overlay is what apply writes, to the byte, and on disk to the block."""

import random

import pytest
from commands import batchdiff, events

EXTENT_TREE = 4096
"""A file of more than four extents has a block of them on ext4; the holes of compressed data are not foreseen."""
SIZE = 2 << 20


def written(folder, overlay):
    """The event of the one guest of an apply; its clusters compress well, badly, and not at all."""
    chance = random.Random(7)
    template = chance.randbytes(SIZE)
    guest = bytearray(template)
    for at, kind in enumerate("wbnwnnbbwn"):
        junk = {"w": 100, "b": 40_000, "n": 65536}[kind]
        guest[at * 131072 : at * 131072 + 65536] = chance.randbytes(junk) + bytes(65536 - junk)
    (folder / "t.img").write_bytes(template)
    (folder / "g.img").write_bytes(guest)
    (folder / "m.yaml").write_text(
        "version: 1\ntemplate: {path: t.img, format: raw}\n"
        f"guests: [{{path: g.img, format: raw, overlay: {overlay}}}]\n"
    )
    batchdiff("plan", "m.yaml", cwd=folder)
    done = batchdiff("apply", "m.plan.json", "--verify", "native", "--json", cwd=folder)
    return next(event for event in events(done) if event["event"] == "guest")


@pytest.mark.parametrize("compression", ["none", "zlib", "zstd"])
@pytest.mark.parametrize("cluster_size", ["4k", "64k"])
def test_sizes_are_as_predicted(tmp_path, compression, cluster_size):
    event = written(tmp_path, f"{{compression: {compression}, cluster_size: {cluster_size}}}")
    assert event["actual_overlay_bytes"] == event["predicted_overlay_bytes"]
    more = event["actual_overlay_disk_bytes"] - event["predicted_overlay_disk_bytes"]
    assert 0 <= more <= (0 if compression == "none" else EXTENT_TREE)
