"""batchdiff.files.allowed_files: no name leads out of the allowed folders."""

import pytest
import yaml

from batchdiff.errors import ImageError
from batchdiff.files.allowed_files import allowed_file


@pytest.fixture
def image(tmp_path):
    for name in ("images", "images/below", "pool", "pool/deep", "poolside"):
        (tmp_path / name).mkdir()
    return str(tmp_path / "images/a.vmdk")


def allowed(image, name, *folders):
    root = image.removesuffix("/images/a.vmdk")
    path = allowed_file(name.replace("ROOT", root), image, tuple(f"{root}/{each}" for each in folders))
    return path.removeprefix(f"{root}/")


@pytest.mark.parametrize(
    ("name", "folders", "path"),
    [
        ("b.vmdk", (), "images/b.vmdk"),
        ("./b.vmdk", (), "images/b.vmdk"),
        ("../images/b.vmdk", (), "images/b.vmdk"),
        ("ROOT/images/b.vmdk", (), "images/b.vmdk"),
        ("ROOT/pool/b.vmdk", ("pool",), "pool/b.vmdk"),
        ("../pool/deep/b.vmdk", ("other", "pool"), "pool/deep/b.vmdk"),
        ("below/b.vmdk", ("images",), "images/below/b.vmdk"),
        ("ROOT/pool/a:b.vmdk", ("pool",), "pool/a:b.vmdk"),
    ],
)
def test_allowed(image, name, folders, path):
    assert allowed(image, name, *folders) == path


@pytest.mark.parametrize(
    ("name", "folders", "words"),
    [
        ("/etc/passwd", (), "neither beside the image nor"),
        ("/etc/passwd", ("pool",), "neither beside the image nor"),
        ("../b.vmdk", (), "neither beside the image nor"),
        ("../../../../../../../../etc/passwd", (), "neither beside the image nor"),
        ("below/b.vmdk", (), "neither beside the image nor"),
        ("ROOT/poolside/b.vmdk", ("pool",), "neither beside the image nor"),
        ("ROOT/pool/../poolside/b.vmdk", ("pool",), "neither beside the image nor"),
        ("/proc/self/environ", ("pool",), "neither beside the image nor"),
        ("nbd://127.0.0.1/x", (), "not a plain path; QEMU takes the part before the colon for a protocol"),
        ('json:{"driver":"file"}', (), "not a plain path; QEMU takes"),
        ("file:b.vmdk", (), "not a plain path; QEMU takes"),
        ("a:b.vmdk", (), "not a plain path; QEMU takes"),
        ("a\nb", (), r"not a plain path; it contains a line break (\n)"),
        ("a\tb", (), r"not a plain path; it contains a control character (\t)"),
        ("a\0b", (), "not a plain path; it contains a null byte"),
        ("a\u202eb.vmdk", (), r"it contains the character \u202e, which changes the direction of the text"),
        ("nbd:\u202eb", (), r"not a plain path; it contains the character \u202e"),
        ("", (), "neither beside the image nor"),
        (".", (), "neither beside the image nor"),
    ],
)
def test_refused(image, name, folders, words):
    with pytest.raises(ImageError) as caught:
        allowed(image, name, *folders)
    assert words in caught.value.why
    assert caught.value.remedy


def test_what_counts_is_the_file_behind_a_link(image, tmp_path):
    (tmp_path / "images/link.vmdk").symlink_to("/etc/passwd")
    (tmp_path / "images/folder").symlink_to(tmp_path / "pool")
    with pytest.raises(ImageError, match='which resolves to "/etc/passwd" and is'):
        allowed(image, "link.vmdk")
    with pytest.raises(ImageError, match="which resolves to"):
        allowed(image, "folder/b.vmdk")
    assert allowed(image, "folder/b.vmdk", "pool") == "pool/b.vmdk"


@pytest.mark.parametrize("folder", ["pool", "a,b", "it's", 'a "b": \\c', "[a]", "é", "a\xa0b", "# a"])
def test_the_folder_to_allow_is_given_as_yaml(image, tmp_path, folder):
    with pytest.raises(ImageError) as caught:
        allowed(image, f"ROOT/{folder}/b.vmdk")
    assert caught.value.remedy.startswith("If you trust the file's folder, add `allow_folders: [")
    assert yaml.safe_load(caught.value.remedy.split("`")[1]) == {"allow_folders": [str(tmp_path / folder)]}
    assert caught.value.remedy.endswith("an overlay that apply has written, its data file must be beside it.")


@pytest.mark.parametrize("target", ["line\nbreak", "caf\udce9"])
def test_a_folder_that_no_manifest_can_allow(image, tmp_path, target):
    (tmp_path / "images/link").symlink_to(tmp_path / target)
    with pytest.raises(ImageError) as caught:
        allowed(image, "link/b.vmdk")
    assert caught.value.remedy.startswith("If you trust the image, copy it into a single file")


def test_a_name_that_fills_a_header_does_not_fill_the_message(image):
    with pytest.raises(ImageError, match="neither beside the image nor in a folder") as caught:
        allowed(image, "/x" * 2000)
    assert len(str(caught.value)) < 1000
