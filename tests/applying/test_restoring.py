"""Whether an original is still there, where numbers of inodes are used again."""

import dataclasses

import pytest

from batchdiff.applying.notes import DELETED, Standing, Step
from batchdiff.applying.places import original_names
from batchdiff.applying.restoring import _where_the_original_is
from batchdiff.applying.steps import OutgoingAt
from batchdiff.image.fingerprint import fingerprint_at


@pytest.mark.parametrize("noted", ["nothing", "rebuilt", "rebuilt and renamed", "another rebuilt", "deleted"])
def test_a_file_with_the_number_of_the_deleted_original(tmp_path, noted):
    path = tmp_path / "guest.img"
    path.write_bytes(b"rebuilt")
    there = fingerprint_at(str(path))
    original = dataclasses.replace(there, size=100, mtime_ns=1, ctime_ns=1)
    standing = {
        "nothing": Standing(Step.PUBLISHED),
        "rebuilt": Standing(Step.PUBLISHED, rebuilt=there),
        "rebuilt and renamed": Standing(Step.PUBLISHED, rebuilt=dataclasses.replace(there, ctime_ns=2)),
        "another rebuilt": Standing(Step.PUBLISHED, rebuilt=dataclasses.replace(there, size=3)),
        "deleted": Standing(Step.RETIRED, original=DELETED),
    }[noted]
    expected = OutgoingAt.NAMED if noted in {"nothing", "another rebuilt"} else OutgoingAt.GONE
    assert _where_the_original_is(original_names(str(path)), original, standing) is expected
