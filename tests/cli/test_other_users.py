"""A user who may only read can show, status and verify; one who lacks something for apply hears what it is.

Each command runs under another user's id, in a mount namespace where pytest's folders, closed to others, are not
on the way: the fleet is at /mnt there.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import errno
import importlib
import io
import os
import pkgutil
from pathlib import Path

import access
import notation
import pytest

import batchdiff
from batchdiff.applying.journal.file import read_history
from batchdiff.cli import main
from batchdiff.plan.head import plan_head

for _module in pkgutil.walk_packages(batchdiff.__path__, "batchdiff."):
    if not _module.name.endswith("__main__"):
        importlib.import_module(_module.name)  # later the other user may not be let in to read it
for _encoding in ("ascii", "utf-8-sig"):
    codecs.lookup(_encoding)

AT = "/mnt"
ROOT, SOMEBODY = 0, 3001
ME = f"the user with uid {SOMEBODY}"
NEW_MOUNTS, PRIVATE, BIND = 0x20000, 0x44000, 0x1000
"""CLONE_NEWNS; MS_REC and MS_PRIVATE; MS_BIND."""

MANIFEST = """\
version: 1
template: {path: template.img, format: raw}
guests:
  - {path: web01.img, format: raw}
retire: quarantine
"""


@pytest.fixture
def folder(tmp_path):
    """Planned and applied by root."""
    tmp_path.chmod(0o755)
    notation.write_raw(tmp_path / "template.img", "256k:A 256k:B 512k:C")
    notation.write_raw(tmp_path / "web01.img", "256k:A 64k:X 192k:B 512k:C")
    (tmp_path / "fleet.yaml").write_text(MANIFEST)
    for path in tmp_path.iterdir():
        path.chmod(0o644)
    return tmp_path


def mount_there(folder):
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(NEW_MOUNTS) == 0
    if libc.mount(b"none", b"/", None, PRIVATE, None) != 0:
        # In a chroot whose root is not a mount point nothing can be made private, and nothing is shared.
        assert ctypes.get_errno() == errno.EINVAL
    assert libc.mount(os.fsencode(folder), AT.encode(), None, BIND, None) == 0


def ran(user, folder, *arguments, mask=0o022):
    """Exit code and output of a command."""

    def run():
        os.umask(mask)
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main.run([*arguments])
        return code, " ".join(said.getvalue().split())

    return access.as_user(user, lambda: mount_there(folder), run)


def applied(folder, mask=0o022):
    for arguments in (("plan", f"{AT}/fleet.yaml", "-q", "-j1"), ("apply", f"{AT}/fleet.plan.json", "-q")):
        code, said = ran(ROOT, folder, *arguments, mask=mask)
        assert code == 0, said


def test_who_may_read_can_look(folder):
    applied(folder)
    assert ran(SOMEBODY, folder, "show", f"{AT}/fleet.plan.json")[0] == 0
    code, said = ran(SOMEBODY, folder, "status", f"{AT}/fleet.plan.json")
    assert (code, "web01 retired" in said) == (0, True), said
    code, said = ran(SOMEBODY, folder, "verify", f"{AT}/fleet.plan.json")
    assert (code, "2 files: 2 sound" in said) == (0, True), said
    code, said = ran(SOMEBODY, folder, "purge", f"{AT}/fleet.plan.json", "--dry-run", "--unseen")
    assert (code, "1 would be purged" in said) == (0, True), said


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_of_ours_have_the_modes_of_the_umask(folder, mask, mode):
    applied(folder, mask)
    for name in ("fleet.plan.json", "fleet.plan.json.journal", "template.img.batchdiff-template.json"):
        assert (folder / name).stat().st_mode & 0o777 == mode, name
    assert (folder / "web01.qcow2").stat().st_mode & 0o777 == 0o644


def test_an_older_journal_is_closed_to_others(folder):
    """Then nobody knows what was converted, and that is what is said."""
    applied(folder)
    (folder / "fleet.plan.json.journal").chmod(0o600)
    for verb in ("status", "verify"):
        code, said = ran(SOMEBODY, folder, verb, f"{AT}/fleet.plan.json")
        assert code == 5
        assert f"cannot read the journal {AT}/fleet.plan.json.journal: {ME} may not read" in said
    (folder / "fleet.plan.json.journal").chmod(0o644)
    assert ran(SOMEBODY, folder, "status", f"{AT}/fleet.plan.json")[0] == 0


@pytest.mark.parametrize(
    ("name", "findings"), [("template.img", "2 unknown"), ("web01.qcow2", "1 sound, 1 unknown")]
)
def test_what_may_not_be_read_is_not_called_damaged(folder, name, findings):
    applied(folder)
    (folder / name).chmod(0o600)
    code, said = ran(SOMEBODY, folder, "verify", f"{AT}/fleet.plan.json")
    assert code == 1
    assert f"{ME} may not read {AT}/{name}" in said
    assert "damaged" not in said
    assert findings in said


@pytest.mark.parametrize(
    ("name", "command", "what", "deed"),
    [
        ("p.json", "plan {0}/fleet.yaml -o {0}/p.json", "{0}/p.json exists and cannot be read", "read"),
        ("fleet.yaml", "validate {0}/fleet.yaml", "cannot read the manifest {0}/fleet.yaml", "read"),
        ("a.xml", "definitions {0}/fleet.plan.json --xml {0}/a.xml", "cannot read {0}/a.xml", "read"),
        ("101.conf", "definitions {0}/fleet.plan.json --proxmox {0}", "cannot read {0}/101.conf", "read"),
        ("a.log", "show {0}/fleet.plan.json --log-file {0}/a.log", "cannot write the log {0}/a.log", "write to"),
    ],
)
def test_a_file_that_is_closed_in_an_open_folder(folder, name, command, what, deed):
    """The file itself is why, although a new file could be created beside it."""
    applied(folder)
    folder.chmod(0o777)
    (folder / "101.conf").touch()
    (folder / "storage.cfg").touch()
    (folder / name).touch()
    (folder / name).chmod(0o600)
    said = ran(SOMEBODY, folder, *command.format(AT).split())[1]
    why = f"{ME} may not {deed} {AT}/{name}, which belongs to root and has mode 600"
    assert f"{what.format(AT)}: {why}" in said


@pytest.mark.parametrize(
    "command", ["plan {0}/fleet.yaml -o {0}/closed/inner/p", "discover {0} -o {0}/closed/inner/m"]
)
def test_a_folder_in_a_closed_folder_is_not_called_missing(folder, command):
    (folder / "closed" / "inner").mkdir(parents=True)
    (folder / "closed").chmod(0o700)
    said = ran(SOMEBODY, folder, *command.format(AT).split())[1]
    assert f"{ME} may not enter the folder {AT}/closed, which belongs to root and has mode 700" in said


@pytest.fixture(params=["originals", "overlays"])
def closed(folder, request):
    """A file of a converted guest, in a folder that only root may enter."""
    for name in ("originals", "overlays"):
        (folder / name).mkdir()
    (folder / "web01.img").rename(folder / "originals" / "web01.img")
    text = MANIFEST.replace("path: web01.img, format: raw", PLACES)
    (folder / "fleet.yaml").write_text(text)
    applied(folder)
    folder.chmod(0o777)
    (folder / "fleet.plan.json.journal").chmod(0o666)
    (folder / request.param).chmod(0o700)
    return f"{AT}/{request.param}/{'web01.img' if request.param == 'originals' else 'web01.qcow2'}"


PLACES = "path: originals/web01.img, format: raw, overlay: {path: overlays/web01.qcow2}"


@pytest.mark.parametrize(
    "command",
    [
        "status",
        "verify",
        "apply --retire delete --yes",
        "restore --unseen",
        "restore --discard-changes --yes",
        "restore --dry-run",
        "purge --yes --unseen",
        "purge --dry-run",
    ],
)
def test_a_file_in_a_closed_folder_is_not_called_missing(folder, closed, command):
    """Nor is it recorded as gone, and nobody is advised to go back to the original."""
    before = recorded(folder)
    verb, *options = command.split()
    code, said = ran(SOMEBODY, folder, verb, f"{AT}/fleet.plan.json", *options)
    assert code == {"status": 0, "verify": 1}.get(command, 4)
    assert f"cannot examine {closed}" in said
    assert f"{ME} may not enter the folder {os.path.dirname(closed)}, which belongs to root" in said
    for untrue in ("missing", "gone", "damaged", "goes back"):
        assert untrue not in said
    assert recorded(folder) == before


def recorded(folder):
    plan = str(folder / "fleet.plan.json")
    return read_history(plan, plan_head(plan).checksum).states


@pytest.mark.parametrize("command", ["status", "restore"])
def test_a_lost_journal_is_not_recovered_from_what_cannot_be_examined(folder, closed, command):
    (folder / "fleet.plan.json.journal").unlink()
    code, said = ran(SOMEBODY, folder, command, f"{AT}/fleet.plan.json")
    assert (code, f"cannot examine {closed}" in said) == (4, True), said


@pytest.mark.parametrize("verb", ["apply", "restore", "purge"])
def test_who_may_not_write(folder, verb):
    applied(folder)
    options = ("--yes",) if verb == "purge" else ()
    code, said = ran(SOMEBODY, folder, verb, f"{AT}/fleet.plan.json", *options)
    assert code == 5
    assert f"cannot open the journal {AT}/fleet.plan.json.journal: {ME} may not write to" in said
    assert "Run the same command as a user with that permission, such as root" in said


def test_who_may_write_but_owns_nothing(folder):
    """The overlay belongs to whoever made it, and the template keeps its mode: both are said, with the way out."""
    folder.chmod(0o777)
    assert ran(SOMEBODY, folder, "plan", f"{AT}/fleet.yaml", "-q", "-j1")[0] == 0
    code, said = ran(SOMEBODY, folder, "apply", f"{AT}/fleet.plan.json")
    assert code == 0, said
    assert "could not keep the owner 0:0 (Operation not permitted; that needs root or CAP_CHOWN)" in said
    assert f"keeps its write permission: only root may change the mode of {AT}/template.img" in said
    assert f". Have root run `chmod a-w {AT}/template.img`" in said
    assert Path(folder / "web01.qcow2").stat().st_uid == SOMEBODY
