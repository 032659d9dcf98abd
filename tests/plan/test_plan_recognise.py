"""What is no plan is told from its first bytes, with what to do about it."""

import os

import pytest

from batchdiff.errors import PlanError
from batchdiff.plan.file import read_plan


def refusal(path):
    with pytest.raises(PlanError) as caught:
        read_plan(str(path))
    said = str(caught.value)
    for jargon in ("line 1", "column", "codec", "utf", "Expecting"):
        assert jargon not in said
    return said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"QFI\xfb" + bytes(600), "it looks like a qcow2 image"),
        (bytes(600) + b"conectix" + bytes(504), "it looks like a vpc image"),
        (bytes(600), "it starts like an image or another binary file"),
        (b"{\0\0\0", "it starts like an image or another binary file"),
        (b"\xeb\x63\x90" * 9, "it does not start like JSON"),
        (b"hello", "it does not start like JSON"),
        (b"[1, 2]", "it does not start like JSON"),
    ],
)
def test_what_it_is_instead(tmp_path, content, words):
    path = tmp_path / "t.img"
    path.write_bytes(content)
    assert f"{path} is not a plan: {words}" in refusal(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ok.yaml", "# Which guests\nversion: 1\ntemplate: {path: t}\n"),
        ("ok", "version: 1\n"),
        ("ok.yml", "hello"),
        ("ok", "# first\n\nguests :\n"),
    ],
)
def test_a_manifest(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    assert refusal(path).endswith(
        f"is not a plan: it looks like a manifest. Run `batchdiff plan {path}` first; that writes the plan."
    )


@pytest.mark.parametrize("content", ["{}", '{"format_version": "1.4", "generator": ""}'])
def test_a_file_with_the_name_of_a_sidecar(tmp_path, content):
    path = tmp_path / "t.img.batchdiff-template.json"
    path.write_text(content)
    assert f"{path} is not a plan: it is the sidecar of a template. " in refusal(path)


def test_a_name_that_a_shell_would_take_apart(tmp_path):
    path = tmp_path / "my fleet.yaml"
    path.write_text("version: 1\n")
    assert f"`batchdiff plan '{path}'`" in refusal(path)


def test_a_missing_plan_that_has_a_near_name(tmp_path):
    (tmp_path / "fleet.plan.json").write_text("{}")
    assert refusal(tmp_path / "flet.plan.json").endswith('there is no such file. Did you mean "fleet.plan.json"?')


def test_a_missing_plan_whose_manifest_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fleet.yaml").write_text("version: 1\n")
    assert "Run `batchdiff plan fleet.yaml` first" in refusal("fleet.plan.json")
    assert "Run `batchdiff plan MANIFEST` first" in refusal("other.plan.json")


def test_a_missing_folder(tmp_path):
    assert "Its folder does not exist" in refusal(tmp_path / "nowhere" / "fleet.plan.json")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("x\0y", "it contains a null byte, which no path can have"),
        ("x\ud800y", "it contains characters that no path can have in this locale"),
        ("x" * 300, "File name too long"),
    ],
)
def test_no_name_at_all(tmp_path, name, why):
    assert f": {why}. " in refusal(tmp_path / name)


def test_a_fifo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert "it is not a regular file" in refusal(tmp_path / "fifo")
