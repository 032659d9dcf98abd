"""Options of ``estimate``."""

from __future__ import annotations

import argparse

DEFAULT_ERROR = 0.02
_MOST_SEED = 2**63


def error_share(text: str) -> float:
    """Parse a share such as ``2%`` or ``0.02``.

    :raises ArgumentTypeError: it is not at least 0 and less than 1.
    """
    number, is_percent = text.removesuffix("%"), text.endswith("%")
    try:
        share = float(number) / (100 if is_percent else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a percentage of at least 0% and less than 100%, such as 2%"
        )
    return share


def seed(text: str) -> int:
    """Parse a seed.

    :raises ArgumentTypeError: it is not a whole number from 0 to 2^63 - 1.
    """
    if not text.isdecimal() or int(text) >= _MOST_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def add_sampling(verb: argparse.ArgumentParser) -> None:
    """Add the options that decide how much is sampled, and where."""
    verb.add_argument(
        "--error",
        metavar="SHARE",
        type=error_share,
        default=DEFAULT_ERROR,
        help="sample until the total savings are known to within this share of what the guests take on disk"
        " (default: 2%%); 0%% reads everything",
    )
    verb.add_argument(
        "--seed",
        metavar="N",
        type=seed,
        default=0,
        help="the number that determines which samples are drawn (default: 0)",
    )
