"""Somebody puts other files in the places of ours while apply runs: never another file is touched."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import notation
import pytest
from commands import COMMAND, assert_no_traceback
from scenes import GUESTS, SCENES, arguments, content, form_of, make_fleet, places
from seeds import seeded

VICTIM = b"somebody else's file" * 3000


def swapping(path: Path, rng, stop: threading.Event, swaps: list[int]) -> None:
    """Puts a link, another file and the file itself in turn at a path, as fast as it can."""
    aside, victim = path.with_name(f"{path.name}.swapped"), path.with_name("victim")
    while not stop.is_set():
        other = path.with_name(f"{path.name}.other")
        try:
            os.rename(path, aside)
            if rng.random() < 0.5:
                os.symlink(victim, other)
            else:
                os.link(victim, other)
            os.rename(other, path)
            stop.wait(rng.uniform(0, 0.003))
            os.rename(aside, path)
            swaps.append(1)
        except OSError:  # apply has renamed or deleted it
            for left in (other,):
                left.unlink(missing_ok=True)
            if aside.exists() and not os.path.lexists(path):
                os.rename(aside, path)
            stop.wait(0.001)


@pytest.mark.parametrize("rounds", [2, pytest.param(25, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", ["raw.img", "thick.qcow2", "template.img"])
def test_swapped_in_a_race(tmp_path, name, rounds):
    rng = seeded()
    swaps: list[int] = []
    for number in range(rounds):
        folder = tmp_path / str(number)
        make_fleet(folder)
        (folder / "victim").write_bytes(VICTIM)
        template = (folder / "template.img").read_bytes()
        stop = threading.Event()
        thread = threading.Thread(target=swapping, args=(folder / name, rng, stop, swaps))
        thread.start()
        argv = [*COMMAND, *arguments(SCENES["delete"])]
        done = subprocess.run(argv, cwd=folder, check=False, timeout=120, capture_output=True, text=True)
        stop.set()
        thread.join()
        assert_no_traceback(done.stderr)
        assert (folder / "victim").read_bytes() == VICTIM
        # Whatever the last swap left: the file itself is under its name again, as an administrator would see to.
        _put_back(folder / name)
        assert (folder / "template.img").read_bytes() == template
        for guest in GUESTS:
            _assert_guest_is_somewhere(folder, guest)
    print(f"{name}: {len(swaps)} swaps")
    assert swaps


def _put_back(path: Path) -> None:
    swapped = path.with_name(f"{path.name}.swapped")
    if swapped.exists():
        os.rename(swapped, path)


def _assert_guest_is_somewhere(folder: Path, name: str) -> None:
    """QEMU reads its content in one of the files that may have it; an overlay shows the template through it."""
    found = [folder / place for place in places(name) if (folder / place).exists()]
    ours = [path for path in found if not path.is_symlink() and path.read_bytes() != VICTIM]
    assert any(notation.qemu_content(path, form_of(path)) == content(name) for path in ours), found
