"""Encrypted images read as QEMU reads them, with the right secret only.

Guards image/encrypted.py, qemu/image_options.py and qemu/secrets.py.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import encrypted
import notation
import pytest
from oracle import guest_bytes

from batchdiff.errors import ImageError
from batchdiff.image.open import inspect, open_image
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.qcow2.entries import Origin
from batchdiff.qemu import qemu_img
from batchdiff.qemu.image_options import names_of
from batchdiff.qemu.secrets import secrets_of, wrong_secret

CONTENT = "192k:A 64k:- 100k:B 28k:- 64k:C 576k:-"


@pytest.fixture
def secret(tmp_path):
    return encrypted.secret_file(tmp_path / "secret")


@pytest.fixture
def raw(tmp_path):
    return notation.write_raw(tmp_path / "raw", CONTENT)


def declared(path, kind, secret, *below):
    return ImageSource(str(path), ImageFormat(kind), below, secret_file=None if secret is None else str(secret))


def read_all(source, inspected=True):
    with open_image(source) as image:
        if inspected:
            inspect(image)
        return guest_bytes(image, 0, image.virtual_size)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("luks", ""),
        pytest.param("luks", "cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=plain", marks=pytest.mark.long),
        ("qcow2", ""),
        ("qcow2", "extended_l2=on,cluster_size=128k"),
    ],
)
def test_the_content_is_that_of_qemu(tmp_path, raw, secret, kind, options):
    path = encrypted.convert(raw, tmp_path / "image", kind, secret, options)
    assert read_all(declared(path, kind, secret)) == raw.read_bytes()


@pytest.mark.parametrize("kind", ["luks", "qcow2"])
def test_parts_of_it_at_odd_offsets(tmp_path, raw, secret, kind):
    path, content = encrypted.convert(raw, tmp_path / "image", kind, secret), raw.read_bytes()
    with open_image(declared(path, kind, secret)) as image:
        for start, length in [(0, 1), (511, 2), (65535, 131073), (len(content) - 1000, 1000)]:
            assert guest_bytes(image, start, length) == content[start : start + length]


def test_only_what_the_tables_map_is_asked_for(tmp_path, raw, secret):
    path = encrypted.convert(raw, tmp_path / "image", "qcow2", secret)
    with open_image(declared(path, "qcow2", secret)) as image:
        found = [(each.start, each.end, each.origin) for each in image.segments(0, image.virtual_size)]
        assert image.next_data(192 << 10) == 256 << 10
    kib = [(start >> 10, end >> 10, origin) for start, end, origin in found]
    assert kib == [
        (0, 192, Origin.EXPORTED),
        (192, 256, Origin.ZERO),
        (256, 448, Origin.EXPORTED),
        (448, 1024, Origin.ZERO),
    ]


def test_a_hole_in_the_file_is_not_zeros_on_the_disk(tmp_path, secret):
    """A cluster that was allocated but not written reads as the decryption of zeros."""
    path, raw = tmp_path / "image", notation.write_raw(tmp_path / "raw", "1M:A")
    encrypted.convert(raw, path, "qcow2", secret)
    with open(path, "r+b") as file:
        size = path.stat().st_size - (1 << 20)
        file.truncate(size)
        file.truncate(size + (1 << 20))
    seen = encrypted.content(path, "qcow2", secret, tmp_path / "seen")
    assert seen.count(0) < len(seen) // 2
    assert read_all(declared(path, "qcow2", secret)) == seen


def test_a_chain_with_three_secrets(tmp_path):
    """Each file has its own, and QEMU gets all of them for the chain that the headers name."""
    keys = [
        encrypted.secret_file(tmp_path / str(number), text)
        for number, text in enumerate([encrypted.SECRET, "other"] * 2)
    ]
    files = [tmp_path / "base.luks", tmp_path / "middle.qcow2", tmp_path / "top.qcow2"]
    encrypted.convert(notation.write_raw(tmp_path / "r0", "1M:A"), files[0], "luks", keys[0])
    below = ImageSource(str(files[0]), ImageFormat.LUKS, secret_file=str(keys[0]))
    expected, chain = bytearray(notation.content("1M:A")), (below,)
    for number in (1, 2):
        encrypted.create_overlay(files[number], keys[number], chain[0], 1 << 20)
        source = declared(files[number], "qcow2", keys[number], *chain)
        secrets = secrets_of([source])
        argv = ["qemu-io", *secrets.arguments, "-c", f"write -P {number} {number}00k 50k"]
        notation.run(*argv, *names_of([source], secrets.ids))
        expected[number * 100 << 10 : (number * 100 + 50) << 10] = bytes([number]) * (50 << 10)
        chain = (source, *chain)
    assert read_all(chain[0]) == bytes(expected)
    qemu_img.check(chain[0], 1 << 20)
    plain = notation.write_raw(tmp_path / "expected", "1M:-")
    plain.write_bytes(expected)
    qemu_img.compare(chain[0], ImageSource(str(plain), ImageFormat.RAW), 1 << 20)


@pytest.mark.parametrize("kind", ["luks", "qcow2"])
def test_a_wrong_secret(tmp_path, raw, secret, kind):
    path = encrypted.convert(raw, tmp_path / "image", kind, secret)
    wrong = encrypted.secret_file(tmp_path / "wrong", "wrong")
    with pytest.raises(ImageError) as caught:
        read_all(declared(path, kind, wrong))
    assert caught.value.reason == f"QEMU cannot decrypt {path}: no key slot opens with the secret in {wrong}"
    assert "For QEMU, every byte is part of the secret" in caught.value.remedy


def test_a_wrong_secret_from_a_descriptor():
    """No file has to be corrected, and no link can take its place."""
    error = wrong_secret("Invalid password", {"/a.luks": "/dev/fd/3"})
    assert error is not None
    assert error.remedy.startswith("Pass the right secret through that descriptor.")
    error = wrong_secret("Invalid password", {"/a.luks": "/dev/fd/3", "/b.luks": "/dev/fd/4"})
    assert error is not None
    assert error.remedy.startswith("Pass the right secrets through those descriptors.")


@pytest.mark.parametrize("left", [None, b""])
def test_a_wrong_secret_that_is_gone_meanwhile(tmp_path, left):
    """The failure of QEMU is reported, with advice on the other files."""
    gone, longer = tmp_path / "gone", encrypted.secret_file(tmp_path / "longer", "x\n")
    if left is not None:
        gone.write_bytes(left)
    error = wrong_secret("Invalid password", {"/a.luks": str(gone), "/b.luks": str(longer)})
    assert error is not None
    assert f"no key slot opens with the secret in one of these: {gone}" in error.why
    assert error.remedy.endswith(f"`truncate -s -1 {longer}` removes it.")


@pytest.mark.parametrize("kind", ["luks", "qcow2"])
def test_a_line_break_that_is_too_much(tmp_path, raw, secret, kind):
    path = encrypted.convert(raw, tmp_path / "image", kind, secret)
    longer = encrypted.secret_file(tmp_path / "longer", f"{encrypted.SECRET}\n")
    with pytest.raises(ImageError) as caught:
        read_all(declared(path, kind, longer))
    command = next(word for word in caught.value.remedy.split("`") if word.startswith("truncate"))
    assert command == f"truncate -s -1 {longer}"
    notation.run(*command.split())
    assert read_all(declared(path, kind, longer)) == raw.read_bytes()


@pytest.mark.parametrize("content", [b"\xff", b"a\0b"])
def test_what_cannot_be_a_secret(tmp_path, raw, secret, content):
    path = encrypted.convert(raw, tmp_path / "image", "luks", secret)
    secret.write_bytes(content)
    with pytest.raises(ImageError, match=f"cannot use the secret file {secret}: it is not UTF-8, or contains"):
        read_all(declared(path, "luks", secret))


@pytest.mark.parametrize("kind", ["luks", "qcow2"])
def test_a_secret_from_a_pipe(tmp_path, raw, secret, kind):
    path = encrypted.convert(raw, tmp_path / "image", kind, secret)
    reading, writing = os.pipe()
    os.write(writing, encrypted.SECRET.encode())
    os.close(writing)
    os.set_inheritable(reading, True)
    source = declared(path, kind, f"/dev/fd/{reading}")
    assert read_all(source) == read_all(source) == raw.read_bytes()
    os.close(reading)


@pytest.mark.parametrize("kind", ["luks", "qcow2"])
def test_odd_names_of_image_and_secret_file(tmp_path, raw, secret, kind):
    """A name that is not UTF-8 is passed as an option, and commas in options are doubled."""
    path = encrypted.convert(raw, tmp_path / "image", kind, secret)
    path = path.rename(tmp_path / os.fsdecode(b"im\xff,age"))
    secret = secret.rename(tmp_path / "se,cret=1")
    assert read_all(declared(path, kind, secret)) == raw.read_bytes()
    qemu_img.compare(declared(path, kind, secret), ImageSource(str(raw), ImageFormat.RAW), 1 << 20)


@pytest.mark.parametrize("kind", ["luks", "qcow2"])
def test_no_secret(tmp_path, raw, secret, kind):
    path = encrypted.convert(raw, tmp_path / "image", kind, secret)
    with pytest.raises(
        ImageError, match=r"it is encrypted\. Write `secret_file: PATH` beside its format"
    ) as caught:
        open_image(declared(path, kind, None))
    assert "If it is an overlay that was encrypted after apply, put a decrypted copy" in caught.value.remedy


def test_a_secret_for_an_image_that_is_not_encrypted(tmp_path, secret):
    path = notation.write_qcow2(tmp_path / "image", CONTENT)
    with pytest.raises(ImageError, match=r"it is not encrypted\. Leave `secret_file` out"):
        open_image(declared(path, "qcow2", secret))


@pytest.mark.parametrize("missing", ["luks", "qcow2"])
def test_a_secret_file_that_is_gone(tmp_path, raw, secret, missing):
    path = encrypted.convert(raw, tmp_path / "image", missing, secret)
    secret.unlink()
    with pytest.raises(ImageError, match=f"cannot use the secret file {secret}: No such file"):
        read_all(declared(path, missing, secret))


def patched(path: Path, at: int, form: str, *values: object) -> None:
    image = bytearray(path.read_bytes())
    struct.pack_into(form, image, at, *values)
    path.write_bytes(image)


EXTENSION = 112
"""Where QEMU puts the first header extension, which is that of encryption."""


@pytest.mark.parametrize(
    ("at", "form", "values", "words"),
    [
        (32, ">I", (1,), "AES"),
        (32, ">I", (3,), "method 3 is unknown"),
        (32, ">I", (0,), "not encrypted with LUKS"),
        (EXTENSION, ">I", (0x12345678,), "names no LUKS header"),
        (EXTENSION + 4, ">IQQ", (8, 1 << 16, 0), "extension has 8 instead of 16 bytes"),
        (EXTENSION + 8, ">Q", (1 << 40,), "past the end of the file"),
        (EXTENSION + 8, ">Q", (1,), "not aligned to a cluster"),
        (EXTENSION + 8, ">Q", (0,), "overlap"),
        (EXTENSION + 16, ">Q", (0,), "names no LUKS header"),
        (EXTENSION + 16, ">Q", (1 << 63,), "past the end of the file"),
        (EXTENSION + 16, ">Q", (4096,), "truncated"),
        (EXTENSION + 16, ">Q", (100,), "truncated"),
    ],
)
def test_a_damaged_or_hostile_header_is_refused_before_qemu_sees_it(
    tmp_path, raw, secret, monkeypatch, at, form, values, words
):
    path = encrypted.convert(raw, tmp_path / "image", "qcow2", secret)
    patched(path, at, form, *values)
    monkeypatch.setenv("PATH", str(tmp_path))  # no QEMU can be started
    with pytest.raises(ImageError, match=words):
        read_all(declared(path, "qcow2", secret))


@pytest.mark.parametrize("kind", ["luks", "qcow2"])
def test_hours_of_cpu_time_are_refused_before_qemu_sees_it(tmp_path, raw, secret, monkeypatch, kind):
    path = encrypted.convert(raw, tmp_path / "image", kind, secret)
    start = path.read_bytes().index(b"LUKS\xba\xbe")
    patched(path, start + 208 + 4, ">I", (1 << 32) - 1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match=r"rounds of PBKDF2, more than .*luksChangeKey"):
        read_all(declared(path, kind, secret))


def test_a_data_file_as_well(tmp_path, raw, secret, monkeypatch):
    path = encrypted.convert(raw, tmp_path / "image", "qcow2", secret, f"data_file={tmp_path}/data")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match=r"encrypted and keeps its data in an external file.*`qemu-img convert`"):
        read_all(declared(path, "qcow2", secret))
