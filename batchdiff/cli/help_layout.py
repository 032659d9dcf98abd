"""The layout of help, the exit codes, and the examples."""

from __future__ import annotations

import argparse
import contextlib
import os

_WIDTH = 80
"""The width if no terminal reports one."""

EXIT_CODES = """exit codes:
  0 done                              5 the plan is invalid, edited or stale
  1 done, but a guest was refused     6 verification failed
    or failed                         7 an external program is missing or failed
  2 the command line is wrong        10 work to do (--detailed-exitcode)
  3 the manifest is wrong            70 a bug in batchdiff
  4 an image cannot be read         130 interrupted"""


def help_layout(prog: str) -> argparse.HelpFormatter:
    """Return the formatter of a parser's help.

    Without ``width``, argparse imports shutil, which takes 2 ms of each start.
    """
    return argparse.RawDescriptionHelpFormatter(prog, width=_columns() - 2)


def _columns() -> int:
    with contextlib.suppress(ValueError):  # int() also refuses thousands of digits
        if (given := int(os.environ.get("COLUMNS", ""))) > 0:
            return given
    try:
        return os.get_terminal_size(1).columns or _WIDTH
    except OSError:
        return _WIDTH


EXAMPLES = {
    "discover": "example: batchdiff discover /var/lib/libvirt/images -o manifests/",
    "estimate": "example: batchdiff estimate manifest.yaml",
    "plan": "example: batchdiff plan manifest.yaml",
    "show": "example: batchdiff show manifest.plan.json --format html -o report.html",
    "apply": "example: batchdiff apply manifest.plan.json --guest web01",
    "status": "example: batchdiff status manifest.plan.json",
    "verify": "example: batchdiff verify manifest.plan.json",
    "restore": "example: batchdiff restore manifest.plan.json --guest web01",
    "purge": "example: batchdiff purge manifest.plan.json",
    "definitions": "example: batchdiff definitions manifest.plan.json --connect qemu:///system",
    "validate": "example: batchdiff validate manifest.yaml",
    "schema": "example: batchdiff schema events",
    "doctor": "example: batchdiff doctor /var/lib/libvirt/images",
}
