"""Which files of folders are taken for images. Guards discovery/image_files.py, discovery/exclusion.py."""

import os
from functools import partial

import access
import notation
import pytest
from devices import attached

from batchdiff.discovery import image_files
from batchdiff.discovery.exclusion import Cause
from batchdiff.discovery.image_files import FileToSample, find_files
from batchdiff.errors import UsageError
from batchdiff.image_source import ImageFormat


def names(search, folder):
    return [os.path.relpath(file.path, folder) for file in search.files]


def left(search):
    return {os.path.basename(each.path): each.cause for each in search.exclusions}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.img").write_bytes(b"x")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "B.VMDK").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "qcow2").write_bytes(b"QFI\xfb" + bytes(100))
    with open(tmp_path / "disk", "wb") as file:
        file.write(bytes(510) + b"\x55\xaa")
        file.truncate(1 << 20)
    (tmp_path / "cd.iso").write_bytes((tmp_path / "disk").read_bytes())
    (tmp_path / "small").write_bytes(bytes(510) + b"\x55\xaa")
    (tmp_path / "a.img.batchdiff-original").write_bytes(b"x")
    return tmp_path


def test_a_folder_gives_all_that_look_like_images(folder):
    search = find_files([str(folder)])
    assert names(search, folder) == ["a.img", "deep/er/B.VMDK", "disk", "qcow2"]
    assert search.ignored == 3
    assert search.exclusions == []


def test_a_named_file_is_taken_whatever_it_looks_like(folder):
    search = find_files([str(folder / "notes.txt"), str(folder / "a.img.batchdiff-original")])
    assert names(search, folder) == ["notes.txt"]
    assert left(search) == {"a.img.batchdiff-original": Cause.OWN}


def test_a_glob_gives_its_matches(folder):
    assert names(find_files([f"{folder}/**/*.[iV]*"]), folder) == ["a.img", "deep/er/B.VMDK"]


def test_a_glob_with_too_many_matches_is_refused_and_not_cut_off(folder, monkeypatch):
    monkeypatch.setattr(image_files, "MAX_MATCHES", 5)
    assert names(find_files([f"{folder}/*i*"]), folder) == ["a.img", "disk"]
    with pytest.raises(UsageError) as caught:
        find_files([f"{folder}/*"])
    assert str(caught.value) == (
        f"{folder}/* matches more than 5 files. Name folders (their subfolders are searched, too), or"
        " write narrower patterns."
    )


@pytest.mark.parametrize(
    ("path", "mode", "place", "why"),
    [
        ("closed/a.img", 0o700, "closed/a.img", "may not enter the folder /closed"),
        ("closed/deep/a.img", 0o700, "closed/deep/a.img", "may not enter the folder /closed"),
        ("closed/*.img", 0o700, "closed", "may not enter the folder /closed"),
        ("*/a.img", 0o700, "closed", "may not enter the folder /closed"),
        ("closed/*.img", 0o711, "closed", "may not read /closed"),
        ("closed/**/*.img", 0o711, "closed", "may not read /closed"),
        ("closed/**/b.img", 0o711, "closed", "may not read /closed"),
    ],
)
def test_a_file_in_a_closed_folder_is_not_called_missing(tmp_path, path, mode, place, why):
    (tmp_path / "closed" / "deep").mkdir(parents=True)
    for inner in ("closed", "closed/deep"):
        (tmp_path / inner / "a.img").write_bytes(b"x")
    tmp_path.chmod(0o755)
    (tmp_path / "closed").chmod(mode)

    def found(name):
        return [(each.path, each.reason) for each in find_files([name]).exclusions]

    for name in (f"/{path}", path):
        ((where, reason),) = access.as_user(65534, tmp_path, partial(found, name))
        assert where == f"/{place}"
        assert why in reason


def test_a_file_that_is_missing_in_a_folder_that_may_be_entered_is_called_missing(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "closed").mkdir(mode=0o711)
    for name in ("/closed/no.img", "/closed/deep/no.img", "/*/no.img"):
        with pytest.raises(UsageError, match=r"there is no file|matches no file"):
            access.as_user(65534, tmp_path, partial(find_files, [name]))


@pytest.mark.parametrize("path", ["no.img", "*.qcow2", "none/*"])
def test_what_leads_to_no_file_is_wrong(folder, path):
    with pytest.raises(UsageError, match=r"matches no file|there is no file"):
        find_files([str(folder / path)])


