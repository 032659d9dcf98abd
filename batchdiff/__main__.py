"""``python -m batchdiff``."""

from __future__ import annotations

import sys

from batchdiff.cli.main import run


def main() -> None:
    """The installed command: runs a verb and exits with its code."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
