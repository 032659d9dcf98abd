"""Files must stay what they were from the first look on, by descriptor and by path."""

from __future__ import annotations

import dataclasses
import os
from contextlib import closing

import notation
import plans
import pytest
from access import as_user
from oracle import source

from batchdiff.applying.journal.file import MemoryJournal
from batchdiff.applying.journal.records import History
from batchdiff.applying.session.change_detection import ChangeDetector
from batchdiff.errors import ImageError, PlanError
from batchdiff.image.open import open_image

FIRST = plans.fingerprint(1)
CTIME = dataclasses.replace(FIRST, ctime_ns=7)
MTIME = dataclasses.replace(FIRST, mtime_ns=7)


@pytest.fixture
def constancy():
    return ChangeDetector(MemoryJournal(History()))


def test_the_first_look_is_what_counts(constancy):
    constancy.check("", FIRST, "/t.img")
    constancy.check("", FIRST, "/t.img")
    constancy.check("another file", MTIME, "/u.img")
    assert constancy.seen == {"": FIRST, "another file": MTIME}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (CTIME, "ctime"),
        (MTIME, "mtime"),
        (dataclasses.replace(FIRST, size=7), "its size in bytes changed"),
        (dataclasses.replace(FIRST, inode=7), "another file is in its place"),
    ],
)
@pytest.mark.parametrize("noted", [False, True])
def test_a_change(constancy, now, said, noted):
    """Only what batchdiff itself did to the ctime is none, and then counts from now on."""
    constancy.check("", FIRST, "/t.img")
    if noted:
        constancy.journal.record_changed(now)
    if noted and now is CTIME:
        constancy.check("", now, "/t.img")
        with pytest.raises(PlanError):
            constancy.check("", FIRST, "/t.img")
        return
    with pytest.raises(PlanError, match=r"/t\.img changed while this command ran") as caught:
        constancy.check("", now, "/t.img")
    assert said in caught.value.why
    cure = "Bring the former file back" if now.inode == 7 else "Stop whatever changes it"
    assert caught.value.remedy == f"{cure}, then run the same command again."


@pytest.mark.parametrize("seen", [False, True])
def test_a_file_that_is_gone(constancy, seen):
    if seen:
        constancy.check("", FIRST, "/t.img")
    with pytest.raises(PlanError, match=r"/t\.img is gone"):
        constancy.check("", None, "/t.img")


# On real files.


@pytest.fixture
def chain(tmp_path):
    base = notation.write_raw(tmp_path / "base.img", "64k:A")
    return notation.write_qcow2(tmp_path / "top.qcow2", "64k:-", backing=base), base


def replaced(path):
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.rename(path)


CHANGES = {
    "touched": os.utime,
    "another mode": lambda path: path.chmod(0o600),
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
}


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("look", ["check_chain", "check_at_paths"])
def test_any_file_of_a_chain(constancy, chain, number, change, look):
    with closing(open_image(source(*chain))) as image:
        check = getattr(constancy, look)
        check(image)
        check(image)
        change(chain[number])
        with pytest.raises(PlanError, match=f"{chain[number]} changed while this command ran"):
            check(image)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("before", [False, True])
def test_another_file_at_a_path(constancy, chain, number, before):
    """Also if it was there at the first look already: it must be the file that is open."""
    with closing(open_image(source(*chain))) as image:
        if not before:
            constancy.check_at_paths(image)
        replaced(chain[number])
        with pytest.raises(PlanError, match=f"{chain[number]} changed while this command ran") as caught:
            constancy.check_at_paths(image)
        assert caught.value.why == "another file is in its place"
        cure = "Bring the planned template back" if before else "Bring the former file back"
        assert caught.value.remedy == f"{cure}, then run the same command again."


def test_a_path_without_a_file(constancy, chain):
    with closing(open_image(source(*chain))) as image:
        chain[1].unlink()
        with pytest.raises(PlanError, match=f"{chain[1]} is gone"):
            constancy.check_at_paths(image)


def test_a_path_in_a_folder_that_may_not_be_entered(constancy, chain, tmp_path):
    """Its file is there, so it need not be brought back."""
    with closing(open_image(source(*chain))) as image:
        tmp_path.chmod(0o700)
        with pytest.raises(ImageError, match=f"^cannot examine {chain[0]}: the user with uid 3001 may not enter"):
            as_user(3001, "/", lambda: constancy.check_at_paths(image))


def test_the_image_itself_may_be_renamed(constancy, chain):
    """Its path then is another one, and its ctime is noted."""
    with closing(open_image(source(*chain))) as image:
        constancy.check_chain(image)
        chain[0].rename(chain[0].with_name("aside.qcow2"))
        constancy.journal.record_changed(image.layers[0].fingerprint())
        constancy.check_chain(image)
    with closing(open_image(source(chain[0].with_name("aside.qcow2"), chain[1]))) as image:
        constancy.check_chain(image)
