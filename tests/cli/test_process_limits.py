"""Fleets of any size under low limits, and the surroundings that a process may be started in."""

import json
import os
import resource
import shutil
import subprocess
import sys

import notation
import pytest
from commands import COMMAND, batchdiff, events

TEMPLATE = "256k:A 768k:-"
BY_CHAIN = "backing: [{path: mid.qcow2, format: qcow2}, {path: base.img, format: raw}]"


def fleet(folder, count):
    """Raw guests; each fourth is a qcow2 on two backing files of its own chain, which are declared."""
    notation.write_raw(folder / "t.img", TEMPLATE)
    notation.write_raw(folder / "base.img", "256k:A 64k:B 704k:-")
    raw = notation.write_raw(folder / "r0.img", "128k:A 64k:X 64k:A 768k:-")
    for name, below, form in (("mid", "base.img", "raw"), ("q0", "mid.qcow2", "qcow2")):
        backing = str(folder / below)
        create = (
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            backing,
            "-F",
            form,
            str(folder / f"{name}.qcow2"),
        )
        notation.run(*create)
    chained = [f"q{number}.qcow2" for number in range(0, count, 4)]
    for name in chained[1:]:
        shutil.copy(folder / "q0.qcow2", folder / name)
    for number in range(1, count - len(chained)):
        shutil.copy(raw, folder / f"r{number}.img")
    guests = [f"  - {{path: {name}, format: qcow2, {BY_CHAIN}}}\n" for name in chained]
    (folder / "fleet.yaml").write_text(
        "version: 1\ntemplate: {path: t.img, format: raw}\nguests:\n"
        f'  - {{glob: "r*.img", format: raw}}\n{"".join(guests)}'
    )


def limited(limit):
    """Both limits, so that batchdiff cannot raise them."""
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


def under(limit, *arguments, cwd, expect=0):
    return batchdiff(*arguments, "--json", cwd=cwd, expect=expect, preexec_fn=limited(limit), timeout=580)


def plan_of(folder):
    document = json.loads((folder / "fleet.plan.json").read_text())
    return {key: value for key, value in document.items() if key not in {"created", "checksum"}}


def assert_lives_through_it_all(folder, count, limit):
    plans = []
    for jobs in ("1", "4"):
        under(limit, "plan", "fleet.yaml", "-j", jobs, "--progress", "always", cwd=folder)
        plans.append(plan_of(folder))
    assert plans[0] == plans[1]
    assert plans[0]["totals"]["convert"] == count
    under(limit, "show", "fleet.plan.json", cwd=folder)
    for verb, status, options in (
        ("apply", "converted", ["--retire", "quarantine"]),
        ("restore", "restored", ["-y"]),
        ("apply", "converted", ["--retire", "quarantine"]),
        ("purge", "purged", ["-y"]),
    ):
        done = under(limit, verb, "fleet.plan.json", *options, cwd=folder)
        assert [event["status"] for event in events(done) if event["event"] == "guest"] == [status] * count
        health = [each["health"] for each in events(under(limit, "verify", "fleet.plan.json", cwd=folder))]
        assert set(health) <= {"sound", "touched"}, health
        assert len(events(under(limit, "status", "fleet.plan.json", cwd=folder))) == count


