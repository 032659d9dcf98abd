"""Options of ``discover``."""

from __future__ import annotations

import argparse

OUTPUT = "write a manifest for each template to this folder, or a single manifest to this file (.yaml)"


def add_search(verb: argparse.ArgumentParser) -> None:
    """Add the arguments that decide which images are sampled, and how."""
    verb.add_argument(
        "paths", metavar="PATH", nargs="*", help="an image, a folder to search for images, or a quoted glob"
    )
    verb.add_argument(
        "--libvirt", action="store_true", help="also examine the disks of all domains that are defined in libvirt"
    )
    verb.add_argument(
        "--template",
        metavar="IMAGE",
        action="append",
        default=[],
        dest="templates",
        help="find only the copies of this image; may be repeated",
    )
    verb.add_argument(
        "--sequential",
        action="store_true",
        help="read a few long stretches instead of many small samples, for spinning disks",
    )
