"""`batchdiff plan`, as its users run it.

Guards cli/new_plan/new_plan.py.
"""

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import termios
import time

import notation
import pytest
from commands import COMMAND, GUESTS, MANIFEST, OVERLAYS, assert_no_traceback, batchdiff, events, rarely
from filesystems import mounted
from real_holders import wait_for

from batchdiff.signals import HELD


def test_results_on_stdout_and_messages_on_stderr(fleet):
    done = fleet.plan()
    assert "4 guests on the template" in done.stdout
    assert all(name.split(".")[0] in done.stdout for name in GUESTS)
    assert "fleet.plan.json" in done.stderr
    assert "apply" in done.stderr
    assert fleet.document["totals"]["convert"] == 4


def test_nothing_but_the_plan_is_written(fleet):
    before = fleet.state()
    fleet.plan()
    after = fleet.state()
    after.pop("fleet.plan.json")
    assert after == before


def test_quiet(fleet):
    assert fleet.plan("-q").stderr == ""


def test_json(fleet):
    (event,) = events(fleet.plan("--json"))
    assert event["event"] == "plan"
    assert event["path"] == str(fleet.folder / "fleet.plan.json")
    assert event["report"]["totals"]["convert"] == 4


def test_json_of_an_error(fleet):
    fleet.plan("-q")
    (fleet.folder / "template.img").write_bytes(b"")
    done = fleet.plan("--json", expect=4)
    (event,) = events(done)
    assert event["event"] == "error"
    assert event["exit_code"] == 4
    assert event["message"] in done.stderr


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_the_same_checksum_for_any_number_of_jobs(fleet, jobs):
    fleet.plan("-q", "-j", jobs)
    first = fleet.document
    fleet.plan("-q", "--jobs", "2")
    assert fleet.document["checksum"] == first["checksum"]


@pytest.mark.parametrize("jobs", ["0", "x", *rarely("-1", "1025", "1.5", "٣٤٥٦")])
def test_no_number_of_jobs(fleet, jobs):
    assert "jobs" in fleet.plan(f"--jobs={jobs}", expect=2).stderr


def test_some_guests(fleet):
    names = [guest["name"] for guest in (fleet.plan("-q"), fleet.document)[1]["guests"]]
    fleet.plan("-q", "--guest", names[2], "--guest", names[0])
    assert [guest["name"] for guest in fleet.document["guests"]] == [names[0], names[2]]
    done = fleet.plan("--guest", "unheard-of", expect=2)
    assert "unheard-of" in done.stderr
    assert names[1] in done.stderr


def test_detailed_exit_codes(fleet):
    assert fleet.plan("--detailed-exitcode", expect=10).stdout
    fleet.write_manifest(MANIFEST + "minimum_savings: 100%\n")
    fleet.plan("--detailed-exitcode", expect=0)
    assert fleet.document["totals"]["skip"] == 4
    fleet.plan(expect=0)


def test_a_refused_guest_is_exit_code_1(fleet):
    os.truncate(fleet.folder / "raw.img", 1 << 20)
    done = fleet.plan("--detailed-exitcode", expect=1)
    assert "smaller than the template" in " ".join(done.stdout.split())
    assert fleet.document["totals"] | {"convert": 3, "refuse": 1} == fleet.document["totals"]


@pytest.mark.parametrize("damage", ["garbage", "empty", "cut"])
def test_a_damaged_template_is_exit_code_4(fleet, damage):
    notation.write_qcow2(fleet.folder / "template.qcow2", "8M:A")
    fleet.write_manifest(MANIFEST.replace("template.img, format: raw", "template.qcow2, format: qcow2"))
    path = fleet.folder / "template.qcow2"
    match damage:
        case "garbage":
            path.write_bytes(b"no image at all" * 100)
        case "empty":
            path.write_bytes(b"")
        case "cut":
            os.truncate(path, 300_000)
    done = fleet.plan(expect=4)
    assert "template.qcow2" in done.stderr
    assert "fleet.plan.json" not in fleet.names()