def test_more_guests_than_descriptors(tmp_path):
    """80 guests with 120 files, of which 40 may be open."""
    fleet(tmp_path, 80)
    for jobs in ("1", "4"):
        done = under(40, "plan", "fleet.yaml", "-j", jobs, cwd=tmp_path)
        (event,) = [event for event in events(done) if event["event"] == "plan"]
        assert event["report"]["totals"]["convert"] == 80
    chosen = [option for name in ("r1", "r2", "q0", "q4") for option in ("--guest", name)]
    under(40, "apply", "fleet.plan.json", *chosen, cwd=tmp_path)
    under(40, "verify", "fleet.plan.json", cwd=tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(("count", "limit"), [(80, 40), (300, 256), (1000, 256)])
def test_a_fleet_of_any_size(tmp_path, count, limit):
    fleet(tmp_path, count)
    assert_lives_through_it_all(tmp_path, count, limit)


@pytest.mark.parametrize("verb", ["plan", "apply"])
def test_too_few_descriptors_for_anything(tmp_path, verb):
    notation.write_raw(tmp_path / "t.img", TEMPLATE)
    before = set(tmp_path.iterdir())
    (event,) = events(under(20, verb, "fleet.yaml", cwd=tmp_path, expect=1))
    assert "open" in event["message"]
    assert "`ulimit -n`, `LimitNOFILE=`" in event["remedy"]
    assert set(tmp_path.iterdir()) == before


def test_a_guest_whose_chain_alone_is_too_long(tmp_path):
    """The others are planned."""
    notation.write_raw(tmp_path / "t.img", TEMPLATE)
    notation.write_raw(tmp_path / "r.img", TEMPLATE)
    below = notation.write_raw(tmp_path / "base.img", TEMPLATE)
    chain = ["{path: base.img, format: raw}"]
    for number in range(45):
        path = tmp_path / f"c{number}.qcow2"
        form = "raw" if number == 0 else "qcow2"
        notation.run(
            "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", str(below), "-F", form, str(path), "1M"
        )
        chain.insert(0, f"{{path: c{number}.qcow2, format: qcow2}}")
        below = path
    (tmp_path / "fleet.yaml").write_text(
        "version: 1\ntemplate: {path: t.img, format: raw}\nguests:\n  - {path: r.img, format: raw}\n"
        f"  - {{path: c44.qcow2, format: qcow2, backing: [{', '.join(chain[1:])}]}}\n"
    )
    done = under(40, "plan", "fleet.yaml", "-j", "1", cwd=tmp_path, expect=1)
    (event,) = [event for event in events(done) if event["event"] == "plan"]
    reasons = {guest["name"]: guest["reason"] for guest in event["report"]["guests"]}
    assert "Too many open files" in reasons["c44"]
    assert "`ulimit -n`" in reasons["c44"]
    assert "permissions" not in reasons["c44"]
    assert "open files" not in reasons["r"]


@pytest.mark.parametrize("limit", [0, 1000])
def test_a_limit_of_file_sizes(tmp_path, limit):
    fleet(tmp_path, 2)
    before = set(tmp_path.iterdir())

    def small():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = batchdiff("plan", "fleet.yaml", cwd=tmp_path, expect=5, preexec_fn=small)
    assert "File too large" in done.stderr
    assert "`ulimit -f`" in done.stderr
    assert set(tmp_path.iterdir()) == before


def test_standard_descriptors_that_are_closed_are_never_an_image(tmp_path):
    """Whoever prints to descriptor 2 would else print into the next file that was opened."""
    report = tmp_path / "report"
    program = f"""
import os
from batchdiff import __main__
__main__._occupy_standard_descriptors()
opened = os.open({str(report)!r}, os.O_WRONLY | os.O_CREAT)
names = [os.readlink(f"/proc/self/fd/{{number}}") for number in range(3)]
os.write(opened, f"{{opened}} {{names}}".encode())
"""
    subprocess.run(["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, program], check=True, timeout=60)
    assert report.read_text() == f"3 {['/dev/null'] * 3}"


def test_a_folder_that_has_been_deleted(tmp_path):
    fleet(tmp_path, 2)
    (tmp_path / "gone").mkdir()
    script = 'cd gone && rmdir ../gone && exec "$@"'
    argv = ["sh", "-c", script, "sh", *COMMAND, "plan", str(tmp_path / "fleet.yaml"), "-o", "p.json"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        "batchdiff: the current folder has been deleted. Change to another folder, and run the same command"
        " again.\n"
    )
    assert "Traceback" not in done.stderr


def test_without_a_home_or_a_folder_for_temporary_files(tmp_path):
    fleet(tmp_path, 2)
    environment = {name: value for name, value in os.environ.items() if name != "HOME"} | {"TMPDIR": "/none"}
    for verb in (["plan", "fleet.yaml", "-j", "2"], ["apply", "fleet.plan.json"], ["status", "fleet.plan.json"]):
        subprocess.run(
            [*COMMAND, *verb], cwd=tmp_path, env=environment, check=True, timeout=60, capture_output=True
        )
