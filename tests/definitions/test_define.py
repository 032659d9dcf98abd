"""When a definition may change, and which pools are refreshed. Guards definitions/define.py."""

import shlex
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from batchdiff.definitions import saved
from batchdiff.definitions.define import Definer
from batchdiff.definitions.guest_disks import RESTORING, GuestDisk, VmImage
from batchdiff.definitions.libvirt_changes import domain_changes
from batchdiff.definitions.libvirt_domain import parse_domain
from batchdiff.definitions.libvirt_pool import Pool
from batchdiff.errors import DefinitionError, ProgramError

SECRETS = "the template is encrypted, so the VM's definition needs a secret"
DOCUMENT = (
    b"<domain><name>web</name><devices>"
    b"<disk><driver type='raw'/><source file='/i/web.img'/></disk></devices></domain>"
)
ORIGINAL, OVERLAY = VmImage("/i/web.img", "raw"), VmImage("/i/web.qcow2", "qcow2")


@dataclass
class FakeLibvirt:
    """One domain; records what is done to it."""

    now: str = "shut off"
    named: list[str] = field(default_factory=list)
    document: bytes = DOCUMENT
    memories: list[str] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    refreshed: list[str] = field(default_factory=list)
    saved_as: str = ""

    def domain(self, name, *, with_passwords=False):
        return parse_domain(self.document, f"the domain {name}")

    def state(self, _domain):
        return self.now

    def snapshots(self, _domain):
        return self.named

    def saved(self):
        return self.memories

    def checkpoints(self, _domain):
        return self.points

    def command(self, *arguments):
        return shlex.join(["virsh", *arguments])

    def define(self, _name, document, *, saved=""):
        self.document = document
        self.saved_as = saved

    def refresh(self, pool):
        if pool == "stopped":
            raise ProgramError("cannot use libvirt", why="the pool is not active")
        self.refreshed.append(pool)


def guest(unfinished="", planned=None, by_hand=""):
    now = ORIGINAL if planned else OVERLAY
    return GuestDisk("web", now, planned, frozenset({ORIGINAL.path, OVERLAY.path}), unfinished, by_hand)


def define(tmp_path, libvirt, disk):
    definer = Definer(libvirt, [disk], (), str(tmp_path / "saved"))
    (change,) = domain_changes([libvirt.domain("web")], [disk])
    definer.define(change)


def test_it_is_saved_and_changed(tmp_path):
    libvirt = FakeLibvirt()
    define(tmp_path, libvirt, guest())
    assert b"<driver type='qcow2'/><source file='/i/web.qcow2'/>" in libvirt.document
    assert DOCUMENT in {path.read_bytes() for path in (tmp_path / "saved").iterdir()}


@pytest.mark.parametrize(
    ("libvirt", "disk", "why", "remedy"),
    [
        (FakeLibvirt("running"), guest(), "its VM is running", "Shut it down: `virsh shutdown --domain web`."),
        (
            FakeLibvirt("paused"),
            guest(),
            "its VM is paused",
            "Shut it down: `virsh resume --domain web && virsh shutdown --domain web`.",
        ),
        (FakeLibvirt("crashed"), guest(), "its VM is crashed", "`virsh destroy --domain web`"),
        (
            FakeLibvirt(named=["a b", "c"]),
            guest(),
            "the domain has 2 snapshots",
            "--snapshotname 'a b'; virsh snapshot-delete --metadata --domain web --snapshotname c`",
        ),
        (
            FakeLibvirt(points=["p"]),
            guest(),
            "the domain has 1 checkpoint,",
            "it, first remove its metadata with `virsh checkpoint-delete --metadata --domain web --checkpointname",
        ),
        (
            FakeLibvirt(memories=["web"]),
            guest(),
            "the domain's saved memory",
            "To keep that memory, first put the disks back as they were then, start the VM, and shut it down. To"
            " discard the memory instead, first run `virsh managedsave-remove --domain web`",
        ),
        (FakeLibvirt(), guest(planned=OVERLAY), "its overlay has not been written yet", "`batchdiff apply` first"),
        (FakeLibvirt(), guest(RESTORING), RESTORING, "`batchdiff restore` again first"),
        (FakeLibvirt(), guest(by_hand=SECRETS), SECRETS, "by hand"),
    ],
)
def test_when_it_is_left_alone(tmp_path, libvirt, disk, why, remedy):
    with pytest.raises(DefinitionError) as caught:
        define(tmp_path, libvirt, disk)
    assert why in caught.value.why
    assert remedy in caught.value.remedy
    assert libvirt.document == DOCUMENT
    assert not (tmp_path / "saved").exists()


