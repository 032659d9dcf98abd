"""status, verify, restore and purge with --map, after the images moved."""

import json
import subprocess

import notation
import pytest
from commands import COMMAND, GUESTS, MANIFEST, OVERLAYS, Fleet, batchdiff, events
from oracle import assert_same

RELATIVE = MANIFEST.replace("raw}", "raw, overlay: {backing_path: relative}}").replace(
    "template: {path: template.img, format: raw, overlay: {backing_path: relative}}",
    "template: {path: template.img, format: raw}",
)
NAMES = ("raw", "thick", "large", "same")
ALL = [word for name in NAMES for word in ("--guest", name)]
KILLED_AT_A_RENAME = ["-e", "trace=renameat2", "-e", "inject=renameat2:signal=SIGKILL:when=1"]


class Pool(Fleet):
    """A fleet in a folder `old`, which is to move. With relative names the overlays need no correction."""

    def __init__(self, folder, manifest=RELATIVE):
        (folder / "old").mkdir()
        super().__init__(folder / "old", manifest)
        self.old = self.now = self.folder

    def move(self, new="new"):
        self.now = self.old.with_name(new)
        self.old.rename(self.now)

    @property
    def plan_path(self):
        return self.now / "fleet.plan.json"

    def run(self, verb, *arguments, expect=0, old=None, new=None):
        """A verb with the map, in another folder than the pool."""
        mapped = ("--map", f"{old or self.old}={new or self.now}")
        return batchdiff(verb, self.plan_path, *mapped, *arguments, cwd=self.now.parent, expect=expect)

    def steps(self):
        return {event["name"]: event["step"] for event in events(self.run("status", "--json"))}

    def assert_restored(self, *names):
        for name in names or GUESTS:
            form = "qcow2" if name.endswith("qcow2") else "raw"
            assert_same(notation.qemu_content(self.now / name, form), notation.content(GUESTS[name]))
            assert not (self.now / OVERLAYS[name]).exists()
        assert not list(self.now.glob(".*batchdiff-tmp"))


@pytest.fixture
def pool(tmp_path):
    pool = Pool(tmp_path)
    pool.plan("-q")
    return pool


def health(done):
    found = [event for event in events(done) if event["event"] == "finding"]
    assert len(found) == 5
    return {event["health"] for event in found}


@pytest.mark.parametrize("retire", ["keep", "quarantine", "delete"])
def test_restored_where_the_pool_is_now(pool, retire):
    """One guest first: what the journal says then has new paths, and is read with the map."""
    pool.apply("-q", "--retire", retire, "--yes")
    pool.move()
    said = batchdiff("verify", pool.plan_path, cwd=pool.now, expect=None).stderr
    assert f"the template {pool.old}/template.img cannot be found. If the images were moved, add `--map" in said
    assert health(pool.run("verify", "--json")) == {"sound"}
    pool.run("restore", "--guest", "raw")
    pool.assert_restored("raw.img")
    assert pool.steps() == dict.fromkeys(NAMES, "published" if retire == "keep" else "retired") | {
        "raw": "restored"
    }
    pool.run("restore", *ALL[2:])
    pool.assert_restored()
    assert not pool.old.exists()


def test_purged_where_the_pool_is_now(pool):
    pool.apply("-q", "--retire", "quarantine")
    pool.move()
    done = pool.run("purge", "--yes", "--json")
    guests = [event for event in events(done) if event["event"] == "guest"]
    assert {event["status"] for event in guests} == {"purged"}
    assert {event["source"].rpartition("/")[0] for event in guests} == {str(pool.now)}
    assert not list(pool.now.glob("*.batchdiff-original"))
    for name, text in GUESTS.items():
        assert_same(notation.qemu_content(pool.now / OVERLAYS[name], "qcow2"), notation.content(text))


def killed(pool, *arguments):
    argv = ["strace", "-qq", "-o", "/dev/null", *KILLED_AT_A_RENAME, *COMMAND, *map(str, arguments)]
    subprocess.run(argv, cwd=pool.now, check=False, capture_output=True, timeout=120)


def test_what_an_apply_left_that_was_killed_before_the_move(pool):
    killed(pool, "apply", "fleet.plan.json")
    assert list(pool.now.glob(".*batchdiff-tmp"))
    pool.move()
    begun = [name for name, step in pool.steps().items() if step != "planned"]
    pool.run("restore", *(word for name in begun for word in ("--guest", name)))
    assert not list(pool.now.glob(".*batchdiff-tmp"))
    assert pool.steps() == dict.fromkeys(NAMES, "planned") | dict.fromkeys(begun, "restored")


