"""Definitions that are saved before they change. Guards definitions/saved.py."""

import errno
import os
from datetime import UTC, datetime, timedelta

import access
import pytest

from batchdiff.definitions.saved import folder_of, latest, save_after, save_before
from batchdiff.errors import DefinitionError

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_the_last_change_counts(tmp_path):
    folder = str(tmp_path / "saved")
    save_after(save_before(folder, "web01", b"one", NOW), b"two")
    later = save_before(folder, "web01", b"three", NOW + timedelta(seconds=1))
    assert latest(folder, "web01").before == b"three"
    assert latest(folder, "web01").after is None
    save_after(later, b"four")
    assert latest(folder, "web01").after == b"four"


def test_only_the_owner_reads_them(tmp_path):
    folder = tmp_path / "saved"
    path = save_before(str(folder), "web01", b"passwd='secret'", NOW)
    save_after(path, b"passwd='secret'")
    assert folder.stat().st_mode & 0o077 == 0
    assert [os.stat(folder / name).st_mode & 0o077 for name in os.listdir(folder)] == [0, 0]


def test_names_that_begin_alike(tmp_path):
    save_before(str(tmp_path), "web.01", b"other", NOW + timedelta(days=1))
    save_before(str(tmp_path), "web", b"mine", NOW)
    assert latest(str(tmp_path), "web").before == b"mine"


def test_names_stay_in_the_folder(tmp_path):
    path = save_before(str(tmp_path / "saved"), "../x/y", b"", NOW)
    assert os.path.dirname(path) == str(tmp_path / "saved")
    assert latest(str(tmp_path / "saved"), "../x/y").before == b""


def test_nothing_was_saved(tmp_path):
    assert latest(str(tmp_path / "none"), "web01") is None
    assert latest(str(tmp_path), "web01") is None


def test_another_user_may_not_read_them(tmp_path):
    path = save_before(f"{tmp_path}/saved", "web01", b"one", NOW)
    tmp_path.chmod(0o755)
    (tmp_path / "saved").chmod(0o755)
    with pytest.raises(DefinitionError, match="cannot read the saved definitions in /saved") as caught:
        access.as_user(3001, tmp_path, lambda: latest("/saved", "web01"))
    name = os.path.basename(path)
    assert f"may not read /saved/{name}, which belongs to uid 0 and has mode 600" in caught.value.why


def test_nothing_is_replaced(tmp_path):
    save_before(str(tmp_path), "web01", b"one", NOW)
    with pytest.raises(DefinitionError, match="cannot save") as caught:
        save_before(str(tmp_path), "web01", b"two", NOW)
    assert "run the same command again" in caught.value.remedy
    assert latest(str(tmp_path), "web01").before == b"one"


def test_a_file_that_is_written_in_part_does_not_count(tmp_path, monkeypatch):
    save_after(save_before(str(tmp_path), "web01", b"one", NOW), b"two")

    def full(_fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DefinitionError, match="cannot save"):
        save_before(str(tmp_path), "web01", b"three", NOW + timedelta(days=1))
    assert latest(str(tmp_path), "web01").before == b"one"
    assert len(os.listdir(tmp_path)) == 2


def test_the_longest_name(tmp_path):
    name, other = "x." * 127, "x." * 126 + "xy"
    save_before(str(tmp_path), other, b"other", NOW + timedelta(days=1))
    save_after(save_before(str(tmp_path), name, b"mine", NOW), b"after")
    assert latest(str(tmp_path), name).after == b"after"
    assert latest(str(tmp_path), other).before == b"other"


def test_beside_the_plan(tmp_path):
    assert folder_of(f"{tmp_path}/fleet.plan.json") == f"{tmp_path}/fleet.plan.json.definitions"
