"""The causes of an error, however deep; the file that an error about an image is about."""

from __future__ import annotations

import ast
import errno
import pickle
from pathlib import Path

import pytest

import batchdiff
from batchdiff.errors import (
    EncryptedError,
    ImageError,
    InUseError,
    MovedError,
    ProgramError,
    VerificationError,
    is_caused_by,
    is_inconclusive,
)


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


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (None, False),
        (OSError(errno.EIO, "Input/output error"), False),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), False),
        (PermissionError(errno.EACCES, "Permission denied"), True),
        (TimeoutError("timed out"), True),
        (OSError(errno.EMFILE, "Too many open files"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (ProgramError("cannot run qemu-nbd"), True),
        (InUseError("an image is in use"), True),
    ],
    ids=str,
)
def test_whether_an_error_leaves_open_that_an_image_is_sound(cause, expected):
    assert is_inconclusive(cause) is expected
    assert is_inconclusive(raised_from(raised_from(cause))) is expected


def test_an_error_about_an_image_keeps_its_file_in_another_process():
    error = MovedError("cannot use /a", why="it was moved", remedy="Correct it.", path="/a")
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.path) == (MovedError, str(error), "/a")


NO_FILE = {
    "applying/template/template_health.py": "it rewords an error for a report, and nothing decides by it",
    "planning/assessment.py": "the error is about a folder",
    "planning/planner.py": "while a plan is made, nothing decides by it",
    "planning/scan/reopening.py": "while images are scanned, nothing decides by it",
}
"""Modules with an error about an image that does not carry the file, each with the reason."""


def errors_about_images(tree: ast.AST) -> list[ast.Call]:
    """Return the calls that make an error whose first argument is an f-string, and so may name a file."""
    kinds = {kind.__name__ for kind in (ImageError, EncryptedError, MovedError)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    return [call for call in calls if call.func.id in kinds and not isinstance(call.args[0], ast.Constant)]


def test_every_error_that_names_an_image_carries_its_file():
    """``applying/guests/whole_originals`` decides by it whether an original is called intact."""
    folder = Path(batchdiff.__file__).parent
    made = {
        str(path.relative_to(folder)): calls
        for path in folder.rglob("*.py")
        if (calls := errors_about_images(ast.parse(path.read_text())))
    }
    assert sum(map(len, made.values())) > 40
    without = {
        name
        for name, calls in made.items()
        if any("path" not in {keyword.arg for keyword in call.keywords} for call in calls)
    }
    assert without == set(NO_FILE)
