"""No secret ever appears in a file, a message, a command line or an environment.

They are looked for in all that is written, in the arguments and the environment of each program that is started
(strace), and in those of all processes while they run (/proc).
"""

import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import encrypted
import notation
import pytest
from commands import COMMAND

SECRETS = {"guest": "Gu3st-s3cret-0f-the-test", "template": "T3mplate-s3cret-0f-the-test"}
TEMPLATE = "2M:A 1M:- 2M:B 3M:-"
CHANGED = "2M:A 1M:- 1M:B 100k:X 924k:B 1M:- 70k:Y 1978k:-"
MANIFEST = """\
version: 1
template: {path: template.img, format: luks, secret_file: keys/template}
allow_loss: [encryption]
retire: quarantine
guests:
  - {path: luks.img, format: luks, secret_file: keys/guest}
  - {path: qcow2.img, format: qcow2, secret_file: keys/guest}
"""


class Watcher(threading.Thread):
    """Reads what /proc shows of all processes that have started since, again and again, until the end."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.seen: set[bytes] = set()
        self.over = threading.Event()
        self.others = processes()

    def run(self) -> None:
        while not self.over.wait(0.01):
            for process in processes() - self.others:
                for name in ("cmdline", "environ"):
                    self.look(Path("/proc", process, name))

    def look(self, path: Path) -> None:
        try:
            shown = path.read_bytes()
        except OSError:  # it has ended
            return
        if path.name == "cmdline" and b"secret,id=" in shown:
            self.seen.add(shown.split(b"\0", 1)[0])
        self.found.update(f"{path}: {shown!r}" for secret in SECRETS.values() if secret.encode() in shown)


def processes() -> set[str]:
    return {name for name in os.listdir("/proc") if name.isdigit()}


@pytest.fixture
def watcher():
    watching = Watcher()
    watching.start()
    yield watching
    watching.over.set()
    watching.join()


@pytest.fixture
def fleet(tmp_path):
    (tmp_path / "keys").mkdir()
    keys = {name: encrypted.secret_file(tmp_path / "keys" / name, secret) for name, secret in SECRETS.items()}
    raw, copy = notation.write_raw(tmp_path / "raw", TEMPLATE), notation.write_raw(tmp_path / "copy", CHANGED)
    encrypted.convert(raw, tmp_path / "template.img", "luks", keys["template"])
    for kind in ("luks", "qcow2"):
        encrypted.convert(copy, tmp_path / f"{kind}.img", kind, keys["guest"])
    (tmp_path / "fleet.yaml").write_text(MANIFEST)
    return tmp_path


def traced(folder: Path, number: int, *argv: str, expect: int = 0) -> None:
    """Runs a command with strace, and keeps what it prints beside the list of programs that it starts."""
    trace = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-v",
        "-s",
        "100000",
        "-e",
        "trace=execve",
        "-o",
        f"{number}.trace",
        *COMMAND,
        *argv,
    ]
    with (folder / f"{number}.output").open("wb") as output:
        done = subprocess.run(trace, cwd=folder, stdout=output, stderr=output, check=False, timeout=300)
    assert done.returncode == expect, (folder / f"{number}.output").read_text()


def test_no_secret_is_ever_shown(fleet, watcher):
    plan = "fleet.plan.json"
    traced(fleet, 1, "plan", "fleet.yaml", "-v", "-j", "2")
    traced(fleet, 2, "apply", plan, "-v", "--json")
    traced(fleet, 3, "verify", plan, "-v")
    traced(fleet, 4, "show", plan, "--format", "json")
    # A VM writes to one overlay, so that its image has to be rebuilt; the other original comes back.
    encrypted.qemu_io(fleet / "luks.qcow2", "qcow2", fleet / "keys/template", "write -P 9 3M 8k", backing="luks")
    traced(fleet, 5, "restore", plan, "--yes", "-v")
    # Errors: a secret that does not fit, also with `--json`, and one that is not text.
    shutil.copy(fleet / "keys/guest", fleet / "keys/kept")
    (fleet / "keys/guest").write_text(f"{SECRETS['guest']} and more\n")
    traced(fleet, 6, "plan", "fleet.yaml", "-v", "--json", "-o", "other.json", expect=1)
    (fleet / "keys/guest").write_bytes(SECRETS["guest"].encode() + b"\xff\0")
    traced(fleet, 7, "plan", "fleet.yaml", "-v", "-o", "other.json", expect=3)
    watcher.over.set()
    watcher.join()
    assert watcher.found == set()
    assert {os.path.basename(each) for each in watcher.seen} & {b"qemu-img", b"qemu-nbd", b"sh"}
    assert_in_no_file(fleet)
    started = "".join(path.read_text("utf-8", "replace") for path in fleet.glob("*.trace"))
    # strace would have shown a secret: it shows whole command lines and environments.
    assert re.search(
        r'execve\("[^"]*qemu-img", \["qemu-img", "compare", "--object", "secret,id=sec0,file=', started
    )
    assert re.search(r'execve\("[^"]*qemu-nbd", \[.*"secret,id=sec0,file=/', started)
    assert f"PATH={os.environ['PATH']}" in started


def assert_in_no_file(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "keys"]
    assert {"fleet.plan.json", "fleet.plan.json.journal", "1.trace", "6.output"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        assert not [name for name, secret in SECRETS.items() if secret.encode() in content], path
