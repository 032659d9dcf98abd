"""How often the candidates' files are examined: what is the same for all guests is found out once."""

import notation
import pytest
from patching import Patched

from batchdiff.choices import Verdict
from batchdiff.image import qcow2_tables
from batchdiff.image.open import open_image
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.linux import block_stack
from batchdiff.manifest.file import read_manifest
from batchdiff.plan.earlier_plans import EarlierPlans
from batchdiff.planning import candidates
from batchdiff.planning.candidates import Candidate, already_thin, examine_guests, planned_image
from batchdiff.units import GIB, KIB, MIB


@pytest.fixture
def examine(tmp_path):
    """Make a raw template; return a function that writes a manifest of images (name, format) and examines them."""
    notation.write_raw(tmp_path / "template.img", "2M:A")

    def examine(*guests):
        lines = [
            f"  - {{path: {name}, format: {kind}, overlay: {{path: {name}.thin}}}}\n" for name, kind in guests
        ]
        path = tmp_path / "manifest.yaml"
        path.write_text(f"version: 1\ntemplate: {{path: template.img, format: raw}}\nguests:\n{''.join(lines)}")
        manifest = read_manifest(str(path))
        with open_image(manifest.template) as image:
            template = planned_image(image)
        return examine_guests(manifest, template, EarlierPlans())

    return examine


@pytest.fixture
def counted(monkeypatch):
    """Count the calls of a function, by the module in which it is looked up."""

    def counted(module, name):
        calls, real = [], getattr(module, name)

        def count(*arguments, **options):
            calls.append(arguments)
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, count)
        return calls

    return counted


def test_the_template_is_traced_once_for_all_guests(tmp_path, examine, counted):
    names = [f"guest{number}.img" for number in range(3)]
    for name in names:
        notation.write_raw(tmp_path / name, "1M:A 1M:B")
    walks = counted(block_stack, "underlying")
    parts = examine(*((name, "raw") for name in names))
    assert all(isinstance(part, Candidate) for part in parts)
    assert walks == [(str(tmp_path / "template.img"),)]


def thin(path, below):
    return notation.write_qcow2(path, "2M:-", backing=below)


def with_snapshots(path, _):
    notation.write_qcow2(path, "1M:A 1M:B")
    for name in "ab":
        notation.run("qemu-img", "snapshot", "-c", name, str(path))


def with_bitmap(path, _):
    notation.write_qcow2(path, "1M:A 1M:B")
    notation.run("qemu-img", "bitmap", "--add", str(path), "one")


@pytest.mark.parametrize(
    ("write", "verdict", "reason"),
    [
        (lambda path, _: notation.write_qcow2(path, "1M:A 1M:B"), None, ""),
        (with_snapshots, Verdict.REFUSE, "it has 2 internal snapshots"),
        (with_bitmap, Verdict.REFUSE, "it has 1 persistent bitmap,"),
        (thin, Verdict.SKIP, "it is already an overlay of this template"),
    ],
    ids=["plain", "snapshots", "bitmap", "overlay"],
)
def test_a_header_is_parsed_once(tmp_path, examine, counted, write, verdict, reason):
    write(tmp_path / "guest.qcow2", tmp_path / "template.img")
    parsed = counted(qcow2_tables, "parse")
    (part,) = examine(("guest.qcow2", "qcow2"))
    assert getattr(part, "verdict", None) is verdict
    assert getattr(part, "reason", "").startswith(reason)
    assert len(parsed) == 1


def test_an_overlay_whose_tables_are_being_written_is_skipped(tmp_path, examine):
    """A VM may be running on it: only its header counts."""
    image = Patched(thin(tmp_path / "guest.qcow2", tmp_path / "template.img"))
    image[image.l1(0)] = 1 << 40
    image.save(tmp_path / "guest.qcow2")
    (part,) = examine(("guest.qcow2", "qcow2"))
    assert part.verdict is Verdict.SKIP


@pytest.mark.parametrize(
    "change",
    [("snapshot", "-c", "late"), ("bitmap", "--add"), ("resize", "-q")],
    ids=["snapshot", "bitmap", "size"],
)
def test_what_changes_right_after_the_header_was_read_is_not_overlooked(tmp_path, examine, monkeypatch, change):
    """A snapshot made in this moment would be lost: the plan would have its fingerprint, but not know of it."""
    path = tmp_path / "guest.qcow2"
    notation.write_qcow2(path, "1M:A 1M:B")
    last = {"bitmap": ["late"], "resize": ["3M"]}.get(change[0], [])

    def opened(*arguments, **options):
        image = open_image(*arguments, **options)
        notation.run("qemu-img", *change, str(path), *last)
        return image

    monkeypatch.setattr(candidates, "open_image", opened)
    (part,) = examine((path.name, "qcow2"))
    assert part.verdict is Verdict.REFUSE
    assert "changed while it was being examined" in part.reason


def test_an_overlay_that_no_thinner_one_can_replace(tmp_path, examine):
    """Only a qcow2 overlay can have `rethin`: the advice for others would not help."""
    options = ["-u", "-f", "qed", "-F", "raw", "-b", str(tmp_path / "template.img")]
    notation.run("qemu-img", "create", "-q", *options, str(tmp_path / "guest.qed"), "2M")
    (part,) = examine(("guest.qed", "qed"))
    assert part.verdict is Verdict.SKIP
    assert part.reason == (
        "it is already an overlay of this template; only a qcow2 overlay can be replaced by a thinner one"
    )


@pytest.mark.parametrize(("kind", "can_resize"), [("qcow2", True), ("vmdk", False), ("vhdx", False)])
def test_a_disk_that_is_a_little_too_small(tmp_path, examine, kind, can_resize):
    """QEMU can enlarge a disk only in some formats."""
    path = tmp_path / f"guest.{kind}"
    notation.run("qemu-img", "create", "-q", "-f", kind, str(path), str(2 * MIB - 64 * KIB))
    (part,) = examine((path.name, kind))
    assert part.reason.startswith(
        "its disk is 64 KiB smaller than the template's. If a conversion to or from VHD "
    )
    copy = f" caused that, use a raw or qcow2 copy that `qemu-img resize` has enlarged to {2 * MIB} bytes"
    command = f" shortened it, `qemu-img resize -f {kind} {path} {2 * MIB}` gives it the template's size"
    assert part.reason.endswith(command if can_resize else copy)


def test_sizes_that_look_alike_are_given_in_bytes():
    source = ImageSource("/a.img", ImageFormat.RAW)
    assert "template's (107374182400 and 107384668160 bytes). Was" in candidates._too_small(
        source, 100 * GIB + 10 * MIB, 10 * MIB
    )


def test_an_overlay_that_vanishes_while_it_is_examined_is_skipped(tmp_path):
    gone = ImageSource(str(tmp_path / "gone.qcow2"), ImageFormat.QCOW2)
    assert already_thin(gone) == "it is already an overlay of this template"
