"""Plans in which one value is another, with a checksum that fits: apply refuses them or is right, never loses."""

import copy
import json

import notation
import pytest
from commands import assert_no_traceback, batchdiff
from oracle import assert_same
from scenes import GUESTS, OVERLAYS, PLAN, TEMPLATE, content, form_of, make_fleet, places
from seeds import seeded

from batchdiff.plan.file import checksum_of

BYSTANDER = "bystander.img"
WORDS = ["raw", "qcow2", "convert", "skip", "refuse", "keep", "delete", "auto", "none", "zlib", "zstd", "relative"]
NOT_FORGED = {"checksum", "created"}


def leaves(value, way=()):
    """The way to each value of a document; the runs of extents count as one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*way, key))
    elif isinstance(value, list) and way[-1:] not in {("data",), ("zero",)}:
        for number, inner in enumerate(value):
            yield from leaves(inner, (*way, number))
    elif way[0] not in NOT_FORGED:
        yield way


def others(value, folder):
    """Other values of the same type, the worst that come to mind."""
    match value:
        case bool():
            return [not value]
        case int():
            return [0, 1, value + 1, max(value - 1, 0), value * 2, 1 << 62]
        case str() if value.startswith("/"):
            names = ["template.img", BYSTANDER, *GUESTS, *OVERLAYS.values(), "elsewhere.qcow2", "", "gone/x"]
            return [f"{folder}/{name}" for name in names] + [
                "/dev/null",
                f"{folder}/../{folder.name}/template.img",
            ]
        case str():
            return [*WORDS, f"{value}x", ""]
        case [first, *rest]:
            return [rest, [first, *rest, [first[0] + (1 << 40), 1]], [[first[0], first[1] + 1], *rest], []]
        case []:
            return [[[0, 1]], [[3, 2]]]
    raise AssertionError(value)


def forgeries(document, folder):
    """All plans in which one value is another or is missing, each with what was done."""
    for way in leaves(document):
        *above, key = way
        inner = document
        for step in above:
            inner = inner[step]
        for other in [*others(inner[key], folder), None]:
            if other == inner[key] and type(other) is type(inner[key]):
                continue
            forged = copy.deepcopy(document)
            place = forged
            for step in above:
                place = place[step]
            if other is None and isinstance(place, dict):
                del place[key]
            else:
                place[key] = other
            forged["checksum"] = checksum_of(forged)
            yield f"{'.'.join(map(str, way))} = {other!r}"[:200], forged


def state(folder):
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def assert_nothing_is_lost(folder):
    """Template and bystander are as they were, and each guest's content is in its own file or in an overlay."""
    assert_same((folder / "template.img").read_bytes(), notation.content(TEMPLATE))
    assert (folder / BYSTANDER).read_bytes() == b"x" * 4096
    for name in GUESTS:
        there = [*places(name), "elsewhere.qcow2"]
        found = [folder / place for place in there if (folder / place).exists()]
        assert any(notation.qemu_content(path, form_of(path)) == content(name) for path in found), name


def fresh(folder):
    """A fleet with a plan and a bystander; the forged plans in a list, always in the same order."""
    make_fleet(folder)
    (folder / BYSTANDER).write_bytes(b"x" * 4096)
    return folder, list(forgeries(json.loads((folder / PLAN).read_text()), folder))


@pytest.mark.parametrize("count", [5, pytest.param(None, marks=pytest.mark.long)])
def test_nothing_is_lost_by_a_forged_plan(tmp_path, count):
    folder, found = fresh(tmp_path / "0")
    order = seeded().sample(range(len(found)), count or len(found))
    refused = 0
    for number in order:
        name, forged = found[number]
        (folder / PLAN).write_text(json.dumps(forged))
        (folder / f"{PLAN}.journal").unlink(missing_ok=True)
        before = state(folder)
        done = batchdiff("apply", PLAN, "--retire", "delete", "--yes", "-q", cwd=folder, expect=None)
        assert_no_traceback(done.stderr)
        assert done.returncode in {0, 1, 4, 5, 6}, (name, done)
        after = state(folder)
        after.pop(f"{PLAN}.journal", None)
        if after == before:
            refused += 1
        else:
            assert_nothing_is_lost(folder)
            folder, found = fresh(tmp_path / f"after {number}")
    print(f"{len(order)} forged plans, {refused} refused before anything was touched, nothing lost")
