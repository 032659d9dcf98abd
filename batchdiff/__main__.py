"""``python -m batchdiff``."""

from __future__ import annotations

import sys

_INTERRUPTED = 130


def main() -> None:
    """The installed command: runs a verb and exits with its code."""
    try:
        # Imported here: Ctrl-C while it loads is no reason for a traceback.
        from batchdiff.cli.main import run  # noqa: PLC0415

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
