"""kill -9 while an unusual overlay is written leaves only files that the next run removes; it ends well."""

import re
import subprocess

import encrypted
import notation
import pytest
from commands import COMMAND, batchdiff, rarely
from seeds import seeded
from test_kills import strace

TEMPLATE, GUEST = "512k:A 512k:B", "512k:A 64k:X 448k:B"
OPTIONS = {
    "qed": "format: qed",
    "luks": "encryption: {format: luks, secret_file: secret, iter_time: 1}",
    "full": "extended_l2: true, preallocation: full",
    "data": "data_file: true",
}


def prepare(folder, name):
    folder.mkdir()
    notation.write_raw(folder / "t.img", TEMPLATE)
    notation.write_raw(folder / "g.img", GUEST)
    notation.run("fallocate", "-n", "-o", "4M", "-l", "8M", str(folder / "g.img"))
    encrypted.secret_file(folder / "secret")
    head = "version: 1\ntemplate: {path: t.img, format: raw}\n"
    (folder / "m.yaml").write_text(f"{head}guests: [{{path: g.img, format: raw, overlay: {{{OPTIONS[name]}}}}}]\n")
    batchdiff("plan", "m.yaml", cwd=folder)


def overlay_of(folder, name):
    return folder / ("g.qed" if name == "qed" else "g.qcow2")


def points(folder, name):
    """The calls by which an apply changes a disk, or memory that QEMU reads."""
    prepare(folder, name)
    log = folder.parent / "log"
    argv = [*strace("-o", str(log)), *COMMAND, "apply", "m.plan.json"]
    subprocess.run(argv, cwd=folder, check=True, timeout=120, capture_output=True)
    found, count = [], {}
    for call in re.findall(r"^(\w+)\(", log.read_text(), re.MULTILINE):
        count[call] = count.get(call, 0) + 1
        found.append((call, count[call]))
    return found


def kill_at(folder, name, call, number):
    prepare(folder, name)
    before = {path.name for path in folder.iterdir()}
    inject = strace("-o", "/dev/null", "-e", f"inject={call}:signal=SIGKILL:when={number}")
    argv = [*inject, *COMMAND, "apply", "m.plan.json"]
    killed = subprocess.run(argv, cwd=folder, check=False, timeout=120, capture_output=True).returncode != 0
    assert (folder / "g.img").read_bytes() == notation.content(GUEST)
    overlay, data = overlay_of(folder, name), folder / "g.data.raw"
    new = {path.name for path in folder.iterdir()} - before - {"m.plan.json.journal", overlay.name, data.name}
    assert all(re.search(r"batchdiff-(tmp|template\.json)$", path) for path in new), new
    assert sum(path.endswith("batchdiff-tmp") for path in new) <= (2 if name == "data" else 1)
    if name == "data" and overlay.exists():
        assert notation.qemu_content(overlay, "qcow2") == notation.content(GUEST)
    batchdiff("apply", "m.plan.json", cwd=folder)
    assert not list(folder.glob("*batchdiff-tmp")) + list(folder.glob(".*batchdiff-tmp"))
    assert data.exists() is (name == "data")
    secret = f"secret,id=s,file={folder / 'secret'}"
    opened = f"driver={overlay_of(folder, name).suffix[1:]},file.filename={overlay_of(folder, name)}"
    opened += ",encrypt.key-secret=s" if name == "luks" else ""
    guest = f"driver=raw,file.filename={folder / 'g.img'}"
    notation.run("qemu-img", "compare", "--object", secret, "--image-opts", opened, guest)
    return killed


@pytest.mark.parametrize("name", ["qed", "data", *rarely("luks", "full")])
def test_killed_at_some_call(tmp_path, name):
    (call, number) = seeded().choice(points(tmp_path / "counted", name))
    assert kill_at(tmp_path / "killed", name, call, number)


@pytest.mark.long
@pytest.mark.parametrize("name", OPTIONS)
def test_killed_at_every_call(tmp_path, name):
    everywhere = points(tmp_path / "counted", name)
    count = sum(kill_at(tmp_path / f"{call}-{number}", name, call, number) for call, number in everywhere)
    print(f"{name}: killed at {count} of {len(everywhere)} calls")
    assert count >= 0.95 * len(everywhere)