@pytest.mark.parametrize(
    "place", ["folder/p.json", "folder", *rarely("other.json", "none/p.json", "fleet.yaml/p")]
)
def test_where_the_plan_goes(fleet, place):
    (fleet.folder / "folder").mkdir()
    good = place in {"other.json", "folder/p.json"}
    done = fleet.plan("-o", place, expect=0 if good else 2)
    assert (fleet.folder / place).is_file() is good
    assert good or done.stdout == ""
    assert "fleet.plan.json" not in fleet.names()


@pytest.mark.parametrize("content", [b"QFI\xfb" + bytes(600), b"\n", *rarely(b"{}", b'{"format": 1}')])
def test_only_a_plan_is_ever_replaced(fleet, content):
    victim = fleet.folder / "victim"
    victim.write_bytes(content)
    done = fleet.plan("-o", "victim", expect=2)
    assert "is not a plan" in done.stderr
    assert victim.read_bytes() == content


@pytest.mark.parametrize("name", ["raw.img", "thick.qcow2", "fleet.yaml"])
def test_no_image_is_ever_replaced(fleet, name):
    before = fleet.state()
    fleet.plan("-o", name, expect=2)
    assert fleet.state() == before


@pytest.mark.parametrize("kind", ["link", "fifo", *rarely("dangling", "device")])
def test_what_is_no_regular_file_is_not_replaced(fleet, kind):
    victim = fleet.folder / "victim"
    match kind:
        case "link":
            victim.symlink_to("fleet.yaml")
        case "dangling":
            victim.symlink_to("nowhere")
        case "fifo":
            os.mkfifo(victim)
        case "device":
            os.mknod(victim, 0o600 | 0o020000, os.makedev(1, 3))
    before = victim.lstat()
    fleet.plan("-o", "victim", expect=2)
    assert (victim.lstat().st_ino, victim.lstat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert "nowhere" not in fleet.names()


def test_a_plan_is_replaced_by_a_newer_one(fleet):
    fleet.plan("-q")
    first = (fleet.folder / "fleet.plan.json").stat().st_ino
    fleet.plan("-q")
    assert (fleet.folder / "fleet.plan.json").stat().st_ino != first
    assert not [name for name in fleet.names() if name.endswith("tmp")]


def test_names_of_every_kind(tmp_path):
    folder = tmp_path / "wörk ing"
    folder.mkdir()
    names = ["with space.img", "日本.img", "a'b\"c.img", "-dash.img", "a:b.img", "#x.img", "100%.img", "{}.img"]
    for name in ("tëmplate :1.img", *names):
        notation.write_raw(folder / name, "1M:A 1M:B")
    guests = "\n".join(f"  - {{path: {json.dumps(name)}, format: raw}}" for name in names)
    manifest = f'version: 1\ntemplate: {{path: "tëmplate :1.img", format: raw}}\nguests:\n{guests}\n'
    (folder / "flüt.yaml").write_text(manifest)
    done = batchdiff("plan", "flüt.yaml", cwd=folder)
    assert "日本" in done.stdout
    batchdiff("apply", "flüt.plan.json", "--retire", "quarantine", cwd=folder)
    for name in names:
        overlay = folder / f"{name.removesuffix('.img')}.qcow2"
        assert notation.qemu_content(overlay, "qcow2") == notation.content("1M:A 1M:B")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_the_letters(tmp_path, encoding):
    for name in ("t.img", "日本.img"):
        notation.write_raw(tmp_path / name, "1M:A")
    manifest = "version: 1\ntemplate: {path: t.img, format: raw}\nguests: [{path: 日本.img, format: raw}]\n"
    (tmp_path / "fleet.yaml").write_text(manifest)
    done = batchdiff("plan", "fleet.yaml", cwd=tmp_path, env={"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"})
    assert r"\u65e5\u672c" in done.stdout


def on_a_terminal(argv, cwd):
    """What a command writes to a terminal that is its stderr, and its exit code."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    environment = os.environ | {"TERM": "xterm"}
    with subprocess.Popen(argv, cwd=cwd, stdout=subprocess.DEVNULL, stderr=theirs, env=environment) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                got = os.read(ours, 65536)
            except OSError:
                break
            if not got:
                break
            said += got
    os.close(ours)
    return said.decode(), process.returncode


def test_progress_is_for_terminals(fleet):
    assert "scanning" not in fleet.plan().stderr
    shown = fleet.plan("--progress", "always").stderr
    assert "scanning" in shown
    assert "opening images   0.0%" in shown.partition("scanning")[0]
    argv = [*COMMAND, "plan", "fleet.yaml"]
    assert "scanning" in on_a_terminal(argv, fleet.folder)[0]
    assert "scanning" not in on_a_terminal([*argv, "--progress", "never"], fleet.folder)[0]
    assert "scanning" not in on_a_terminal([*argv, "-q"], fleet.folder)[0]


def test_a_reader_that_goes_away(fleet):
    """`| head -1` is no error."""
    script = f"{' '.join(COMMAND)} plan fleet.yaml | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=fleet.folder, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0"
    assert_no_traceback(done.stderr)
    assert "fleet.plan.json" in fleet.names()


@pytest.mark.parametrize("options", [[], ["--progress", "always"]])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_was_never_there(fleet, stream, options):
    read, write = os.pipe()
    os.close(read)
    other = "stderr" if stream == "stdout" else "stdout"
    with subprocess.Popen(
        [*COMMAND, "plan", "fleet.yaml", *options],
        cwd=fleet.folder,
        **{stream: write, other: subprocess.PIPE},
        text=True,
    ) as process:
        os.close(write)
        said = "".join(process.communicate()[::1][0 if other == "stdout" else 1])
    assert_no_traceback(said)
    assert process.returncode == 0
    assert fleet.document


def test_a_full_disk_for_the_output(fleet):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "plan", "fleet.yaml"],
            cwd=fleet.folder,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert_no_traceback(done.stderr)
    assert "No space left" in done.stderr
    assert done.returncode not in {0, 70}


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-", *rarely(">&-", ">&- 2>&-")])
def test_closed_streams(fleet, closed):
    script = f"{' '.join(COMMAND)} plan fleet.yaml {closed}"
    done = subprocess.run(["bash", "-c", script], cwd=fleet.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert_no_traceback(done.stderr)
    assert fleet.document


@pytest.fixture
def slow_fleet(tmp_path):
    """A fleet that takes a moment to plan."""
    for name in ("t.img", *(f"{number}.img" for number in range(6))):
        with (tmp_path / name).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 64 << 20)
            for at in range(0, 256 << 20, 1 << 20):
                file.seek(at)
                file.write(b"x" * 4096)
    guests = "\n".join(f"  - path: {number}.img" for number in range(6))
    text = f"version: 1\ntemplate: {{path: t.img, format: raw}}\ndefaults: {{format: raw}}\nguests:\n{guests}\n"
    (tmp_path / "fleet.yaml").write_text(text)
    return tmp_path


def children_of(pid):
    done = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(child) for child in done.stdout.split()]


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("signal_number", HELD)
@pytest.mark.parametrize("to_all", [True, *rarely(False)])
def test_interrupted(fleet, signal_number, to_all):
    """Ctrl-C at the terminal reaches the workers too. A guest that never ends keeps them busy."""
    before = fleet.state()
    argv = [*COMMAND, "plan", "fleet.yaml", "-j", "2", "--progress", "always"]
    code = (
        "import sys, time, runpy; from batchdiff.planning.scan import one_range as scan;"
        "scan.Scanner.scan = lambda *_: time.sleep(600);"
        "scan.RANGE = 1 << 20; from batchdiff.planning import scan_all as scanning; scanning.RANGE = 1 << 20;"
        "sys.argv = ['batchdiff', *sys.argv[1:]]; runpy.run_module('batchdiff', run_name='__main__')"
    )
    argv[1:3] = ["-c", code]
    process = subprocess.Popen(
        argv, cwd=fleet.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )
    with process:
        wait_for(lambda: len(children_of(process.pid)) == 2)
        workers = children_of(process.pid)
        (os.killpg if to_all else os.kill)(process.pid, signal_number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert_no_traceback(out + err)
    assert "interrupted" in err
    assert out == ""
    assert not any(is_running(pid) for pid in workers)
    assert fleet.state() == before


def wait_for_handlers(process):
    """Until SIGTERM is caught: before that Python itself is starting."""
    while process.poll() is None:
        with open(f"/proc/{process.pid}/status") as file:
            caught = next(line for line in file if line.startswith("SigCgt"))
        if int(caught.split()[1], 16) & 1 << signal.SIGTERM - 1:
            return
        time.sleep(0.005)


def test_interrupted_at_any_time(slow_fleet):
    """From the manifest to the last line: 130 or done, never a traceback nor a leftover."""
    for step in range(10):
        with subprocess.Popen(
            [*COMMAND, "plan", "fleet.yaml", "-j", "2"],
            cwd=slow_fleet,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        ) as process:
            wait_for_handlers(process)
            time.sleep(step * 0.05)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
            _, err = process.communicate(timeout=60)
        # -SIGINT: all was done, and Python was ending.
        assert process.returncode in {0, 130, -signal.SIGINT}, err
        assert_no_traceback(err)
        left = {path.name for path in slow_fleet.iterdir() if path.suffix not in {".img", ".yaml"}}
        assert left <= {"fleet.plan.json"}
        (slow_fleet / "fleet.plan.json").unlink(missing_ok=True)


def test_a_killed_worker(fleet):
    """The kernel's out-of-memory killer takes one: said at once, and nothing is written."""
    code = (
        "import os, sys, runpy; from batchdiff.planning.scan import one_range as scan;"
        "scan.Scanner.scan = lambda *_: os.kill(os.getpid(), 9);"
        "scan.RANGE = 2 << 20; from batchdiff.planning import scan_all as scanning; scanning.RANGE = 2 << 20;"
        "sys.argv = ['batchdiff', 'plan', 'fleet.yaml', '-j', '2'];"
        "runpy.run_module('batchdiff', run_name='__main__')"
    )
    argv = [COMMAND[0], "-c", code]
    done = subprocess.run(argv, cwd=fleet.folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4
    assert_no_traceback(done.stderr)
    assert "SIGKILL" in done.stderr
    assert "bytes " in done.stderr
    assert "fleet.plan.json" not in fleet.names()


def test_a_bug_says_that_it_is_one(fleet):
    code = (
        "import sys, runpy; from batchdiff.planning.scan import one_range as scan;"
        "scan.Scanner.scan = lambda *_: 1 / 0;"
        "sys.argv = ['batchdiff', 'plan', 'fleet.yaml', '-j', sys.argv[1]];"
        "runpy.run_module('batchdiff', run_name='__main__')"
    )
    for jobs in ("1", "2"):
        argv = [COMMAND[0], "-c", code, jobs]
        done = subprocess.run(argv, cwd=fleet.folder, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 70
        assert "ZeroDivisionError" in done.stderr
        assert "report" in done.stderr


def test_no_plan_goes_to_stdout_by_a_dash(fleet):
    before = fleet.names()
    done = fleet.plan("-o", "-", expect=2)
    assert "- does not mean stdout here; for a file of that name, write ./-" in done.stderr
    assert fleet.names() == before


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("nodir/x.json", "there is no such folder"),
        ("/proc/x.json", "no file can be created in it (No such file or directory)"),
        ("/dev/full", "is not a regular file"),
    ],
)
def test_where_no_plan_can_be_written_nothing_is_scanned(fleet, place, why):
    done = fleet.plan("-o", place, "--progress", "always", expect=2)
    assert why in done.stderr
    assert "Choose another place with `-o`" in done.stderr
    assert "scanning" not in done.stderr


def test_a_plan_does_not_take_the_name_of_an_overlay(fleet):
    done = fleet.plan("-o", OVERLAYS["raw.img"], expect=2)
    assert f"apply will write {fleet.folder / OVERLAYS['raw.img']} for the guest raw" in done.stderr


def test_a_guest_that_shares_blocks_has_no_overlay_whose_name_could_be_taken(fleet):
    fleet.write_manifest(f"{MANIFEST.partition('guests:')[0]}strategy: share\nguests: [{{path: raw.img}}]\n")
    done = fleet.plan("-o", OVERLAYS["raw.img"], expect=None)
    assert "apply will write" not in done.stderr
    assert json.loads((fleet.folder / OVERLAYS["raw.img"]).read_bytes())["guests"]


def test_a_plan_that_cannot_be_replaced_is_noticed_before_the_scan(fleet):
    """New files can be made in its folder, and the reason is the true one."""
    fleet.plan("-o", "p.json")
    plan = fleet.folder / "p.json"
    notation.run("chattr", "+i", str(plan))
    try:
        done = fleet.plan("-o", "p.json", "--progress", "always", expect=2)
    finally:
        notation.run("chattr", "-i", str(plan))
    assert "cannot replace p.json: " in done.stderr
    assert "chattr -i " in done.stderr
    assert "scanning" not in done.stderr


def test_the_true_reason_on_a_filesystem_that_is_read_only(fleet, tmp_path):
    with mounted(tmp_path, "ext4", 8 << 20) as point:
        notation.run("mount", "-o", "remount,ro", str(point))
        done = fleet.plan("-o", point / "p.json", expect=2)
    assert "is mounted read-only" in done.stderr


def test_an_overlay_that_exists_may_be_a_disk_in_use(fleet):
    (fleet.folder / "raw.qcow2").write_bytes(b"overlay")
    said = [fleet.plan(expect=3).stderr, fleet.plan("--guest", "raw", expect=3).stderr]
    for text in said:
        assert "It may be a disk in use: leave the guest out, or give it another overlay.path" in text
    fleet.plan("--guest", "large")
    assert [guest["name"] for guest in fleet.document["guests"]] == ["large"]


def test_a_dry_run_is_what_plan_is(fleet):
    done = batchdiff("apply", "fleet.plan.json", "--dry-run", cwd=fleet.folder, expect=2)
    assert "unrecognized arguments: --dry-run; for a dry run of `apply`, use `batchdiff plan`" in done.stderr
    done = batchdiff("apply", "fleet.plan.json", "--frobnicate", cwd=fleet.folder, expect=2)
    assert done.stderr.endswith("unrecognized arguments: --frobnicate\n")


@pytest.mark.parametrize("cpus", [{0}, {0, 1}])
def test_one_worker_for_each_cpu_that_it_may_use(fleet, cpus):
    """Not for each that the machine has: taskset, cpuset cgroups and containers say so by the affinity."""
    code = (
        "import os, sys, runpy; os.sched_setaffinity(0, eval(sys.argv[1]));"
        "from batchdiff.cli.new_plan import new_plan as plan; real = plan.make_plan;"
        "plan.make_plan = lambda *a, jobs, **k: (os.write(2, b'jobs %d\\n' % jobs), real(*a, jobs=jobs, **k))[1];"
        "sys.argv = ['batchdiff', 'plan', 'fleet.yaml'];"
        "runpy.run_module('batchdiff', run_name='__main__')"
    )
    argv = [COMMAND[0], "-c", code, repr(cpus)]
    done = subprocess.run(argv, cwd=fleet.folder, capture_output=True, text=True, timeout=60, check=True)
    assert f"jobs {len(cpus)}\n" in done.stderr


def test_an_older_plan_is_taken_over(fleet):
    fleet.plan("-q")
    first = fleet.document["checksum"]
    done = fleet.plan("--reuse", "fleet.plan.json")
    assert "results of 4 of 4 guests from the older plan" in done.stderr
    assert fleet.document["checksum"] == first
    assert fleet.plan("-q", "--reuse", "fleet.plan.json").stderr == ""


@pytest.mark.parametrize("older", ["none.json", "fleet.yaml", "raw.img"])
def test_no_older_plan(fleet, older):
    fleet.plan("--reuse", older, expect=5)
    assert "fleet.plan.json" not in fleet.names()
