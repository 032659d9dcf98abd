"""batchdiff.planning.scan.exports: one export for each image of a batch, whatever the number of workers."""

import os
import resource

import encrypted
import notation
import pytest
from commands import batchdiff

from batchdiff.image.open import open_image
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.planning.candidates import planned_image
from batchdiff.planning.scan import exports as exports_module
from batchdiff.planning.scan.exports import exports, files_to_open, is_exported
from batchdiff.qemu import shared_export

STREAM = ("-O", "vmdk", "-o", "subformat=streamOptimized")


def make(folder, name, content="4M:A 4M:B"):
    raw, path = notation.write_raw(folder / f"{name}.raw", content), folder / f"{name}.vmdk"
    notation.run("qemu-img", "convert", "-f", "raw", *STREAM, str(raw), str(path))
    return ImageSource(str(path), ImageFormat.VMDK)


@pytest.fixture
def started(monkeypatch):
    """The images whose exports are started in this process."""
    found = []
    real = shared_export.Export

    def export(path, *given):
        found.append(os.path.basename(path))
        return real(path, *given)

    monkeypatch.setattr(shared_export, "Export", export)
    return found


def test_what_is_exported(tmp_path):
    stream, raw = make(tmp_path, "a"), ImageSource(str(tmp_path / "a.raw"), ImageFormat.RAW)
    with open_image(stream) as image:
        assert is_exported(image)
    with open_image(raw) as image:
        assert not is_exported(image)


def test_an_encrypted_qcow2_image_is_exported_by_the_planner(tmp_path, started):
    raw, secret = notation.write_raw(tmp_path / "raw", "64k:A"), encrypted.secret_file(tmp_path / "secret")
    path = encrypted.convert(raw, tmp_path / "a.qcow2", "qcow2", secret)
    with open_image(ImageSource(str(path), ImageFormat.QCOW2, secret_file=str(secret))) as image:
        assert is_exported(image)
        with exports(image, [], None):
            assert started == ["a.qcow2"]


def test_workers_share_the_exports_of_the_planner(tmp_path, started):
    sources = [make(tmp_path, name) for name in ("template", "one", "two")]
    with open_image(sources[0]) as template:
        guests = []
        for source in sources[1:]:
            with open_image(source) as image:
                guests.append(planned_image(image))
        started.clear()
        with exports(template, guests, None):
            before = sorted(started)
            for source in sources:
                pid = os.fork()
                if not pid:
                    try:
                        with open_image(source) as image:
                            image.fill(buffer := memoryview(bytearray(4096)), 0, image.segments(0, 4096))
                            right = buffer == notation.content("4k:A")
                        os._exit(0 if right and sorted(started) == before else 1)
                    finally:
                        os._exit(2)
                assert os.waitpid(pid, 0)[1] == 0
    assert before == ["one.vmdk", "two.vmdk"]  # the template's has run since it was opened


def test_a_guest_that_cannot_be_opened_is_left_to_the_workers(tmp_path, started):
    sources = [make(tmp_path, name) for name in ("template", "one", "two")]
    with open_image(sources[0]) as template:
        guests = []
        for source in sources[1:]:
            with open_image(source) as image:
                guests.append(planned_image(image))
        os.truncate(sources[1].path, 100)
        started.clear()
        with exports(template, guests, None):
            assert started == ["two.vmdk"]


def test_few_guests_are_exported_at_a_time(tmp_path):
    with open_image(make(tmp_path, "a")) as image:
        record = planned_image(image)
    guests = dict.fromkeys("abc", record)
    assert files_to_open(guests, {"b"}, 32_000) == {"a": 1, "b": 1000, "c": 1}
    assert files_to_open(guests, {"b"}, 10) == {"a": 1, "b": 1 + exports_module._FILES, "c": 1}


def few_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (90, 90))


def test_a_fleet_with_a_low_limit_on_open_files(tmp_path):
    """Several batches; one guest's file is damaged where only its reader notices."""
    make(tmp_path, "template", "2M:A 2M:B")
    lines = ["version: 1", "template: {path: template.vmdk, format: vmdk}", "defaults: {format: vmdk}", "guests:"]
    for number in range(7):
        path = make(tmp_path, f"g{number}", f"2M:A 1M:B 64k:{'UVWXYZQ'[number]} 960k:B").path
        lines.append(f"  - {{path: g{number}.vmdk}}")
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 3)
        file.write(b"\xff" * 64)
    (tmp_path / "fleet.yaml").write_text("\n".join(lines))
    done = batchdiff("plan", "fleet.yaml", "-j", "2", cwd=tmp_path, expect=1, preexec_fn=few_files)
    assert "6 of 7" in done.stdout
    assert "cannot read" in " ".join(done.stdout.split())
    assert "g6.vmdk" in done.stdout
