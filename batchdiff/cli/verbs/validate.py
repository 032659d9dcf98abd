"""``batchdiff validate``: check a manifest."""

from __future__ import annotations

import argparse

from batchdiff.cli.console import Console
from batchdiff.cli.warnings import warn_of_manifest
from batchdiff.errors import EXIT_DONE
from batchdiff.manifest.file import read_manifest
from batchdiff.manifest.text.input import STDIN
from batchdiff.report.manifest_text import guest_lines
from batchdiff.report.printable import printable


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Run the verb.

    :raises ManifestError: the manifest cannot be read, or has problems.
    """
    manifest = read_manifest(arguments.manifest)
    warn_of_manifest(console, manifest)
    for line in guest_lines(manifest):
        console.detail(line)
    count = len(manifest.guests)
    done = sum(guest.converted is not None for guest in manifest.guests)
    said = f"; converted by earlier plans: {done}" if done else ""
    name = "<stdin>" if arguments.manifest == STDIN else printable(arguments.manifest)
    console.result(f"{name} is valid: {count} guest{'' if count == 1 else 's'}{said}")
    console.event("valid", manifest=manifest.path, guests=[guest.name for guest in manifest.guests])
    return EXIT_DONE
