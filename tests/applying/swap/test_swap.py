"""A guest on its way, killed after each change to the disk: the same command again ends as one alone does."""

from __future__ import annotations

import dataclasses
import stat

import notation
import pytest
from commands import rarely
from crashes import crashing
from oracle import assert_same
from stage import ASIDE, DELETING, GUEST, NAME, TEMPLATE, Stage, failed

from batchdiff.applying.guests.guest_files import on_disk
from batchdiff.applying.guests.status import status_rows
from batchdiff.applying.health_check import check_health
from batchdiff.applying.results.finding import Health
from batchdiff.applying.session.stop import Stop
from batchdiff.applying.swap import swap
from batchdiff.choices import Retire
from batchdiff.plan.sidecar import read_sidecar


@dataclasses.dataclass(frozen=True)
class Scene:
    """A verb, and what was done before it. ``left``: the suffixes of the guest's files at the end."""

    name: str
    before: tuple[tuple[str, dict], ...]
    verb: tuple[str, dict]
    left: frozenset[str]
    used: str = ""

    def carry_out(self, stage: Stage) -> list:
        verb, options = self.verb
        return getattr(stage, verb)(**options)

    def prepare(self, stage: Stage) -> None:
        for verb, options in self.before:
            getattr(stage, verb)(**options)
            if self.used == verb:
                stage.use()


_WHOLE = notation.content(GUEST)
USED = _WHOLE[: 512 << 10] + b"\7" * (64 << 10) + _WHOLE[576 << 10 :]
"""What the disk holds once its VM has run."""

KEEP, QUARANTINE, DELETE = (("apply", {"retire": how}) for how in Retire)
RESTORE, PURGE = ("restore", {}), ("purge", {})
DISCARD, PURGE_USED = ("restore", {"discard_changes": True}), ("purge", {"used": True})

_ORIGINAL, _OVERLAY, _ASIDE = "original", "overlay", "original aside"


def _scene(name: str, *verbs: tuple[str, dict], left: str, used: str = "") -> Scene:
    return Scene(name, verbs[:-1], verbs[-1], frozenset(left.split(", ")), used)


SCENES = (
    _scene("keep", KEEP, left="original, overlay"),
    _scene("quarantine", QUARANTINE, left="overlay, original aside"),
    _scene("delete", DELETE, left="overlay"),
    _scene("quarantine later", KEEP, QUARANTINE, left="overlay, original aside"),
    _scene("delete later", KEEP, DELETE, left="overlay"),
    _scene("delete from quarantine", QUARANTINE, DELETE, left="overlay"),
    _scene("purge", QUARANTINE, PURGE, left="overlay"),
    _scene("purge used", QUARANTINE, PURGE_USED, left="overlay", used="apply"),
    _scene("restore kept", KEEP, RESTORE, left="original"),
    _scene("restore kept, discarding", KEEP, DISCARD, left="original", used="apply"),
    _scene("restore quarantined", QUARANTINE, RESTORE, left="original"),
    _scene("restore quarantined, discarding", QUARANTINE, DISCARD, left="original", used="apply"),
    _scene("rebuild", DELETE, RESTORE, left="original", used="apply"),
    _scene("rebuild beside an older original", QUARANTINE, RESTORE, left="original, original aside", used="apply"),
    _scene("purge an older original", QUARANTINE, RESTORE, PURGE_USED, left="original", used="apply"),
)
BESIDE = [pytest.param("beside", scene, id=scene.name) for scene in SCENES]
SAME = [
    pytest.param("same", scene, id=f"same: {scene.name}")
    for scene in SCENES
    if KEEP not in (*scene.before, scene.verb)
]
_USUALLY = ("quarantine", "restore quarantined", "rebuild beside an older original")
DATA = [
    pytest.param(
        place, scene, id=f"{place}: {scene.name}", marks=() if scene.name in _USUALLY else pytest.mark.long
    )
    for place, scenes in (("data", BESIDE), ("same data", SAME))
    for scene in (each.values[1] for each in scenes)
]


def state(stage: Stage) -> dict:
    """All that is there, but for times and inodes."""
    files = {}
    for path in stage.folder.iterdir():
        if path not in {stage.journal_file, stage.sidecar}:
            files[path.name] = stat.S_IMODE(path.stat().st_mode)
    states = {
        name: (each.step, each.published, each.temporary, each.fate, each.aside)
        for name, each in stage.history.states.items()
    }
    told = status_rows(stage.plan, stage.history, on_disk(stage.plan, stage.history))
    sidecar = read_sidecar(str(stage.sidecar))
    recorded = None
    if sidecar is not None:
        overlays = {path: dataclasses.replace(each, fingerprint=None) for path, each in sidecar.overlays.items()}
        recorded = (sidecar.digest, overlays, stage.plan.template.fingerprints in sidecar.earlier)
    return {"files": files, "standings": states, "next": [each.next for each in told], "sidecar": recorded}