def test_each_file_is_taken_once(folder):
    os.link(folder / "a.img", folder / "hard.img")
    (folder / "soft.img").symlink_to("a.img")
    search = find_files([str(folder / "a.img"), str(folder), str(folder)])
    assert names(search, folder) == ["a.img", "deep/er/B.VMDK", "disk", "qcow2"]
    assert [(each.path, each.cause, each.reason) for each in search.exclusions] == [
        (
            str(folder / "hard.img"),
            Cause.SAME_FILE,
            f"it is {folder}/a.img under another name (a hard link or a bind mount)",
        )
    ]


def test_loops_of_links_end(folder):
    (folder / "loop.img").symlink_to("loop.img")
    (folder / "deep" / "up").symlink_to("..")
    (folder / "gone.img").symlink_to("nowhere")
    (folder / "odd").symlink_to("odd")
    search = find_files([str(folder)])
    assert names(search, folder) == ["a.img", "deep/er/B.VMDK", "disk", "qcow2"]
    assert left(search) == {"loop.img": Cause.UNREADABLE, "gone.img": Cause.UNREADABLE}


_LOOP = "it is a symbolic link that cannot be followed: links lead in a circle, or there are too many of them"


def test_the_reason_of_a_link_that_cannot_be_followed_holds_for_chains_too(folder):
    (folder / "loop").symlink_to("loop")
    (folder / "through.img").symlink_to("loop/x")
    (folder / "0").symlink_to("a.img")
    for number in range(45):
        (folder / str(number + 1)).symlink_to(str(number))
    search = find_files([str(folder / name) for name in ("through.img", "45")])
    assert [each.reason for each in search.exclusions] == [_LOOP, _LOOP]


def test_links_that_lead_nowhere_are_explained_with_absolute_paths(folder, monkeypatch):
    (folder / "loop.img").symlink_to("loop.img")
    (folder / "gone.img").symlink_to("nowhere")
    monkeypatch.chdir(folder)
    search = find_files(["loop.img", "gone.img"])
    assert [(each.path, each.reason) for each in search.exclusions] == [
        (f"{folder}/loop.img", _LOOP),
        (f"{folder}/gone.img", f"it is a symbolic link to {folder}/nowhere, which does not exist"),
    ]


def test_a_file_below_links_that_lead_nowhere_is_no_link(folder):
    (folder / "loop").symlink_to("loop")
    (left_out,) = find_files([], [FileToSample(str(folder / "loop" / "vm.img"), ImageFormat.RAW)]).exclusions
    assert left_out.reason == "symbolic links in its path lead back to themselves, or there are too many of them"


def test_a_disk_that_is_gone_is_named_once(folder):
    search = find_files([], [FileToSample(str(folder / "gone" / "vm.img"), ImageFormat.RAW)])
    (left_out,) = search.exclusions
    assert (left_out.path, left_out.reason) == (f"{folder}/gone/vm.img", "it or a folder above it does not exist")


@pytest.mark.parametrize("pattern", ["", "/*"])
def test_a_device_that_begins_like_an_image_is_found(tmp_path, tmp_path_factory, pattern):
    disk = tmp_path_factory.mktemp("disks") / "disk.raw"
    disk.write_bytes(bytes(510) + b"\x55\xaa" + bytes(1 << 20))
    with attached(disk, "--read-only") as device:
        (tmp_path / "lv").symlink_to(device)
        search = find_files([f"{tmp_path}{pattern}"])
    assert (names(search, tmp_path), search.ignored) == (["lv"], 0)


def test_no_fifo_is_opened(folder):
    os.mkfifo(folder / "fifo.img")
    os.mkfifo(folder / "fifo")
    assert left(find_files([str(folder)])) == {"fifo.img": Cause.UNREADABLE}


def test_names_that_forge_lines_are_left_out(folder):
    (folder / "a\nb.img").write_bytes(b"x")
    assert left(find_files([str(folder)])) == {"a\nb.img": Cause.UNREADABLE}


def test_a_declared_format_counts_however_the_file_is_found(folder):
    declared = FileToSample(str(folder / "qcow2"), ImageFormat.RAW, "the domain web is running")
    search = find_files([str(folder)], [declared])
    assert [file for file in search.files if file.path.endswith("qcow2")] == [declared]


def test_images_of_a_test_fleet(tmp_path):
    notation.write_qcow2(tmp_path / "x.qcow2", "64k:A")
    assert names(find_files([str(tmp_path)]), tmp_path) == ["x.qcow2"]
