"""A fleet of hostile guests, one of each kind, and what lies outside of it and must not be touched."""

from __future__ import annotations

import json
import os
import re
import socket
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import notation
import xxhash
from kinds import NAMES_OUTSIDE, Kind

CONTENT = "1M:- 1M:A 1M:- 100k:B 924k:-"
TEMPLATE = "1M:- 1M:A"
_ZEROS = bytes(65536)


@contextmanager
def baits(folder: Path) -> Iterator[dict[str, str]]:
    """Files, a FIFO and listening sockets outside of a fleet; yields the names of :data:`kinds.NAMES_OUTSIDE`.

    Fails if another process has connected to a socket.
    """
    outside = folder / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret" * 1000)
    (outside / "data").write_bytes(b"data" * 3 * 4096)
    os.mkfifo(outside / "fifo")
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        # A socket's path is short, and that of a test's folder may be long.
        here = os.open(outside, os.O_PATH)
        unix.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
        for each in (tcp, unix):
            each.listen()
            each.setblocking(False)
        known = {"outside": str(outside), "port": str(tcp.getsockname()[1])}
        yield {what: fill(name, known) for what, name in NAMES_OUTSIDE.items()}
        for each in (tcp, unix):
            try:
                each.accept()
            except BlockingIOError:
                continue
            raise AssertionError("a process has connected")


def fill(text: str, known: dict[str, str]) -> str:
    for word, value in known.items():
        text = text.replace(f"{{{word}}}", value)
    return text


class HostileFleet:
    """A folder with a template and one image of each kind, all of one format unless ``keys`` gives others.

    ``keys``: further keys of the manifest for the guests of a base, such as the file with their secret.
    """

    def __init__(
        self,
        folder: Path,
        image_format: str,
        kinds: list[Kind],
        made: dict[str, bytes],
        keys: Mapping[str, list[str]] = types.MappingProxyType({}),
    ) -> None:
        self.folder, self.image_format = folder, image_format
        self.kinds = {file_name(kind): kind for kind in kinds}
        assert len(self.kinds) == len(kinds), "two kinds have one name"
        images = folder / "images"
        images.mkdir(parents=True)
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        notation.write_raw(folder / "template.img", TEMPLATE)
        (folder / "links").mkdir()
        (folder / "links" / "link").symlink_to("../../outside/secret")
        (folder / "links" / "data").symlink_to("../../outside/data")
        for name, kind in self.kinds.items():
            image = bytearray(made[kind.base])
            size = kind.change(image)
            write_sparse(images / name, image)
            if isinstance(size, int):
                os.truncate(images / name, size)
        guests = [
            "  - {" + ", ".join([f"path: {json.dumps('images/' + name)}", *keys.get(kind.base, [])]) + "}"
            for name, kind in self.kinds.items()
        ]
        manifest = [
            "version: 1",
            "template: {path: template.img, format: raw}",
            f"defaults: {{format: {image_format}}}",
            "allow_loss: [encryption]",
        ]
        (folder / "fleet.yaml").write_text("\n".join([*manifest, "guests:", *guests, ""]))

    def state(self) -> dict[str, tuple[str, int, int]]:
        """Hash, size and time of change of every image."""
        return {
            path.name: (digest(path), path.stat().st_size, path.stat().st_mtime_ns)
            for path in (self.folder / "images").iterdir()
            if path.name in self.kinds
        }

    def planned(self) -> dict[str, dict]:
        """The plan's guests, by the names of their files."""
        plan = json.loads((self.folder / "fleet.plan.json").read_text())
        return {os.path.basename(guest["path"]): guest for guest in plan["guests"]}


def digest(path: Path) -> str:
    """The hash of a file's data, up to 64 MiB, and of where it is: holes count for nothing."""
    found, at = xxhash.xxh3_128(), 0
    with open(path, "rb", buffering=0) as file, suppress(OSError):  # ENXIO: no data follows
        while at < 64 << 20:
            start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.update(f"{start} {at} ".encode() + os.pread(file.fileno(), at - start, start))
    return found.hexdigest()


def file_name(kind: Kind) -> str:
    """The name of a kind's file."""
    return re.sub(r"[^\w.=^+-]+", "-", kind.name)[:100]


def write_sparse(path: Path, data: bytes | bytearray) -> None:
    """Writes a file whose blocks of zeros are holes."""
    with open(path, "wb") as file:
        for at in range(0, len(data), 65536):
            block = data[at : at + 65536]
            if block != _ZEROS[: len(block)]:
                file.seek(at)
                file.write(block)
        file.truncate(len(data))


def sound_images(folder: Path, image_format: str, kinds: list[Kind], content: str) -> dict[str, bytes]:
    """The sound images to be changed, by their options."""
    raw = notation.write_raw(folder / "content.raw", content)
    made = {}
    for base in {kind.base for kind in kinds}:
        path = folder / "sound"
        path.unlink(missing_ok=True)
        notation.run("qemu-img", "convert", "-O", image_format, "-f", "raw", *base.split(), str(raw), str(path))
        made[base] = path.read_bytes()
    return made
