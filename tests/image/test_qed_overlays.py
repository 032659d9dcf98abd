"""QED images with a backing file are read as QEMU reads them: clusters, zeros, and what shows through."""

import random

import notation
import pytest
from oracle import assert_same, guest_bytes

from batchdiff.errors import ImageError
from batchdiff.image.open import open_image
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.qcow2.entries import Origin

BELOW = "1M:A 1M:0 512k:- 1M:B"
SIZE = notation.size(BELOW)


def overlay(folder, template, form="raw", options="", size=SIZE):
    path = folder / "o.qed"
    arguments = ["-o", options] if options else []
    notation.run(
        "qemu-img", "create", "-q", "-f", "qed", "-b", str(template), "-F", form, *arguments, str(path), str(size)
    )
    return path


def opened(path, template):
    return open_image(ImageSource(str(path), ImageFormat.QED, (ImageSource(str(template), ImageFormat.RAW),)))


@pytest.mark.parametrize("options", ["", "cluster_size=4k,table_size=2", "cluster_size=1M"])
@pytest.mark.parametrize("seed", range(3))
def test_random_writes(tmp_path, options, seed):
    rng = random.Random(seed)
    template = notation.write_raw(tmp_path / "t.raw", BELOW)
    path = overlay(tmp_path, template, options=options, size=SIZE + 512 * rng.randrange(3000))
    commands = []
    for _ in range(12):
        at, length = 512 * rng.randrange(SIZE // 512 - 300), 512 * rng.randrange(1, 300)
        commands.append(f"write {rng.choice(['-P 7', '-z', '-P 9'])} {at} {length}")
    notation.qemu_io(path, *commands, image_format="qed")
    with opened(path, template) as image:
        assert_same(guest_bytes(image, 0, image.virtual_size), notation.qemu_content(path, "qed"))


def test_what_shows_through_is_absent(tmp_path):
    template = notation.write_raw(tmp_path / "t.raw", BELOW)
    path = overlay(tmp_path, template)
    notation.qemu_io(path, "write -P 7 64k 64k", "write -z 128k 64k", image_format="qed")
    with opened(path, template) as image:
        found = [(part.start, part.end, part.origin) for part in image.layers[0].parts(0, SIZE)]
    k = 1024
    assert found == [
        (0, 64 * k, Origin.ABSENT),
        (64 * k, 128 * k, Origin.FILE),
        (128 * k, 192 * k, Origin.ZERO),
        (192 * k, SIZE, Origin.ABSENT),
    ]


def test_a_backing_file_must_be_declared(tmp_path):
    template = notation.write_raw(tmp_path / "t.raw", BELOW)
    with pytest.raises(ImageError, match="which the manifest does not declare"):
        open_image(ImageSource(str(overlay(tmp_path, template)), ImageFormat.QED))


def test_a_name_without_utf8(tmp_path):
    folder = tmp_path / "\udcff"
    folder.mkdir()
    template = notation.write_raw(folder / "t.raw", BELOW)
    path = overlay(folder, template)
    notation.qemu_io(path, "write -P 7 64k 64k", image_format="qed")
    with opened(path, template) as image:
        assert [part.origin for part in image.layers[0].parts(0, 192 * 1024)][1] is Origin.FILE


def test_a_raw_template_that_qemu_would_take_for_another_format(tmp_path):
    """QED does not record formats other than raw, so a header without that mark makes QEMU guess."""
    template = notation.write_qcow2(tmp_path / "t.qcow2", BELOW)
    path = overlay(tmp_path, template, form="qcow2")
    with pytest.raises(ImageError, match="would not read its backing file"):
        opened(path, template)
