"""The option ``--textfile`` of the verbs that write metrics."""

from __future__ import annotations

import argparse


def metrics_file(text: str) -> str:
    """Return the name of a file for metrics.

    :raises ArgumentTypeError: it does not end with .prom.
    """
    if not text.endswith(".prom"):
        raise argparse.ArgumentTypeError(f"{text!r} does not end with .prom, so node_exporter would not read it")
    return text


def add_textfile(verb: argparse.ArgumentParser) -> None:
    """Add the option to a verb."""
    verb.add_argument(
        "--textfile",
        metavar="FILE.prom",
        type=metrics_file,
        help="also write metrics for Prometheus' node_exporter to this file",
    )
