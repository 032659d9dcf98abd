"""The entry point of all verbs, which turns errors and signals into messages and exit codes."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import FrameType

from batchdiff.cli.arguments import parse_arguments
from batchdiff.cli.console import Console
from batchdiff.cli.output.outlet import STDOUT
from batchdiff.errors import EXIT_BUG, EXIT_INTERRUPTED, BatchdiffError, UsageError, advice_on_limit
from batchdiff.files.descriptors import require_descriptors
from batchdiff.report.charset import written_in
from batchdiff.signals import held_signals

_BUG = "this is a bug in batchdiff ({what}); no original was deleted without a verified overlay."
_REPORT_BUG = (
    "Traceback: {path}. Please report the bug and attach that file, which contains your command and the code that"
    " failed, but no image data and no secrets."
)
_REPORT_PRINTED_BUG = "Please report the bug and include the lines above, which could not be written to a file."

_NEED_FEW_DESCRIPTORS = {"validate", "show", "schema"}
"""Verbs that open at most one image at a time, and need no other program."""

GUEST_NAMES = "_guest-names"
"""The word with which a shell's completion asks for a plan's guests."""


def run(argv: list[str]) -> int:
    """Run a command line and return its exit code.

    :raises SystemExit: as for :func:`~batchdiff.cli.arguments.parse_arguments`.
    """
    # A stream is None if its descriptor was closed when Python started.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # stays open
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    console, verb, started = Console(), "", time.monotonic()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP, which must stay ignored
            signal.signal(number, _interrupt)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # if the encoding lacks ±, print \xb1
    if argv[:1] == [GUEST_NAMES]:
        return _complete(argv[1:])
    arguments = None
    try:
        arguments = _arguments(argv, console)
        verb = arguments.verb
        console = _console(arguments)
        with held_signals():  # so that the first event is printed even if a signal ends the command
            console.begin(verb)
        console = _logged(console, arguments, argv)
        with written_in(sys.stdout.encoding or "utf-8"):
            code = _verb(console, arguments)
    except BatchdiffError as error:
        console.error(error)
        code = error.exit_code
    except KeyboardInterrupt:
        _warn(console, "interrupted; run the same command again")
        code = EXIT_INTERRUPTED
    except Exception as error:
        code = _unexpected(console, error, argv, arguments)
    console.log(f"exit code {code} after {time.monotonic() - started:.1f} s")
    try:
        return console.end(verb, code, time.monotonic() - started)
    except KeyboardInterrupt:  # while the output waited for a reader
        return EXIT_INTERRUPTED


def _console(arguments: argparse.Namespace) -> Console:
    if arguments.json and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # JSON must be UTF-8
    return Console(
        verbosity=int(arguments.verbose) - int(arguments.quiet),
        json=arguments.json,
        progress=arguments.progress,
    )


def _logged(console: Console, arguments: argparse.Namespace, argv: list[str]) -> Console:
    if arguments.log_file is None:
        return console
    from batchdiff.cli.logs import session_log  # noqa: PLC0415

    console = replace(console, log_file=session_log.log_of(arguments))
    console.log(session_log.first_lines(arguments.verb, argv))
    return console


def _complete(words: list[str]) -> int:
    module = importlib.import_module("batchdiff.cli.verbs.guest_names")
    code: int = module.run(words)
    return code


def _unexpected(
    console: Console, error: Exception, argv: Sequence[str] = (), arguments: argparse.Namespace | None = None
) -> int:
    if isinstance(error, MemoryError):
        remedy = "Free some memory, then run the same command again."
        ending: BatchdiffError = BatchdiffError("out of memory", remedy=remedy)
    elif isinstance(error, OSError) and (remedy := advice_on_limit(error)):
        where = f" ({error.filename})" if error.filename is not None else ""
        ending = BatchdiffError("cannot continue", why=f"{error.strerror}{where}", remedy=remedy)
    elif isinstance(error, FileNotFoundError) and _is_folder_deleted():
        ending = UsageError(
            "the current folder has been deleted",
            remedy="Change to another folder, and run the same command again.",
        )
    else:
        _report_bug(console, error, argv, arguments)
        return EXIT_BUG
    console.error(ending)
    return ending.exit_code


def _report_bug(
    console: Console, error: Exception, argv: Sequence[str], arguments: argparse.Namespace | None
) -> None:
    from batchdiff.cli.logs import crash_report  # noqa: PLC0415  # takes 3 ms

    command = shlex.join(["batchdiff", *argv])
    text = crash_report.crash_text(error, command)
    path = crash_report.write_crash_report(text, crash_report.folders_for(arguments))
    what = crash_report.exception_line(error).splitlines()[0]
    if path is None:
        _warn(console, text)
    remedy = _REPORT_PRINTED_BUG if path is None else _REPORT_BUG.format(path=path)
    _warn(console, f"{_BUG.format(what=what)} {remedy}")
    console.event("error", message=_BUG.format(what=what), remedy=remedy, exit_code=EXIT_BUG)


def _warn(console: Console, text: str) -> None:
    """Print why a command ends, unless stderr cannot be written to."""
    with contextlib.suppress(UsageError):
        console.warn(text)


def _is_folder_deleted() -> bool:
    try:
        os.getcwd()
    except OSError:
        return True
    return False


def _arguments(argv: list[str], console: Console) -> argparse.Namespace:
    """Parse the command line; the console prints help and the version, so that a failed write is reported."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            return parse_arguments(argv)
    except SystemExit:
        if said.getvalue():
            console.result(said.getvalue())
            STDOUT.flush()
        raise


def _verb(console: Console, arguments: argparse.Namespace) -> int:
    if arguments.verb not in _NEED_FEW_DESCRIPTORS:
        require_descriptors()
    # Imported by name, so that `show` does not load what only `plan` needs. Signals are held back, because numpy
    # reports Ctrl-C during its import as a broken installation.
    with held_signals():
        module = importlib.import_module(f"batchdiff.cli.verbs.{arguments.verb}")
    with _advice_for(arguments):
        code: int = module.run(console, arguments)
    return code


@contextlib.contextmanager
def _advice_for(arguments: argparse.Namespace) -> Iterator[None]:
    """Put the plan's full path, and each ``--map``, into recommended commands."""
    if "plan" not in arguments:
        yield
        return
    from batchdiff.applying.guests.commands import commands_for  # noqa: PLC0415

    with commands_for(os.path.abspath(arguments.plan), getattr(arguments, "moves", None) or []):
        yield


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