def assert_nothing_is_lost(stage: Stage, expected: bytes) -> None:
    """The template is whole, and so is every file under a name that counts; the VM's disk is one of them."""
    assert_same(stage.template.read_bytes(), notation.content(TEMPLATE))
    found = []
    for path in sorted(stage.folder.iterdir()):
        if path.name.startswith(NAME) and not path.name.startswith(stage.data_file().name):
            with path.open("rb") as file:
                form = "qcow2" if file.read(4) == b"QFI\xfb" else "raw"
            found.append(stage.content(path, form))
    assert expected in found, stage.images()
    assert set(found) <= {notation.content(GUEST), USED}, stage.images()


def expected_content(scene: Scene) -> bytes:
    """What the VM must see when all is done."""
    return USED if scene.used and scene.verb is not DISCARD else notation.content(GUEST)


def assert_ended(stage: Stage, scene: Scene) -> None:
    places = {_ORIGINAL: stage.original(), _OVERLAY: stage.overlay(), _ASIDE: stage.original(suffix=ASIDE)}
    data = {stage.data_file().name} if stage.has_data and _OVERLAY in scene.left else set()
    assert stage.images() == {places[each].name for each in scene.left} | data
    final = places[_OVERLAY] if _OVERLAY in scene.left else places[_ORIGINAL]
    form = "qcow2" if _OVERLAY in scene.left else "raw"
    assert_same(stage.content(final, form), expected_content(scene))
    assert stat.S_IMODE(stage.template.stat().st_mode) & 0o222 == 0
    findings = list(check_health(stage.plan, stage.history, None, Stop()))
    assert {each.health for each in findings} == {Health.SOUND}


class Tries:
    """Fresh stages of one scene, one below the other."""

    def __init__(self, folder, patch, place, scene) -> None:
        self.folder, self.patch, self.place, self.scene = folder, patch, place, scene
        self.number = 0

    def stage(self) -> Stage:
        self.number += 1
        folder = self.folder / str(self.number)
        folder.mkdir()
        stage = Stage(folder, self.patch, place=self.place)
        with crashing(folder):  # quicker: nothing is synced
            self.scene.prepare(stage)
        return stage


def died(tries: Tries, last: int) -> Stage:
    """A stage on which the scene's verb died after that many changes, with nothing lost."""
    stage = tries.stage()
    with crashing(stage.folder, last) as done:
        tries.scene.carry_out(stage)
    assert len(done) == last
    assert_nothing_is_lost(stage, expected_content(tries.scene))
    return stage


def changes_of(scene: Scene, stage: Stage) -> int:
    """How many changes it makes from where it stands."""
    with crashing(stage.folder) as changes:
        outcomes = scene.carry_out(stage)
    assert [each.exit_code for each in outcomes] in ([0], []), (changes, outcomes)
    return len(changes)


@pytest.mark.parametrize(("place", "scene"), BESIDE + SAME + DATA)
def test_the_same_command_after_a_kill(tmp_path, monkeypatch, place, scene):
    """Killed after its first change, its second, and so on: nothing is lost, and the next run ends as ever."""
    tries = Tries(tmp_path, monkeypatch, place, scene)
    stage = tries.stage()
    count = changes_of(scene, stage)
    assert count >= 5
    assert_ended(stage, scene)
    expected = comparable(stage)
    for last in range(1, count + 1):
        stage = died(tries, last)
        changes_of(scene, stage)
        assert_ended(stage, scene)
        assert comparable(stage) == expected, last


@pytest.mark.long
@pytest.mark.parametrize(("place", "scene"), BESIDE + SAME + DATA)
def test_the_same_command_after_two_kills(tmp_path, monkeypatch, place, scene):
    tries = Tries(tmp_path, monkeypatch, place, scene)
    stage = tries.stage()
    count = changes_of(scene, stage)
    expected = comparable(stage)
    for first in range(1, count + 1):
        for second in range(1, changes_of(scene, died(tries, first)) + 1):
            stage = died(tries, first)
            with crashing(stage.folder, second):
                scene.carry_out(stage)
            assert_nothing_is_lost(stage, expected_content(scene))
            changes_of(scene, stage)
            assert_ended(stage, scene)
            assert comparable(stage) == expected, (first, second)


