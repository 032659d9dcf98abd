"""The command line: its parser, and the options that all verbs have."""

from __future__ import annotations

import argparse

from batchdiff import __version__
from batchdiff.cli.console import ProgressMode
from batchdiff.cli.help_layout import help_layout
from batchdiff.cli.option_values import one_of
from batchdiff.cli.verb_arguments import EXIT_CODES, VERBS


def parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs; its namespace has ``verb`` and the verb's options."""
    main = argparse.ArgumentParser(
        prog="batchdiff",
        description="Turn full clones of a virtual machine template back into thin qcow2 overlays.",
        epilog=EXIT_CODES,
        formatter_class=help_layout,
        allow_abbrev=False,
    )
    main.add_argument("--version", action="version", version=f"batchdiff {__version__}")
    verbs = main.add_subparsers(dest="verb", required=True, metavar="VERB")
    common = _common()
    for add in VERBS:
        add(verbs, common)
    return main


_NO_SUCH_OPTION = dict.fromkeys(
    ("--dry-run", "--dryrun", "-n"),
    "; `batchdiff plan` is the dry run of apply: it only reads, and shows what `apply` would do;"
    " `restore` and `purge` have --dry-run",
)
"""Options that people try but that do not exist, each with the alternative to use."""


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Return the arguments of a command line; exit with code 2 if it is wrong."""
    main = parser()
    arguments, unknown = main.parse_known_args(argv)
    if unknown:
        hints = {_NO_SUCH_OPTION.get(word, ""): None for word in unknown}
        main.error(f"unrecognized arguments: {' '.join(unknown)}{''.join(hints)}")
    return arguments


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False, formatter_class=help_layout)
    group = common.add_argument_group("common options")
    group.add_argument("-q", "--quiet", action="store_true", help="print only results, warnings and errors")
    group.add_argument("-v", "--verbose", action="store_true", help="print more")
    group.add_argument(
        "--progress",
        choices=list(ProgressMode),
        default=ProgressMode.AUTO,
        type=one_of(ProgressMode),
        help="when to show progress",
    )
    group.add_argument("--json", action="store_true", help="one JSON object per line on stdout")
    return common
