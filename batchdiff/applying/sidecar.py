"""The sidecar beside a template: what the template was when overlays were put on it, and which ones these are.

qcow2 keeps no identity of a backing file, so a template that changes damages every overlay without a sign.
``NAME.batchdiff-template.json`` is what `batchdiff verify` compares it with::

    {"format_version": "1.0", "template": {"path", "format", "virtual_size", "digest", "fingerprints": [...]},
     "overlays": {"/images/web01.qcow2": {"guest": "web01", "plan": "sha256:..."}}}
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from batchdiff.image.fingerprint import Fingerprint
from batchdiff.image.image import Image
from batchdiff.model import own_names
from batchdiff.model.plan_file import read_regular
from batchdiff.model.whole_file import discard_leftovers, write_whole

_VERSION = "1.0"
_LARGEST = 64 << 20


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What is recorded beside a template. ``overlays`` by path: guest and checksum of the plan."""

    digest: str
    fingerprints: tuple[Fingerprint, ...]
    overlays: dict[str, dict[str, str]]


def sidecar_path(template_path: str) -> str:
    """Where a template's sidecar is."""
    return template_path + own_names.SIDECAR


def read_sidecar(template_path: str) -> Sidecar | None:
    """A template's sidecar; None where there is none, or none to be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        document = json.loads(read_regular(sidecar_path(template_path), _LARGEST))
        if str(document["format_version"]).split(".", 1)[0] == _VERSION.split(".", 1)[0]:
            prints = tuple(Fingerprint(**each) for each in document["template"]["fingerprints"])
            overlays = {str(path): dict(each) for path, each in document["overlays"].items()}
            return Sidecar(str(document["template"]["digest"]), prints, overlays)
    return None


def note_overlay(template: Image, digest: str, overlay: str, origin: dict[str, str]) -> None:
    """Records that an overlay rests on the template; ``origin``: its guest and its plan.

    :raises OSError: nothing can be written beside the template.
    """
    with _changing(template, digest) as overlays:
        overlays[overlay] = origin


def forget_overlay(template: Image, digest: str, overlay: str) -> None:
    """Records that an overlay is no more.

    :raises OSError: nothing can be written beside the template.
    """
    if read_sidecar(template.path) is not None:
        with _changing(template, digest) as overlays:
            overlays.pop(overlay, None)


def discard_unfinished(template_path: str) -> None:
    """Removes what a process that died has left of a sidecar; where that fails, the next one does it."""
    with contextlib.suppress(OSError), _locked_folder(template_path):
        discard_leftovers(sidecar_path(template_path))


@contextmanager
def _locked_folder(template_path: str) -> Iterator[None]:
    """No other process changes a sidecar there meanwhile."""
    folder = os.open(os.path.dirname(template_path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


@contextmanager
def _changing(template: Image, digest: str) -> Iterator[dict[str, dict[str, str]]]:
    """The overlays of the sidecar, to be changed."""
    with _locked_folder(template.path):
        discard_leftovers(sidecar_path(template.path))
        before = read_sidecar(template.path)
        overlays = {} if before is None else dict(before.overlays)
        yield overlays
        if before != Sidecar(digest, template.fingerprints(), overlays):
            document = _document(template, digest, overlays)
            write_whole(sidecar_path(template.path), [json.dumps(document, indent=1), "\n"])


def _document(template: Image, digest: str, overlays: dict[str, dict[str, str]]) -> dict[str, Any]:
    return {
        "format_version": _VERSION,
        "template": {
            "path": template.path,
            "format": template.source.format.value,
            "virtual_size": template.virtual_size,
            "digest": digest,
            "fingerprints": [asdict(each) for each in template.fingerprints()],
        },
        "overlays": dict(sorted(overlays.items())),
    }