def test_what_was_done_by_hand_does_not_prevent_the_rest(tmp_path):
    """One disk already uses the right image, with its secret."""
    other = b"<disk><driver type='qcow2'/><source file='/i/db.qcow2'/></disk></devices>"
    libvirt = FakeLibvirt(document=DOCUMENT.replace(b"</devices>", other))
    db = VmImage("/i/db.qcow2", "qcow2")
    disks = [guest(), GuestDisk("db", db, None, frozenset({db.path}), by_hand=SECRETS)]
    (change,) = domain_changes([libvirt.domain("web")], disks)
    assert change.by_hand == [f"db: {SECRETS}"]
    Definer(libvirt, disks, (), str(tmp_path / "saved")).define(change)
    assert OVERLAY.path.encode() in libvirt.document


def test_a_domain_that_waits_for_two_guests(tmp_path):
    two = b"<disk><driver type='raw'/><source file='/i/db.img'/></disk></devices>"
    libvirt = FakeLibvirt(document=DOCUMENT.replace(b"</devices>", two))
    db = VmImage("/i/db.img", "raw"), VmImage("/i/db.qcow2", "qcow2")
    disks = [guest(RESTORING), GuestDisk("db", *db, frozenset(each.path for each in db))]
    (change,) = domain_changes([libvirt.domain("web")], disks)
    with pytest.raises(DefinitionError) as caught:
        Definer(libvirt, disks, (), str(tmp_path / "saved")).define(change)
    assert caught.value.remedy == "Run `batchdiff restore` again and `batchdiff apply` first."


@pytest.mark.parametrize(
    ("is_saved", "why"),
    [
        (True, "it has been modified since batchdiff changed it"),
        (False, "it is not known whether it has been modified since batchdiff changed it"),
    ],
)
def test_why_one_is_not_undone(tmp_path, is_saved, why):
    libvirt, folder = FakeLibvirt(), tmp_path / "saved"
    define(tmp_path, libvirt, guest())
    if is_saved:
        libvirt.document += b"<!-- by hand -->"
    else:
        next(folder.glob("*.after.xml")).unlink()
    with pytest.raises(DefinitionError) as caught:
        Definer(libvirt, [guest()], (), str(folder)).undo("web")
    assert caught.value.why == why


def test_a_change_that_libvirt_refuses_does_not_hide_the_one_before_it(tmp_path):
    libvirt = FakeLibvirt()
    define(tmp_path, libvirt, guest())
    changed = libvirt.document

    def refuse(_name, _document, *, saved=""):
        raise ProgramError("libvirt refused the definition of web")

    libvirt.define = refuse
    with pytest.raises(ProgramError):
        define(tmp_path, libvirt, GuestDisk("web", ORIGINAL, None, frozenset({ORIGINAL.path, OVERLAY.path})))
    assert libvirt.document == changed
    last = saved.latest(str(tmp_path / "saved"), "web")
    assert (last.before, last.after) == (DOCUMENT, changed)


def test_one_that_was_put_right_meanwhile_is_not_saved(tmp_path):
    libvirt = FakeLibvirt()
    (change,) = domain_changes([libvirt.domain("web")], [guest()])
    libvirt.document, libvirt.now = change.changed, "running"
    assert Definer(libvirt, [guest()], (), str(tmp_path / "saved")).define(change) is False
    assert not (tmp_path / "saved").exists()


def test_the_file_of_a_former_definition_is_passed_on(tmp_path):
    """If libvirt refuses that definition, the error names the file."""
    image, folder = tmp_path / "web.img", tmp_path / "saved"
    image.touch()
    libvirt = FakeLibvirt(document=DOCUMENT.replace(b"/i/web.img", str(image).encode()))
    before = saved.save_before(str(folder), "web", libvirt.document, datetime.now(UTC))
    saved.save_after(before, DOCUMENT)
    libvirt.document = DOCUMENT
    assert Definer(libvirt, [guest()], (), str(folder)).undo("web")
    assert libvirt.saved_as == before


