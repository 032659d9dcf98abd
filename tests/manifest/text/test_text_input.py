"""Manifests from files, stdin and pipes, and what is named in a manifest's place."""

from __future__ import annotations

import os
import threading

import pytest
from manifest_texts import guests, raw, write

from batchdiff.errors import ManifestError
from batchdiff.manifest.file import read_manifest
from batchdiff.manifest.text.input import MAX_BYTES, is_piped, manifest_file

TEXT = guests(raw("clones/a.img"))
NAME_ONE = "Name a YAML file; docs/manifest.md has an example."


def refusal(path: str) -> str:
    with pytest.raises(ManifestError) as caught:
        manifest_file(path)
    return str(caught.value)


@pytest.fixture
def stdin(folder, monkeypatch):
    """Puts a text on stdin, which is file descriptor 0 of this process."""
    before = os.dup(0)

    def put(content: str | bytes) -> None:
        reading, writing = os.pipe()
        os.write(writing, content if isinstance(content, bytes) else content.encode())
        os.close(writing)
        os.dup2(reading, 0)
        os.close(reading)

    yield put
    os.dup2(before, 0)
    os.close(before)


@pytest.mark.parametrize("name", ["-", "/dev/stdin", "/dev/fd/0"])
def test_stdin(folder, stdin, name):
    stdin(TEXT)
    assert is_piped(name)
    manifest = read_manifest(name)
    assert manifest.path == f"{folder}/<stdin>"
    assert manifest.guests[0].image.path == f"{folder}/clones/a.img"


def test_a_file_on_stdin_is_in_no_folder_either(folder, monkeypatch):
    write(TEXT, "clones/m.yaml")
    before, fd = os.dup(0), os.open("clones/m.yaml", os.O_RDONLY)
    os.dup2(fd, 0)
    try:
        assert read_manifest("/dev/stdin").guests[0].image.path == f"{folder}/clones/a.img"
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(fd)


def test_problems_name_stdin(stdin):
    stdin("version: 1\nx: 1\n")
    with pytest.raises(ManifestError, match=r"<stdin>:2: x: unknown key"):
        read_manifest("-")


def test_a_fifo_whose_writer_comes_later(folder):
    os.mkfifo("clones/pipe")
    writer = threading.Timer(0.05, write, [TEXT, "clones/pipe"])
    writer.start()
    manifest = read_manifest("clones/pipe")
    writer.join()
    assert (manifest.path, len(manifest.guests)) == (f"{folder}/<pipe>", 1)


def test_a_pipe_of_the_shell(folder):
    reading, writing = os.pipe()
    os.write(writing, TEXT.encode())
    os.close(writing)
    try:
        assert read_manifest(f"/dev/fd/{reading}").path == f"{folder}/<pipe>"
    finally:
        os.close(reading)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b'{"format_version": "1.1",\n "generator": "batchdiff 0.1.0"',
            "it is a plan, not a manifest. `batchdiff show",
        ),
        (
            b'{\n "format_version": "1.1",\n "template": {}',
            f"it is the sidecar of a template, not a manifest. {NAME_ONE}",
        ),
        (b'{\n  "report_version": "1.0"', f"it is a savings report as JSON, not a manifest. {NAME_ONE}"),
        (b'{"time": "2026", "step": "begin"}\n', f"it is the journal of a plan, not a manifest. {NAME_ONE}"),
        (b'{"event": "plan"}\n', f"it is the output of a command with --json, not a manifest. {NAME_ONE}"),
        (b"QFI\xfb\0\0", f"it looks like a qcow2 image, not a manifest. {NAME_ONE}"),
        (bytes(600), f"it looks like an image or another binary file, not a manifest. {NAME_ONE}"),
        (TEXT.encode("utf-16"), "it is UTF-16, and a manifest must be UTF-8. Save it as UTF-8"),
        (b"#" * (MAX_BYTES + 1), f"it is larger than 8 MiB, the limit for a manifest. {NAME_ONE}"),
    ],
)
def test_what_it_is_instead(folder, content, words):
    with open("x", "wb") as file:
        file.write(content)
    assert refusal("x").startswith("x: ")
    assert words in refusal("x")


def test_a_single_null_byte_in_a_manifest_has_a_line(folder):
    write(TEXT + "# \0\n")
    with pytest.raises(ManifestError, match=r'm.yaml:5: YAML does not allow the character "\\x00"; delete it'):
        read_manifest("m.yaml")


def test_other_files(folder):
    assert refusal("clones") == f"cannot read the manifest clones: it is a folder. {NAME_ONE}"
    assert refusal("/dev/zero") == f"cannot read the manifest /dev/zero: it is a device. {NAME_ONE}"
    assert refusal("") == "the manifest: no such file. Its name is empty."


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_marks_and_line_ends_of_other_editors(folder, encoding, ending):
    with open("m.yaml", "wb") as file:
        file.write(TEXT.replace("\n", ending).encode(encoding))
    assert len(read_manifest("m.yaml").guests) == 1


def test_a_piped_manifest_in_a_folder_that_was_deleted(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ManifestError) as caught:
        manifest_file("-")
    assert str(caught.value) == (
        "cannot read the manifest <stdin>: the current folder no longer exists. Change to another folder."
    )


def test_a_descriptor_that_is_not_open():
    with pytest.raises(ManifestError) as caught:
        manifest_file("/dev/fd/987")
    assert str(caught.value) == (
        "cannot read the manifest /dev/fd/987: that descriptor is not open. Open it, or give the path of the"
        " manifest."
    )
