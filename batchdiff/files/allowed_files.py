"""The other files that an image may use.

::

    /images/web01.vmdk names      is resolved to              is allowed
    web01-f001.vmdk               /images/web01-f001.vmdk     yes: beside the image
    /pool/web01-f001.vmdk         itself                      with `allow_folders: [/pool]`
    link.vmdk -> /etc/passwd      /etc/passwd                 no: only the link's target counts

Only names are checked: the code that opens the file must follow no link, and require a regular file.
"""

from __future__ import annotations

import os

from batchdiff.errors import ImageError
from batchdiff.files.filenames import check_usable, unfit, why_unfit
from batchdiff.quoting import fits_yaml, show, yaml_text

_LONGEST_SHOWN = 1000
"""In characters; an image's header can contain a longer path."""
_COPY = "If you trust the image, copy it into a single file with `qemu-img convert`; otherwise do without it."


def allowed_file(name: str, image: str, folders: tuple[str, ...]) -> str:
    """Return the resolved path of a file that an image names.

    Files are allowed directly in the image's folder, and at any depth in ``folders``, which must be absolute paths
    without symbolic links.

    :raises ImageError: the file is not allowed.
    """
    own = os.path.realpath(os.path.dirname(image))
    try:
        check_usable(name)
    except ValueError as error:
        raise _not_plain(name, image, str(error)) from error
    if unfit(name):
        raise _not_plain(name, image, f"it contains {why_unfit(name)}")
    if ":" in name.split("/", 1)[0]:
        raise _not_plain(name, image, "QEMU takes the part before the colon for a protocol")
    path = os.path.realpath(os.path.join(own, name))
    if os.path.dirname(path) == own or any(_is_under(path, folder) for folder in folders):
        return path
    behind = "" if path == os.path.normpath(os.path.join(own, name)) else f"resolves to {show(path)} and "
    raise ImageError(
        f"cannot use {image}",
        path=image,
        why=f"it names the file {show(name)}, which {behind}is neither beside the image nor in a folder that the"
        " manifest allows",
        remedy=_allowing(os.path.dirname(path)),
    )


def _allowing(folder: str) -> str:
    if len(folder) > _LONGEST_SHOWN or unfit(folder) or not fits_yaml(folder):
        return _COPY
    added = f"`allow_folders: [{yaml_text(folder)}]`"
    return (
        f"If you trust the file's folder, add {added} beside `format` in the manifest. If the image is"
        " an overlay that apply has written, its data file must be beside it."
    )


def _is_under(path: str, folder: str) -> bool:
    return path.startswith(f"{folder.rstrip('/')}/")


def _not_plain(name: str, image: str, why: str) -> ImageError:
    return ImageError(
        f"cannot use {image}",
        path=image,
        why=f"it names the file {show(name)}, which is not a plain path; {why}",
        remedy=_COPY,
    )
