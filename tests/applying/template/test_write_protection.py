"""The template's write bits: taken, noted before and after, and made up for if an apply died in between."""

import errno
import os
import stat
from contextlib import closing, contextmanager
from pathlib import Path

import notation
import pytest
from clocks import wait_for_another_ctime
from oracle import source

from batchdiff.applying.journal.file import Journal, read_history
from batchdiff.applying.template.write_protection import protect, record_interrupted_protection
from batchdiff.image.open import open_image

CHECKSUM = "sha256:" + "ab" * 32


@pytest.fixture
def path(tmp_path):
    return notation.write_raw(tmp_path / "template.img", "64k:A")


@pytest.fixture
def journal(tmp_path):
    with closing(Journal(str(tmp_path / "fleet.plan.json"), CHECKSUM)) as journal:
        yield journal


@contextmanager
def opened(path, *below):
    with open_image(source(path, *below)) as image:
        yield image


def changed(tmp_path):
    """The fingerprints that the journal's file has as ours."""
    return read_history(str(tmp_path / "fleet.plan.json"), CHECKSUM).changed


class KilledError(BaseException):
    """Stands for SIGKILL."""


def killed_before_the_note(image, journal, *, file=0):
    """An apply that is killed when it has just taken the bits of that file of the chain; none of it is noted."""
    wait_for_another_ctime(Path(image.path).parent)

    def fchmod(fd, mode, *, real=os.fchmod):
        real(fd, mode)
        if fd == image.layers[file].fd:
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fchmod", fchmod)
        with pytest.raises(KilledError):
            protect(image, journal)


def test_every_file_of_the_chain_loses_its_write_bits(path, tmp_path, journal):
    top = notation.write_qcow2(tmp_path / "top.qcow2", "64k:-", backing=path)
    top.chmod(0o666)
    with opened(top, path) as image:
        assert protect(image, journal) == ()
        assert changed(tmp_path) == set(image.fingerprints())
    assert [stat.S_IMODE(each.stat().st_mode) for each in (top, path)] == [0o444, 0o444]


def test_what_cannot_be_written_anyway_is_left_alone(path, tmp_path, journal):
    path.chmod(0o555)
    with opened(path) as image:
        assert protect(image, journal) == ()
    assert stat.S_IMODE(path.stat().st_mode) == 0o555
    assert not journal.history.protecting
    assert changed(tmp_path) == set()


def test_advice_waits_until_the_filesystem_is_writable(path, journal, monkeypatch):
    """Until then, chmod would fail again, and the template is protected."""

    def refuse(fd, mode):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "fchmod", refuse)
    with opened(path) as image:
        (notice,) = protect(image, journal)
    assert f"{path} is read-only" in notice
    advice = f"Once files there can be changed, remove the permission yourself: `chmod a-w {path}`"
    assert notice.endswith(f" {advice}")


def test_a_note_that_was_not_written_is_made_up_for(path, tmp_path, journal):
    with opened(path) as image:
        planned = image.fingerprints()
        killed_before_the_note(image, journal)
        assert image.fingerprints() != planned
        assert changed(tmp_path) == set()
        record_interrupted_protection(image, planned, journal)
        assert changed(tmp_path) == set(image.fingerprints())


@pytest.mark.parametrize("file", [0, 1])
def test_it_dies_at_any_file_of_the_chain(path, tmp_path, journal, file):
    top = notation.write_qcow2(tmp_path / "top.qcow2", "64k:-", backing=path)
    with opened(top, path) as image:
        planned = image.fingerprints()
        killed_before_the_note(image, journal, file=file)
        record_interrupted_protection(image, planned, journal)
        assert changed(tmp_path) == set(image.fingerprints()[: file + 1])
        protect(image, journal)
        assert changed(tmp_path) == set(image.fingerprints())


@pytest.mark.parametrize("what", ["written to", "replaced", "writable again", "never begun", "already noted"])
def test_nothing_else_is_taken_for_ours(path, tmp_path, journal, what):
    with opened(path) as image:
        planned = image.fingerprints()
        if what == "never begun":
            path.chmod(0o444)
        else:
            killed_before_the_note(image, journal)
    match what:
        case "written to":
            with path.open("r+b") as file:
                file.write(b"?")
        case "replaced":
            copy = notation.write_raw(tmp_path / "copy", "64k:A")
            copy.chmod(0o444)
            copy.rename(path)
        case "writable again":
            path.chmod(0o644)
    with opened(path) as image:
        if what == "already noted":
            journal.record_changed(image.layers[0].fingerprint())
        lines = (tmp_path / "fleet.plan.json.journal").read_bytes()
        record_interrupted_protection(image, planned, journal)
    assert (tmp_path / "fleet.plan.json.journal").read_bytes() == lines
