"""What is said about the parts of a deleted image that are not deleted."""

from __future__ import annotations

import pytest

from batchdiff.applying.swap import other_files
from batchdiff.files.fingerprint import fingerprint_at


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.unlink(), "it is gone, or cannot be examined"),
        (lambda path: path.rename(f"{path}.old") and path.touch(), "another file is in its place"),
    ],
    ids=["gone", "replaced"],
)
def test_a_part_that_changes_meanwhile_is_named_with_its_change(tmp_path, monkeypatch, change, said):
    """It was still there when the parts were looked for."""
    path = tmp_path / "vm-f001.vmdk"
    path.write_bytes(b"x")
    part = (str(path), fingerprint_at(str(path)))
    change(path)
    monkeypatch.setattr(other_files, "parts_left", list)
    remarks = other_files.delete_other_files([part], None, of="the original", freed=[])
    assert remarks == [f"{path}, a part of the original, was not deleted: {said}"]
