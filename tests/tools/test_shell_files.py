"""Completions work in the real shells, where no guest's name does anything; man can show the pages."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import build_backend
import pytest
import shell_files
from plans import guest_plan, small_plan

from batchdiff.plan.file import write_plan

ROOT = Path(__file__).parents[2]
SHIM = f"""\
#!/bin/sh
if [ "$1" = _guest-names ]; then PYTHONPATH={ROOT} exec {sys.executable} -m batchdiff "$@"; fi
printf '%s\\0' "$@" >> "$ARGUMENTS"
"""
NAMES = [
    "web01",
    "a b",
    "x$(touch pwned)",
    "y`touch pwned`",
    "z;touch pwned",
    "q'q",
    'd"d',
    "c:d",
    "w*",
    "-dash",
    "ü1",
]
VERIFY = ["verify", "my plan.json", "--guest"]
TYPED = {
    "verif\tmy\t--guest we\t": [*VERIFY, "web01"],
    r"verify my\ plan.json --guest a" + "\t": [*VERIFY, "a b"],
    r"verify my\ plan.json --guest 'a" + "\t": [*VERIFY, "a b"],
    r"verify my\ plan.json --guest x" + "\t": [*VERIFY, "x$(touch pwned)"],
    "verify 'my plan.json' --guest y\t": [*VERIFY, "y`touch pwned`"],
    r"verify my\ plan.json --guest z" + "\t": [*VERIFY, "z;touch pwned"],
    r"verify my\ plan.json --guest q" + "\t": [*VERIFY, "q'q"],
    r"verify my\ plan.json --guest d" + "\t": [*VERIFY, 'd"d'],
    r"verify my\ plan.json --guest c" + "\t": [*VERIFY, "c:d"],
    r"verify my\ plan.json --guest w\*" + "\t": [*VERIFY, "w*"],
    r"verify my\ plan.json --guest ü" + "\t": [*VERIFY, "ü1"],
    "plan fl\t": ["plan", "fleet.yaml"],
    "apply my\t--retire quar\t": ["apply", "my plan.json", "--retire", "quarantine"],
    "apply my\t--unse\t": ["apply", "my plan.json", "--unseen"],
    "status my\t--textfile m\t": ["status", "my plan.json", "--textfile", "metrics.prom"],
    "doctor im\t": ["doctor", "images"],
    "schema ev\t": ["schema", "events"],
}
"""What is typed after `batchdiff`, and the arguments that it is run with."""

SHELLS = {
    "bash": (["bash", "--norc", "-i"], "bind 'set enable-bracketed-paste off'; source {}"),
    "zsh": (
        ["zsh", "-f", "-i"],
        "unset zle_bracketed_paste; fpath=({}:h $fpath); autoload -U compinit; compinit -D -u",
    ),
    "fish": (["fish", "--no-config", "-i"], "source {}"),
}


class Terminal:
    """A shell on a terminal of its own."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.process, self.fd = pty.fork()
        if not self.process:
            os.environ.update(environment)
            os.execvp(command[0], command)

    def enter(self, line: str) -> None:
        """Types a line, and waits until the shell is ready for the next one."""
        # The quotes keep the echo of what is typed from looking like the answer.
        os.write(self.fd, f"{line}\necho REA''DY\n".encode())
        seen, end = b"", time.monotonic() + 60
        while b"READY\r\n" not in seen:
            assert time.monotonic() < end, seen.decode(errors="replace")
            if select.select([self.fd], [], [], 1)[0]:
                seen += os.read(self.fd, 65536)

    def close(self) -> None:
        os.close(self.fd)
        os.waitpid(self.process, 0)


@pytest.fixture(scope="module")
def share(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("share")
    shell_files.write_all(folder)
    return folder


@pytest.mark.parametrize("shell", SHELLS)
def test_what_is_completed_is_run_as_it_is_called(share, tmp_path, monkeypatch, shell):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "batchdiff").write_text(SHIM)
    (tmp_path / "bin" / "batchdiff").chmod(0o755)
    (tmp_path / "images").mkdir()
    for name in ("fleet.yaml", "flower.txt", "metrics.prom", "metrics.txt"):
        (tmp_path / name).touch()
    write_plan(small_plan(*map(guest_plan, NAMES)), "my plan.json")
    environment = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "ARGUMENTS": str(tmp_path / "arguments"),
        "HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8",
        "PS1": "$ ",
        "TERM": "dumb",
    }
    command, source = SHELLS[shell]
    terminal, got = Terminal(command, environment), {}
    try:
        terminal.enter(
            source.replace("{}:h", str(share / "zsh/site-functions")).format(
                share / shell_files.COMPLETIONS[shell]
            )
        )
        for line in TYPED:
            terminal.enter(f"batchdiff {line}")
            arguments = tmp_path / "arguments"
            # zsh takes the slash after a folder away again.
            got[line] = [word.removesuffix("/") for word in arguments.read_text().split("\0")[:-1]]
            arguments.unlink()
    finally:
        terminal.close()
    assert got == TYPED
    assert not (tmp_path / "pwned").exists()


def test_every_verb_has_a_page_that_man_can_show(share):
    verbs = set(shell_files.verbs_of(shell_files.parser()))
    pages = sorted((share / "man" / "man1").iterdir())
    assert {page.name for page in pages} == {"batchdiff.1", *(f"batchdiff-{verb}.1" for verb in verbs)}
    for page in pages:
        done = subprocess.run(
            ["man", "--warnings", "-E", "UTF-8", "-l", "-P", "cat", page],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        assert "Examples\n" in done.stdout or "EXAMPLES\n" in done.stdout
        listed = subprocess.run(["lexgrog", page], capture_output=True, text=True, check=True).stdout
        assert f"{page.stem} - " in listed


def test_the_pages_have_every_option(share):
    for name, verb in shell_files.verbs_of(shell_files.parser()).items():
        text = (share / "man" / "man1" / f"batchdiff-{name}.1").read_text().replace("\\-", "-")
        for action in verb._actions:
            for option in set(action.option_strings) - {"-h", "--help"}:
                assert rf"\fB{option}\fR" in text


def test_a_wheel_has_them_and_an_editable_installation_needs_no_generator(tmp_path, monkeypatch):
    for name in ("batchdiff", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    code = (
        "import sys; sys.path.insert(0, 'tools'); import build_backend; print(build_backend.build_wheel('dist'))"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        check=True,
        env=os.environ | {"PYTHONPATH": ""},
    )
    (wheel,) = (tmp_path / "dist").iterdir()
    with zipfile.ZipFile(wheel) as file:
        installed = {name.partition(".data/data/share/")[2] for name in file.namelist()} - {""}
    pages = {f"man/man1/{name}" for name in shell_files.man_pages()}
    assert installed == {*shell_files.COMPLETIONS.values(), *pages}
    assert not (tmp_path / "build" / "share").exists()
    monkeypatch.chdir(tmp_path)
    generators = set(build_backend.GENERATORS)
    assert generators <= set(build_backend.get_requires_for_build_wheel({}))
    assert not generators & set(build_backend.get_requires_for_build_editable({}))
