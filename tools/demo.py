"""The demo: make a template and four guests, then run plan, show and apply as an operator would.

The guests are a raw copy that was used, a qcow2 copy that was used, a raw copy whose disk was enlarged, and a copy
that never changed. Everything is made from a seed by batchdiff's own writer, so QEMU is not needed.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys

from batchdiff.applying.writer.image_writer import NewImage, write_image
from batchdiff.extents import Kind, from_runs
from batchdiff.image.open import open_image
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.qcow2.geometry import Geometry
from batchdiff.qemu.qemu_img import is_installed
from batchdiff.units import KIB, MIB, ceil_div

TEMPLATE_SIZE = 256 * MIB
SEED = 2012
THIS = (sys.executable, "-m", "batchdiff")
_CLUSTER = 64 * KIB

MANIFEST = """\
version: 1
template: {path: template.raw, format: raw}
defaults: {format: raw}
guests:
  - path: web01.img
  - {path: db01.qcow2, format: qcow2}
  - {path: big01.img, overlay: {cluster_size: auto}}
  - path: idle01.img
"""


def main(folder: str, *program: str) -> None:
    """Make the images and run the three commands on them, with this Python's batchdiff or another ``program``."""
    marker = os.path.join(folder, "manifest.yaml")
    if os.path.exists(folder) and not os.path.exists(marker):
        sys.exit(f"{folder} exists, but this demo did not make it; move it away first")
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder)
    with open(marker, "w", encoding="ascii") as file:
        file.write(MANIFEST)
    make_images(folder)
    verify = "full" if is_installed() else "native"
    if verify == "native":
        print("qemu-img is not installed: batchdiff will verify the overlays itself.")
    for command in (
        ["plan", "manifest.yaml", "--quiet"],
        ["show", "manifest.plan.json"],
        ["apply", "manifest.plan.json", "--verify", verify],
    ):
        print(f"\n$ batchdiff {' '.join(command)}", flush=True)
        quietly = subprocess.DEVNULL if command[0] == "plan" else None
        subprocess.run([*(program or THIS), *command], cwd=folder, check=True, stdout=quietly)
    print(f"\nThe images are in {folder} (850 MiB); `make clean` removes them.")


def make_images(folder: str) -> None:
    """Make the template and the four guests in a folder."""
    rng = random.Random(SEED)
    template = os.path.join(folder, "template.raw")
    _write_template(template, rng)
    for name in ("web01.img", "big01.img", "idle01.img", "db01.raw"):
        _copy_sparse(template, os.path.join(folder, name))
    for name in ("web01.img", "big01.img", "db01.raw"):
        _run_on(os.path.join(folder, name), rng)
    os.truncate(os.path.join(folder, "big01.img"), TEMPLATE_SIZE + 128 * MIB)
    _to_qcow2(os.path.join(folder, "db01.raw"), os.path.join(folder, "db01.qcow2"))
    os.unlink(os.path.join(folder, "db01.raw"))


def _write_template(path: str, rng: random.Random) -> None:
    """Write a sparse file of 256 MiB, two thirds of it data."""
    with open(path, "wb") as file:
        for offset in range(0, TEMPLATE_SIZE, MIB):
            if rng.random() < 2 / 3:
                file.seek(offset)
                file.write(rng.randbytes(MIB))
        file.truncate(TEMPLATE_SIZE)


def _copy_sparse(source: str, target: str) -> None:
    with open(source, "rb") as given, open(target, "wb") as made:
        for offset in range(0, TEMPLATE_SIZE, MIB):
            data = given.read(MIB)
            if data.count(0) != len(data):
                made.seek(offset)
                made.write(data)
        made.truncate(TEMPLATE_SIZE)


def _run_on(path: str, rng: random.Random) -> None:
    """Write to 2% of a guest and discard a little, as a running machine does."""
    with open(path, "r+b") as file:
        for _ in range(TEMPLATE_SIZE // _CLUSTER // 50):
            file.seek(rng.randrange(TEMPLATE_SIZE // _CLUSTER) * _CLUSTER)
            file.write(rng.randbytes(_CLUSTER) if rng.random() < 0.8 else bytes(_CLUSTER))


def _to_qcow2(source: str, target: str) -> None:
    geometry = Geometry(_CLUSTER)
    with open_image(ImageSource(os.path.abspath(source), ImageFormat.RAW)) as image:
        runs = [
            (segment.start // _CLUSTER, ceil_div(segment.end - segment.start, _CLUSTER), int(Kind.DATA))
            for segment in image.segments(0, image.virtual_size)
            if segment.origin.name == "FILE"
        ]
        fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            write_image(fd, image, NewImage(image.virtual_size, geometry, from_runs(runs), backing=None))
        finally:
            os.close(fd)


if __name__ == "__main__":
    main(*sys.argv[1:])
