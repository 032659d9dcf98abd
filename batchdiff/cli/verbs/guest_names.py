"""The names of a plan's guests for the completion of ``--guest`` in a shell, which runs this at each press of Tab.

This verb, which the help does not list, gets the words of the command line as typed, one by one or all in one
argument. The first word that names a plan with guests counts. The shell's completion script quotes the names.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence

from batchdiff.plan.head import guests_named_in


def run(words: Sequence[str]) -> int:
    """Print the names, one per line. A name with a line break or an unprintable character is left out."""
    for word in words:
        for path in _meanings(word):
            names = guests_named_in(path)
            if names:
                sys.stdout.writelines(f"{name}\n" for name in names if name.isprintable())
                return 0
    return 0


def _meanings(word: str) -> Iterator[str]:
    """Yield the paths that typed words can mean: as they are, and without quotes. Only ~ is expanded."""
    yield os.path.expanduser(word)
    for end in ("", "'", '"'):  # a quote may still be open
        with contextlib.suppress(ValueError):
            yield from map(os.path.expanduser, shlex.split(word + end))
            return
