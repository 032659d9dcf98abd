"""The names of a plan's guests for the completion of ``--guest`` in a shell, which runs this at every Tab.

It is no verb of the help. The words of the command line come as typed; the first that is a plan's file counts. The
shell's script quotes the names.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence

from batchdiff.plan.head import guests_named_in


def run(words: Sequence[str]) -> int:
    """Print the names, one per line. A name that does not fit on one, or does not print, is left out."""
    for word in words:
        for path in _meanings(word):
            names = guests_named_in(path)
            if names:
                sys.stdout.writelines(f"{name}\n" for name in names if name.isprintable())
                return 0
    return 0


def _meanings(word: str) -> Iterator[str]:
    """Yield the paths that a typed word can stand for: as it is, and without its quotes. Only ~ is expanded."""
    yield os.path.expanduser(word)
    try:
        yield from (os.path.expanduser(each) for each in shlex.split(word)[:1])
    except ValueError:  # a quote that is still open
        return
