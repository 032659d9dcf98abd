"""The build backend: setuptools, and in a wheel also the man pages and completions that are made from the parser.

An editable installation, as for `make demo`, has none of them, so it needs nothing but setuptools.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from setuptools import build_meta

GENERATORS = ["argparse-manpage>=4.8", "shtab>=1.13"]
"""For the build alone: their licences would bind a program that imports them."""

SHARE = Path("build", "share")
"""pyproject.toml installs the files from here."""

build_editable = build_meta.build_editable
build_sdist = build_meta.build_sdist
get_requires_for_build_editable = build_meta.get_requires_for_build_editable
get_requires_for_build_sdist = build_meta.get_requires_for_build_sdist
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable
prepare_metadata_for_build_wheel = build_meta.prepare_metadata_for_build_wheel


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Return what a wheel needs beside setuptools."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *GENERATORS]


def build_wheel(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel, and return its name. The files are removed afterwards: later builds make their own."""
    import shell_files  # noqa: PLC0415  # needs the generators

    shutil.rmtree(SHARE, ignore_errors=True)
    try:
        shell_files.write_all(SHARE)
        return str(build_meta.build_wheel(wheel_directory, config_settings, metadata_directory))
    finally:
        shutil.rmtree(SHARE, ignore_errors=True)
