"""Sidecars of templates as apply writes them, and as it wrote them before it recorded the originals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import notation

from batchdiff.files.fingerprint import fingerprint_at
from batchdiff.plan.sidecar import Chain, OverlayOrigin, Sidecar, sidecar_path, to_document

PLAN = "sha256:" + "ab" * 32
VERSIONS = ("1.0", "1.1")
"""1.0 has neither the original's path nor the plan's."""


def write_sidecar(
    template: Path | str,
    overlays: Mapping[str, OverlayOrigin],
    *,
    version: str = "1.1",
    prints: Chain | None = None,
    earlier: tuple[Chain, ...] = (),
) -> Path:
    """The sidecar of a raw template with these overlays; its fingerprints are those of now unless given."""
    now = (fingerprint_at(str(template)),) if prints is None else prints
    image = {"path": str(template), "format": "raw", "virtual_size": 1 << 20}
    document = to_document(Sidecar("digest", now, dict(overlays), earlier), image)
    document["format_version"] = version
    if version == "1.0":
        del document["template"]["earlier"]
        for overlay in document["overlays"].values():
            for key in ("plan_path", "original", "fingerprint"):
                del overlay[key]
    path = Path(sidecar_path(str(template), next(iter(overlays), str(template))))
    path.write_text(json.dumps(document))
    return path


def put_overlay(path: Path | str, template: Path | str) -> None:
    """An empty overlay on a raw template, made by QEMU."""
    notation.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(template), "-F", "raw", str(path), "1M")
