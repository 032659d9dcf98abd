"""Secret files are checked, and read by QEMU; a pipe's secret is read once, and kept in memory for programs."""

import os
import subprocess

import pytest
from access import as_user

from batchdiff.errors import ImageError
from batchdiff.qemu.secret_files import (
    ends_with_line_break,
    is_descriptor,
    readable_secret,
    why_unusable_as_secret,
)

SECRET = b"hush, hush"


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    """A descriptor of this process may be another pipe's by now."""
    monkeypatch.setattr("batchdiff.qemu.secret_files._kept", {})


def test_a_file_is_read_by_the_program_itself(tmp_path):
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    assert readable_secret(str(path)) == (str(path), None)


def piped(*parts):
    reading, writing = os.pipe()
    for part in parts:
        os.write(writing, part)
    os.close(writing)
    os.set_inheritable(reading, True)  # as a shell passes it
    return reading


def test_a_pipe_is_read_once_for_all_programs():
    reading = piped(SECRET)
    for _ in range(2):
        path, fd = readable_secret(f"/dev/fd/{reading}")
        assert path == f"/proc/self/fd/{fd}"
        assert subprocess.run(["cat", path], pass_fds=[fd], capture_output=True, check=True).stdout == SECRET
    assert not os.get_inheritable(fd)  # by no program that is not meant to read it


def test_a_pipe_that_nothing_was_written_to():
    reading = piped()
    with pytest.raises(ImageError, match="it is empty"):
        readable_secret(f"/dev/fd/{reading}")
    os.close(reading)


def test_the_end_of_a_pipe_that_is_for_writing():
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    with pytest.raises(ImageError, match="not opened read-only"):
        readable_secret(f"/dev/fd/{writing}")
    for each in (reading, writing):
        os.close(each)


def test_a_descriptor_that_is_not_open_has_its_own_number_in_the_advice():
    reading = piped()
    os.close(reading)
    with pytest.raises(ImageError, match=rf"batchdiff \.\.\. {reading}< FILE`"):
        readable_secret(f"/dev/fd/{reading}")


def test_a_descriptor_of_something_else_is_not_called_closed():
    with open("/dev/null") as file:
        os.set_inheritable(file.fileno(), True)
        with pytest.raises(ImageError, match="nor a pipe that is open as a descriptor"):
            readable_secret(f"/dev/fd/{file.fileno()}")


def test_a_file_that_this_process_opened_is_no_secret_that_was_passed(tmp_path):
    """Its journal, for example, may have the number of a descriptor that was not passed this time."""
    (tmp_path / "journal").write_text("something that changes\n")
    with (tmp_path / "journal").open("rb") as file:
        with pytest.raises(ImageError, match=rf"not open; .* as in `batchdiff \.\.\. {file.fileno()}< FILE`"):
            readable_secret(f"/dev/fd/{file.fileno()}")
        os.set_inheritable(file.fileno(), True)
        path, fd = readable_secret(f"/dev/fd/{file.fileno()}")
        assert os.pread(fd, 100, 0) == b"something that changes\n", path


def test_a_pipe_with_more_than_a_secret(monkeypatch):
    monkeypatch.setattr("batchdiff.qemu.secret_files._LARGEST", 4)
    reading = piped(SECRET)
    with pytest.raises(ImageError, match="larger than 4 B"):
        readable_secret(f"/proc/self/fd/{reading}")
    os.close(reading)


@pytest.mark.parametrize(("content", "found"), [(b"a\n", True), (b"a", False), (b"a\n ", False)])
def test_a_line_break_at_the_end(tmp_path, content, found):
    path = tmp_path / "secret"
    path.write_bytes(content)
    assert ends_with_line_break(str(path)) is found


def test_what_is_missing_is_named_with_a_remedy(tmp_path):
    with pytest.raises(ImageError, match="No such file") as caught:
        readable_secret(str(tmp_path / "secret"))
    assert str(tmp_path / "secret") in caught.value.what
    assert "secret_file" in caught.value.remedy


def test_a_secret_of_another_user(tmp_path):
    """The message names the owner and the mode."""
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "secret").chmod(0o600)
    tmp_path.chmod(0o755)
    why = r"may not read /secret, which belongs to .* and has mode 600"
    with pytest.raises(ImageError, match=rf"cannot use the secret file /secret: .*{why}"):
        as_user(3001, tmp_path, lambda: readable_secret("/secret"))


def test_which_paths_are_descriptors():
    assert [is_descriptor(path) for path in ("/dev/fd/3", "/proc/self/fd/12")] == [True, True]
    assert "not open" in why_unusable_as_secret(f"/dev/fd/{10**20}")
    assert "too long" in why_unusable_as_secret(f"/dev/fd/{'1' * 5000}")
    assert [is_descriptor(path) for path in ("/dev/fd/", "/dev/fd/3x", "fd/3", "/dev/fd/3/x")] == [False] * 4


@pytest.mark.parametrize("content", [b"\xff", b"a\0b", b"\xc3"])
def test_what_is_not_text_is_no_secret_of_qemu(tmp_path, content):
    """Neither in a file, when the manifest is read, nor from a pipe."""
    path = tmp_path / "secret"
    path.write_bytes(content)
    assert why_unusable_as_secret(str(path)) == "it is not UTF-8, or contains a null byte"
    reading = piped(content)
    with pytest.raises(ImageError, match=r"from /dev/fd/[0-9]+: it is not UTF-8"):
        readable_secret(f"/dev/fd/{reading}")
    os.close(reading)
