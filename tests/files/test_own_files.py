"""The names of the files that batchdiff makes beside images."""

import os
import subprocess

import notation
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchdiff.files.own_files import is_temporary_of, temporary

NAMES = st.tuples(st.integers(0, 3), st.sampled_from("aßあ\U0001f600"), st.integers(1, 250))


@given(NAMES)
def test_a_temporary_name_fits_and_has_no_part_of_a_letter(name):
    before, letter, count = name
    name = before * "a" + count * letter
    found = os.path.basename(temporary(f"/images/{name}"))
    assert len(found.encode("utf-8")) <= 255  # strict: half a letter would not encode
    assert found.startswith(f".{name[:40]}")
    assert is_temporary_of(found, f"/images/{name}") is (len(name.encode()) <= 200)


@pytest.mark.parametrize("name", [b"\xff" * 240, b"\x80" * 240, b"a" * 199 + b"\xc3" * 30])
def test_of_a_name_that_is_not_utf_8(name):
    found = os.path.basename(temporary("/images/" + os.fsdecode(name)))
    assert len(os.fsencode(found)) <= 255
    assert os.fsencode(found)[1:].startswith(name[:197])


def test_qemu_takes_a_name_that_was_cut(tmp_path):
    path = temporary(str(tmp_path / f"x{'ß' * 110}.qcow2"))
    notation.run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    opened = f'json:{{"driver": "qcow2", "file": {{"driver": "file", "filename": "{path}"}}}}'
    subprocess.run(["qemu-img", "check", "-q", opened], check=True, timeout=60)
