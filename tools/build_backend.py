r"""The build backend: setuptools, and in archives and wheels also man pages and completions, made from the parser.

::

    parser -> share/ in the source archive -> build/share/ -> share/ in the wheel
           \------------------------------/

So building a package from the source archive needs no generators, of which distributions have only older versions.
An editable installation, as for `make demo`, has none of these files.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from setuptools import build_meta

GENERATORS = ["argparse-manpage>=4.8", "shtab>=1.13"]
"""For the build alone: their licences would bind a program that imports them."""

SHARE = Path("build", "share")
"""pyproject.toml installs the files from here."""

IN_ARCHIVE = Path("share")
"""MANIFEST.in packs the files from here; a checkout does not have the folder."""

build_editable = build_meta.build_editable
get_requires_for_build_editable = build_meta.get_requires_for_build_editable
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable
prepare_metadata_for_build_wheel = build_meta.prepare_metadata_for_build_wheel


def get_requires_for_build_sdist(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Return what building a source archive needs besides setuptools."""
    return [*build_meta.get_requires_for_build_sdist(config_settings), *_generators()]


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Return what building a wheel needs besides setuptools."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_generators()]


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """Build a source archive, and return its name."""
    with _shared_files(IN_ARCHIVE):
        return str(build_meta.build_sdist(sdist_directory, config_settings))


def build_wheel(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel, and return its name."""
    with _shared_files(SHARE):
        return str(build_meta.build_wheel(wheel_directory, config_settings, metadata_directory))


def _generators() -> list[str]:
    return [] if IN_ARCHIVE.is_dir() else GENERATORS


@contextmanager
def _shared_files(folder: Path) -> Iterator[None]:
    """Put the files into ``folder``, and remove them afterwards: later builds make their own.

    An unpacked source archive keeps the files that it came with.
    """
    if folder == IN_ARCHIVE and IN_ARCHIVE.is_dir():
        yield
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        if IN_ARCHIVE.is_dir():
            shutil.copytree(IN_ARCHIVE, folder)
        else:
            import shell_files  # noqa: PLC0415  # needs the generators

            shell_files.write_all(folder)
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
