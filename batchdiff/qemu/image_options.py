"""The options with which QEMU opens an image.

Source: QEMU ``qapi/block-core.json`` (BlockdevOptionsLUKS, BlockdevQcow2Encryption).
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from batchdiff.image_source import ImageFormat, ImageSource


def names_of(
    images: list[ImageSource],
    secrets: dict[str, str],
    *,
    alone: bool = False,
    of_files: Mapping[str, object] = MappingProxyType({}),
) -> list[str]:
    """Return arguments that name images so that QEMU mistakes no part of a path for a protocol or an option.

    The arguments are JSON, which must be UTF-8; if a path is not UTF-8, they are options. ``secrets``: QEMU's
    names for the secrets, by the paths of their files. ``alone``: True to open no backing files. ``of_files``:
    options for each file in the images' chains. Source: QEMU, ``qemu-img`` manual, ``--image-opts``.

    :raises OSError: an image cannot be examined.
    """
    if all(image.path.isascii() or _is_utf8(image.path) for image in images):
        only: dict[str, object] = {"backing": None} if alone else {}
        return [f"json:{json.dumps(_opened(image, image.path, secrets, of_files) | only)}" for image in images]
    blank: dict[str, object] = {"backing": ""} if alone else {}  # deprecated, but an option cannot be null
    options = [_opened(image, image.path.replace(",", ",,"), secrets, of_files) | blank for image in images]
    return ["--image-opts", *(",".join(dotted(each)) for each in options)]


def _opened(
    image: ImageSource, path: str, secrets: dict[str, str], of_files: Mapping[str, object]
) -> dict[str, object]:
    file = {"driver": _driver(image), "filename": path, **of_files}
    own = {"driver": image.format.value, "file": file} | _decryption_of_one(image, secrets)
    return own | _of_backing(image, secrets, of_files)


def node_of(image: ImageSource, ids: dict[str, str]) -> dict[str, object]:
    """Return the options with which QEMU opens an image as part of another.

    :raises OSError: the image cannot be examined.
    """
    return _opened(image, image.path, ids, {})


def _driver(image: ImageSource) -> str:
    return "host_device" if stat.S_ISBLK(os.stat(image.path).st_mode) else "file"


def _is_utf8(path: str) -> bool:
    return not any("\udc80" <= letter <= "\udcff" for letter in path)


def decryption(image: ImageSource, ids: dict[str, str]) -> dict[str, object]:
    """Return the options with which QEMU decrypts an image and its chain."""
    return _decryption_of_one(image, ids) | _of_backing(image, ids, {})


def _of_backing(image: ImageSource, ids: dict[str, str], of_files: Mapping[str, object]) -> dict[str, object]:
    """Return the options for backing files, but not their names and formats: QEMU takes these from the headers."""
    found: dict[str, object] = {}
    for each in reversed(image.backing):
        own = _decryption_of_one(each, ids) | ({"file": dict(of_files)} if of_files else {}) | found
        found = {"backing": own} if own else {}
    return found


def _decryption_of_one(image: ImageSource, ids: dict[str, str]) -> dict[str, object]:
    if image.secret_file is None:
        return {}
    name = ids[image.secret_file]
    options: dict[str, object] = {"key-secret": name}
    return options if image.format is ImageFormat.LUKS else {"encrypt": {"format": "luks"} | options}


def dotted(options: dict[str, object], prefix: str = "") -> Iterator[str]:
    """Yield nested options in the form ``backing.key-secret=sec0``."""
    for key, value in options.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={value}"
