import errno
import os
import threading

import pytest

from batchdiff.linux import rename
from batchdiff.linux.rename import rename_without_replacing


@pytest.fixture(params=["renameat2", "link"])
def way(request, monkeypatch):
    """Both ways: the system call, and what is done where the filesystem doesn't know its flag."""
    if request.param == "link":

        class WithoutRenameat2:
            @staticmethod
            def renameat2(*_):
                rename.ctypes.set_errno(errno.EINVAL)
                return -1

        monkeypatch.setattr(rename, "_libc", WithoutRenameat2)


@pytest.mark.usefixtures("way")
def test_it_renames(tmp_path):
    (tmp_path / "a").write_text("mine")
    (tmp_path / "folder").mkdir()
    rename_without_replacing(str(tmp_path / "a"), str(tmp_path / "folder" / "b ünï"))
    assert (tmp_path / "folder" / "b ünï").read_text() == "mine"
    assert not (tmp_path / "a").exists()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", ["file", "empty", "folder", "link", "dangling", "itself"])
def test_it_never_replaces(tmp_path, kind):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("mine")
    match kind:
        case "file":
            b.write_text("theirs")
        case "empty":
            b.touch()
        case "folder":
            b.mkdir()
        case "link":
            (tmp_path / "c").touch()
            b.symlink_to(tmp_path / "c")
        case "dangling":
            b.symlink_to("nowhere")
        case "itself":
            os.link(a, b)
    before = os.lstat(b)
    with pytest.raises(FileExistsError) as caught:
        rename_without_replacing(str(a), str(b))
    assert {caught.value.filename, caught.value.filename2} == {str(a), str(b)}
    assert a.read_text() == "mine"
    assert os.lstat(b).st_ino == before.st_ino


@pytest.mark.usefixtures("way")
def test_a_missing_source(tmp_path):
    with pytest.raises(FileNotFoundError):
        rename_without_replacing(str(tmp_path / "a"), str(tmp_path / "b"))
    assert list(tmp_path.iterdir()) == []


def test_of_many_at_once_one_wins(tmp_path):
    sources = [tmp_path / str(number) for number in range(16)]
    for path in sources:
        path.write_text(path.name)
    refused = []

    def race(path):
        try:
            rename_without_replacing(str(path), str(tmp_path / "target"))
        except FileExistsError:
            refused.append(path)

    threads = [threading.Thread(target=race, args=(path,)) for path in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 15
    assert all(path.read_text() == path.name for path in refused)
    assert sources[int((tmp_path / "target").read_text())] not in refused


@pytest.mark.parametrize("folders", [1, 2])
def test_both_folders_are_made_durable(tmp_path, monkeypatch, folders):
    synced = []
    monkeypatch.setattr(rename, "sync_folder", synced.append)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "a").touch()
    target = tmp_path / ("one" if folders == 1 else "two")
    rename_without_replacing(str(tmp_path / "one" / "a"), str(target / "b"))
    assert sorted(synced) == sorted({str(tmp_path / "one"), str(target)})
