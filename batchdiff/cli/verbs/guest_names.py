"""Print the names of a plan's guests for a shell's completion of ``--guest``; the help does not list this verb.

The arguments are the words of the command line, with or without their quotes, or the whole line in one argument.
Names are printed unquoted, for the shell to quote. The verb runs at each press of Tab, so it loads little.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence

from batchdiff.plan.head import guests_named_in


def run(words: Sequence[str]) -> int:
    """Print the names, one per line, except those with an unprintable character."""
    for word in words:
        for path in _meanings(word):
            names = guests_named_in(path)
            if names:
                sys.stdout.writelines(f"{name}\n" for name in names if name.isprintable())
                return 0
    return 0


def _meanings(word: str) -> Iterator[str]:
    """Yield the whole argument, then the words in it, unquoted."""
    yield os.path.expanduser(word)
    for end in ("", "'", '"'):  # a quote may still be open
        with contextlib.suppress(ValueError):
            yield from map(os.path.expanduser, shlex.split(word + end))
            return