def comparable(stage: Stage) -> str:
    """What is there, but for the folder and the plan, which has inode numbers in it."""
    return repr(state(stage)).replace(str(stage.folder), "").replace(stage.plan.checksum, "the plan")


@pytest.mark.parametrize("place", ["beside", "same", "same data", *rarely("data")])
@pytest.mark.parametrize("name", ["quarantine", "delete", "purge", "purge used", "restore quarantined", "rebuild"])
def test_restore_after_a_kill(tmp_path, monkeypatch, name, place):
    """Whatever died, and wherever: restore brings back what the VM sees, and leaves at most an older original."""
    scene = next(scene for scene in SCENES if scene.name == name)
    tries = Tries(tmp_path, monkeypatch, place, scene)
    for last in range(1, changes_of(scene, tries.stage()) + 1):
        stage = died(tries, last)
        assert [each.exit_code for each in stage.restore()] in ([0], [])
        assert_same(stage.content(stage.original(), "raw"), expected_content(scene))
        older = {stage.original(suffix=ASIDE).name} if scene.used else set()
        assert stage.original().name in stage.images() <= {stage.original().name} | older, last


def test_a_vm_that_runs_after_a_restore_died(tmp_path, monkeypatch):
    """The image is rebuilt already, and the overlay has newer content: only the operator knows which counts."""
    scene = next(scene for scene in SCENES if scene.name == "rebuild")
    tries = Tries(tmp_path, monkeypatch, "beside", scene)
    seen = set()
    for last in range(1, changes_of(scene, tries.stage()) + 1):
        stage = died(tries, last)
        if not stage.overlay().exists():
            continue
        notation.qemu_io(stage.overlay(), "write -P 9 512k 64k")
        newer = stage.content(stage.overlay(), "qcow2")
        if not stage.original().exists():
            stage.restore()
            assert_same(stage.original().read_bytes(), newer)
            continue
        seen.add(last)
        assert "only you know which of the two to keep" in failed(stage.restore())
        assert_same(stage.content(stage.overlay(), "qcow2"), newer)
        assert_same(stage.original().read_bytes(), USED)
        stage.restore(discard_changes=True)
        assert stage.images() == {stage.original().name}
        assert_same(stage.original().read_bytes(), USED)
    assert seen


def test_a_restore_is_noted_after_a_purge_as_well(tmp_path, monkeypatch):
    """Somebody has brought the original back, and removed the overlay."""
    stage = Stage(tmp_path, monkeypatch)
    stage.apply(Retire.QUARANTINE)
    copy = stage.original(suffix=ASIDE).read_bytes()
    stage.purge()
    stage.original().write_bytes(copy)
    stage.overlay().unlink()
    stage.restore(discard_changes=True)
    assert stage.history.states == {}
    assert read_sidecar(str(stage.sidecar)).overlays == {}


def test_a_name_from_a_process_that_died_is_made_durable_first(tmp_path, monkeypatch):
    """It died between the rename and its sync: only a later sync of the folder makes the name last."""
    scene = next(scene for scene in SCENES if scene.name == "delete")
    tries = Tries(tmp_path, monkeypatch, "beside", scene)
    synced = []
    for last in range(1, changes_of(scene, tries.stage()) + 1):
        stage = died(tries, last)
        if stage.overlay().exists() and not stage.state().published:
            monkeypatch.setattr(
                swap,
                "sync_folder",
                lambda path, stage=stage: synced.append((path, stage.state().published)),
            )
            scene.carry_out(stage)
            assert synced.pop() == (str(stage.folder), False)
            assert synced == []
            return
    pytest.fail("no kill left it so")


def test_what_apply_had_begun_says_nothing_of_the_overlay(tmp_path, monkeypatch):
    """It was about to delete the original when it died, as was restore in the middle. Then the overlay is gone."""
    scene = next(scene for scene in SCENES if scene.name == "delete")
    tries = Tries(tmp_path, monkeypatch, "beside", scene)
    last = changes_of(scene, tries.stage())
    while not died(tries, last).state().deleting:
        last -= 1
    while not (stage := died(tries, last)).original(suffix=DELETING).exists():
        last -= 1
    assert stage.state().deleting
    for count in range(1, 20):
        stage = died(tries, last)
        with crashing(stage.folder, count) as changes:
            stage.restore()
        if len(changes) < count or not stage.overlay().exists():
            break
        stage.overlay().unlink()
        assert "is missing, and with it everything that its VM wrote" in failed(stage.restore()), changes
    assert count >= 3