def test_one_that_was_modified_meanwhile(tmp_path):
    """The next definition is still to be changed, so this is a failure like any other."""
    libvirt = FakeLibvirt()
    (change,) = domain_changes([libvirt.domain("web")], [guest()])
    libvirt.document = other = DOCUMENT.replace(b"/i/web.img", b"/i/db.img")
    with pytest.raises(DefinitionError, match="no longer uses a guest of the plan"):
        Definer(libvirt, [guest()], [], str(tmp_path / "saved")).define(change)
    assert libvirt.document == other
    assert not (tmp_path / "saved").exists()


def test_one_that_uses_another_guest_by_now(tmp_path):
    """Its overlay has not been written: the present definition counts, not the one that was read first."""
    libvirt = FakeLibvirt()
    db = VmImage("/i/db.img", "raw"), VmImage("/i/db.qcow2", "qcow2")
    disks = [guest(), GuestDisk("db", *db, frozenset(each.path for each in db))]
    (change,) = domain_changes([libvirt.domain("web")], disks)
    two = b"<disk><driver type='raw'/><source file='/i/db.img'/></disk></devices>"
    libvirt.document = other = DOCUMENT.replace(b"</devices>", two)
    with pytest.raises(DefinitionError, match="its overlay has not been written yet"):
        Definer(libvirt, disks, [], str(tmp_path / "saved")).define(change)
    assert libvirt.document == other
    assert not (tmp_path / "saved").exists()


def test_pools_with_images_of_the_plan_are_refreshed():
    pools = [Pool("images", "/i"), Pool("other", "/j"), Pool("ceph", ""), Pool("stopped", "/i")]
    libvirt = FakeLibvirt()
    failed = Definer(libvirt, [guest()], pools, "/none").refresh_pools()
    assert libvirt.refreshed == ["images"]
    assert [(name, error.why) for name, error in failed] == [("stopped", "the pool is not active")]


@pytest.mark.parametrize("by_volume", [False, True])
@pytest.mark.parametrize(
    ("is_overlay", "former", "remedy"),
    [
        (True, "web.img", "Run `batchdiff restore` first."),
        (False, "web.qcow2", "Run `batchdiff apply` first."),
        (True, "web.qcow2", "Bring it back, then run the same command again."),
        (False, "of another VM.img", "Bring it back, then run the same command again."),
    ],
)
def test_what_brings_back_the_image_of_the_former_definition(tmp_path, is_overlay, former, remedy, by_volume):
    images = [VmImage(str(tmp_path / name), form) for name, form in (("web.img", "raw"), ("web.qcow2", "qcow2"))]
    known = frozenset(each.path for each in images)
    disk = GuestDisk("web", images[int(is_overlay)], None, known, is_overlay=is_overlay)
    form = "raw" if former.endswith("img") else "qcow2"
    place = f"pool='images' volume='{former}'" if by_volume else f"file='{tmp_path}/{former}'"
    source = f"<driver type='{form}'/><source {place}/>"
    before = b"<driver type='raw'/><source file='/i/web.img'/>"
    libvirt = FakeLibvirt(document=DOCUMENT.replace(before, source.encode()))
    saved.save_after(
        saved.save_before(str(tmp_path / "saved"), "web", libvirt.document, datetime.now(UTC)), DOCUMENT
    )
    libvirt.document = DOCUMENT
    with pytest.raises(DefinitionError) as caught:
        Definer(libvirt, [disk], [Pool("images", str(tmp_path))], str(tmp_path / "saved")).undo("web")
    assert caught.value.why == f"an image that its VM would use, {tmp_path}/{former}, is missing"
    assert caught.value.remedy == remedy


@pytest.mark.parametrize(("is_overlay", "verb"), [(True, "restore"), (False, "apply")])
def test_what_brings_back_the_format_of_the_former_definition(tmp_path, is_overlay, verb):
    """The overlay is in the original's place."""
    path = tmp_path / "web.img"
    path.touch()
    now, then = ("qcow2", "raw") if is_overlay else ("raw", "qcow2")
    disk = GuestDisk("web", VmImage(str(path), now), None, frozenset({str(path)}), is_overlay=is_overlay)
    source = f"<driver type='{then}'/><source file='{path}'/>".encode()
    former = DOCUMENT.replace(b"<driver type='raw'/><source file='/i/web.img'/>", source)
    saved.save_after(saved.save_before(str(tmp_path / "saved"), "web", former, datetime.now(UTC)), DOCUMENT)
    with pytest.raises(DefinitionError, match=f"as {then}, but that image is now {now}") as caught:
        Definer(FakeLibvirt(), [disk], (), str(tmp_path / "saved")).undo("web")
    assert caught.value.remedy == f"Run `batchdiff {verb}` first."
