"""Options of ``definitions``."""

from __future__ import annotations

import argparse


def add_places(verb: argparse.ArgumentParser) -> None:
    """Add the options for definitions in files."""
    verb.add_argument(
        "--xml",
        metavar="FILE",
        nargs="+",
        action="extend",
        help="read the definitions of domains and pools from these files, not from libvirt",
    )
    verb.add_argument(
        "--proxmox",
        metavar="FOLDER",
        help="read the VM configurations of Proxmox VE in this folder, such as /etc/pve/qemu-server",
    )
    verb.add_argument(
        "--storage-cfg",
        metavar="FILE",
        help="the storage configuration of Proxmox VE (default: storage.cfg beside the folder of --proxmox, or in"
        " it)",
    )


def add_changes(verb: argparse.ArgumentParser) -> None:
    """Add the options for changing definitions or writing changed copies."""
    what = verb.add_mutually_exclusive_group()
    what.add_argument(
        "--write", metavar="FOLDER", help="write to this folder a changed copy of each definition that must change"
    )
    what.add_argument(
        "--define",
        action="store_true",
        help="change the definitions in libvirt, each only if its VM is shut off and its image is in place",
    )
    what.add_argument(
        "--undo",
        action="store_true",
        help="give each domain the definition that it had before the last --define of this plan",
    )
