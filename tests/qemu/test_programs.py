"""External programs: their arguments, output, limits and ends.

Guards qemu/landlock.py.
"""

import errno
import os
import resource
import shlex
import socket
import subprocess
import sys
import time

import pytest

from batchdiff.errors import ProgramError, StopError
from batchdiff.qemu import landlock, programs
from batchdiff.qemu.programs import CompletedProgram, is_on_path


def run(*argv, timeout=20.0, reads=None):
    return programs.run(list(argv), reads=reads, timeout=timeout, package="some-package")


def shell(script, timeout=20.0, reads=None):
    return run("sh", "-c", script, timeout=timeout, reads=reads)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid):
    deadline = time.monotonic() + 60
    while is_running(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_both_streams_and_the_exit_code():
    done = shell("echo out; echo err >&2; exit 3")
    assert (done.code, done.output) == (3, "out\nerr\n")
    assert done.described() == "`sh -c 'echo out; echo err >&2; exit 3'` (exit code 3): out; err"


def test_output_becomes_part_of_a_sentence():
    done = CompletedProgram(("x",), 1, "a warning.\n\nContent mismatch at offset 65536!\n")
    assert done.described() == "`x` (exit code 1): a warning; Content mismatch at offset 65536"
    assert CompletedProgram(("x",), 1, "!\n").described() == "`x` (exit code 1)"


def test_arguments_are_never_parsed():
    assert run("printf", "%s|", "a b", "$HOME", "*", ";id", "").output == "a b|$HOME|*|;id||"


def test_no_input_and_the_c_locale(monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert shell('cat; echo "$LC_ALL"').output == "C\n"


def test_a_group_of_its_own():
    code = "import os; print(os.getpgid(0) == os.getpid(), os.getsid(0) == os.getpid())"
    assert run(sys.executable, "-c", code).output == "True True\n"


def test_killed_by_a_signal():
    done = shell("echo last words; kill -SEGV $$")
    assert done.code == -11
    assert "(killed by SIGSEGV)" in done.described()
    assert "last words" in done.described()


def test_killed_by_a_signal_without_a_name():
    assert "(killed by signal 40)" in CompletedProgram(("x",), -40, "").described()


def test_missing():
    with pytest.raises(ProgramError, match="cannot run no-such-program") as caught:
        run("no-such-program")
    assert caught.value.exit_code == 7
    assert caught.value.remedy == "Install it (Debian: some-package), then run the same command again."


def test_not_executable(tmp_path):
    (tmp_path / "program").write_text("no program")
    with pytest.raises(ProgramError, match="Permission denied") as caught:
        run(str(tmp_path / "program"))
    assert caught.value.remedy == "Install it again (Debian: some-package), then run the same command again."


def test_a_file_to_read_that_is_gone(tmp_path):
    """Landlock needs to open it, so that is found before the program is started."""
    with pytest.raises(ProgramError, match="cannot run sh") as caught:
        shell("cat gone", reads=[str(tmp_path / "gone")])
    assert caught.value.why == f"{tmp_path}/gone, or a folder above it, does not exist"
    assert caught.value.remedy == "Correct the path, or put back what is missing, then run the same command again."


def test_is_installed(tmp_path, monkeypatch):
    assert is_on_path("sh")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not is_on_path("sh")


def test_output_that_is_no_text():
    assert shell(r"printf '\377ok'").output == "\ufffdok"


def test_output_is_kept_up_to_a_bound():
    done = run(sys.executable, "-c", "print('x' * (8 << 20)); import sys; sys.exit(5)")
    assert done.code == 5
    assert set(done.output) == {"x"}
    assert len(done.output) == 64 << 10


def test_a_program_that_prints_too_much_is_named():
    argv = ["sh", "-c", "while :; do echo more; done"]
    with pytest.raises(programs.OutputError) as caught:
        programs.run(argv, reads=[], timeout=60, package="x", most_output=1 << 20)
    assert str(caught.value) == (
        f"`{shlex.join(argv)}` was stopped: its output exceeds 1 MiB. Run it yourself to see what it prints."
    )


@pytest.mark.parametrize(
    "script",
    [
        "echo $$ > pids; exec sleep 600",
        "sleep 600 & echo $! $$ > pids; wait",
        "sleep 600 & echo $! > pids; exit 0",
        "exec >&- 2>&-; echo $$ > pids; sleep 600",
        "trap '' TERM INT HUP; sleep 600 & echo $! $$ > pids; wait",
        "echo $$ > pids; while :; do echo more; done",
    ],
    ids=["one", "child", "orphan", "silent", "stubborn", "chatty"],
)
def test_a_timeout_kills_the_whole_group(tmp_path, monkeypatch, script):
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    with pytest.raises(ProgramError, match="not finished after") as caught:
        shell(script, timeout=0.5)
    assert str(caught.value) == (
        f"`{shlex.join(['sh', '-c', script])}` was stopped: it had not finished after 0 seconds. If the disk was"
        " busy, run the same command again later. If the program hangs again while reading an image, check the"
        " image."
    )
    assert time.monotonic() - began < 60  # it did not wait for any of them
    pids = (tmp_path / "pids").read_text().split()
    assert pids
    assert all(ends(int(pid)) for pid in pids)


def test_an_interrupt_kills_the_whole_group(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def interrupt(*_):
        while not (tmp_path / "pids").exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(programs.select, "poll", interrupt)
    with pytest.raises(KeyboardInterrupt):
        shell("sleep 60 & echo $! $$ > new; mv new pids; wait")
    assert all(ends(int(pid)) for pid in (tmp_path / "pids").read_text().split())


@pytest.mark.parametrize("talk", ["sleep 60", "while :; do echo more; done"], ids=["silent", "chatty"])
def test_whoever_asks_to_stop_waits_for_no_output(tmp_path, monkeypatch, talk):
    """A VM that wants its disk back, and Ctrl-C, don't wait for what the program prints next."""
    monkeypatch.chdir(tmp_path)
    if "more" in talk:
        monkeypatch.setattr(programs, "_GLANCE", 20)  # however busy it is: there is always something to read
    looks = []

    def stopped():
        looks.append((tmp_path / "pids").exists())
        return looks.count(True) >= 3

    with pytest.raises(StopError, match="interrupted"):
        programs.run(
            ["sh", "-c", f"echo $$ > new; mv new pids; {talk}"],
            reads=None,
            timeout=20,
            package="some-package",
            stopped=stopped,
        )
    assert looks.count(True) == 3
    assert ends(int((tmp_path / "pids").read_text()))


def test_nothing_is_left_behind():
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        shell("true")
    assert len(os.listdir("/proc/self/fd")) == before


def test_limits():
    """They come from outside, when the program has begun."""
    have_come = 'until [ "$(ulimit -v) $(ulimit -t) $(ulimit -c)" = "2097152 10 0" ]; do sleep 0.02; done'
    assert shell(f"{have_come}; echo done", timeout=9.5).output == "done\n"


def test_lower_limits_stay():
    """Only root could raise them, and does not."""
    code = (
        "from batchdiff.qemu import programs;"
        "script = 'until [ $(ulimit -c) = 0 ]; do sleep 0.02; done; ulimit -t; ulimit -v';"  # the last that is set
        "print(programs.run(['sh', '-c', script], reads=[], timeout=600, package='x'))"
    )
    lower = ["prlimit", "--cpu=300", "--as=1500000000", "--core=4096"]
    weak = ["setpriv", "--bounding-set", "-sys_resource"]
    done = subprocess.run([*lower, *weak, sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "code=0, output='300\\n1464843\\n'" in done.stdout


@pytest.fixture
def secret(tmp_path):
    assert landlock.version() > 0, "these tests need a kernel with Landlock"
    path = tmp_path / "secret"
    path.write_text("hello")
    return path


def test_only_what_is_given_is_read(secret):
    other = secret.with_name("other")
    other.write_text("more")
    done = shell(f"cat {secret}; cat {other}; cat /etc/passwd", reads=[str(secret)])
    assert done.output.startswith("hello")
    assert done.output.count("Permission denied") == 2
    assert secret.read_text() == "hello"


@pytest.mark.parametrize(
    "attempt",
    [
        "echo x > {}",
        "echo x >> {}",
        "truncate -s 0 {}",
        "rm -f {}",
        "mv {0} {0}.moved",
        "ln {0} {0}.linked",
        "mkdir {}.folder",
        "touch {}.new",
    ],
)
def test_nothing_is_changed(secret, attempt):
    done = shell(attempt.format(secret), reads=[str(secret)])
    assert "Permission denied" in done.output or "cross-device" in done.output
    assert done.code != 0
    assert [path.name for path in secret.parent.iterdir()] == ["secret"]
    assert secret.read_text() == "hello"


def test_no_network():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = run("bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}", reads=[])
    # Before its version 4, in Linux 6.7, Landlock knew no network.
    assert ("Permission denied" in done.output) is (landlock.version() >= 4)


def test_no_signals_to_others():
    done = shell(f"kill -0 {os.getpid()}", reads=[])
    assert ("not permitted" in done.output) is (landlock.version() >= 6)


def test_devnull_is_there():
    assert shell("echo x > /dev/null; cat /dev/null", reads=[]) == CompletedProgram(
        ("sh", "-c", "echo x > /dev/null; cat /dev/null"), 0, ""
    )


def test_a_program_with_libraries_of_its_own(secret, monkeypatch):
    """Installed under a prefix of its own, it reads what is beside it there."""
    for name in ("bin/program", "lib/part", "share/part", "libraries/part", "etc/part"):
        path = secret.parent / "prefix" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"echo {name}\n")
    program = secret.parent / "prefix" / "bin" / "program"
    parts = " ".join(f"../{name}/part" for name in ("lib", "share", "libraries", "etc"))
    program.write_text(f"#!/bin/sh\ncd {program.parent}\ncat program {parts}\n")
    program.chmod(0o755)
    # The loader ignores an entry that is a file.
    monkeypatch.setenv("LD_LIBRARY_PATH", f":{secret.parent}/prefix/libraries:{program}")
    output = run(str(program), reads=[]).output
    assert [name for name in ("lib", "share", "libraries", "etc") if f"echo {name}/part" in output] == [
        "lib",
        "share",
        "libraries",
    ]
    assert output.count("Permission denied") == 1


def test_no_thread_to_start_it(monkeypatch):
    def start(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(landlock.threading.Thread, "start", start)
    with pytest.raises(ProgramError, match="cannot run true: can't start new thread"):
        run("true", reads=[])


def test_we_stay_free(secret):
    shell("true", reads=[])
    secret.write_text("free")
    assert shell(f"cat {secret}").output == "free"


def test_without_landlock_it_runs_all_the_same(secret, monkeypatch):
    monkeypatch.setattr(landlock, "version", lambda: 0)
    assert shell(f"cat {secret}", reads=[]).output == "hello"


def test_what_it_raises_to_start_is_raised(tmp_path):
    with pytest.raises(ProgramError, match="cannot run no-such-program"):
        run("no-such-program", reads=[])


def test_too_many_processes(monkeypatch):
    def refused(*_args, **_kwargs):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(programs.subprocess, "Popen", refused)
    with pytest.raises(ProgramError, match=r"Resource temporarily unavailable.*`ulimit -u`, `TasksMax="):
        run("true")


def test_with_many_files_open():
    """select() knows no descriptor over 1,023."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2000, hard), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert run("echo", "heard").output == "heard\n"
    finally:
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
