"""The secrets of encrypted images, given to QEMU's programs by the path of a file, never by value.

Source: QEMU, ``qemu-img`` manual, "--object secret".
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from batchdiff.errors import SecretError
from batchdiff.files.filenames import shell_word
from batchdiff.image_source import ImageSource
from batchdiff.qemu.programs import CompletedProgram
from batchdiff.qemu.secret_files import ends_with_line_break, is_descriptor, readable_secret
from batchdiff.units import few

_NO_KEY_FITS = "Invalid password"
"""QEMU's message if a secret opens no key slot."""


class Secrets(NamedTuple):
    """The secrets that some images need.

    ``ids``: QEMU's name for each, by the path of its file. ``arguments``: the options that define them. A program
    must be able to read the paths ``reads``, and must inherit the descriptors ``inherits``.
    """

    ids: dict[str, str]
    arguments: tuple[str, ...]
    reads: tuple[str, ...]
    inherits: tuple[int, ...]


def secrets_of(images: Iterable[ImageSource]) -> Secrets:
    """Return the secrets that images and their chains need.

    :raises OSError: a secret cannot be copied into memory.
    :raises SecretError: a secret cannot be used.
    """
    files = dict.fromkeys(each.secret_file for each in _files(images) if each.secret_file is not None)
    ids = {path: f"sec{number}" for number, path in enumerate(files)}
    found = {path: readable_secret(path) for path in files}
    arguments: list[str] = []
    for path, name in ids.items():
        arguments += ["--object", f"secret,id={name},file={found[path].path.replace(',', ',,')}"]
    return Secrets(
        ids,
        tuple(arguments),
        tuple(each.path for each in found.values() if each.fd is None),
        tuple(each.fd for each in found.values() if each.fd is not None),
    )


def _files(images: Iterable[ImageSource]) -> Iterator[ImageSource]:
    for image in images:
        yield image
        yield from image.backing


def require_secrets_fit(done: CompletedProgram, images: Iterable[ImageSource]) -> None:
    """Raise SecretError if a program failed because a secret opens no key slot."""
    if done.code != 0:
        encrypted = {each.path: each.secret_file for each in _files(images) if each.secret_file is not None}
        if (error := wrong_secret(done.output, encrypted)) is not None:
            raise error


def wrong_secret(output: str, secret_files: Mapping[str, str]) -> SecretError | None:
    """Return the error if a program of QEMU failed because a secret opens no key slot; otherwise None.

    ``secret_files``: by the path of the encrypted image.
    """
    files = sorted(set(secret_files.values()))
    if not files or _NO_KEY_FITS not in output:
        return None
    why, advice = f"no key slot opens with the secret in {_one_of(files)}", _advice_on_line_breaks(files)
    which = "file" if len(files) == 1 else "wrong file"
    correct = f"Correct the {which}, or put a symbolic link to the right one in its place."
    if all(map(is_descriptor, files)):
        correct = "Pass the right secret through that descriptor."
        if len(files) > 1:
            correct = "Pass the right secrets through those descriptors."
    remedy = f"{correct} {advice}".strip()
    return SecretError(f"QEMU cannot decrypt {_one_of(secret_files)}", why=why, remedy=remedy)


def _one_of(paths: Collection[str]) -> str:
    return few(paths) if len(paths) == 1 else f"one of these: {few(paths)}"


def _advice_on_line_breaks(files: list[str]) -> str:
    for path in files:
        with contextlib.suppress(OSError, SecretError):  # QEMU could read the file, but it may be gone by now
            if not is_descriptor(path) and ends_with_line_break(path):
                return (
                    "For QEMU, the line break at the end of the file is part of the secret;"
                    f" `truncate -s -1 {shell_word(path)}` removes it."
                )
    return "For QEMU, every byte is part of the secret, even a line break at the end."
