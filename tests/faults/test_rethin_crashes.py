"""A rethin that dies after any of its changes: the disk is whole, both plans know it, and the next run ends it."""

import json
import shutil

import notation
import pytest
from commands import rarely, run_here
from crashes import crashing

TEMPLATE = "256k:A 128k:- 128k:B"
CHANGED = "128k:A 64k:X 64k:A 128k:- 128k:B"
NAMES = ("vm.qcow2", "vm.qcow2.batchdiff-original", "vm.qcow2.batchdiff-deleting", "vm.qcow2.batchdiff-overlay")
RETIRE = ["quarantine", "delete"]
MANIFEST = """\
version: 1
template: {{path: template.img, format: raw}}
retire: {retire}
guests: [{{path: vm.img, format: raw{more}}}]
"""


def plan(folder, name, retire, more=""):
    (folder / f"{name}.yaml").write_text(MANIFEST.format(retire=retire, more=more))
    run_here("plan", folder / f"{name}.yaml", "-j", "1", "-q")


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A guest that was converted, and whose overlay has grown since; a second plan makes it thinner."""
    folder = tmp_path_factory.mktemp("grown") / "fleet"
    folder.mkdir()
    notation.write_raw(folder / "template.img", TEMPLATE)
    for name in ("vm.img", "expected"):
        notation.write_raw(folder / name, CHANGED)
    plan(folder, "old", "quarantine")
    run_here("apply", folder / "old.plan.json", "-q")
    (folder / "same").write_bytes(notation.content(TEMPLATE)[384 << 10 :])
    write = f"write -s {folder}/same 384k 128k"
    notation.run("qemu-io", "-f", "qcow2", "-c", write, "-c", "write -P 0 256k 128k", str(folder / "vm.qcow2"))
    for retire in RETIRE:
        plan(folder, retire, retire, ", rethin: true")
    return folder


def as_it_was(grown):
    """The fleet from before the crash, under the same path, so that its plans hold; inodes are others."""
    saved = grown.parent / "saved"
    if not saved.exists():
        shutil.copytree(grown, saved, copy_function=shutil.copy2)
    else:
        for path in grown.iterdir():
            path.unlink()
        for path in saved.iterdir():
            shutil.copy2(path, grown / path.name)
    for retire in RETIRE:
        plan(grown, retire, retire, ", rethin: true")


def assert_whole(folder):
    there = [folder / name for name in NAMES if (folder / name).exists()]
    assert there, "the disk is lost"
    for path in there:
        notation.run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(path), str(folder / "expected"))


def lineage(folder):
    (record,) = json.loads((folder / "template.img.batchdiff-template.json").read_text())["overlays"].values()
    return [each["original"].rpartition("/")[2] for each in (record, *record.get("before", ()))]


def ended(folder, verb, retire):
    assert_whole(folder)
    left = {name for name in NAMES if (folder / name).exists()}
    is_kept = verb == "apply" and retire == "quarantine"
    assert left == ({*NAMES[:2]} if is_kept else {NAMES[0]})
    assert lineage(folder) == (["vm.qcow2", "vm.img"] if verb == "apply" else ["vm.img"])


def begin(grown, verb, retire):
    as_it_was(grown)
    if verb == "restore":
        run_here("apply", grown / f"{retire}.plan.json", "-q", "-j", "1")
    return grown / f"{retire}.plan.json", ("--guest", "vm") if verb == "restore" else ("--yes",)


@pytest.mark.parametrize(
    ("verb", "retire", "step"),
    [
        ("apply", "quarantine", 4),
        ("apply", "delete", 5),
        ("restore", "quarantine", 5),
        *rarely(("apply", "quarantine", 1), ("apply", "delete", 1), ("restore", "quarantine", 1)),
    ],
)
def test_after_each_change(grown, verb, retire, step):
    document, options = begin(grown, verb, retire)
    with crashing(grown) as changes:
        run_here(verb, document, "-q", "-j", "1", *options)
    ended(grown, verb, retire)
    assert len(changes) > 10
    for last in range(1 + step // 2, len(changes), step):
        document, options = begin(grown, verb, retire)
        with crashing(grown, last):
            run_here(verb, document, "-q", "-j", "1", *options, expect=None)
        assert_whole(grown)
        # Another command may come first: the earlier plan finds its overlay, or leaves everything as it is.
        run_here("status", grown / "old.plan.json", "-q")
        run_here(verb, document, "-q", "-j", "1", *options, expect=None)
        ended(grown, verb, retire)
        if verb == "apply" and retire == "delete":
            run_here("restore", grown / "old.plan.json", "-q", "--guest", "vm")
            notation.run(
                "qemu-img", "compare", "-f", "raw", "-F", "raw", str(grown / "vm.img"), str(grown / "expected")
            )
