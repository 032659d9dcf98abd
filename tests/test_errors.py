"""The causes of an error, however deep."""

from __future__ import annotations

import pytest

from batchdiff.errors import ImageError, VerificationError, is_caused_by


def raised_from(cause: BaseException | None) -> BaseException:
    error = VerificationError("cannot verify it")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, False),
        (PermissionError(), True),
        (raised_from(PermissionError()), True),
        (raised_from(raised_from(NotADirectoryError())), True),
        (raised_from(raised_from(FileNotFoundError())), False),
        (ImageError("cannot read it"), False),
    ],
)
def test_whether_an_error_has_one_of_these_causes(error, expected):
    assert is_caused_by(error, PermissionError, NotADirectoryError) is expected
