"""Images of several files: VMDK with extents that QEMU made, under one descriptor, and qcow2 with a data file.

QEMU itself splits only disks larger than 2 GiB; with a descriptor of our own, those of tests are small.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import notation

SPARSE, FLAT, ONE_FLAT, VMFS = "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "monolithicFlat", "vmfs"
DATA_FILE, RAW_DATA_FILE = "data_file", "data_file_raw"
VMDKS = (SPARSE, FLAT, ONE_FLAT, VMFS)
KINDS = (*VMDKS, DATA_FILE, RAW_DATA_FILE)
_GRAIN = 65536
_WORDS = {SPARSE: "SPARSE", FLAT: "FLAT", ONE_FLAT: "FLAT", VMFS: "VMFS"}


def form_of(kind: str) -> str:
    return "vmdk" if kind in VMDKS else "qcow2"


def descriptor(kind: str, extents: list[tuple[int, str]]) -> str:
    """The text that names extents, each given by its sectors and its name."""
    lines = [
        "# Disk DescriptorFile",
        "version=1",
        "CID=12345678",
        "parentCID=ffffffff",
        f'createType="{kind}"',
        "# Extent description",
    ]
    end = " 0" if _WORDS[kind] == "FLAT" else ""
    lines += [f'RW {sectors} {_WORDS[kind]} "{name}"{end}' for sectors, name in extents]
    return "\n".join([*lines, "# The Disk Data Base", 'ddb.adapterType = "ide"', ""])


def write(path: Path, kind: str, content: bytes, pieces: int = 3) -> list[Path]:
    """Write an image with that content; return its other files."""
    if kind in {DATA_FILE, RAW_DATA_FILE}:
        return [_with_data_file(path, content, is_raw=kind == RAW_DATA_FILE)]
    pieces = 1 if kind in {ONE_FLAT, VMFS} else pieces
    step = (
        -(-len(content) // pieces // _GRAIN) * _GRAIN
    )  # QEMU reads sparse extents wrongly if they are not whole grains
    listed, files = [], []
    for number in range(pieces):
        piece = content[number * step : (number + 1) * step]
        file = path.with_name(f"{path.stem}-{'s' if kind == SPARSE else 'f'}{number + 1:03}.vmdk")
        _write_extent(file, kind, piece)
        listed.append((len(piece) // 512, file.name))
        files.append(file)
    path.write_text(descriptor(kind, listed))
    return files


def _with_data_file(path: Path, content: bytes, *, is_raw: bool) -> Path:
    data = path.with_suffix(".data")
    options = f"data_file={data},cluster_size=4096" + (",data_file_raw=on" if is_raw else "")
    _convert(content, "qcow2", options, path)
    return data


def _write_extent(file: Path, kind: str, piece: bytes) -> None:
    if kind != SPARSE:
        file.write_bytes(piece)
        notation.run("fallocate", "-d", str(file))
        return
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder) / "made.vmdk"
        _convert(piece, "vmdk", f"subformat={SPARSE}", made)
        made.with_name("made-s001.vmdk").rename(file)


def _convert(content: bytes, form: str, options: str, target: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=target.parent) as raw:
        raw.write(content)
        raw.flush()
        notation.run("qemu-img", "convert", "-f", "raw", "-O", form, "-o", options, raw.name, str(target))


def by_qemu(path: Path, form: str) -> bytes:
    """Return the content that QEMU reads in an image."""
    return notation.qemu_content(path, form)
