"""The error for an unusable image file of any format, and remedies."""

from __future__ import annotations

NOT_OPENED = "QEMU cannot open it either: restore it from a backup."

RESTORE_IT = "Restore it from a backup."

WRONG_FORMAT = "If its `format` in the manifest is wrong, correct that; otherwise, restore it from a backup."

CONVERT_ELSEWHERE = (
    "If it is sound, convert it with the program that created it, and use the result in the manifest."
)
"""For an unsupported kind or version: a backup would be just as unsupported."""

NEWER_QEMU = (
    "If a newer QEMU made it, use the `qemu-img convert` of that QEMU to make a copy without what is unknown, and"
    " use the copy. Otherwise, restore the image from a backup."
)

LACKS_OR_DAMAGED = (
    "If QEMU lacks what the image needs, such as the driver for its format, install that. If the image is damaged,"
    " restore it from a backup."
)

SHOULD_HAVE_CONTENT = "If it should have content, restore it from a backup."

REPAIR_A_COPY = "Run `qemu-img check -r all` on a copy of it, and use the copy."

SHUT_DOWN_OR_REPAIR = (
    "If a VM is using it, shut the VM down. Otherwise run `qemu-img check -r all` on a copy of it, and use the"
    " copy."
)
"""The header does not show which of the two is needed."""

LEGACY_ENCRYPTION = (
    "VMs have been unable to use it since QEMU 2.9. Convert it to LUKS: `qemu-img convert --object"
    " secret,id=s,file=SECRET_FILE -O luks -o key-secret=s --image-opts"
    " driver=qcow2,encrypt.key-secret=s,file.filename=IMAGE NEW_IMAGE`."
)

ONE_FILE = "Make a single-file qcow2 copy with `qemu-img convert`, and use that in the manifest."


class FormatError(ValueError):
    """A file that cannot be used, or a new one that cannot be made.

    ``remedy``: advice in whole sentences.
    """

    def __init__(self, problem: str, *, remedy: str = RESTORE_IT) -> None:
        super().__init__(problem)
        self.remedy = remedy


def require(condition: object, problem: str, *, remedy: str = RESTORE_IT) -> None:
    """Raise :class:`FormatError` unless the condition is true."""
    if not condition:
        raise FormatError(problem, remedy=remedy)


def require_opened(condition: object, problem: str) -> None:
    """Require a condition without which QEMU does not open the file."""
    require(condition, problem, remedy=NOT_OPENED)