def test_what_a_restore_left_that_was_killed_after_the_move(pool):
    """The temporary file that the journal names is where the pool is now; it is not looked for elsewhere."""
    pool.apply("-q", "--retire", "delete", "--yes")
    pool.move()
    killed(pool, "restore", "fleet.plan.json", "--map", f"{pool.old}=.", "--guest", "raw")
    assert list(pool.now.glob(".*batchdiff-tmp"))
    pool.run("restore", *ALL)
    pool.assert_restored()


@pytest.mark.parametrize("retire", ["quarantine", "delete"])
def test_a_journal_that_was_lost_on_the_way(pool, retire):
    """The sidecar has the former paths, too."""
    pool.apply("-q", "--retire", retire, "--yes")
    pool.move()
    (pool.now / "fleet.plan.json.journal").unlink()
    assert pool.steps() == dict.fromkeys(NAMES, "retired")
    pool.run("restore", *ALL)
    pool.assert_restored()


def test_a_pool_that_moved_into_a_folder_of_its_own(pool):
    """`/images` to `/images/pool2`: what is recorded there is not moved once more."""
    pool.apply("-q", "--retire", "quarantine")
    pool.move("elsewhere")
    pool.old.mkdir()
    inner = pool.old / "pool2"
    pool.now.rename(inner)
    pool.now = inner
    pool.run("restore", "--guest", "raw")
    pool.run("restore", *ALL[2:])
    pool.assert_restored()


def test_folders_that_moved_to_different_places(tmp_path):
    """The template alone, and all else. The way through its header is corrected by what verify says."""
    pool = Pool(tmp_path, MANIFEST)
    pool.plan("-q")
    pool.apply("-q", "--retire", "quarantine")
    pool.move()
    elsewhere = tmp_path / "it's elsewhere"
    elsewhere.mkdir()
    (pool.now / "template.img").rename(elsewhere / "base.img")
    second = ("--map", f"{pool.old}/template.img={elsewhere}/base.img")
    done = pool.run("verify", "--json", *second, expect=None)
    assert done.returncode in {1, 6}
    commands = [event["why"].split("`")[1] for event in events(done) if event["name"] in NAMES]
    assert len(commands) == 4
    for command in commands:
        assert command.startswith("qemu-img rebase -u -f qcow2 -F raw -b ")
        subprocess.run(["sh", "-c", command], check=True, cwd="/")
    assert health(pool.run("verify", "--json", *second)) <= {"sound", "touched"}
    pool.run("restore", *ALL, *second)
    pool.assert_restored()


PRINTED = "batchdiff show fleet.plan.json --format json"


@pytest.mark.parametrize("verb", ["status", "verify", "restore", "purge"])
@pytest.mark.parametrize(
    ("text", "said", "remedy"),
    [
        ("/images", "'/images' does not have the form OLD=NEW", PRINTED),
        ("images=.", "'images' is not an absolute path", PRINTED),
        ("/images=nowhere", "/nowhere' cannot be found", "NEW is where the files are now: correct it, mount"),
        ("/images=.", "no path in the plan is under /images; the template is {folder}/template.img", PRINTED),
    ],
)
def test_a_map_that_does_not_fit(pool, verb, text, said, remedy):
    before = pool.state()
    done = batchdiff(verb, "fleet.plan.json", "--map", text, "--json", cwd=pool.folder, expect=2)
    (error,) = events(done)
    assert said.format(folder=pool.folder) in error["message"]
    assert remedy in error["remedy"]
    assert pool.state() == before


def test_the_plan_itself_is_not_changed(pool):
    pool.apply("-q", "--retire", "quarantine")
    text = pool.plan_path.read_text()
    pool.move()
    pool.run("restore", "--guest", "raw")
    assert pool.plan_path.read_text() == text
    assert str(pool.old) in json.loads(text)["template"]["path"]


@pytest.mark.parametrize("verb", ["plan", "apply", "show"])
def test_who_has_no_map(pool, verb):
    done = batchdiff(verb, "fleet.plan.json", "--map", "/a=.", cwd=pool.folder, expect=2)
    assert "unrecognized arguments: --map" in done.stderr
