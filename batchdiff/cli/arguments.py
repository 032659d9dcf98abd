"""The command line: its parser, and the options that all verbs have."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

from batchdiff import __version__
from batchdiff.cli.console import ProgressMode
from batchdiff.cli.help_layout import EXIT_CODES, help_layout
from batchdiff.cli.options.option_values import file_to_write, one_of
from batchdiff.cli.verb_arguments import VERBS
from batchdiff.quoting import show, suggestion

_SYNONYMS = {
    "check": "validate",
    "convert": "apply",
    "delete": "purge",
    "diff": "plan",
    "execute": "apply",
    "find": "discover",
    "guess": "estimate",
    "info": "show",
    "libvirt": "definitions",
    "list": "status",
    "report": "show",
    "revert": "restore",
    "rollback": "restore",
    "run": "apply",
    "sample": "estimate",
    "scan": "plan",
    "search": "discover",
    "undo": "restore",
}

_NO_SUCH_OPTION = dict.fromkeys(
    ("--dry-run", "--dryrun", "-n"),
    "; for a dry run of `apply`, use `batchdiff plan`, which changes no image and shows what `apply` would do;"
    " `restore` and `purge` have --dry-run",
)
"""Options that a user may try with verbs that lack them."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; it stores the verb's name as ``verb``."""
    return _parsers()[0]


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Return the arguments of a command line.

    :raises SystemExit: with code 0 if it asks for help or the version, with 2 if it is wrong or empty.
    """
    main, verbs = _parsers()
    if argv[:1] == ["help"]:
        argv = [*argv[1:2], "--help"]
    if not argv:
        main.print_help(sys.stderr)
        main.exit(2)
    if not argv[0].startswith("-") and argv[0] not in verbs:
        main.error(f"there is no verb {show(argv[0])}{_verb_meant(argv[0], verbs)}")
    if option := _too_early(argv, main, verbs):
        main.error(f"{option} is an option of the verb: write it after the verb")
    arguments, unknown = main.parse_known_args(argv)
    if unknown:
        options = [option for option in _options_of(verbs[arguments.verb]) if option.startswith("--")]
        hints = {_NO_SUCH_OPTION.get(word) or _option_meant(word, options): None for word in unknown}
        # argparse takes the value of an unknown option for a positional argument, and may then report a correct
        # one as extra.
        wrong = [word for word in unknown if word.startswith("-")] or unknown
        # Questions in a row become one question.
        meant = "".join(hints).replace("?; did you mean ", " and ")
        main.error(f"unrecognized arguments: {' '.join(wrong)}{meant}")
    return arguments


def _parsers() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    main = argparse.ArgumentParser(
        prog="batchdiff",
        description="Turn full clones of a virtual machine template into thin qcow2 overlays.\n\n"
        "  batchdiff discover images            find out which images are copies\n"
        "  batchdiff plan manifest.yaml         compare the images, without changing any\n"
        "  batchdiff apply manifest.plan.json   write the overlays, after your review",
        epilog=EXIT_CODES,
        formatter_class=help_layout,
        allow_abbrev=False,
    )
    main.add_argument("-V", "--version", action="version", version=f"batchdiff {__version__}")
    verbs = main.add_subparsers(dest="verb", required=True, metavar="VERB")
    common = _common()
    for add in VERBS:
        add(verbs, common)
    return main, verbs.choices


def _verb_meant(word: str, verbs: Iterable[str]) -> str:
    known = _SYNONYMS.get(word.lower())
    meant = f"; did you mean {show(known)}?" if known else suggestion(word.lower(), verbs)
    return meant or f"; the verbs are {', '.join(verbs)}"


def _options_of(verb: argparse.ArgumentParser) -> Iterable[str]:
    return verb._option_string_actions  # argparse has no public way to list them


def _too_early(
    argv: Sequence[str], main: argparse.ArgumentParser, verbs: Mapping[str, argparse.ArgumentParser]
) -> str:
    verb = next((word for word in argv if word in verbs), None)
    if verb is None:
        return ""
    before = (word.partition("=")[0] for word in takewhile(lambda word: word.startswith("-"), argv))
    own = set(_options_of(verbs[verb])) - set(_options_of(main))
    return next((option for option in before if option in own), "")


def _option_meant(word: str, options: Iterable[str]) -> str:
    return suggestion(word.partition("=")[0], options) if word.startswith("--") else ""


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False, formatter_class=help_layout)
    group = common.add_argument_group("common options")
    group.add_argument("-q", "--quiet", action="store_true", help="print only results, warnings and errors")
    group.add_argument("-v", "--verbose", action="store_true", help="print more details")
    group.add_argument(
        "--progress",
        choices=list(ProgressMode),
        default=ProgressMode.AUTO,
        type=one_of(ProgressMode),
        help="when to draw a progress bar (default: auto, which means on a terminal)",
    )
    group.add_argument(
        "--json",
        action="store_true",
        help="print events, one JSON object per line, on stdout instead of the result",
    )
    group.add_argument(
        "--log-file",
        metavar="FILE",
        type=file_to_write,
        help="append every message and result to this file, with the time, even with -q",
    )
    return common
